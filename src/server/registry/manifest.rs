//! Manifests as responses.

use std::sync::Arc;

use http::header::{ACCEPT, AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers::accept;
use crate::headers::etag::if_none_match;
use crate::mirror::manifest::digest::ManifestAnswer;
use crate::mirror::{Context, Mirror, Outcome, Want};
use crate::oci::manifest::{is_index, is_of_one_image};
use crate::oci::name::{Reference, Repository};
use crate::server::body::Body;

use super::problem::Problem;
use super::respond;

/// Answers a request for a manifest; the outcome is for the log.
pub(super) async fn answer(
    mirror: &Arc<Mirror>,
    headers: &HeaderMap,
    context: &Context,
    repository: &Repository,
    reference: &Reference,
    want: Want,
) -> Result<(Response<Body>, Outcome), Problem> {
    let manifests = mirror.manifests();
    let problem = |error| Problem::of(&error, context.site.namespace().as_str());
    let answer = manifests.get(context, repository, reference, want).await;
    let mut answer = answer.map_err(problem)?;
    // By digest, it is the bytes that have it.
    let negotiable = matches!(reference, Reference::Tag(_)) && is_index(&answer.media_type);
    let mut chosen = false;
    if negotiable && knows_no_index(headers) {
        let image = manifests.usual_image(context, repository, &answer, want);
        if let Some(image) = image.await.map_err(problem)? {
            (answer, chosen) = (image, true);
        }
    }
    let outcome = answer.outcome;
    // Only built where a client asks: most do not.
    let unchanged = headers.contains_key(IF_NONE_MATCH)
        && if_none_match(
            headers.get_all(IF_NONE_MATCH),
            &respond::etag(&answer.digest),
        );
    let mut response = whole(answer);
    if negotiable {
        vary(response.headers_mut(), chosen);
    }
    let response = match unchanged {
        true => respond::not_modified(response),
        false => response,
    };
    Ok((response, outcome))
}

/// Whether a client names manifests of one image and no index: an old one, to which docker/distribution and Docker Hub give
/// the image for linux/amd64.
fn knows_no_index(headers: &HeaderMap) -> bool {
    let mut one = false;
    for taken in accept::taken(headers.get_all(ACCEPT)) {
        let any = ["*/*", "application/*"]
            .iter()
            .any(|it| it.eq_ignore_ascii_case(taken));
        if any || is_index(taken) {
            return false;
        }
        one |= is_of_one_image(taken);
    }
    one
}

/// What caches between clients and here must know of what a tag stands for. `chosen`: it was made fit for the client, and
/// is for no other one. `Vary` alone does not hold that: Varnish compares the first of several `Accept` lines.
fn vary(headers: &mut HeaderMap, chosen: bool) {
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if chosen {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// All of it, or its header for a HEAD.
fn whole(answer: ManifestAnswer) -> Response<Body> {
    let stored = answer.content.is_some();
    let status = respond::cache_status(answer.outcome, stored, answer.fresh_for);
    let mut response = respond::new(StatusCode::OK, status);
    let headers = response.headers_mut();
    respond::identity(headers, &answer.digest);
    let media_type = HeaderValue::try_from(answer.media_type);
    headers.insert(
        CONTENT_TYPE,
        media_type.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
    headers.insert(CONTENT_LENGTH, answer.size.into());
    if respond::is_from_store(answer.outcome) {
        headers.insert(AGE, answer.age.as_secs().into());
    }
    if let Some(content) = answer.content {
        *response.body_mut() = Body::whole(content);
    }
    response
}
