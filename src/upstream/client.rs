//! One request to an upstream: with its token, through redirects, within time limits.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, LOCATION, PROXY_AUTHORIZATION, RANGE,
    RETRY_AFTER, USER_AGENT,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::headers::challenge;
use crate::metrics::Metrics;
use crate::oci::endpoint::{Endpoint, Kind};

use super::auth::Auth;
use super::connect::{self, Connector, Proxies};
use super::error::{Error, StartError};
use super::{RateLimit, Settings, Timeouts};

/// Registries redirect once, regional ones twice; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// How much of an error's body is read for its message.
const MAX_ERROR_BODY: usize = 16 * 1024;
const AGENT: &str = concat!("pierglass/", env!("CARGO_PKG_VERSION"));

/// Sends requests to one upstream.
pub(super) struct Client {
    http: Http,
    auth: Auth,
    base: String,
}

/// The connections to one upstream and to where it sends us, without any authentication.
#[derive(Clone)]
pub(super) struct Http {
    pool: legacy::Client<Connector, Empty<Bytes>>,
    proxies: Proxies,
    timeouts: Timeouts,
    namespace: Arc<str>,
    metrics: Arc<Metrics>,
}

/// What to ask.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) endpoint: Endpoint,
    pub(super) accept: Option<&'static str>,
    pub(super) if_none_match: Option<String>,
    pub(super) range: Option<String>,
}

impl Ask {
    pub(super) fn new(method: Method, endpoint: Endpoint) -> Self {
        Self {
            method,
            endpoint,
            accept: None,
            if_none_match: None,
            range: None,
        }
    }
}

/// A successful answer: 2xx, or 304 where that was invited.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let namespace = settings.namespace.to_string();
        let proxies = Proxies::new(settings);
        let connector =
            connect::connector(settings, proxies.clone()).map_err(|detail| StartError {
                namespace: namespace.clone(),
                detail,
            })?;
        let pool = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_timer(TokioTimer::new())
            .build(connector);
        metrics.upstream_up.with_label_values(&[&namespace]).set(1);
        let http = Http {
            pool,
            proxies,
            timeouts: settings.timeouts.clone(),
            namespace: namespace.into(),
            metrics,
        };
        let auth = Auth::new(settings, http.clone());
        let base = settings.url.to_string().trim_end_matches('/').to_owned();
        Ok(Self { http, auth, base })
    }

    /// Asks, authenticating as upstream demands: with the token at hand, and once more with a new one.
    pub(super) async fn send(&self, ask: Ask) -> Result<Reply, Error> {
        let repository = ask.endpoint.repository().cloned();
        let kind = ask.endpoint.kind();
        let uri = parse_uri(&format!("{}{}", self.base, ask.endpoint.path()))?;
        let authorization = self.auth.authorization(repository.as_ref()).await?;
        let response = self
            .follow(&ask, kind, uri.clone(), authorization.as_ref())
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED
            && !expired(&response, authorization.is_some())
        {
            return self.reply(response, &ask).await;
        }
        let challenges =
            challenge::parse(response.headers().get_all(http::header::WWW_AUTHENTICATE));
        match self
            .auth
            .answer(&challenges, repository.as_ref(), authorization.as_ref())
            .await?
        {
            Some(authorization) => {
                drain(response, &self.http).await;
                let response = self.follow(&ask, kind, uri, Some(&authorization)).await?;
                self.reply(response, &ask).await
            }
            // No challenge we can meet: the refusal stands.
            None => self.reply(response, &ask).await,
        }
    }

    /// Sends the request and follows redirects. Authorization goes to the upstream's own origin alone:
    /// elsewhere it would be a leak, and S3 refuses it besides a signed URL.
    async fn follow(
        &self,
        ask: &Ask,
        kind: Kind,
        mut uri: Uri,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, Error> {
        let home = origin(&uri);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::builder()
                .method(ask.method.clone())
                .uri(uri.clone());
            if let Some(headers) = request.headers_mut() {
                self.fill_headers(headers, ask);
                if let Some(authorization) = authorization.filter(|_| origin(&uri) == home) {
                    headers.insert(AUTHORIZATION, authorization.clone());
                }
            }
            let request = request
                .body(Empty::new())
                .map_err(|error| Error::wrong(error.to_string()))?;
            let response = self.http.send(request, kind.as_str()).await?;
            match redirect(&response, &uri)? {
                Some(next) => {
                    tracing::debug!(upstream = %self.http.namespace, to = next.host(), "redirected");
                    drain(response, &self.http).await;
                    uri = next;
                }
                None => return Ok(response),
            }
        }
        Err(Error::wrong(format!("more than {MAX_REDIRECTS} redirects")))
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

    async fn reply(&self, response: Response<Incoming>, ask: &Ask) -> Result<Reply, Error> {
        self.note_quota(response.headers());
        let status = response.status();
        if !(status.is_success()
            || status == StatusCode::NOT_MODIFIED && ask.if_none_match.is_some())
        {
            return Err(self.refusal(response).await);
        }
        if let Some(encoding) = response.headers().get(http::header::CONTENT_ENCODING)
            && encoding != "identity"
        {
            return Err(Error::wrong(format!(
                "upstream encodes the body as {encoding:?}, which was not asked for"
            )));
        }
        let (parts, body) = response.into_parts();
        Ok(Reply {
            status,
            headers: parts.headers,
            body: self.http.body(body),
        })
    }

    async fn refusal(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let text = super::collect(&mut self.http.body(response.into_body()), MAX_ERROR_BODY)
            .await
            .unwrap_or_default();
        let detail = error_detail(status, &text);
        match status.as_u16() {
            404 | 410 => Error::NotFound,
            401 | 403 | 407 => Error::Denied {
                status,
                detail: detail.into(),
            },
            429 => Error::RateLimited {
                retry_after,
                detail: detail.into(),
            },
            _ => {
                if status.is_server_error() {
                    self.http.note_up(false);
                }
                Error::unavailable(detail)
            }
        }
    }

    fn note_quota(&self, headers: &HeaderMap) {
        let Some(RateLimit {
            limit, remaining, ..
        }) = RateLimit::read(headers)
        else {
            return;
        };
        let labels = [&*self.http.namespace];
        if let Some(limit) = limit {
            self.http
                .metrics
                .ratelimit_limit
                .with_label_values(&labels)
                .set(limit as f64);
        }
        if let Some(remaining) = remaining {
            self.http
                .metrics
                .ratelimit_remaining
                .with_label_values(&labels)
                .set(remaining as f64);
        }
    }
}

impl Http {
    /// Sends one request as it is. Bounded: connecting and waiting for the header both have their limits.
    pub(super) async fn send(
        &self,
        mut request: Request<Empty<Bytes>>,
        kind: &str,
    ) -> Result<Response<Incoming>, Error> {
        if let Some(authorization) = self.proxies.authorization(request.uri()) {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization);
        }
        let method = request.method().clone();
        let host = request
            .uri()
            .authority()
            .map(Authority::to_string)
            .unwrap_or_default();
        let started = Instant::now();
        let outcome = tokio::time::timeout(self.timeouts.headers, self.pool.request(request)).await;
        let result = match outcome {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(connection_error(&host, &error)),
            Err(_) => {
                let limit = self.timeouts.headers;
                Err(Error::Silent(
                    format!("{host} sent no response header within {limit:?}").into(),
                ))
            }
        };
        let status = match &result {
            Ok(response) => response.status().as_u16().to_string(),
            Err(Error::Silent(_)) => "timeout".to_owned(),
            Err(_) => "unreachable".to_owned(),
        };
        self.note_up(result.is_ok());
        self.metrics
            .upstream_requests
            .with_label_values(&[&*self.namespace, kind, method.as_str(), &status])
            .inc();
        let duration = self
            .metrics
            .upstream_request_duration
            .with_label_values(&[&*self.namespace, kind]);
        duration.observe(started.elapsed().as_secs_f64());
        result
    }

    pub(super) fn body(&self, incoming: Incoming) -> Body {
        let bytes = self
            .metrics
            .upstream_bytes
            .with_label_values(&[&*self.namespace]);
        Body {
            incoming,
            idle: self.timeouts.idle,
            bytes,
        }
    }

    fn note_up(&self, up: bool) {
        self.metrics
            .upstream_up
            .with_label_values(&[&*self.namespace])
            .set(i64::from(up));
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// A body on its way from upstream. Every piece must come within the idle timeout.
pub struct Body {
    incoming: Incoming,
    idle: Duration,
    bytes: prometheus::IntCounter,
}

impl Body {
    /// The next piece; `None` at the end. A body that breaks off is an error, never an end.
    ///
    /// Cancelling the future loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut self.incoming).poll_frame(cx));
            let frame = tokio::time::timeout(self.idle, frame).await.map_err(|_| {
                Error::Silent(format!("no byte of the body within {:?}", self.idle).into())
            })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => {
                    return Err(Error::unavailable(format!(
                        "the body broke off: {}",
                        causes(&error)
                    )));
                }
                Some(Ok(frame)) => {
                    // Trailers are of no interest.
                    if let Ok(bytes) = frame.into_data() {
                        self.bytes.inc_by(bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, if it is not longer than `limit` bytes.
    pub async fn collect_up_to(mut self, limit: usize) -> Result<Bytes, Error> {
        super::collect(&mut self, limit).await
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Body")
    }
}

pub(super) fn parse_uri(text: &str) -> Result<Uri, Error> {
    text.parse()
        .map_err(|error| Error::wrong(format!("not a URL: {error}")))
}

/// Scheme, host and port (RFC 6454): what decides whether credentials may follow.
pub(super) fn origin(uri: &Uri) -> (Option<Scheme>, Option<String>, Option<u16>) {
    let port = uri.port_u16().or_else(|| match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    });
    (
        uri.scheme().cloned(),
        uri.host().map(str::to_ascii_lowercase),
        port,
    )
}

/// Where a redirect leads; `None` when the response is not one.
fn redirect(response: &Response<Incoming>, from: &Uri) -> Result<Option<Uri>, Error> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let location =
        location.ok_or_else(|| Error::wrong("a redirect without Location".to_owned()))?;
    let next = resolve(from, location)
        .ok_or_else(|| Error::wrong("a redirect to what is not a URL".to_owned()))?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(Error::wrong(
            "a redirect from https to plain http".to_owned(),
        ));
    }
    Ok(Some(next))
}

/// Resolves a Location against the URL it came from (RFC 3986 5.2, as far as registries use it).
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return location.parse().ok();
    }
    let scheme = from.scheme_str()?;
    if location.starts_with("//") {
        return format!("{scheme}:{location}").parse().ok();
    }
    let authority = from.authority()?;
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}").parse().ok();
    }
    let directory = from
        .path()
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    format!("{scheme}://{authority}{directory}/{location}")
        .parse()
        .ok()
}

/// ECR and its kin say 403 where a token has expired; worth one new token if we had sent one.
fn expired(response: &Response<Incoming>, sent_authorization: bool) -> bool {
    sent_authorization
        && response.status() == StatusCode::FORBIDDEN
        && response
            .headers()
            .contains_key(http::header::WWW_AUTHENTICATE)
}

/// Reads a short body to its end, so that its connection can be used again.
async fn drain(response: Response<Incoming>, http: &Http) {
    let _ = super::collect(&mut http.body(response.into_body()), MAX_ERROR_BODY).await;
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    date.duration_since(std::time::SystemTime::now()).ok()
}

/// The first message of an OCI error body, else only the status: what is not JSON (a proxy's HTML) is not repeated.
fn error_detail(status: StatusCode, body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body)
        .ok()
        .and_then(|json| {
            let error = json.get("errors")?.get(0)?;
            let words = error
                .get("message")
                .or_else(|| error.get("code"))?
                .as_str()?;
            Some(
                words
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(200)
                    .collect::<String>(),
            )
        });
    match message {
        Some(message) => format!("{status}: {message}"),
        None => status.to_string(),
    }
}

fn connection_error(host: &str, error: &legacy::Error) -> Error {
    Error::unavailable(format!("{host}: {}", causes(error)))
}

/// An error and what caused it, in one line: the outermost words alone are rarely enough.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(location: &str) -> String {
        resolve(
            &"https://r.example/v2/a/blobs/x?y".parse().unwrap(),
            location,
        )
        .unwrap()
        .to_string()
    }

    #[test]
    fn a_location_may_be_absolute_or_relative() {
        assert_eq!(
            resolved("http://cdn.example/z?sig=1"),
            "http://cdn.example/z?sig=1"
        );
        assert_eq!(
            resolved("/artifacts-downloads/z"),
            "https://r.example/artifacts-downloads/z"
        );
        assert_eq!(resolved("//cdn.example/z"), "https://cdn.example/z");
        assert_eq!(resolved("z"), "https://r.example/v2/a/blobs/z");
    }

    #[test]
    fn an_origin_counts_the_default_port() {
        let origin = |text: &str| origin(&text.parse().unwrap());
        assert_eq!(
            origin("https://A.example/x"),
            origin("https://a.example:443/y")
        );
        assert_ne!(origin("https://a.example/"), origin("http://a.example/"));
        assert_ne!(
            origin("https://a.example/"),
            origin("https://a.example:444/")
        );
    }

    #[test]
    fn html_of_a_proxy_never_becomes_our_words() {
        assert_eq!(
            error_detail(StatusCode::BAD_GATEWAY, b"<html><script>"),
            "502 Bad Gateway"
        );
        let json = br#"{"errors":[{"code":"DENIED","message":"no"}]}"#;
        assert_eq!(
            error_detail(StatusCode::FORBIDDEN, json),
            "403 Forbidden: no"
        );
    }
}
