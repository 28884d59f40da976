//! One HTTP request and its response: connection pool, time limits, metrics. No login and no redirects.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::PROXY_AUTHORIZATION;
use http::{Response, StatusCode, Uri};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpInfo;

use crate::memory::{Held, Memory};
use crate::metrics::Metrics;
use crate::oci::name::Repository;

use super::breaks::Breaks;
use super::coding::Coding;
use super::connect::{Connectors, Proxies};
use super::failure::{Destination, causes};
use super::pace::Pace;
use super::pool::Pools;
use super::settings::{ConnectionSettings, Timeouts};
use super::zone::{Reach, Zone};
use crate::upstream::error::{CertificateError, Error, FailedTry};

pub(crate) use super::pool::Request;

/// What the mirror calls itself towards upstreams.
pub(crate) const AGENT: &str = concat!("pierglass/", env!("CARGO_PKG_VERSION"));

/// The connections to one upstream and to the hosts that it redirects to.
#[derive(Clone)]
pub(crate) struct Http {
    pools: Arc<Pools>,
    proxies: Proxies,
    timeouts: Timeouts,
    namespace: Arc<str>,
    metrics: Arc<Metrics>,
    /// True for the registry itself, false for an entry of `endpoints`, whose failures do not set `upstream_up` to 0.
    is_registry: bool,
}

impl Http {
    pub(crate) fn new(
        namespace: &str,
        is_registry: bool,
        settings: &ConnectionSettings,
        metrics: Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        let proxies = Proxies::new(settings);
        let connectors = Connectors::new(settings, proxies.clone())
            .map_err(|detail| CertificateError(format!("upstream {namespace}: {detail}")))?;
        metrics.upstream_up.with_label_values(&[namespace]).set(1);
        // Present from the start, so that the first count is an increase.
        metrics.upstream_bytes.with_label_values(&[namespace]);
        metrics.fill_resumes.with_label_values(&[namespace]);
        metrics.fills_in_flight.with_label_values(&[namespace]);
        Ok(Self {
            pools: Arc::new(Pools::new(connectors)),
            proxies,
            timeouts: settings.timeouts.clone(),
            namespace: namespace.into(),
            metrics,
            is_registry,
        })
    }

    /// Sends one request, and waits for the response header until `until`.
    pub(crate) async fn send(
        &self,
        mut request: Request,
        kind: &str,
        reach: Reach,
        until: Instant,
    ) -> Result<Response<Incoming>, FailedTry> {
        if let Some(authorization) = self.proxies.authorization(request.uri()) {
            request
                .headers_mut()
                .insert(PROXY_AUTHORIZATION, authorization);
        }
        let method = request.method().clone();
        let way = Destination::new(request.uri(), self.proxies.on_the_way(request.uri()));
        let started = Instant::now();
        let sending = self.pools.of(reach).send(request, until);
        let result = match tokio::time::timeout_at(until.into(), sending).await {
            Ok(result) => result.map_err(|error| way.failed(&error)),
            Err(_) => {
                let waited = started.elapsed().as_secs_f64();
                let words = format!("{way} sent no response header within {waited:.1} s");
                Err(Error::Silent(words.into()).into())
            }
        };
        let status = match &result {
            Ok(response) => status_word(response.status()),
            Err(FailedTry {
                error: Error::Silent(_),
                ..
            }) => "timeout",
            Err(_) => "unreachable",
        };
        // Silence, and a connection that breaks, may be about this one question.
        match &result {
            Ok(_) => self.note_up(true),
            Err(failed) if status == "unreachable" && !failed.transient => self.note_up(false),
            Err(_) => {}
        }
        self.metrics
            .upstream_requests
            .with_label_values(&[&*self.namespace, kind, method.as_str(), status])
            .inc();
        let duration = self
            .metrics
            .upstream_request_duration
            .with_label_values(&[&*self.namespace, kind]);
        duration.observe(started.elapsed().as_secs_f64());
        result
    }

    /// Where the host is that sent a response: by the address at the other end, or through a proxy by what its URL says.
    pub(crate) fn zone(&self, uri: &Uri, response: &Response<Incoming>) -> Zone {
        let known = match self.proxies.on_the_way(uri) {
            Some(_) => Zone::of_host(uri.host().unwrap_or_default()),
            None => {
                let connection = response.extensions().get::<HttpInfo>();
                connection.map(|it| Zone::of(it.remote_addr().ip()))
            }
        };
        known.unwrap_or(Zone::Public)
    }

    pub(crate) fn body(&self, incoming: Incoming) -> UpstreamBody {
        let bytes = self
            .metrics
            .upstream_bytes
            .with_label_values(&[&*self.namespace]);
        UpstreamBody {
            incoming,
            idle: self.timeouts.idle,
            bytes,
            coding: Coding::Identity,
            left: None,
            breaks: None,
            pace: Pace::default(),
        }
    }

    pub(crate) fn note_up(&self, up: bool) {
        if !up && !self.is_registry {
            return;
        }
        self.metrics
            .upstream_up
            .with_label_values(&[&*self.namespace])
            .set(i64::from(up));
    }

    pub(crate) fn header_limit(&self) -> Duration {
        self.timeouts.headers
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// A response body that is still arriving. Every piece must come within the idle timeout.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    idle: Duration,
    bytes: prometheus::IntCounter,
    /// How all of it is to be read.
    coding: Coding,
    /// How much is still to come, if that was announced.
    left: Option<u64>,
    /// Noted when it breaks off.
    breaks: Option<(Arc<Breaks>, Repository)>,
    pace: Pace,
}

impl UpstreamBody {
    /// Decodes what is collected.
    pub(crate) fn coded(self, coding: Coding) -> Self {
        Self { coding, ..self }
    }

    /// Notes in `breaks` if this body, which is about a repository, ends before `length` bytes have come.
    pub(crate) fn watched(
        self,
        breaks: &Arc<Breaks>,
        repository: Option<&Repository>,
        length: Option<u64>,
    ) -> Self {
        Self {
            left: length,
            breaks: repository.map(|repository| (Arc::clone(breaks), repository.clone())),
            ..self
        }
    }

    /// The next piece; `None` at the end. A body that breaks off is an error, never an end.
    ///
    /// Cancelling the future loses nothing.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.next().await;
        match &chunk {
            Ok(Some(bytes)) => {
                self.left = self
                    .left
                    .map(|left| left.saturating_sub(bytes.len() as u64));
            }
            Ok(None) if self.left.is_none_or(|left| left == 0) => {}
            Ok(None) | Err(_) => {
                if let Some((breaks, repository)) = &self.breaks {
                    breaks.note(repository);
                }
            }
        }
        chunk
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let asked = Instant::now();
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
                    // Trailers are ignored.
                    if let Ok(bytes) = frame.into_data() {
                        self.bytes.inc_by(bytes.len() as u64);
                        self.pace.note(asked.elapsed(), bytes.len(), self.idle)?;
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// All of it, if it is complete at `until` and not longer than `limit` bytes. `what` names it in errors. It takes room
    /// in `memory` as it comes, and before it is read.
    pub(crate) async fn collect(
        self,
        limit: usize,
        what: &str,
        until: Instant,
        memory: &Memory,
    ) -> Result<Bytes, Error> {
        let late = |_| Error::Silent(format!("{what} was not whole in time").into());
        let coding = self.coding.clone();
        let all = tokio::time::timeout_at(until.into(), self.collect_within(limit, memory))
            .await
            .map_err(late)??;
        match coding.is_identity() {
            true => Ok(all),
            false => Box::pin(coding.decode(all, limit, memory)).await,
        }
    }

    async fn collect_within(mut self, limit: usize, memory: &Memory) -> Result<Bytes, Error> {
        let (mut all, mut held) = (Vec::new(), Held::default());
        let mut room = self.incoming.size_hint().exact().unwrap_or(0);
        let mut next = Bytes::new();
        loop {
            let length = usize::try_from(room).unwrap_or(usize::MAX);
            if length > limit {
                return Err(Error::too_long(limit));
            }
            if length > all.capacity() {
                memory.grow(&mut held, length).await.map_err(Error::Busy)?;
                all.reserve_exact(length - all.len());
            }
            all.extend_from_slice(&next);
            match self.chunk().await? {
                Some(chunk) => next = chunk,
                None => return Ok(held.with(all)),
            }
            let needed = all.len() + next.len();
            room = match needed > all.capacity() && needed <= limit {
                // Twice as long each time, so that little is copied.
                true => needed.max(2 * all.capacity()).min(limit) as u64,
                false => needed as u64,
            };
        }
    }

    /// All of it, if it is not longer than `limit` bytes, which are few.
    pub(crate) async fn collect_up_to(mut self, limit: usize) -> Result<Bytes, Error> {
        let mut all = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if all.len() + chunk.len() > limit {
                return Err(Error::too_long(limit));
            }
            all.extend_from_slice(&chunk);
        }
        self.coding.decode_few(all.freeze(), limit)
    }
}

impl std::fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UpstreamBody")
    }
}

/// A status as the metric has it: those that registries use, else its class. Upstream could make a series of each of 900.
fn status_word(status: StatusCode) -> &'static str {
    macro_rules! words {
        ($($code:literal)*) => {
            match status.as_u16() {
                $($code => stringify!($code),)*
                100..200 => "1xx",
                200..300 => "2xx",
                300..400 => "3xx",
                400..500 => "4xx",
                500..600 => "5xx",
                _ => "other",
            }
        };
    }
    words!(200 206 301 302 303 304 307 308 400 401 403 404 405 406 407 410 416 429 500 501 502 503 504)
}

/// A URL that upstream named, without the user name and password that may be in it: nothing here sends them, and every
/// log and error would repeat them.
pub(crate) fn parse_uri(text: &str) -> Result<Uri, Error> {
    let wrong = |error: &dyn std::fmt::Display| Error::wrong(format!("not a URL: {error}"));
    let uri: Uri = text.parse().map_err(|error| wrong(&error))?;
    let Some((_, host)) = uri.authority().and_then(|it| it.as_str().rsplit_once('@')) else {
        return Ok(uri);
    };
    let host = host.to_owned();
    let mut parts = uri.into_parts();
    parts.authority = Some(host.parse().map_err(|error| wrong(&error))?);
    Uri::from_parts(parts).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use crate::upstream::wire::settings::Proxy;

    use super::*;

    fn http() -> Http {
        let second = Duration::from_secs(1);
        let settings = ConnectionSettings {
            ca_file: None,
            proxy: Proxy::Direct,
            timeouts: Timeouts {
                connect: second,
                headers: 5 * second,
                idle: second,
            },
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        Http::new("r.example", true, &settings, metrics).unwrap()
    }

    /// What a server receives that answers nothing but the last of `connections`.
    async fn received(method: &str, body: &'static str, connections: usize) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/x", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let mut all = Vec::new();
            for connection in 1..=connections {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut seen = String::new();
                while !(seen.contains("\r\n\r\n") && seen.ends_with(body)) {
                    let mut part = [0; 1024];
                    let length = stream.read(&mut part).await.unwrap();
                    seen.push_str(std::str::from_utf8(&part[..length]).unwrap());
                }
                all.push(seen);
                if connection == connections {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
            all
        });
        let request = http::Request::builder().method(method).uri(uri);
        let request = request.body(Full::new(body.into())).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        let sent = http().send(request, "test", Reach::Anywhere, until).await;
        if sent.is_err() {
            serving.abort();
            return Vec::new();
        }
        serving.await.unwrap()
    }

    #[tokio::test]
    async fn a_body_is_sent_and_a_get_has_none() {
        let post = &received("POST", "grant_type=password", 1).await[0];
        assert!(post.contains("content-length: 19"), "{post}");
        let get = received("GET", "", 1).await[0].to_lowercase();
        assert!(!get.contains("content-length"), "{get}");
        assert!(!get.contains("transfer-encoding"), "{get}");
    }

    #[tokio::test]
    async fn only_what_changes_nothing_is_sent_again() {
        assert_eq!(received("GET", "", 2).await.len(), 2);
        let post = received("POST", "grant_type=password", 2).await;
        assert!(post.is_empty(), "a token must not be asked for twice");
    }

    #[test]
    fn who_a_url_names_is_not_kept() {
        let kept = |text: &str| parse_uri(text).unwrap().to_string();
        assert_eq!(
            kept("https://me:hunter2@a.example:1/x?y"),
            "https://a.example:1/x?y"
        );
        assert_eq!(kept("http://token@a.example/"), "http://a.example/");
        assert_eq!(kept("https://a.example/x@y"), "https://a.example/x@y");
        assert_eq!(kept("/v2/a@b"), "/v2/a@b");
        for text in ["https://me:hunter2@/", "https://me:hunter2@a b/"] {
            let error = parse_uri(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn upstream_makes_no_series_of_its_own() {
        let all = (100..1000).map(|code| status_word(StatusCode::from_u16(code).unwrap()));
        assert!(all.collect::<std::collections::BTreeSet<_>>().len() < 32);
        assert_eq!(status_word(StatusCode::OK), "200");
        assert_eq!(status_word(StatusCode::IM_A_TEAPOT), "4xx");
    }
}
