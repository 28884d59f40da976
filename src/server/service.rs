//! One request to the registry API, line by line: parse, choose the upstream, ask the mirror, answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, IF_NONE_MATCH, IF_RANGE, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::headers::etag::if_none_match;
use crate::headers::range::{self, Parsed, RangeSet, Selection};
use crate::metrics::Metrics;
use crate::mirror::blob::{BlobAnswer, Content};
use crate::mirror::{Mirror, Outcome, Site, Want};
use crate::oci::digest::Digest;
use crate::oci::endpoint::{Endpoint, Kind, Prefix, Route};
use crate::oci::error::ErrorCode;
use crate::oci::name::{Namespace, Reference, Repository};

use super::account::{Account, Entry};
use super::body::{Body, Buffers};
use super::respond::{self, OCI_NAMESPACE, Problem};

/// The label for requests that chose no upstream.
const NO_UPSTREAM: &str = "none";

/// Answers requests to the registry API.
pub struct Service {
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
    buffers: Buffers,
}

/// What was found out about a request while it was answered, for log and metrics.
struct Trail {
    upstream: Option<Namespace>,
    kind: &'static str,
    outcome: Outcome,
    problem: Option<String>,
}

impl Service {
    /// A service in front of `mirror`.
    pub fn new(mirror: Arc<Mirror>, metrics: Arc<Metrics>) -> Self {
        Self {
            mirror,
            metrics,
            buffers: Buffers::default(),
        }
    }

    /// Answers one request; never fails, since every failure has a response.
    pub async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let started = Instant::now();
        let mut trail = Trail {
            upstream: None,
            kind: "other",
            outcome: Outcome::Error,
            problem: None,
        };
        let response = match self.respond(&request, &mut trail).await {
            Ok(response) => response,
            Err(problem) => {
                trail.outcome = Outcome::Error;
                trail.problem = Some(problem.message().to_owned());
                problem.into_response()
            }
        };
        let account = self.open_account(&request, peer, started, trail, response.status());
        if *request.method() == Method::HEAD {
            let (parts, _) = response.into_parts();
            return Response::from_parts(parts, Body::empty().with_account(account));
        }
        response.map(|body| body.with_account(account))
    }

    async fn respond(
        &self,
        request: &Request<Incoming>,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Problem> {
        let route = Route::parse(request.uri().path(), request.uri().query())?;
        trail.kind = route.endpoint.kind().as_str();
        let want = match *request.method() {
            Method::GET => Want::Content,
            Method::HEAD => Want::Header,
            _ => return Err(Problem::read_only()),
        };
        if route.endpoint.kind() == Kind::Base
            && route.ns.is_none()
            && matches!(route.prefix, Prefix::None)
        {
            trail.outcome = Outcome::Hit;
            return Ok(respond::base());
        }
        let ns = route.ns.clone();
        let (site, endpoint) = self.mirror.select(route)?;
        trail.upstream = Some(site.upstream.namespace().clone());
        let mut response = match endpoint {
            Endpoint::Manifest {
                repository,
                reference,
            } => {
                self.manifest(
                    request.headers(),
                    &site,
                    &repository,
                    &reference,
                    want,
                    trail,
                )
                .await?
            }
            Endpoint::Blob { repository, digest } => {
                self.blob(request.headers(), &site, &repository, &digest, want, trail)
                    .await?
            }
            Endpoint::Base => {
                trail.outcome = Outcome::Hit;
                respond::base()
            }
            Endpoint::Uploads { .. } => return Err(Problem::read_only()),
            Endpoint::Tags { .. } => return Err(Problem::not_served("lists of tags yet")),
            Endpoint::Referrers { .. } => return Err(Problem::not_served("referrers yet")),
            Endpoint::Catalog => return Err(Problem::not_served("a catalog yet")),
            Endpoint::Search | Endpoint::SearchPing => {
                return Err(Problem::not_served("search yet"));
            }
        };
        if let Some(value) = ns.and_then(|ns| HeaderValue::from_str(ns.as_str()).ok()) {
            response.headers_mut().insert(OCI_NAMESPACE, value);
        }
        Ok(response)
    }

    async fn manifest(
        &self,
        headers: &HeaderMap,
        site: &Site,
        repository: &Repository,
        reference: &Reference,
        want: Want,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Problem> {
        let answer = self
            .mirror
            .manifest(site, repository, reference, want)
            .await;
        let answer =
            answer.map_err(|error| Problem::of(&error, site.upstream.namespace().as_str()))?;
        trail.outcome = answer.outcome;
        let unchanged = if_none_match(
            headers.get_all(IF_NONE_MATCH),
            &respond::etag(&answer.digest),
        );
        let response = respond::manifest(answer);
        Ok(if unchanged {
            respond::not_modified(response)
        } else {
            response
        })
    }

    async fn blob(
        &self,
        headers: &HeaderMap,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
        want: Want,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Problem> {
        // Who has it already only needs to hear that it is there.
        let unchanged = if_none_match(headers.get_all(IF_NONE_MATCH), &respond::etag(digest));
        let want = if unchanged { Want::Header } else { want };
        let answer = self.mirror.blob(site, repository, digest, want).await;
        let answer =
            answer.map_err(|error| Problem::of(&error, site.upstream.namespace().as_str()))?;
        trail.outcome = answer.outcome;
        if unchanged {
            return Ok(respond::not_modified(respond::blob(
                StatusCode::OK,
                digest,
                answer.outcome,
                false,
            )));
        }
        match ranges(headers, digest, want)? {
            Some(ranges) => self.part(site, repository, digest, answer, &ranges).await,
            None => Ok(self.whole(digest, answer)),
        }
    }

    fn whole(&self, digest: &Digest, answer: BlobAnswer) -> Response<Body> {
        let stored = matches!(answer.content, Some(Content::Reader(_)));
        let mut response = respond::blob(StatusCode::OK, digest, answer.outcome, stored);
        if let Some(size) = answer.size {
            response.headers_mut().insert(CONTENT_LENGTH, size.into());
        }
        *response.body_mut() = match answer.content {
            None => Body::empty(),
            Some(Content::Reader(reader)) => Body::store(reader, 0, answer.size, &self.buffers),
            Some(Content::Bypass(bypass)) => Body::bypass(bypass, answer.size),
        };
        response
    }

    /// Always a real 206 with the blob's whole length, also while it is still coming in: clients that got
    /// one 206 count on it for all their pieces.
    async fn part(
        &self,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
        answer: BlobAnswer,
        ranges: &RangeSet,
    ) -> Result<Response<Body>, Problem> {
        let namespace = site.upstream.namespace().as_str();
        let (total, content) = match (answer.size, answer.content) {
            (Some(total), content) => (total, content),
            // Upstream did not say how long it is: nobody can tell before its end.
            (None, Some(Content::Reader(mut reader))) => match reader.wait_length().await {
                Ok(total) => (total, Some(Content::Reader(reader))),
                Err(failure) => {
                    let message = format!("{namespace}: {failure}");
                    return Err(Problem::new(
                        StatusCode::BAD_GATEWAY,
                        ErrorCode::Unknown,
                        message,
                    ));
                }
            },
            (None, _) => {
                let message = format!(
                    "{namespace} does not say how long the blob is, so no part of it can be served"
                );
                return Err(Problem::new(
                    StatusCode::BAD_GATEWAY,
                    ErrorCode::Unknown,
                    message,
                ));
            }
        };
        let part = match ranges.resolve(total) {
            Selection::One(part) => part,
            Selection::Unsatisfiable => {
                return Ok(respond::unsatisfiable(digest, answer.outcome, total));
            }
            Selection::Many(_) => {
                let message = "several ranges in one request are not supported; ask for one";
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    ErrorCode::Unsupported,
                    message,
                ));
            }
        };
        let stored = matches!(content, Some(Content::Reader(_)));
        let mut response =
            respond::blob(StatusCode::PARTIAL_CONTENT, digest, answer.outcome, stored);
        let length = part.end.saturating_sub(part.start);
        response
            .headers_mut()
            .insert(CONTENT_RANGE, range::content_range(&part, total));
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = match content {
            None => Body::empty(),
            Some(Content::Reader(reader)) => {
                Body::store(reader, part.start, Some(part.end), &self.buffers)
            }
            Some(Content::Bypass(whole)) => {
                drop(whole);
                let bypass = self.mirror.blob_part(site, repository, digest, part).await;
                Body::bypass(
                    bypass.map_err(|error| Problem::of(&error, namespace))?,
                    Some(length),
                )
            }
        };
        Ok(response)
    }

    fn open_account(
        &self,
        request: &Request<Incoming>,
        peer: SocketAddr,
        started: Instant,
        trail: Trail,
        status: StatusCode,
    ) -> Account {
        let Trail {
            upstream,
            kind,
            outcome,
            problem,
        } = trail;
        let label = upstream.as_ref().map_or(NO_UPSTREAM, Namespace::as_str);
        let header_after = started.elapsed();
        self.metrics
            .requests
            .with_label_values(&[label, kind, outcome.as_str(), status.as_str()])
            .inc();
        let duration = self
            .metrics
            .request_duration
            .with_label_values(&[kind, outcome.as_str()]);
        duration.observe(header_after.as_secs_f64());
        let counter =
            self.metrics
                .response_bytes
                .with_label_values(&[label, kind, outcome.as_str()]);
        Account::new(
            counter,
            Entry {
                client: peer,
                agent: request
                    .headers()
                    .get(USER_AGENT)
                    .and_then(|agent| agent.to_str().ok())
                    .map(str::to_owned),
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                upstream: label.to_owned(),
                kind,
                outcome,
                status,
                problem,
                started,
                header_ms: header_after.as_millis() as u64,
                bytes: 0,
            },
        )
    }
}

/// The ranges a request asks for; `None` for all of the blob.
fn ranges(headers: &HeaderMap, digest: &Digest, want: Want) -> Result<Option<RangeSet>, Problem> {
    // RFC 9110 14.2: Range means nothing on a HEAD; 13.1.5: a condition that fails makes it void.
    let Some(value) = headers.get(RANGE).filter(|_| want == Want::Content) else {
        return Ok(None);
    };
    if headers
        .get(IF_RANGE)
        .is_some_and(|condition| !range::if_range_matches(condition, &respond::etag(digest)))
    {
        return Ok(None);
    }
    match range::parse(value) {
        Parsed::Ignore => Ok(None),
        Parsed::Ranges(ranges) => Ok(Some(ranges)),
        Parsed::TooMany => {
            let message = "more ranges in one request than are served";
            Err(Problem::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::Unsupported,
                message,
            ))
        }
    }
}
