//! Bearer tokens: a realm gives one in exchange for the credential (distribution's token specification; RFC 6750).
//!
//! They are kept by realm, service and scope, for one login, renewed before they end, and each is obtained by one
//! exchange however many requests wait for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::Full;
use moka::sync::Cache;
use serde::Deserialize;

use crate::flight::Flights;
use crate::headers::challenge::Challenge;
use crate::secret::Secret;
use crate::upstream::error::{Error, FailedTry, LimitKind};
use crate::upstream::restraint::backoff::retry_after;
use crate::upstream::restraint::breaker::Subject;
use crate::upstream::restraint::circuit::FailureKind;
use crate::upstream::restraint::holds::Probed;
use crate::upstream::wire::http::{AGENT, Http, Request, parse_uri};
use crate::upstream::wire::zone::{Reach, Zone};

use super::cache::CredentialCache;
use super::credential::{Credential, sensitive};
use super::realm::Realms;

/// Docker Hub's tokens are about 3 KiB; anything much larger is not a token.
const MAX_TOKEN_BODY: usize = 64 * 1024;
/// Bytes of tokens kept.
const TOKEN_MEMORY: u64 = 8 * 1024 * 1024;
/// The life of a token whose realm does not state it (token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// If a token is refused for its scope this soon after it was issued, a new one will be refused too.
const JUST_ISSUED: Duration = Duration::from_secs(5);

/// Where tokens come from, and for which service.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Realm {
    url: String,
    service: Option<String>,
    /// Where the host is that named it.
    zone: Zone,
}

impl Realm {
    /// The realm that a challenge names, with the scope it asks for and the error it states.
    pub(super) fn of(
        challenge: &Challenge,
        zone: Zone,
    ) -> Option<(Arc<Self>, Option<&str>, Option<&str>)> {
        let Challenge::Bearer {
            realm,
            service,
            scope,
            error,
        } = challenge
        else {
            return None;
        };
        let (url, service) = (realm.clone(), service.clone());
        let realm = Arc::new(Self { url, service, zone });
        Some((realm, scope.as_deref(), error.as_deref()))
    }
}

/// As whom a token is asked for, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bearer {
    /// As the account, for the upstream itself: only that is shown the credential.
    Account,
    /// Without a credential, at the upstream itself, while the credential is held back.
    Anonymous,
    /// Without a credential, at a host that upstream redirects to.
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenId {
    bearer: Bearer,
    realm: Arc<Realm>,
    scope: Option<String>,
}

impl TokenId {
    pub(super) fn new(bearer: Bearer, realm: Arc<Realm>, scope: Option<String>) -> Self {
        Self {
            bearer,
            realm,
            scope,
        }
    }
}

struct Token {
    /// The value of `Authorization`. Kept as a secret, so that it is wiped when it is dropped.
    bearer: Secret,
    issued: Instant,
    renew_after: Duration,
}

impl Token {
    fn header(&self) -> Result<HeaderValue, Error> {
        sensitive(&self.bearer)
    }

    fn is(&self, header: &HeaderValue) -> bool {
        header.as_bytes() == self.bearer.expose().as_bytes()
    }

    fn is_good(&self) -> bool {
        self.issued.elapsed() < self.renew_after
    }
}

pub(super) struct Tokens {
    kept: Cache<TokenId, Arc<Token>>,
    flights: Arc<Flights<TokenId, Result<Arc<Token>, Error>>>,
    exchange: Arc<Exchange>,
}

impl Tokens {
    pub(super) fn new(credentials: Arc<CredentialCache>, realms: Arc<Realms>, http: Http) -> Self {
        let weigh = |_: &TokenId, token: &Arc<Token>| {
            u32::try_from(token.bearer.expose().len() + 512).unwrap_or(u32::MAX)
        };
        Self {
            kept: Cache::builder()
                .max_capacity(TOKEN_MEMORY)
                .weigher(weigh)
                .build(),
            flights: Arc::default(),
            exchange: Arc::new(Exchange {
                credentials,
                realms,
                http,
            }),
        }
    }

    /// The header with the token for `id`.
    pub(super) async fn get(&self, id: TokenId) -> Result<HeaderValue, Error> {
        if let Some(token) = self.kept.get(&id).filter(|token| token.is_good()) {
            return token.header();
        }
        let (kept, exchange, key) = (self.kept.clone(), Arc::clone(&self.exchange), id.clone());
        let (landing, _) = self.flights.join(id, |slot| async move {
            // Another flight may have landed between the look above and this one's start.
            let token = match kept.get(&key).filter(|token| token.is_good()) {
                Some(token) => Ok(token),
                None => exchange.obtain(&key).await.map(Arc::new),
            };
            if let Ok(token) = &token {
                kept.insert(key, Arc::clone(token));
            }
            slot.publish(token);
        });
        let token = landing
            .value()
            .await
            .map_err(|_| Error::unavailable("the token exchange was called off"))??;
        token.header()
    }

    /// A token for `id` other than the one that upstream has just refused with `error`.
    pub(super) async fn other_than(
        &self,
        id: TokenId,
        error: Option<&str>,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        let kept = self.kept.get(&id);
        if let Some(token) = kept.filter(|token| sent.is_some_and(|sent| token.is(sent))) {
            if error == Some("insufficient_scope") && token.issued.elapsed() < JUST_ISSUED {
                return Ok(None);
            }
            self.kept.invalidate(&id);
        }
        self.get(id).await.map(Some)
    }

    /// Forgets the token that was sent if it was not issued just now, and returns whether it was one of these.
    pub(super) fn forget_expired(&self, sent: &HeaderValue) -> bool {
        let is_old = |token: &Token| token.is(sent) && token.issued.elapsed() > JUST_ISSUED;
        let old = self.kept.iter().find(|(_, token)| is_old(token));
        if let Some((id, _)) = &old {
            self.kept.invalidate(id.as_ref());
        }
        old.is_some()
    }
}

/// What an exchange needs to know.
struct Exchange {
    credentials: Arc<CredentialCache>,
    realms: Arc<Realms>,
    http: Http,
}

/// What a realm answers with. Both names for the token are in use; ECR and ACR know only the second.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

pub(crate) fn is_token(body: &[u8]) -> bool {
    serde_json::from_slice::<TokenAnswer>(body).is_ok()
}

impl Exchange {
    /// Obtains a token; once more if the credential was refused and has changed meanwhile.
    async fn obtain(&self, id: &TokenId) -> Result<Token, Error> {
        let realm = parse_uri(&id.realm.url)?;
        let with_credential = id.bearer == Bearer::Account && !self.credentials.is_anonymous();
        let reach = self.realms.check(with_credential, &realm, id.realm.zone)?;
        let credential = match with_credential {
            true => self.credentials.credential().await?,
            false => None,
        };
        let Some(credential) = credential else {
            return self.run(id, None, reach).await;
        };
        let denied = match self.run(id, Some(&credential), reach).await {
            Err(denied @ Error::Denied { .. }) => denied,
            result => {
                if result.is_ok() {
                    self.credentials.prove(&credential);
                }
                return result;
            }
        };
        if let Some(other) = self.credentials.changed_from(&credential).await? {
            return self.run(id, Some(&other), reach).await;
        }
        if self.credentials.is_proven(&credential) || !self.refuses(&credential, id, reach).await {
            return Err(denied);
        }
        self.credentials.hold(&credential);
        Err(match denied {
            Error::Denied { status, .. } => Error::Denied {
                status,
                detail: self.credentials.refusal().into(),
            },
            error => error,
        })
    }

    /// Whether a realm refuses the credential itself, and not what was asked for with it, which is answered by a token
    /// that allows nothing. Statuses do not tell: there are realms that answer 401 to both, or 403.
    async fn refuses(&self, credential: &Arc<Credential>, id: &TokenId, reach: Reach) -> bool {
        if id.scope.is_none() {
            return true;
        }
        let nothing = TokenId {
            scope: None,
            ..id.clone()
        };
        let result = self.run(&nothing, Some(credential), reach).await;
        if result.is_ok() {
            self.credentials.prove(credential);
        }
        matches!(result, Err(Error::Denied { .. }))
    }

    /// One exchange, within the time that a response header may take.
    async fn run(
        &self,
        id: &TokenId,
        credential: Option<&Credential>,
        reach: Reach,
    ) -> Result<Token, Error> {
        let request = token_request(id, credential)?;
        let until = Instant::now() + self.http.header_limit();
        let result = match id.bearer {
            Bearer::Account | Bearer::Anonymous => self.restrained(id, request, reach, until).await,
            // A realm that gives anonymous tokens after a redirect is not the upstream's own.
            Bearer::Elsewhere => self
                .ask_realm(request, reach, until)
                .await
                .map_err(Error::from),
        };
        let word = match &result {
            Ok(_) => "ok",
            Err(Error::Denied { .. }) => "denied",
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
        reach: Reach,
        until: Instant,
    ) -> Result<Token, Error> {
        let scope = id.scope.as_deref();
        let throttle = self.realms.throttle();
        throttle.admit(scope, self.ping(id, reach, until)).await?;
        let subject = Subject {
            repository: scope,
            question: question(request.uri()),
        };
        let ping = async { self.ping(id, reach, until).await.map(drop) };
        let permission = self.realms.breaker().admit(subject, ping).await?;
        let failed = match self.ask_realm(request, reach, until).await {
            Ok(token) => {
                permission.succeeded();
                throttle.answered(scope);
                return Ok(token);
            }
            Err(failed) => failed,
        };
        match failed.transient {
            true => permission.failed(FailureKind::ServerError, &failed.error),
            false => permission.judge(&failed.error),
        }
        Err(match failed.error {
            Error::RateLimited {
                limit,
                retry_after,
                detail,
            } => Error::RateLimited {
                limit,
                retry_after: Some(throttle.limited(limit, scope, retry_after)),
                detail,
            },
            error => error,
        })
    }

    /// Asks the realm for a token that allows nothing, without the credential: whether it is well, and whether it limits
    /// all that is asked.
    async fn ping(&self, id: &TokenId, reach: Reach, until: Instant) -> Result<Probed, Error> {
        let nothing = TokenId {
            scope: None,
            ..id.clone()
        };
        let request = token_request(&nothing, None)?;
        let host = request.uri().host().unwrap_or_default().to_owned();
        let response = self.http.send(request, "token", reach, until).await?;
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                let told = retry_after(response.headers(), SystemTime::now());
                Ok(Probed::Limited(told))
            }
            status if status.is_server_error() => {
                let words = format!("{host} answers {status} instead of a token");
                Err(Error::unavailable(words))
            }
            _ => Ok(Probed::Free),
        }
    }

    async fn ask_realm(
        &self,
        request: Request,
        reach: Reach,
        until: Instant,
    ) -> Result<Token, FailedTry> {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let asking = self.exchange(request, &host, reach, until);
        match tokio::time::timeout_at(until.into(), asking).await {
            Ok(result) => result,
            Err(_) => {
                let limit = self.http.header_limit();
                let words = format!("{host} gave no token within {limit:?}");
                Err(Error::Silent(words.into()).into())
            }
        }
    }

    async fn exchange(
        &self,
        request: Request,
        host: &str,
        reach: Reach,
        until: Instant,
    ) -> Result<Token, FailedTry> {
        let issued = Instant::now();
        let response = self.http.send(request, "token", reach, until).await?;
        let status = response.status();
        match status.as_u16() {
            200 => {}
            // A redirect of a realm is not followed: only this one may have the credential.
            400..=404 => {
                let detail = format!("{host} grants no token").into();
                return Err(Error::Denied { status, detail }.into());
            }
            429 => {
                let error = Error::RateLimited {
                    // A realm's limit is no pull quota.
                    limit: LimitKind::Abuse,
                    retry_after: retry_after(response.headers(), SystemTime::now()),
                    detail: format!("{host} grants no token").into(),
                };
                return Err(error.into());
            }
            _ => {
                let words = format!("{host} answers {status} instead of a token");
                let error = Error::unavailable(words);
                return Err(match status.is_server_error() {
                    true => FailedTry::transient(error),
                    false => error.into(),
                });
            }
        }
        let body = self.http.body(response.into_body());
        let body = body.collect_up_to(MAX_TOKEN_BODY).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| Error::wrong(format!("{host} answers with what is not a token")))?;
        let token = answer
            .access_token
            .or(answer.token)
            .filter(|token| !token.expose().is_empty());
        let token = token.ok_or_else(|| Error::wrong(format!("{host} answers without a token")))?;
        let lifetime = answer
            .expires_in
            .filter(|seconds| *seconds > 0)
            .map_or(DEFAULT_LIFETIME, Duration::from_secs);
        // Renewed when a tenth of its life is left: an exchange takes a moment, and clocks differ.
        let token = Token {
            bearer: Secret::concat(&["Bearer ", token.expose()]),
            issued,
            renew_after: lifetime.mul_f64(0.9),
        };
        // One that no header can carry is refused now.
        token.header()?;
        Ok(token)
    }
}

fn token_request(id: &TokenId, credential: Option<&Credential>) -> Result<Request, Error> {
    let Realm { url, service, .. } = &*id.realm;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (key, value) in [("service", service), ("scope", &id.scope)] {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    if let Some(credential) = credential {
        query.append_pair("account", &credential.user);
    }
    query.append_pair("client_id", "pierglass");
    let joint = if url.contains('?') { '&' } else { '?' };
    let uri = parse_uri(&format!("{url}{joint}{}", query.finish()))?;
    let mut request = http::Request::get(uri)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity");
    if let Some(credential) = credential {
        request = request.header(AUTHORIZATION, credential.basic()?);
    }
    request
        .body(Full::default())
        .map_err(|error| Error::wrong(error.to_string()))
}

/// The same number for the same token.
fn question(uri: &Uri) -> u64 {
    let mut hasher = DefaultHasher::new();
    uri.query().hash(&mut hasher);
    hasher.finish()
}
