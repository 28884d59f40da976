//! One question to one origin: as somebody who may ask, with a token, through redirects, within time limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, IF_NONE_MATCH, RANGE, USER_AGENT,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;

use crate::headers::challenge::{self, Challenge};
use crate::metrics::Metrics;
use crate::oci::endpoint::Endpoint;

use super::redirect::redirect;
use super::refusal::held;
use super::request::{Ask, Reply};
use crate::upstream::error::{Error, Failed, Limit, StartError};
use crate::upstream::login::account::Identity;
use crate::upstream::login::token::Auth;
use crate::upstream::restraint::backoff::Hold;
use crate::upstream::restraint::breaker::{Gate, Pass};
use crate::upstream::restraint::circuit::Trouble;
use crate::upstream::restraint::jitter::chance;
use crate::upstream::restraint::quota::RateLimit;
use crate::upstream::settings::Settings;
use crate::upstream::wire::http::{Breaks, Http};
use crate::upstream::wire::origin::{Origin, origin};

/// Registries redirect once, regional ones twice; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// How much of the body of a redirect is read, and how long it may take.
const MAX_DRAINED: usize = 16 * 1024;
const DRAIN: Duration = Duration::from_millis(100);
/// How often a question is repeated after what may be gone the next moment, and the pause before it, about.
const REPEATS: u32 = 2;
const PAUSE: Duration = Duration::from_millis(200);
/// The longest hold that is waited for: clients bear this much, and ask again much sooner if they are told 429.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often one question waits for that.
const WAITS: u32 = 3;
/// How long an answer must still have after such a wait.
const LEAST_TIME: Duration = Duration::from_millis(500);
const AGENT: &str = concat!("pierglass/", env!("CARGO_PKG_VERSION"));

/// Sends requests to one origin that we are configured to ask.
pub(crate) struct Client {
    pub(crate) http: Http,
    base: String,
    origin: Origin,
    gate: Gate,
    /// In the order they are asked as; never empty.
    identities: Vec<Identity>,
    /// While it is on, nothing is asked. Guards a small value, never held while waiting.
    abuse: Mutex<Hold>,
    breaks: Arc<Breaks>,
}

impl Client {
    /// A client for the registry itself, if `home`; else for an endpoint, which never sees credentials.
    pub(crate) fn new(
        settings: &Settings,
        home: bool,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let http = Http::new(settings, home, Arc::clone(metrics))?;
        let host = settings.url.authority().map_or("", |host| host.as_str());
        let namespace = settings.namespace.as_str();
        let realm = Arc::new(Gate::new(namespace, &format!("{host} token"), metrics));
        let further = settings.more_credentials.iter().map(Some);
        let identities = std::iter::once(settings.credentials.as_ref())
            .chain(further)
            .map(|credentials| {
                let name = credentials.map_or("anonymous", |credentials| &credentials.username);
                let auth = Auth::new(settings, credentials, http.clone(), Arc::clone(&realm));
                Identity::new(auth, name.to_owned())
            });
        Ok(Self {
            base: settings.url.to_string().trim_end_matches('/').to_owned(),
            origin: origin(&settings.url),
            gate: Gate::new(namespace, host, metrics),
            identities: identities.collect(),
            abuse: Mutex::default(),
            breaks: Arc::default(),
            http,
        })
    }

    /// Asks, and waits for the header of the answer no longer than `until`: tokens, redirects, second tries and
    /// pauses all count, because clients wait through all of them.
    pub(crate) async fn send(&self, ask: &Ask, until: Instant) -> Result<Reply, Error> {
        let (mut repeats, mut waits) = (0, 0);
        loop {
            let failed = match self.once(ask, until).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            let pause = match &failed.error {
                _ if !ask.patient => None,
                Error::RateLimited {
                    retry_after: Some(left),
                    ..
                } if *left <= PATIENCE && waits < WAITS => {
                    waits += 1;
                    Some(left.mul_f64(1.0 + 0.25 * chance()))
                }
                // Somebody has a part already, and nobody would come back for the rest.
                Error::LeftAlone { again_in, .. } if ask.range.is_some() => {
                    Some((*again_in).max(PAUSE)).filter(|pause| *pause <= PATIENCE)
                }
                _ if failed.passing && repeats < REPEATS => {
                    repeats += 1;
                    Some(PAUSE.mul_f64(f64::from(repeats) * (0.5 + chance())))
                }
                _ => None,
            };
            let in_time = |pause: &Duration| Instant::now() + *pause + LEAST_TIME < until;
            let Some(pause) = pause.filter(in_time) else {
                return Err(failed.error);
            };
            tracing::debug!(upstream = %self.http.namespace(), error = %failed.error, ?pause, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks a host that takes no credentials of ours, and gets none.
    pub(crate) async fn send_openly(
        &self,
        base: &str,
        ask: &Ask,
        until: Instant,
    ) -> Result<Reply, Error> {
        let asking = async {
            let (response, at) = self.follow(ask, ask.uri(base)?, None, until).await?;
            self.reply(response, ask, &at, None).await
        };
        self.in_time(Box::pin(asking), until)
            .await
            .map_err(Error::from)
    }

    /// Asks as one of those we can be, whoever that is now.
    pub(crate) async fn send_as(
        &self,
        identity: usize,
        ask: &Ask,
        until: Instant,
    ) -> Result<Reply, Error> {
        let identity = self.identities.get(identity);
        let identity = identity.ok_or_else(|| Error::Credentials("nobody to ask as".into()))?;
        let reply = self.ask_as(identity, ask, until).await;
        reply.map_err(Error::from)
    }

    /// Asks as the first who may, and as the next where that one is refused.
    async fn once(&self, ask: &Ask, until: Instant) -> Result<Reply, Failed> {
        if let Some(left) = self.abuse().left(Instant::now()) {
            return Err(held(Limit::Abuse, left).into());
        }
        let repository = ask.endpoint.repository();
        let mut last = None;
        for identity in self.who_may(ask)? {
            let failed = match self.ask_as(identity, ask, until).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match &failed.error {
                Error::Denied { .. } => {
                    if let Some(repository) = repository {
                        identity.note_refused(repository);
                    }
                }
                Error::Credentials(_)
                | Error::RateLimited {
                    limit: Limit::Quota,
                    ..
                } => {}
                _ => return Err(failed),
            }
            tracing::debug!(upstream = %self.http.namespace(), identity = identity.name, error = %failed.error, "refused");
            last = Some(failed);
        }
        Err(last.unwrap_or_else(|| Error::Credentials("nobody to ask as".into()).into()))
    }

    /// Those who are not held, and of them those who were not refused a moment ago, unless all were.
    fn who_may(&self, ask: &Ask) -> Result<Vec<&Identity>, Error> {
        let now = Instant::now();
        let hold = |identity: &&Identity| identity.with_hold(|hold| hold.left(now));
        let free = |identity: &&Identity| !ask.spends() || hold(identity).is_none();
        let free: Vec<_> = self.identities.iter().filter(free).collect();
        if free.is_empty() {
            let shortest = self.identities.iter().filter_map(|it| hold(&it)).min();
            return Err(held(Limit::Quota, shortest.unwrap_or_default()));
        }
        let refused = |identity: &&&Identity| identity.was_refused(ask.endpoint.repository());
        if free.iter().all(|identity| refused(&identity)) {
            return Ok(free);
        }
        Ok(free.into_iter().filter(|it| !refused(&it)).collect())
    }

    async fn ask_as(
        &self,
        identity: &Identity,
        ask: &Ask,
        until: Instant,
    ) -> Result<Reply, Failed> {
        // In a box, because every request of a client has room for it, and most are answered from the store.
        let asking = Box::pin(self.authenticate_and_send(identity, ask, until));
        self.in_time(asking, until).await
    }

    async fn in_time(
        &self,
        asking: impl Future<Output = Result<Reply, Failed>>,
        until: Instant,
    ) -> Result<Reply, Failed> {
        let started = Instant::now();
        // What is waited for inside knows better what it waits for, so it is the first to give up.
        let limit = until + Duration::from_millis(50);
        match tokio::time::timeout_at(limit.into(), asking).await {
            Ok(reply) => reply,
            Err(_) => {
                let waited = started.elapsed().as_secs_f64();
                let words = format!("{} gave no answer within {waited:.1} s", self.base);
                Err(Error::Silent(words.into()).into())
            }
        }
    }

    /// Authenticates as upstream demands: with the token at hand, and once more with a new one.
    async fn authenticate_and_send(
        &self,
        identity: &Identity,
        ask: &Ask,
        until: Instant,
    ) -> Result<Reply, Failed> {
        let repository = ask.endpoint.repository();
        let auth = &identity.auth;
        let uri = ask.uri(&self.base)?;
        let sent = auth.authorization(repository).await;
        let sent = sent.map_err(|error| self.note_limit(error))?;
        let (response, at) = self.follow(ask, uri.clone(), sent.as_ref(), until).await?;
        let away = origin(&at) != self.origin;
        let answer = match (response.status(), &sent) {
            (StatusCode::UNAUTHORIZED, _) if away => {
                let challenges = challenges(&response);
                auth.answer_elsewhere(&challenges, repository).await
            }
            (StatusCode::UNAUTHORIZED, sent) => {
                let challenges = self.challenges_of_home(&response, ask, until).await;
                auth.answer(&challenges, repository, sent.as_ref()).await
            }
            (StatusCode::FORBIDDEN, Some(sent)) if !away && auth.forget_expired(sent) => {
                auth.authorization(repository).await
            }
            _ => Ok(None),
        };
        let Some(authorization) = answer.map_err(|error| self.note_limit(error))? else {
            // Nothing better to show: the answer stands.
            return self.reply(response, ask, &at, Some(identity)).await;
        };
        drain(response, &self.http).await;
        let again = if away { at } else { uri };
        let (response, at) = self.follow(ask, again, Some(&authorization), until).await?;
        self.reply(response, ask, &at, Some(identity)).await
    }

    /// What a 401 asks for. Some registries (Artifact Registry) refuse without a word; they say it at `/v2/`.
    async fn challenges_of_home(
        &self,
        refusal: &Response<Incoming>,
        ask: &Ask,
        until: Instant,
    ) -> Vec<Challenge> {
        let stated = challenges(refusal);
        if !stated.is_empty() || ask.endpoint == Endpoint::Base {
            return stated;
        }
        let base = Ask::new(Method::GET, Endpoint::Base);
        let Ok(uri) = base.uri(&self.base) else {
            return stated;
        };
        match self.follow(&base, uri, None, until).await {
            Ok((response, at)) if origin(&at) == self.origin => challenges(&response),
            _ => stated,
        }
    }

    /// Sends the request and follows redirects; says where it ended. Authorization goes to the origin it is
    /// for alone: elsewhere it would be a leak, and S3 refuses it besides a signed URL.
    async fn follow(
        &self,
        ask: &Ask,
        mut uri: Uri,
        authorization: Option<&HeaderValue>,
        until: Instant,
    ) -> Result<(Response<Incoming>, Uri), Failed> {
        let home = origin(&uri);
        for _ in 0..=MAX_REDIRECTS {
            let at = origin(&uri);
            let mut request = Request::builder()
                .method(ask.method.clone())
                .uri(uri.clone());
            if let Some(headers) = request.headers_mut() {
                self.fill_headers(headers, ask);
                if let Some(authorization) = authorization.filter(|_| at == home) {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
            }
            let request = request
                .body(Empty::new())
                .map_err(|error| Error::wrong(error.to_string()))?;
            // Only what we are configured to ask is judged: where it sends us is its own affair.
            let pass = match at == self.origin {
                true => Some(self.gate.enter(ask.question())?),
                false => None,
            };
            let response = self.send_through(pass, request, ask, until).await?;
            match redirect(&response, &uri)? {
                Some(next) => {
                    tracing::debug!(upstream = %self.http.namespace(), to = next.host(), "redirected");
                    drain(response, &self.http).await;
                    uri = next;
                }
                None => return Ok((response, uri)),
            }
        }
        Err(Error::wrong(format!("more than {MAX_REDIRECTS} redirects")).into())
    }

    async fn send_through(
        &self,
        pass: Option<Pass<'_>>,
        request: Request<Empty<bytes::Bytes>>,
        ask: &Ask,
        until: Instant,
    ) -> Result<Response<Incoming>, Failed> {
        let kind = ask.endpoint.kind().as_str();
        let result = self.http.send(request, kind, until).await;
        let Some(pass) = pass else { return result };
        match &result {
            Ok(response) if is_trouble(response.status()) => {
                let error = Error::unavailable(response.status().to_string());
                pass.failed(Trouble::Refused, &error);
            }
            Ok(_) => pass.succeeded(),
            Err(failed) if failed.passing => pass.failed(Trouble::Refused, &failed.error),
            Err(failed) => pass.judge(&failed.error),
        }
        result
    }

    fn fill_headers(&self, headers: &mut HeaderMap, ask: &Ask) {
        let optional = |text: Option<&str>| text.and_then(|text| HeaderValue::from_str(text).ok());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        // The bytes a digest is of are the unencoded ones.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (name, value) in [
            (ACCEPT, optional(ask.accept)),
            (IF_NONE_MATCH, optional(ask.if_none_match.as_deref())),
            (RANGE, optional(ask.range.as_deref())),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }

    /// What became of a request that ended `at` that place.
    async fn reply(
        &self,
        response: Response<Incoming>,
        ask: &Ask,
        at: &Uri,
        identity: Option<&Identity>,
    ) -> Result<Reply, Failed> {
        let home = identity.filter(|_| origin(at) == self.origin);
        let quota = RateLimit::read(response.headers());
        if let Some((identity, quota)) = home.zip(quota) {
            self.note_quota(identity, quota);
        }
        let status = response.status();
        if !(status.is_success()
            || status == StatusCode::NOT_MODIFIED && ask.if_none_match.is_some()
            || ask.answers.contains(&status.as_u16()))
        {
            return Err(self.refusal(response, home).await);
        }
        if let Some(identity) = home {
            self.lift(identity, ask, quota);
        }
        if let Some(encoding) = response.headers().get(http::header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            let words =
                format!("upstream encodes the body as {encoding:?}, which was not asked for");
            return Err(Error::wrong(words).into());
        }
        let (parts, body) = response.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(Reply {
            status,
            headers: parts.headers,
            body: self.http.body(body).watched(&self.breaks, length),
        })
    }

    pub(crate) fn abuse(&self) -> std::sync::MutexGuard<'_, Hold> {
        self.abuse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn identities(&self) -> &[Identity] {
        &self.identities
    }

    /// Whether a body broke off no longer ago than that.
    pub(crate) fn broke_within(&self, span: Duration) -> bool {
        self.breaks.within(span)
    }

    /// Treats it as if a body had broken off.
    pub(crate) fn distrust(&self) {
        self.breaks.note();
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    fn note_quota(&self, identity: &Identity, quota: RateLimit) {
        identity.state_quota(quota);
        let RateLimit {
            limit, remaining, ..
        } = quota;
        let labels = [self.http.namespace()];
        if let Some(limit) = limit {
            self.http
                .metrics()
                .ratelimit_limit
                .with_label_values(&labels)
                .set(limit as f64);
        }
        if let Some(remaining) = remaining {
            self.http
                .metrics()
                .ratelimit_remaining
                .with_label_values(&labels)
                .set(remaining as f64);
        }
    }
}

fn challenges(response: &Response<Incoming>) -> Vec<Challenge> {
    challenge::parse(response.headers().get_all(WWW_AUTHENTICATE))
}

/// Reads a short body to its end, so that its connection can be used again; one that does not come at once
/// is not worth waiting for.
async fn drain(response: Response<Incoming>, http: &Http) {
    let body = http.body(response.into_body()).collect_up_to(MAX_DRAINED);
    let _ = tokio::time::timeout(DRAIN, body).await;
}

/// Whether a status says that the origin is not well, rather than something of the thing asked for.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
}
