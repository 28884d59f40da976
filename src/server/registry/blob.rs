//! Blobs as responses: all of one, a part, or several parts.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};

use crate::headers::etag::if_none_match;
use crate::headers::multipart::Multipart;
use crate::headers::range::{self, Parsed, RangeSet, Selection};
use crate::mirror::blob::BlobAnswer;
use crate::mirror::blob::delivery::{Content, Delivery, Piece, StoredBlob};
use crate::mirror::{Context, Mirror, Outcome, Want};
use crate::oci::digest::Digest;
use crate::oci::error::ErrorCode;
use crate::oci::name::Repository;
use crate::server::body::{Body, Buffers};

use super::problem::Problem;
use super::respond;

/// A multi-range request may ask for this many times the blob in all: a client that asks for overlapping parts
/// without end wants to do harm (RFC 9110 17.15).
const MOST_COPIES: u64 = 2;

/// What a request for a blob is about.
pub(super) struct BlobRequest<'a> {
    pub(super) mirror: &'a std::sync::Arc<Mirror>,
    pub(super) buffers: &'a Buffers,
    pub(super) context: &'a Context,
    pub(super) repository: &'a Repository,
    pub(super) digest: &'a Digest,
    pub(super) version: Version,
}

impl BlobRequest<'_> {
    /// Answers it; the outcome is for the log.
    pub(super) async fn answer(
        &self,
        headers: &HeaderMap,
        want: Want,
    ) -> Result<(Response<Body>, Outcome), Problem> {
        // A client that has it already only needs to hear that it is stored.
        let etag = respond::etag(self.digest);
        let unchanged = if_none_match(headers.get_all(IF_NONE_MATCH), &etag);
        let want = if unchanged { Want::Header } else { want };
        // Before the mirror is asked: a request that is refused must start nothing.
        let ranges = ranges(headers, &etag, want)?;
        let answer = self
            .mirror
            .blobs()
            .get(self.context, self.repository, self.digest, want)
            .await;
        let answer = answer.map_err(|error| Problem::of(&error, self.namespace()))?;
        let outcome = answer.outcome;
        if unchanged {
            let response = respond::blob(StatusCode::OK, self.digest, outcome, false);
            return Ok((respond::not_modified(response), outcome));
        }
        let response = match ranges {
            Some(ranges) => self.part(answer, &ranges).await?,
            None => self.whole(answer).await?,
        };
        Ok((response, outcome))
    }

    fn namespace(&self) -> &str {
        self.context.site.namespace().as_str()
    }

    async fn whole(&self, mut answer: BlobAnswer) -> Result<Response<Body>, Problem> {
        let unannounced = answer.size.is_none() && answer.content.is_some();
        if unannounced && self.version < Version::HTTP_11 {
            // Without chunks the end of the connection is the end of the body: a torn one would look whole.
            answer.size = Some(self.length_of(&mut answer.content).await?);
        }
        let stored = matches!(answer.content, Some(Content::Stored(_)));
        let mut response = respond::blob(StatusCode::OK, self.digest, answer.outcome, stored);
        if let Some(size) = answer.size {
            response.headers_mut().insert(CONTENT_LENGTH, size.into());
        }
        let delivery = match answer.content {
            None => return Ok(response),
            Some(Content::Stored(stored)) => stored.whole(answer.size),
            Some(Content::Passthrough(passthrough)) => passthrough.into(),
        };
        *response.body_mut() = Body::delivery(delivery, answer.size, self.buffers);
        Ok(response)
    }

    async fn length_of(&self, content: &mut Option<Content>) -> Result<u64, Problem> {
        match content {
            Some(Content::Stored(stored)) => {
                let length = stored.wait_length().await;
                length.map_err(|failure| self.bad_gateway(&failure))
            }
            Some(Content::Passthrough(_)) | None => {
                Err(self.bad_gateway(&"it does not say how long the blob is"))
            }
        }
    }

    /// Always a real 206 with the blob's whole length, also while it is still coming in: clients that got
    /// one 206 count on it for all their pieces.
    async fn part(&self, answer: BlobAnswer, ranges: &RangeSet) -> Result<Response<Body>, Problem> {
        let (size, outcome) = (answer.size, answer.outcome);
        match answer.content {
            Some(Content::Stored(stored)) => self.of_store(stored, ranges, outcome).await,
            Some(Content::Passthrough(_)) | None => {
                self.of_passthrough(size, ranges, outcome).await
            }
        }
    }

    async fn of_store(
        &self,
        mut stored: StoredBlob,
        ranges: &RangeSet,
        outcome: Outcome,
    ) -> Result<Response<Body>, Problem> {
        let total = match stored.length() {
            Some(total) => total,
            None => self.total_of(&mut stored).await?,
        };
        let parts = match ranges.resolve(total) {
            Selection::Unsatisfiable => {
                return Ok(respond::unsatisfiable(self.digest, outcome, total));
            }
            Selection::One(part) => {
                let pieces = [Piece::Span(part.clone().into())].into();
                return Ok(self.partial(outcome, true, &part, total, stored.pieces(pieces)));
            }
            Selection::Many(parts) => parts,
        };
        let asked = parts
            .iter()
            .map(|part| part.end - part.start)
            .fold(0, u64::saturating_add);
        if asked > total.saturating_mul(MOST_COPIES) {
            return Err(bad_request("the ranges overlap more than is sensible"));
        }
        let multipart = Multipart::new(
            self.digest.hex().as_str(),
            "application/octet-stream",
            total,
        );
        let mut response = respond::blob(StatusCode::PARTIAL_CONTENT, self.digest, outcome, true);
        response
            .headers_mut()
            .insert(CONTENT_TYPE, multipart.content_type());
        let length = multipart.length(&parts);
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        let end = Piece::Bytes(multipart.end());
        let pieces = parts.into_iter().flat_map(|part| {
            let header = Bytes::from(multipart.part(&part));
            [Piece::Bytes(header), Piece::Span(part.into())]
        });
        let delivery = stored.pieces(pieces.chain([end]).collect());
        *response.body_mut() = Body::delivery(delivery, Some(length), self.buffers);
        Ok(response)
    }

    /// The length of a blob that upstream sends without saying it: a HEAD may tell; else only its end does.
    async fn total_of(&self, stored: &mut StoredBlob) -> Result<u64, Problem> {
        let blobs = self.mirror.blobs();
        let asked = blobs.length(self.context, self.repository, self.digest);
        match asked.await {
            Some(total) => Ok(total),
            None => {
                let length = stored.wait_length().await;
                length.map_err(|failure| self.bad_gateway(&failure))
            }
        }
    }

    /// Upstream is asked for every part of a blob that is not stored.
    async fn of_passthrough(
        &self,
        size: Option<u64>,
        ranges: &RangeSet,
        outcome: Outcome,
    ) -> Result<Response<Body>, Problem> {
        let Some(total) = size else {
            return Err(self.bad_gateway(&"it does not say how long the blob is"));
        };
        let part = match ranges.resolve(total) {
            Selection::One(part) => part,
            Selection::Unsatisfiable => {
                return Ok(respond::unsatisfiable(self.digest, outcome, total));
            }
            Selection::Many(_) => {
                return Err(bad_request(
                    "of a blob without room in the store only one range is served",
                ));
            }
        };
        let blobs = self.mirror.blobs();
        let delivery = blobs
            .part(self.context, self.repository, self.digest, part.clone())
            .await
            .map_err(|error| Problem::of(&error, self.namespace()))?;
        Ok(self.partial(outcome, false, &part, total, delivery))
    }

    fn partial(
        &self,
        outcome: Outcome,
        stored: bool,
        part: &std::ops::Range<u64>,
        total: u64,
        delivery: Delivery,
    ) -> Response<Body> {
        let length = part.end - part.start;
        let mut response = respond::blob(StatusCode::PARTIAL_CONTENT, self.digest, outcome, stored);
        let headers = response.headers_mut();
        headers.insert(CONTENT_RANGE, range::content_range(part, total));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Body::delivery(delivery, Some(length), self.buffers);
        response
    }

    fn bad_gateway(&self, why: &dyn std::fmt::Display) -> Problem {
        let namespace = self.namespace();
        let message = format!("{namespace}: the blob cannot be delivered in this form");
        Problem::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, message)
            .because(format!("{namespace}: {why}"))
    }
}

/// The ranges a request asks for; `None` for all of the blob.
fn ranges(headers: &HeaderMap, etag: &str, want: Want) -> Result<Option<RangeSet>, Problem> {
    // RFC 9110 14.2: Range means nothing on a HEAD; 13.1.5: a condition that fails makes it void.
    // Range is no list (RFC 9110 5.3): of two lines neither counts, or one would be left out of the answer.
    let mut lines = headers.get_all(RANGE).iter();
    let (Some(value), None, Want::Content) = (lines.next(), lines.next(), want) else {
        return Ok(None);
    };
    let condition = headers.get(IF_RANGE);
    if condition.is_some_and(|condition| !range::if_range_matches(condition, etag)) {
        return Ok(None);
    }
    match range::parse(value) {
        Parsed::Ignore => Ok(None),
        Parsed::Ranges(ranges) => Ok(Some(ranges)),
        Parsed::TooMany => Err(bad_request("more ranges in one request than are served")),
    }
}

fn bad_request(message: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message)
}
