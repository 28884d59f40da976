//! What operators and their tools ask for: metrics and health here, what the commands need in `api`.
//!
//! It serves no pulls: it reads figures, changes pins and checks the store. Reading order: this file, [`guard`] (who may
//! ask), `api`, [`unix_socket`].

mod api;
pub(crate) mod guard;
pub(crate) mod unix_socket;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::api::ROOT;
use crate::metrics::Metrics;
use crate::mirror::Mirror;

use crate::server::body::Body;

use self::api::{Api, ApiError};
use self::guard::Guard;

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "pierglass\n\n/metrics  for Prometheus\n/livez    is the process alive\n/readyz   should it get requests\n/api/v1/  for the command line\n";

/// Answers requests to the admin address.
pub(crate) struct Admin {
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    api: Api,
    draining: AtomicBool,
}

impl Admin {
    /// The admin side of `mirror`.
    pub(crate) fn new(mirror: Arc<Mirror>, metrics: Arc<Metrics>) -> Self {
        Self {
            api: Api::new(Arc::clone(&mirror)),
            mirror,
            metrics,
            draining: AtomicBool::new(false),
        }
    }

    /// From now on `/readyz` says no: the process finishes what it has and ends.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Answers one request to a place that `guard` stands before.
    pub(crate) async fn answer(
        &self,
        request: &Request<Incoming>,
        guard: &Guard,
    ) -> Response<Body> {
        let is_api = request.uri().path().starts_with(ROOT);
        if let Err(turned) = guard.judge(request, !is_api) {
            return ApiError::new(turned.status(), turned.to_string()).into_response();
        }
        if is_api {
            return match guard.admit(request).await {
                Ok(()) => self.api.answer(request).await,
                Err(refused) => refused.into_response(),
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/" => text(StatusCode::OK, INDEX),
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" if self.draining.load(Ordering::Relaxed) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            "/readyz" => self.ready(),
            "/metrics" => self.render_metrics(),
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    /// A store that cannot be written to is no reason to send requests elsewhere: what is stored is served, and the
    /// rest passes through. So the answer says it and stays yes.
    fn ready(&self) -> Response<Body> {
        let words = match self.mirror.store().disk().trouble() {
            None => "ready\n".to_owned(),
            Some(trouble) => format!(
                "ready\nstore: {}: {trouble}; blobs pass through\n",
                trouble.cause()
            ),
        };
        respond(StatusCode::OK, words.into(), TEXT)
    }

    fn render_metrics(&self) -> Response<Body> {
        self.mirror.store().room().export();
        match self.metrics.render() {
            Ok((bytes, media_type)) => respond(StatusCode::OK, bytes.into(), media_type),
            Err(error) => {
                tracing::error!(%error, "cannot render the metrics");
                text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "cannot render the metrics\n",
                )
            }
        }
    }
}

fn text(status: StatusCode, words: &'static str) -> Response<Body> {
    respond(status, Bytes::from_static(words.as_bytes()), TEXT)
}

fn respond(status: StatusCode, bytes: Bytes, media_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
