//! One request to an upstream: with its token, through redirects, within time limits.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, IF_NONE_MATCH, LOCATION, RANGE, RETRY_AFTER,
    USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;

use crate::headers::challenge::{self, Challenge};
use crate::metrics::Metrics;
use crate::oci::endpoint::Endpoint;

use super::Settings;
use super::auth::Auth;
use super::error::{Error, StartError};
use super::http1::{Body, Http, parse_uri};
use super::origin::{is_local, origin};
use super::quota::RateLimit;

/// Registries redirect once, regional ones twice; more is a loop.
const MAX_REDIRECTS: usize = 5;
/// How much of an error's body is read for its message.
const MAX_ERROR_BODY: usize = 16 * 1024;
/// How long the body of a redirect or of a refusal may take.
const DRAIN: Duration = Duration::from_millis(100);
const AGENT: &str = concat!("pierglass/", env!("CARGO_PKG_VERSION"));

/// Sends requests to one upstream.
pub(super) struct Client {
    http: Http,
    auth: Auth,
    base: String,
    /// What upstream last said of our quota. Guards one small value.
    quota: Mutex<Option<RateLimit>>,
}

/// What to ask.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) endpoint: Endpoint,
    /// Without the question mark.
    pub(super) query: Option<String>,
    pub(super) accept: Option<&'static str>,
    pub(super) if_none_match: Option<String>,
    pub(super) range: Option<String>,
    /// Statuses that are an answer to this and not a failure, besides success.
    pub(super) answers: &'static [u16],
}

impl Ask {
    pub(super) fn new(method: Method, endpoint: Endpoint) -> Self {
        Self {
            method,
            endpoint,
            query: None,
            accept: None,
            if_none_match: None,
            range: None,
            answers: &[],
        }
    }

    fn uri(&self, base: &str) -> Result<Uri, Error> {
        let path = self.endpoint.path();
        match &self.query {
            Some(query) => parse_uri(&format!("{base}{path}?{query}")),
            None => parse_uri(&format!("{base}{path}")),
        }
    }
}

/// An answer: 2xx, 304 where that was invited, or what else the question takes for one.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(settings: &Settings, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let http = Http::new(settings, metrics)?;
        let auth = Auth::new(settings, http.clone());
        let base = settings.url.to_string().trim_end_matches('/').to_owned();
        Ok(Self {
            http,
            auth,
            base,
            quota: Mutex::new(None),
        })
    }

    /// Asks, and waits for the header of the answer no longer than the limit for headers: tokens, redirects
    /// and a second try all count, because clients wait through all of them.
    pub(super) async fn send(&self, ask: Ask) -> Result<Reply, Error> {
        let limit = self.http.header_limit();
        match tokio::time::timeout(limit, self.authenticate_and_send(ask)).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::Silent(format!("no answer within {limit:?}").into())),
        }
    }

    /// Asks a host that takes no credentials of ours, and gets none.
    pub(super) async fn send_openly(&self, base: &str, ask: &Ask) -> Result<Reply, Error> {
        let limit = self.http.header_limit();
        let asking = async {
            let (response, _) = self.follow(ask, ask.uri(base)?, None).await?;
            self.reply(response, ask).await
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(reply) => reply,
            Err(_) => Err(Error::Silent(format!("no answer within {limit:?}").into())),
        }
    }

    /// Authenticates as upstream demands: with the token at hand, and once more with a new one.
    async fn authenticate_and_send(&self, ask: Ask) -> Result<Reply, Error> {
        let repository = ask.endpoint.repository().cloned();
        let uri = ask.uri(&self.base)?;
        let sent = self.auth.authorization(repository.as_ref()).await?;
        let (response, at) = self.follow(&ask, uri.clone(), sent.as_ref()).await?;
        let away = origin(&at) != origin(&uri);
        let answer = match (response.status(), &sent) {
            (StatusCode::UNAUTHORIZED, _) if away => {
                let challenges = challenges(&response);
                self.auth
                    .answer_elsewhere(&challenges, repository.as_ref())
                    .await?
            }
            (StatusCode::UNAUTHORIZED, sent) => {
                let challenges = self.challenges_of_home(&response, &ask).await;
                self.auth
                    .answer(&challenges, repository.as_ref(), sent.as_ref())
                    .await?
            }
            (StatusCode::FORBIDDEN, Some(sent)) if !away && self.auth.forget_expired(sent) => {
                self.auth.authorization(repository.as_ref()).await?
            }
            _ => None,
        };
        let Some(authorization) = answer else {
            // Nothing better to show: the answer stands.
            return self.reply(response, &ask).await;
        };
        drain(response, &self.http).await;
        let again = if away { at } else { uri };
        let (response, _) = self.follow(&ask, again, Some(&authorization)).await?;
        self.reply(response, &ask).await
    }

    /// What a 401 asks for. Some registries (Artifact Registry) refuse without a word; they say it at `/v2/`.
    async fn challenges_of_home(&self, refusal: &Response<Incoming>, ask: &Ask) -> Vec<Challenge> {
        let stated = challenges(refusal);
        if !stated.is_empty() || ask.endpoint == Endpoint::Base {
            return stated;
        }
        let base = Ask::new(Method::GET, Endpoint::Base);
        let Ok(uri) = base.uri(&self.base) else {
            return stated;
        };
        match self.follow(&base, uri.clone(), None).await {
            Ok((response, at)) if origin(&at) == origin(&uri) => challenges(&response),
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
    ) -> Result<(Response<Incoming>, Uri), Error> {
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
            let response = self
                .http
                .send(request, ask.endpoint.kind().as_str())
                .await?;
            match redirect(&response, &uri)? {
                Some(next) => {
                    tracing::debug!(upstream = %self.http.namespace(), to = next.host(), "redirected");
                    drain(response, &self.http).await;
                    uri = next;
                }
                None => return Ok((response, uri)),
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
            || status == StatusCode::NOT_MODIFIED && ask.if_none_match.is_some()
            || ask.answers.contains(&status.as_u16()))
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
        let text = self
            .http
            .body(response.into_body())
            .collect_up_to(MAX_ERROR_BODY)
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

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn quota(&self) -> Option<RateLimit> {
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_quota(&self, headers: &HeaderMap) {
        let Some(quota) = RateLimit::read(headers) else {
            return;
        };
        *self.quota.lock().unwrap_or_else(PoisonError::into_inner) = Some(quota);
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
    let (from_host, host) = (
        from.host().unwrap_or_default(),
        next.host().unwrap_or_default(),
    );
    // Storage on a private network is everyday; this machine's own services are nobody's storage.
    if is_local(host) && !is_local(from_host) {
        return Err(Error::wrong(
            "a redirect to an address of this machine".to_owned(),
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

fn challenges(response: &Response<Incoming>) -> Vec<Challenge> {
    challenge::parse(response.headers().get_all(WWW_AUTHENTICATE))
}

/// Reads a short body to its end, so that its connection can be used again; one that does not come at once
/// is not worth waiting for.
async fn drain(response: Response<Incoming>, http: &Http) {
    let body = http
        .body(response.into_body())
        .collect_up_to(MAX_ERROR_BODY);
    let _ = tokio::time::timeout(DRAIN, body).await;
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
