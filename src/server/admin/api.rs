//! The admin API: the answers to what [`crate::api`] defines.
//!
//! Who may ask is for [`super::guard`] to say. What changes something must also carry a header that a web page of
//! another site cannot send unasked, and no `Origin`, which browsers add and programs do not.

use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderName, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::{Semaphore, mpsc};

use crate::api::{self, ApiProblem, PinAnswer, PinList, PinnedImage, StoreAnswer, UnpinAnswer};
use crate::mirror::Mirror;
use crate::oci::endpoint::query_value;
use crate::oci::image::{Image, ImageName};
use crate::server::body::Body;
use crate::sites::SelectError;
use crate::store::check::pace::Rate;
use crate::store::check::verify::Event;
use crate::store::images::pins::Pinned;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// Events that wait for a slow reader.
const EVENTS: usize = 64;
/// How fast a check reads that does not say: what a hard disk gives is twice that and more.
const VERIFY_RATE: u64 = 64 * 1024 * 1024;

/// Answers requests to the API.
pub(super) struct Api {
    mirror: Arc<Mirror>,
    /// One check of the whole store at a time: two would only halve each other's speed.
    verifying: Arc<Semaphore>,
}

/// Why there is no answer.
pub(super) struct ApiError {
    status: StatusCode,
    message: String,
    /// What the client must know besides.
    header: Option<(HeaderName, &'static str)>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            header: None,
        }
    }

    pub(super) fn with(self, name: HeaderName, value: &'static str) -> Self {
        Self {
            header: Some((name, value)),
            ..self
        }
    }

    fn method(allow: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, format!("only {allow}")).with(ALLOW, allow)
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = answer(
            self.status,
            &ApiProblem {
                error: self.message,
            },
        );
        if let Some((name, value)) = self.header {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
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

    async fn respond<B>(&self, request: &Request<B>) -> Result<Response<Body>, ApiError> {
        let query = request.uri().query().unwrap_or_default();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let refused = if reads {
            Ok(())
        } else {
            from_a_program(request)
        };
        match request.uri().path() {
            api::PINS => match *request.method() {
                Method::GET | Method::HEAD => Ok(done(&self.pins().await)),
                Method::POST => refused.map(|()| self.pin(query))?.await,
                Method::DELETE => refused.map(|()| self.unpin(query))?.await,
                _ => Err(ApiError::method("GET, HEAD, POST, DELETE")),
            },
            api::STORE if reads => self.store(),
            api::STORE => Err(ApiError::method("GET, HEAD")),
            api::VERIFY => match *request.method() {
                Method::POST => refused.and_then(|()| self.verify(query)),
                _ => Err(ApiError::method("POST")),
            },
            _ => Err(ApiError::new(
                StatusCode::NOT_FOUND,
                "there is no such thing in the API",
            )),
        }
    }

    fn store(&self) -> Result<Response<Body>, ApiError> {
        let root = self.mirror.store().disk().layout().root();
        let path = std::path::absolute(root);
        let found = path.and_then(|path| Ok((std::fs::metadata(root)?, path)));
        let (directory, path) = found.map_err(|error| {
            tracing::error!(%error, "cannot look at the store");
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot look at the store",
            )
        })?;
        Ok(done(&StoreAnswer {
            device: directory.dev(),
            inode: directory.ino(),
            path: path.to_string_lossy().into_owned(),
        }))
    }

    async fn pins(&self) -> PinList {
        let pins = self.mirror.store().images().pins().await;
        PinList {
            fit: pins.fit(),
            images: pins.images.iter().map(pinned).collect(),
            max_size: pins.max_size,
            wanted_bytes: pins.wanted,
        }
    }

    async fn pin(&self, query: &str) -> Result<Response<Body>, ApiError> {
        let image = self.mirror.sites().image(&named(query)?);
        let image = image.map_err(|error| unknown(&error))?;
        let pins = self.mirror.store().images().pins().await;
        if pins.images.len() >= api::MAX_PINS && !pins.images.iter().any(|it| it.image == image) {
            let most = api::MAX_PINS;
            let words = format!("{most} images are pinned, and no more can be; unpin one");
            return Err(ApiError::new(StatusCode::CONFLICT, words));
        }
        let pinned = self.mirror.store().images().pin(image.clone()).await;
        let changed = pinned.map_err(|error| disk(&error))?;
        if changed {
            tracing::info!(%image, "pinned");
        }
        let (all, image) = (self.pins().await, image.to_string());
        let mut images = all.images.into_iter();
        Ok(done(&PinAnswer {
            changed,
            fit: all.fit,
            max_size: all.max_size,
            pinned: images.find(|pinned| pinned.image == image),
            image,
            wanted_bytes: all.wanted_bytes,
        }))
    }

    async fn unpin(&self, query: &str) -> Result<Response<Body>, ApiError> {
        let image = self.let_go(&named(query)?)?;
        let unpinned = self.mirror.store().images().unpin(image.clone()).await;
        let changed = unpinned.map_err(|error| disk(&error))?;
        if changed {
            tracing::info!(%image, "unpinned");
        }
        let image = image.to_string();
        Ok(done(&UnpinAnswer { changed, image }))
    }

    fn let_go(&self, name: &ImageName) -> Result<Image, ApiError> {
        let image = self.mirror.sites().image(name);
        image.or_else(|error| name.literal().ok_or_else(|| unknown(&error)))
    }

    /// Checks the store, telling what is found while it is found, a line each.
    fn verify(&self, query: &str) -> Result<Response<Body>, ApiError> {
        let repair = match query_value(query, "repair").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                let words = "repair is true or false";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, words));
            }
        };
        let rate = match query_value(query, "rate").map(|rate| rate.parse()) {
            None => VERIFY_RATE,
            Some(Ok(rate)) => rate,
            Some(Err(_)) => {
                let words = "rate is a number of bytes a second, or 0";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, words));
            }
        };
        let turn = Arc::clone(&self.verifying).try_acquire_owned();
        let turn = turn.map_err(|_| {
            ApiError::new(StatusCode::CONFLICT, "the store is being verified already")
        })?;
        let (sender, receiver) = mpsc::channel(EVENTS);
        let store = Arc::clone(self.mirror.store());
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            tracing::info!(repair, rate, "verifying the store");
            store
                .checks()
                .verify(repair, Rate::new(rate), &mut |event| tell(&sender, &event));
        });
        let mut response = Response::new(Body::stream(receiver));
        response.headers_mut().insert(CONTENT_TYPE, JSON_LINES);
        Ok(response)
    }
}

/// Breaks off when the client is gone.
fn tell(sender: &mpsc::Sender<Bytes>, event: &Event) -> ControlFlow<()> {
    if let Event::End(summary) = event {
        tracing::info!(
            files = summary.files,
            bytes = summary.bytes,
            damaged = summary.damaged,
            dropped = summary.dropped,
            unchecked = summary.unchecked,
            "verified the store"
        );
    }
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    match sender.blocking_send(line.into()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Refuses a request that a web page in a browser could have sent.
fn from_a_program<B>(request: &Request<B>) -> Result<(), ApiError> {
    if request.headers().contains_key(ORIGIN) {
        let words = "web pages may not change anything here";
        return Err(ApiError::new(StatusCode::FORBIDDEN, words));
    }
    if !request.headers().contains_key(api::ADMIN_HEADER) {
        let words = "what changes something needs the header Pierglass-Admin: 1";
        return Err(ApiError::new(StatusCode::FORBIDDEN, words));
    }
    Ok(())
}

fn named(query: &str) -> Result<ImageName, ApiError> {
    let refuse = |words| ApiError::new(StatusCode::BAD_REQUEST, words);
    let text = query_value(query, "image")
        .ok_or_else(|| refuse("name an image: ?image=alpine:3.20".to_owned()))?;
    text.parse()
        .map_err(|error: crate::oci::image::ImageNameError| refuse(error.to_string()))
}

fn unknown(error: &SelectError) -> ApiError {
    let status = match error {
        SelectError::UnknownNamespace(_) => StatusCode::NOT_FOUND,
        SelectError::NoDefault | SelectError::Endpoint(_) => StatusCode::BAD_REQUEST,
    };
    ApiError::new(status, error.to_string())
}

fn disk(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "cannot write the pins");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("cannot write the pins: {error}"),
    )
}

fn pinned(pinned: &Pinned) -> PinnedImage {
    PinnedImage {
        digest: pinned.digest.as_ref().map(ToString::to_string),
        image: pinned.image.to_string(),
        missing: pinned.missing,
        missing_bytes: pinned.missing_bytes,
        stored: pinned.stored,
        stored_bytes: pinned.stored_bytes,
    }
}

fn done(value: &impl Serialize) -> Response<Body> {
    answer(StatusCode::OK, value)
}

fn answer(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut json = serde_json::to_vec(value).unwrap_or_default();
    json.push(b'\n');
    let mut response = Response::new(Body::whole(json.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}
