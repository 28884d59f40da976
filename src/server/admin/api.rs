//! The admin API, which the command line uses: JSON under `/api/v1/`.
//!
//! Nobody is asked who they are; the address is loopback by default. That alone would leave it open to
//! every web page that a browser on this machine shows, so what changes something must carry a header that
//! a page of another site cannot send unasked, and no `Origin`, which browsers add and programs do not.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, ORIGIN};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

use crate::mirror::Mirror;
use crate::oci::endpoint::query_value;
use crate::oci::image::{Image, ImageName};
use crate::server::body::Body;
use crate::sites::SelectError;
use crate::store::check::verify::Event;
use crate::store::images::pins::{Pinned, Pins};

/// What all paths of the API begin with.
pub(super) const ROOT: &str = "/api/";
/// What a request that changes something must carry, whatever its value.
const ADMIN: HeaderName = HeaderName::from_static("pierglass-admin");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Events that wait for a slow reader.
const EVENTS: usize = 64;

/// Answers requests to the API.
pub(super) struct Api {
    mirror: Arc<Mirror>,
    /// One check of the whole store at a time: two would only halve each other's speed.
    verifying: Arc<Semaphore>,
}

/// Why there is no answer.
struct Refusal {
    status: StatusCode,
    message: String,
    allow: Option<&'static str>,
}

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            allow: None,
        }
    }

    fn method(allow: &'static str) -> Self {
        Self {
            allow: Some(allow),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}"))
        }
    }

    fn into_response(self) -> Response<Body> {
        let mut response = answer(self.status, &json!({ "error": self.message }));
        if let Some(allow) = self.allow {
            let allow = HeaderValue::from_static(allow);
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

impl Api {
    pub(super) fn new(mirror: Arc<Mirror>) -> Self {
        Self {
            mirror,
            verifying: Arc::new(Semaphore::new(1)),
        }
    }

    /// Answers one request; its body is not read.
    pub(super) async fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        match self.respond(request).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        }
    }

    async fn respond<B>(&self, request: &Request<B>) -> Result<Response<Body>, Refusal> {
        let query = request.uri().query().unwrap_or_default();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let refused = if reads { Ok(()) } else { is_meant(request) };
        match request.uri().path() {
            "/api/v1/pins" => match *request.method() {
                Method::GET | Method::HEAD => {
                    Ok(done(&pins(&self.mirror.store().images().pins().await)))
                }
                Method::POST => refused.map(|()| self.pin(query))?.await,
                Method::DELETE => refused.map(|()| self.unpin(query))?.await,
                _ => Err(Refusal::method("GET, HEAD, POST, DELETE")),
            },
            "/api/v1/verify" => match *request.method() {
                Method::POST => refused.and_then(|()| self.verify(query)),
                _ => Err(Refusal::method("POST")),
            },
            _ => Err(Refusal::new(
                StatusCode::NOT_FOUND,
                "there is no such thing in the API",
            )),
        }
    }

    async fn pin(&self, query: &str) -> Result<Response<Body>, Refusal> {
        let image = self.mirror.sites().image(&named(query)?);
        let image = image.map_err(|error| unknown(&error))?;
        let store = self.mirror.store();
        let changed = store
            .images()
            .pin(image.clone())
            .await
            .map_err(|error| disk(&error))?;
        if changed {
            tracing::info!(%image, "pinned");
        }
        let all = store.images().pins().await;
        let pinned = all.images.iter().find(|pinned| pinned.image == image);
        Ok(done(&json!({
            "image": image.to_string(),
            "changed": changed,
            "pinned": pinned.map(one),
            "wanted_bytes": all.wanted,
            "max_size": all.max_size,
            "fit": all.fit(),
        })))
    }

    async fn unpin(&self, query: &str) -> Result<Response<Body>, Refusal> {
        let image = self.let_go(&named(query)?)?;
        let unpinned = self.mirror.store().images().unpin(image.clone()).await;
        let changed = unpinned.map_err(|error| disk(&error))?;
        if changed {
            tracing::info!(%image, "unpinned");
        }
        Ok(done(
            &json!({ "image": image.to_string(), "changed": changed }),
        ))
    }

    fn let_go(&self, name: &ImageName) -> Result<Image, Refusal> {
        let image = self.mirror.sites().image(name);
        image.or_else(|error| name.literal().ok_or_else(|| unknown(&error)))
    }

    /// Checks the store, telling what is found while it is found, a line each.
    fn verify(&self, query: &str) -> Result<Response<Body>, Refusal> {
        let repair = match query_value(query, "repair").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                let words = "repair is true or false";
                return Err(Refusal::new(StatusCode::BAD_REQUEST, words));
            }
        };
        let turn = Arc::clone(&self.verifying).try_acquire_owned();
        let turn = turn.map_err(|_| {
            Refusal::new(StatusCode::CONFLICT, "the store is being verified already")
        })?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let store = Arc::clone(self.mirror.store());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            tracing::info!(repair, "verifying the store");
            store
                .checks()
                .verify(repair, &mut |event| tell(&sender, &event));
        });
        let mut response = Response::new(Body::stream(receiver));
        response.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
        Ok(response)
    }
}

/// Breaks off when the client is gone.
fn tell(sender: &mpsc::Sender<Bytes>, event: &Event) -> ControlFlow<()> {
    if let Event::End(summary) = event {
        tracing::info!(?summary, "verified the store");
    }
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    match sender.blocking_send(line.into()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Whether a request that changes something was meant by whoever runs the program that sent it.
fn is_meant<B>(request: &Request<B>) -> Result<(), Refusal> {
    if request.headers().contains_key(ORIGIN) {
        let words = "web pages may not change anything here";
        return Err(Refusal::new(StatusCode::FORBIDDEN, words));
    }
    if !request.headers().contains_key(ADMIN) {
        let words = "what changes something needs the header Pierglass-Admin: 1";
        return Err(Refusal::new(StatusCode::FORBIDDEN, words));
    }
    Ok(())
}

fn named(query: &str) -> Result<ImageName, Refusal> {
    let refuse = |words| Refusal::new(StatusCode::BAD_REQUEST, words);
    let text = query_value(query, "image")
        .ok_or_else(|| refuse("name an image: ?image=alpine:3.20".to_owned()))?;
    text.parse()
        .map_err(|error: crate::oci::image::ImageNameError| refuse(error.to_string()))
}

fn unknown(error: &SelectError) -> Refusal {
    let status = match error {
        SelectError::UnknownNamespace(_) => StatusCode::NOT_FOUND,
        SelectError::NoDefault | SelectError::Endpoint(_) => StatusCode::BAD_REQUEST,
    };
    Refusal::new(status, error.to_string())
}

fn disk(error: &std::io::Error) -> Refusal {
    tracing::error!(%error, "cannot write the pins");
    Refusal::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("cannot write the pins: {error}"),
    )
}

fn pins(all: &Pins) -> Value {
    json!({
        "images": all.images.iter().map(one).collect::<Vec<_>>(),
        "wanted_bytes": all.wanted,
        "max_size": all.max_size,
        "fit": all.fit(),
    })
}

fn one(pinned: &Pinned) -> Value {
    json!({
        "image": pinned.image.to_string(),
        "digest": pinned.digest.as_ref().map(ToString::to_string),
        "stored": pinned.stored,
        "stored_bytes": pinned.stored_bytes,
        "missing": pinned.missing,
        "missing_bytes": pinned.missing_bytes,
    })
}

fn done(value: &Value) -> Response<Body> {
    answer(StatusCode::OK, value)
}

fn answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::whole(format!("{value}\n").into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
