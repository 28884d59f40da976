//! Questions about blobs.

use std::ops::Range;

use http::{Method, StatusCode, header};

use crate::headers::range::{Span, parse_content_range};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::name::Repository;

use super::asking::failover::Turn;
use super::asking::request::{Question, content_length, content_type};
use super::error::Error;
use super::manifests::NO_HEAD;
use super::wire::http::UpstreamBody;

/// The answer of servers to a range that the blob does not have.
const NO_SUCH_PART: &[u16] = &[416];

/// The body of a blob, as it comes from upstream.
#[derive(Debug)]
pub(crate) struct FetchedBlob {
    /// Length of the whole blob, if upstream said so.
    pub size: Option<u64>,
    /// What part of it `body` is; `None` for all of it.
    pub part: Option<Range<u64>>,
    /// The bytes, unverified.
    pub body: UpstreamBody,
}

fn endpoint(repository: &Repository, digest: &Digest) -> Endpoint {
    Endpoint::Blob {
        repository: repository.clone(),
        digest: digest.clone(),
    }
}

pub(super) async fn head(
    turn: Turn<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<u64>, Error> {
    let question = Question {
        answers: NO_HEAD,
        patient: turn.last,
        ..Question::new(Method::HEAD, endpoint(repository, digest))
    };
    let reply = turn.client.send(&question, turn.until).await?;
    if NO_HEAD.contains(&reply.status.as_u16()) {
        // A GET of its first byte says the same; a longer body is not read.
        let first = get(turn, repository, digest, Some((0..1).into())).await?;
        return Ok(first.size);
    }
    if content_type(&reply.headers).is_some_and(|text| text.starts_with("text/html")) {
        return Err(Error::wrong(
            "upstream has a web page where a blob should be",
        ));
    }
    Ok(content_length(&reply.headers))
}

pub(super) async fn get(
    turn: Turn<'_>,
    repository: &Repository,
    digest: &Digest,
    part: Option<Span>,
) -> Result<FetchedBlob, Error> {
    let question = Question {
        range: part.map(Span::header),
        answers: NO_SUCH_PART,
        patient: turn.last,
        ..Question::new(Method::GET, endpoint(repository, digest))
    };
    let reply = turn.client.send(&question, turn.until).await?;
    if reply.status == StatusCode::RANGE_NOT_SATISFIABLE {
        return Err(Error::wrong("upstream says that the blob is shorter"));
    }
    if reply.status != StatusCode::PARTIAL_CONTENT {
        return Ok(FetchedBlob {
            size: content_length(&reply.headers),
            part: None,
            body: reply.body,
        });
    }
    let stated = reply
        .headers
        .get(header::CONTENT_RANGE)
        .and_then(parse_content_range);
    match (stated, part) {
        (Some((got, size)), Some(asked)) if asked.is_answered_by(&got) => Ok(FetchedBlob {
            size,
            part: Some(got),
            body: reply.body,
        }),
        _ => Err(Error::wrong(
            "upstream sent another part of the blob than was asked for",
        )),
    }
}
