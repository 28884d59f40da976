//! The exchange of a credential for a token: one question to a realm, and what its refusal means.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::header::AUTHORIZATION;
use http::{Response, StatusCode, Uri};
use hyper::body::Incoming;

use crate::upstream::error::{Error, FailedTry, LimitKind, may_pass};
use crate::upstream::restraint::backoff::{limited_for, retry_after};
use crate::upstream::restraint::breaker::Subject;
use crate::upstream::restraint::circuit::FailureKind;
use crate::upstream::restraint::holds::Probed;
use crate::upstream::wire::coding::Coding;
use crate::upstream::wire::http::{Http, Request, parse_uri};
use crate::upstream::wire::location::redirect;

use super::cache::CredentialCache;
use super::credential::Credential;
use super::granted::Token;
use super::realm::{Realms, Way};
use super::wanted::{Bearer, TokenId};

/// Docker Hub's tokens are about 3 KiB; anything much larger is not a token.
const MAX_TOKEN_BODY: usize = 64 * 1024;
/// A realm that has moved redirects once.
const MAX_REDIRECTS: usize = 3;

/// What an exchange needs to know.
pub(super) struct Exchange {
    credentials: Arc<CredentialCache>,
    realms: Arc<Realms>,
    http: Http,
}

impl Exchange {
    pub(super) fn new(credentials: Arc<CredentialCache>, realms: Arc<Realms>, http: Http) -> Self {
        Self {
            credentials,
            realms,
            http,
        }
    }

    /// Obtains a token; once more if the credential was refused and has changed meanwhile.
    pub(super) async fn obtain(&self, id: &TokenId) -> Result<Token, FailedTry> {
        let realm = parse_uri(&id.realm.url)?;
        let with_credential = id.bearer == Bearer::Account && !self.credentials.is_anonymous();
        let way = self.realms.way(with_credential, realm, id.realm.zone)?;
        let credential = match with_credential {
            true => self.credentials.credential().await?,
            false => None,
        };
        let Some(credential) = credential else {
            return self.run(id, None, &way).await;
        };
        let denied = match self.run(id, Some(&credential), &way).await {
            Err(failed) if failed.error.refuses_who_asks() => failed,
            result => {
                if result.is_ok() {
                    self.credentials.prove(&credential, &id.realm.url);
                }
                return result;
            }
        };
        if let Some(other) = self.credentials.changed_from(&credential).await? {
            return self.run(id, Some(&other), &way).await;
        }
        if self.credentials.is_proven(&credential, &id.realm.url)
            || !self.refuses(&credential, id, &way).await
        {
            return Err(denied);
        }
        self.credentials.hold(&credential);
        Err(denied.denied_because(&self.credentials.refusal()))
    }

    /// Whether a realm refuses the credential itself, and not what was asked for with it, which is answered by a token
    /// that allows nothing. Statuses do not tell: there are realms that answer 401 to both, or 403.
    async fn refuses(&self, credential: &Arc<Credential>, id: &TokenId, way: &Way) -> bool {
        if id.scope.is_none() {
            return true;
        }
        match self.run(&id.for_nothing(), Some(credential), way).await {
            Ok(_) => {
                self.credentials.prove(credential, &id.realm.url);
                false
            }
            Err(failed) => failed.error.refuses_who_asks(),
        }
    }

    /// One exchange, within the time that a response header may take.
    async fn run(
        &self,
        id: &TokenId,
        credential: Option<&Credential>,
        way: &Way,
    ) -> Result<Token, FailedTry> {
        let request = id.request(&way.realm, credential)?;
        let until = Instant::now() + self.http.header_limit();
        let result = match id.bearer {
            Bearer::Account | Bearer::Anonymous => self.restrained(id, request, way, until).await,
            // A realm that gives anonymous tokens after a redirect is not the upstream's own.
            Bearer::Elsewhere => self.ask_realm(request, way, until).await,
        };
        let word = match &result {
            Ok(_) => "ok",
            Err(failed) if failed.error.refuses_who_asks() => "denied",
            Err(_) => "error",
        };
        self.http
            .metrics()
            .token_exchanges
            .with_label_values(&[self.http.namespace(), word])
            .inc();
        result
    }

    /// An exchange with the upstream's own realm, unless it is to be left alone. What fails or is limited is this scope,
    /// as long as the realm answers a question without one.
    async fn restrained(
        &self,
        id: &TokenId,
        request: Request,
        way: &Way,
        until: Instant,
    ) -> Result<Token, FailedTry> {
        let scope = id.scope.as_deref();
        let throttle = self.realms.throttle();
        throttle.admit(scope, self.ping(id, way, until)).await?;
        let subject = Subject {
            repository: scope,
            question: question(request.uri()),
        };
        let ping = async { self.ping(id, way, until).await.map(drop) };
        let permission = self.realms.breaker().admit(subject, ping).await?;
        let mut failed = match self.ask_realm(request, way, until).await {
            Ok(token) => {
                permission.succeeded();
                throttle.answered(scope);
                return Ok(token);
            }
            Err(failed) => failed,
        };
        // What is no token is an answer all the same: the realm is there.
        match failed.transient && !matches!(failed.error, Error::Wrong(_)) {
            true => permission.failed(FailureKind::ServerError, &failed.error),
            false => permission.judge(&failed.error),
        }
        if let Error::RateLimited {
            limit, retry_after, ..
        } = &mut failed.error
        {
            *retry_after = Some(throttle.limited(*limit, scope, *retry_after));
        }
        Err(failed)
    }

    /// Asks the realm for a token that allows nothing, without the credential: whether it is well, and whether it limits
    /// all that is asked.
    async fn ping(&self, id: &TokenId, way: &Way, until: Instant) -> Result<Probed, Error> {
        let request = id.for_nothing().request(&way.realm, None)?;
        let response = self.http.send(request, "token", way.reach, until).await?;
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                let told = limited_for(response.headers(), SystemTime::now());
                Ok(Probed::Limited(told))
            }
            status if status.is_server_error() => {
                let words = format!("{} answers {status} instead of a token", way.realm_host());
                Err(Error::unavailable(words))
            }
            _ => Ok(Probed::Free),
        }
    }

    async fn ask_realm(
        &self,
        request: Request,
        way: &Way,
        until: Instant,
    ) -> Result<Token, FailedTry> {
        let asking = self.exchange(request, way, until);
        let result = match tokio::time::timeout_at(until.into(), asking).await {
            Ok(result) => result,
            Err(_) => {
                let limit = self.http.header_limit();
                let words = format!("{} gave no token within {limit:?}", way.realm_host());
                Err(Error::Silent(words.into()).into())
            }
        };
        result.map_err(|failed| match &failed.error {
            Error::Unavailable(words) if way.over_tls_instead => FailedTry {
                error: Error::unavailable(format!(
                    "upstream names its token realm with http://, which was asked over https: {words}; the registry's \
                     own URL in its configuration should begin with https://"
                )),
                ..failed
            },
            _ => failed,
        })
    }

    /// Sends the question, and again to where the realm redirects, if a realm may be there: with the credential only where
    /// that may be sent.
    async fn follow(
        &self,
        mut request: Request,
        way: &Way,
        until: Instant,
    ) -> Result<Response<Incoming>, FailedTry> {
        let with_credential = request.headers().contains_key(AUTHORIZATION);
        let mut reach = way.reach;
        for _ in 0..=MAX_REDIRECTS {
            let sending = self.http.send(request.clone(), "token", reach, until);
            let response = sending.await?;
            let Some(next) = redirect(&response, request.uri())? else {
                return Ok(response);
            };
            let zone = self.http.zone(request.uri(), &response);
            let next = self.realms.way(with_credential, next, zone)?;
            reach = next.reach;
            *request.uri_mut() = next.realm;
        }
        let words = format!(
            "{} redirects more than {MAX_REDIRECTS} times",
            way.realm_host()
        );
        Err(Error::wrong(words).into())
    }

    async fn exchange(
        &self,
        request: Request,
        way: &Way,
        until: Instant,
    ) -> Result<Token, FailedTry> {
        let (asked, host) = (Instant::now(), way.realm_host());
        let response = self.follow(request, way, until).await?;
        let status = response.status();
        match status.as_u16() {
            200..=299 => {}
            400..=404 => {
                let error = Error::Denied {
                    status: match status {
                        StatusCode::UNAUTHORIZED => status,
                        _ => StatusCode::FORBIDDEN,
                    },
                    detail: format!("{host} grants no token ({})", status.as_u16()).into(),
                };
                return Err(error.into());
            }
            429 => {
                let error = Error::RateLimited {
                    // A realm's limit is no pull quota.
                    limit: LimitKind::Abuse,
                    retry_after: limited_for(response.headers(), SystemTime::now()),
                    detail: format!("{host} grants no token").into(),
                };
                return Err(error.into());
            }
            _ => {
                let words = format!("{host} answers {status} instead of a token");
                return Err(match may_pass(status) {
                    true => FailedTry {
                        told: retry_after(response.headers(), SystemTime::now()),
                        ..FailedTry::transient(Error::unavailable(words))
                    },
                    // It is there, and no reason to leave it alone with other questions.
                    false => Error::wrong(words).into(),
                });
            }
        }
        let coding = Coding::of(response.headers());
        let body = self.http.body(response.into_body()).coded(coding);
        let body = match body.collect_up_to(MAX_TOKEN_BODY).await {
            // It broke off.
            Err(error @ Error::Unavailable(_)) => return Err(FailedTry::transient(error)),
            body => body?,
        };
        // A page of something before the realm passes like a 503.
        Token::read(&body, asked)
            .map_err(|why| FailedTry::transient(Error::wrong(format!("{host} {why}"))))
    }
}

/// The same number for the same token.
fn question(uri: &Uri) -> u64 {
    let mut hasher = DefaultHasher::new();
    uri.query().hash(&mut hasher);
    hasher.finish()
}
