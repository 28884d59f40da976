//! Tokens: answering a registry's challenge (distribution's token specification; RFC 6750, RFC 7617).
//!
//! The first 401 tells the realm; from then on a token is fetched before it is asked for and renewed
//! before it ends. Tokens are kept by realm, service and scope, for one identity alone, and each is fetched by
//! one flight however many requests wait for it.
//!
//! Credentials go to a realm only if `realm_may_have` says so: a registry that is not ours to trust must
//! not be able to name any place it likes as the place to send passwords to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, USER_AGENT};
use http::uri::Authority;
use http::{HeaderValue, Request, Uri};
use http_body_util::Empty;
use moka::sync::Cache;
use serde::Deserialize;

use crate::flight::Flights;
use crate::headers::challenge::Challenge;
use crate::oci::name::Repository;
use crate::secret::Secret;

use crate::upstream::settings::Settings;

use super::password::Credentials;
use crate::upstream::error::{Error, Limit};
use crate::upstream::restraint::backoff::retry_after;
use crate::upstream::restraint::breaker::Gate;
use crate::upstream::wire::http::{Http, parse_uri};
use crate::upstream::wire::origin::{is_loopback, is_private, origin, same_domain};

/// Docker Hub's tokens are about 3 KiB; anything much larger is not a token.
const MAX_TOKEN_BODY: usize = 64 * 1024;
/// Bytes of tokens kept.
const TOKEN_MEMORY: u64 = 8 * 1024 * 1024;
/// What a realm means when it does not say how long a token lives (token specification).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token refused for its scope this soon after it was issued will not get better by asking again.
const JUST_ISSUED: Duration = Duration::from_secs(5);

/// Proves to one upstream who asks.
pub(crate) struct Auth {
    home: Uri,
    credentials: Option<Credentials>,
    realms: Vec<String>,
    http: Http,
    gate: Arc<Gate>,
    /// What the last challenge asked for. Guards one small value, never held while waiting.
    known: Mutex<Option<Scheme>>,
    tokens: Cache<TokenId, Arc<Token>>,
    exchanges: Arc<Flights<TokenId, Result<Arc<Token>, Error>>>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenId {
    /// Whether our credentials are shown for it: only for tokens of the upstream itself.
    ours: bool,
    realm: String,
    service: Option<String>,
    scope: Option<String>,
}

struct Token {
    header: HeaderValue,
    issued: Instant,
    renew_after: Duration,
}

impl Token {
    fn is_good(&self) -> bool {
        self.issued.elapsed() < self.renew_after
    }
}

impl Auth {
    /// `gate` is the one in front of the realm.
    pub(crate) fn new(
        settings: &Settings,
        credentials: Option<&Credentials>,
        http: Http,
        gate: Arc<Gate>,
    ) -> Self {
        let weigh = |_: &TokenId, token: &Arc<Token>| {
            u32::try_from(token.header.len() + 512).unwrap_or(u32::MAX)
        };
        Self {
            home: settings.url.clone(),
            credentials: credentials.cloned(),
            realms: settings.realms.clone(),
            http,
            gate,
            known: Mutex::new(None),
            tokens: Cache::builder()
                .max_capacity(TOKEN_MEMORY)
                .weigher(weigh)
                .build(),
            exchanges: Arc::default(),
        }
    }

    /// What to send along with a request about `repository`, as far as is known before upstream was asked.
    pub(crate) async fn authorization(
        &self,
        repository: Option<&Repository>,
    ) -> Result<Option<HeaderValue>, Error> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match known {
            None => Ok(None),
            Some(Scheme::Basic) => self.basic(),
            Some(Scheme::Bearer { realm, service }) => {
                let scope = repository.map(pull_scope);
                let id = TokenId {
                    ours: true,
                    realm,
                    service,
                    scope,
                };
                match self.token(id).await {
                    Ok(token) => Ok(Some(token.header.clone())),
                    Err(error) => {
                        // Realms move: whoever asks next hears from upstream where it is now.
                        self.learn(None);
                        Err(error)
                    }
                }
            }
        }
    }

    /// What to answer to a 401; `None` when nothing better than what was sent can be offered.
    pub(crate) async fn answer(
        &self,
        challenges: &[Challenge],
        repository: Option<&Repository>,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        for challenge in challenges {
            if let Challenge::Bearer {
                realm,
                service,
                scope,
                error,
            } = challenge
            {
                let id = TokenId {
                    ours: true,
                    realm: realm.clone(),
                    service: service.clone(),
                    scope: wanted_scope(scope.as_deref(), repository),
                };
                let header = self.renewed(id, error.as_deref(), sent).await?;
                // Not before it was good for a token: what is learned here is not asked about again.
                self.learn(Some(Scheme::Bearer {
                    realm: realm.clone(),
                    service: service.clone(),
                }));
                return Ok(header);
            }
        }
        if challenges
            .iter()
            .any(|challenge| matches!(challenge, Challenge::Basic { .. }))
        {
            self.learn(Some(Scheme::Basic));
            return Ok(self.basic()?.filter(|header| sent != Some(header)));
        }
        Ok(None)
    }

    /// What to answer to a 401 of a host that upstream redirected to: a token for anybody, and no secret.
    pub(crate) async fn answer_elsewhere(
        &self,
        challenges: &[Challenge],
        repository: Option<&Repository>,
    ) -> Result<Option<HeaderValue>, Error> {
        for challenge in challenges {
            if let Challenge::Bearer {
                realm,
                service,
                scope,
                ..
            } = challenge
            {
                let id = TokenId {
                    ours: false,
                    realm: realm.clone(),
                    service: service.clone(),
                    scope: wanted_scope(scope.as_deref(), repository),
                };
                return self.token(id).await.map(|token| Some(token.header.clone()));
            }
        }
        Ok(None)
    }

    /// Forgets the token that was sent if it is old enough for a refusal to mean that it has expired, and says
    /// whether it was. Some registries say so with 403 instead of 401.
    pub(crate) fn forget_expired(&self, sent: &HeaderValue) -> bool {
        let is_old = |token: &Token| token.header == *sent && token.issued.elapsed() > JUST_ISSUED;
        let old = self.tokens.iter().find(|(_, token)| is_old(token));
        if let Some((id, _)) = &old {
            self.tokens.invalidate(id.as_ref());
        }
        old.is_some()
    }

    fn learn(&self, scheme: Option<Scheme>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = scheme;
    }

    /// A token for `id` other than the one upstream has just refused.
    async fn renewed(
        &self,
        id: TokenId,
        error: Option<&str>,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        if let Some(token) = self
            .tokens
            .get(&id)
            .filter(|token| sent == Some(&token.header))
        {
            if error == Some("insufficient_scope") && token.issued.elapsed() < JUST_ISSUED {
                return Ok(None);
            }
            self.tokens.invalidate(&id);
        }
        self.token(id).await.map(|token| Some(token.header.clone()))
    }

    async fn token(&self, id: TokenId) -> Result<Arc<Token>, Error> {
        if let Some(token) = self.tokens.get(&id).filter(|token| token.is_good()) {
            return Ok(token);
        }
        let request = self.token_request(&id)?;
        let (http, tokens, key) = (self.http.clone(), self.tokens.clone(), id.clone());
        // Who gives tokens to anybody is not the upstream's realm.
        let gate = id.ours.then(|| Arc::clone(&self.gate));
        let (landing, _) = self.exchanges.join(id, |slot| async move {
            // Another flight may have landed between the look above and this one's start.
            let token = match tokens.get(&key).filter(|token| token.is_good()) {
                Some(token) => Ok(token),
                None => exchange(&http, gate.as_deref(), request)
                    .await
                    .map(Arc::new),
            };
            if let Ok(token) = &token {
                tokens.insert(key, Arc::clone(token));
            }
            slot.publish(token);
        });
        landing
            .value()
            .await
            .map_err(|_| Error::unavailable("the token exchange was called off"))?
    }

    fn token_request(&self, id: &TokenId) -> Result<Request<Empty<Bytes>>, Error> {
        let realm = parse_uri(&id.realm)?;
        let credentials = self.credentials.as_ref().filter(|_| id.ours);
        realm_may_have(credentials.is_some(), &self.home, &realm, &self.realms)?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (key, value) in [("service", &id.service), ("scope", &id.scope)] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        if let Some(credentials) = credentials {
            query.append_pair("account", &credentials.username);
        }
        query.append_pair("client_id", "pierglass");
        let joint = if id.realm.contains('?') { '&' } else { '?' };
        let uri = parse_uri(&format!("{}{joint}{}", id.realm, query.finish()))?;
        let mut request = Request::get(uri)
            .header(USER_AGENT, concat!("pierglass/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json")
            .header(ACCEPT_ENCODING, "identity");
        if let Some(basic) = self.basic()?.filter(|_| id.ours) {
            request = request.header(AUTHORIZATION, basic);
        }
        request
            .body(Empty::new())
            .map_err(|error| Error::wrong(error.to_string()))
    }

    fn basic(&self) -> Result<Option<HeaderValue>, Error> {
        let Some(credentials) = &self.credentials else {
            return Ok(None);
        };
        let password = credentials
            .password()
            .map_err(|detail| Error::Credentials(detail.into()))?;
        let pair = Secret::new(format!("{}:{}", credentials.username, password.expose()));
        let encoded = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
        sensitive(encoded.expose()).map(Some)
    }
}

/// The scope a challenge asks for, or what pulling needs where it does not say.
fn wanted_scope(asked: Option<&str>, repository: Option<&Repository>) -> Option<String> {
    let asked = asked.filter(|scope| !scope.is_empty());
    asked
        .map(str::to_owned)
        .or_else(|| repository.map(pull_scope))
}

/// The scope for pulling from one repository.
fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}

fn sensitive(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        Error::Credentials("a credential has characters that no HTTP header can carry".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// What a realm answers with. Both names for the token are in use; ECR and ACR know only the second.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

async fn exchange(
    http: &Http,
    gate: Option<&Gate>,
    request: Request<Empty<Bytes>>,
) -> Result<Token, Error> {
    let host = request.uri().host().unwrap_or_default().to_owned();
    let pass = gate
        .map(|gate| gate.enter(question(request.uri())))
        .transpose()?;
    let limit = http.header_limit();
    let until = Instant::now() + limit;
    let exchanging = exchange_with(http, request, &host, until);
    let result = match tokio::time::timeout_at(until.into(), exchanging).await {
        Ok(result) => result,
        Err(_) => Err(Error::Silent(
            format!("{host} gave no token within {limit:?}").into(),
        )),
    };
    match (pass, &result) {
        (Some(pass), Ok(_)) => pass.succeeded(),
        (Some(pass), Err(error)) => pass.judge(error),
        (None, _) => {}
    }
    let word = match &result {
        Ok(_) => "ok",
        Err(Error::Denied { .. }) => "denied",
        Err(_) => "error",
    };
    http.metrics()
        .token_exchanges
        .with_label_values(&[http.namespace(), word])
        .inc();
    result
}

/// The same number for the same token.
fn question(uri: &Uri) -> u64 {
    let mut hasher = DefaultHasher::new();
    uri.query().hash(&mut hasher);
    hasher.finish()
}

async fn exchange_with(
    http: &Http,
    request: Request<Empty<Bytes>>,
    host: &str,
    until: Instant,
) -> Result<Token, Error> {
    let issued = Instant::now();
    let response = http.send(request, "token", until).await?;
    let status = response.status();
    match status.as_u16() {
        200 => {}
        // A realm that redirects is not followed: it was this one that may have the credentials.
        400..=404 => {
            return Err(Error::Denied {
                status,
                detail: format!("{host} grants no token").into(),
            });
        }
        429 => {
            return Err(Error::RateLimited {
                limit: Limit::Abuse,
                retry_after: retry_after(response.headers(), SystemTime::now()),
                detail: format!("{host} grants no token").into(),
            });
        }
        _ => {
            return Err(Error::unavailable(format!(
                "{host} answers {status} instead of a token"
            )));
        }
    }
    let body = http.body(response.into_body());
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
    let header = Secret::new(format!("Bearer {}", token.expose()));
    // Renewed when a tenth of its life is left: an exchange takes a moment, and clocks differ.
    Ok(Token {
        header: sensitive(header.expose())?,
        issued,
        renew_after: lifetime.mul_f64(0.9),
    })
}

/// Whether a token may be asked for at `realm`, and whether credentials may be shown there.
///
/// Without credentials: `https` (or the upstream's own plain `http`), and no private address unless the
/// upstream is at one. With credentials also: the upstream's own host, its registrable domain
/// (`registry-1.docker.io` and `auth.docker.io`), or a host the operator listed.
fn realm_may_have(
    credentials: bool,
    home: &Uri,
    realm: &Uri,
    listed: &[String],
) -> Result<(), Error> {
    let refuse = |why: &str| {
        let host = realm.host().unwrap_or("(no host)");
        let advice = "if that is right, list the host under `realms` of this upstream";
        Err(Error::Credentials(
            format!("upstream names {host} as its token realm, {why}; {advice}").into(),
        ))
    };
    let (Some(home_host), Some(host)) = (home.host(), realm.host()) else {
        return refuse("which is no URL");
    };
    if realm.scheme_str() != Some("https") && realm.scheme_str() != home.scheme_str() {
        return refuse("over plain http");
    }
    if origin(home) == origin(realm) || listed.iter().any(|listed| names(listed, realm)) {
        return Ok(());
    }
    if is_private(host) && !is_private(home_host) {
        return refuse("a private address");
    }
    if !credentials || host.eq_ignore_ascii_case(home_host) || same_domain(home_host, host) {
        return Ok(());
    }
    if is_loopback(host) && is_loopback(home_host) {
        return Ok(());
    }
    refuse("which is another domain than its own")
}

/// Whether an entry of the list, a host with or without a port, means that realm.
fn names(listed: &str, realm: &Uri) -> bool {
    let Ok(listed) = listed.parse::<Authority>() else {
        return false;
    };
    let same_host = realm
        .host()
        .is_some_and(|host| host.eq_ignore_ascii_case(listed.host()));
    same_host
        && listed
            .port_u16()
            .is_none_or(|port| origin(realm).2 == Some(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(credentials: bool, home: &str, realm: &str) -> bool {
        let listed = ["login.example".to_owned(), "ported.example:8443".to_owned()];
        realm_may_have(
            credentials,
            &home.parse().unwrap(),
            &realm.parse().unwrap(),
            &listed,
        )
        .is_ok()
    }

    #[test]
    fn credentials_stay_within_the_upstreams_own_domain() {
        assert!(allowed(
            true,
            "https://registry-1.docker.io",
            "https://auth.docker.io/token"
        ));
        assert!(allowed(true, "https://ghcr.io", "https://ghcr.io/token"));
        assert!(allowed(
            true,
            "https://r.example.co.uk",
            "https://auth.example.co.uk/t"
        ));
        assert!(
            allowed(true, "https://r.corp.example", "https://login.example/t"),
            "listed"
        );
        let home = "https://r.corp.example";
        assert!(allowed(true, home, "https://ported.example:8443/t"));
        assert!(!allowed(true, home, "https://ported.example/t"));
        assert!(!allowed(
            true,
            "https://r.example.co.uk",
            "https://evil.co.uk/t"
        ));
        assert!(!allowed(
            true,
            "https://registry-1.docker.io",
            "https://auth.docker.io.evil.example/token"
        ));
        assert!(!allowed(
            true,
            "https://registry-1.docker.io",
            "http://auth.docker.io/token"
        ));
        assert!(!allowed(true, "https://10.0.0.1", "https://10.0.0.2/token"));
    }

    #[test]
    fn no_realm_reaches_into_a_private_network() {
        for realm in [
            "https://127.0.0.1/t",
            "https://169.254.169.254/t",
            "https://[::1]/t",
            "https://10.1.2.3/t",
        ] {
            assert!(
                !allowed(false, "https://registry.example", realm),
                "{realm}"
            );
        }
        assert!(allowed(
            false,
            "http://127.0.0.1:5000",
            "http://127.0.0.1:5001/token"
        ));
        assert!(allowed(
            true,
            "http://127.0.0.1:5000",
            "http://localhost:5001/token"
        ));
    }

    #[test]
    fn anonymous_tokens_may_come_from_anywhere_public() {
        assert!(allowed(
            false,
            "https://registry.gitlab.example",
            "https://gitlab.other/jwt"
        ));
        assert!(!allowed(
            true,
            "https://registry.gitlab.example",
            "https://gitlab.other/jwt"
        ));
    }
}
