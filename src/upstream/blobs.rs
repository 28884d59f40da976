//! Questions about blobs.

use std::ops::Range;

use http::{Method, StatusCode, header};

use crate::headers::range::{Span, parse_content_range};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::name::Repository;

use super::asking::failover::Turn;
use super::asking::request::{Question, Reply, content_length, is_page};
use super::error::Error;
use super::heads::{Doubt, REFUSALS, may_be_about_head};
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

/// Asks whether the repository has a blob, and how long it is: with a HEAD, and with a GET of its first byte where that
/// does not tell.
pub(super) async fn head(
    turn: Turn<'_>,
    repository: &Repository,
    digest: &Digest,
    doubt: &Doubt,
) -> Result<Option<u64>, Error> {
    // Boxed: it is large, and seldom needed.
    let get = || Box::pin(first_byte(turn, repository, digest));
    if turn.last && doubt.is_on() {
        return get().await;
    }
    let question = Question {
        answers: if turn.last { REFUSALS } else { &[] },
        patient: turn.last,
        ..Question::new(Method::HEAD, endpoint(repository, digest))
    };
    match turn.client.send(&question, turn.until).await {
        Ok(reply) if reply.status == StatusCode::OK && !is_page(&reply.headers) => {
            if let Some(size) = length(&reply, digest) {
                return Ok(Some(size));
            }
        }
        Ok(_) if !turn.last => return Err(no_blob()),
        Ok(_) => {}
        Err(error) if turn.last && may_be_about_head(&error) => {}
        Err(error) => return Err(error),
    }
    let size = get().await?;
    if turn.last {
        doubt.note();
    }
    Ok(size)
}

/// The same with a GET; a longer body is not read.
async fn first_byte(
    turn: Turn<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<u64>, Error> {
    let question = Question {
        range: Some(Span::from(0..1).header()),
        answers: NO_SUCH_PART,
        patient: turn.last,
        ..Question::new(Method::GET, endpoint(repository, digest))
    };
    let reply = turn.client.send(&question, turn.until).await?;
    match reply.status {
        _ if is_page(&reply.headers) => Err(no_blob()),
        StatusCode::PARTIAL_CONTENT => Ok(stated_part(&reply).and_then(|(_, size)| size)),
        StatusCode::OK => match content_length(&reply.headers) {
            None => Ok(None),
            Some(_) => length(&reply, digest).map(Some).ok_or_else(no_blob),
        },
        StatusCode::RANGE_NOT_SATISFIABLE if digest.is_of_nothing() => Ok(Some(0)),
        _ => Err(no_blob()),
    }
}

/// The longest blob: clients are written in Go, where a length is an `int64`.
const LONGEST: u64 = i64::MAX as u64;

/// How long the blob is, as a header says. 0 is what servers say that do not know; only one blob is empty.
fn length(reply: &Reply, digest: &Digest) -> Option<u64> {
    let stated = content_length(&reply.headers).filter(|size| *size <= LONGEST);
    stated.filter(|size| *size > 0 || digest.is_of_nothing())
}

fn no_blob() -> Error {
    Error::wrong("upstream has something else where a blob should be")
}

fn stated_part(reply: &Reply) -> Option<(Range<u64>, Option<u64>)> {
    let stated = reply.headers.get(header::CONTENT_RANGE);
    stated.and_then(parse_content_range)
}

pub(super) async fn get(
    turn: Turn<'_>,
    repository: &Repository,
    digest: &Digest,
    part: Option<Span>,
    named: Option<u64>,
) -> Result<FetchedBlob, Error> {
    let question = Question {
        named,
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
    match (stated_part(&reply), part) {
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
