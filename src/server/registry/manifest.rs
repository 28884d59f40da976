//! Manifests as responses.

use std::sync::Arc;

use http::header::{AGE, CONTENT_LENGTH, CONTENT_TYPE, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::headers::etag::if_none_match;
use crate::mirror::manifest::digest::ManifestAnswer;
use crate::mirror::{Context, Mirror, Outcome, Want};
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
    let answer = manifests.get(context, repository, reference, want).await;
    let answer = answer.map_err(|error| Problem::of(&error, context.site.namespace().as_str()))?;
    let outcome = answer.outcome;
    // Only built where a client asks: most do not.
    let unchanged = headers.contains_key(IF_NONE_MATCH)
        && if_none_match(
            headers.get_all(IF_NONE_MATCH),
            &respond::etag(&answer.digest),
        );
    let response = whole(answer);
    let response = match unchanged {
        true => respond::not_modified(response),
        false => response,
    };
    Ok((response, outcome))
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
