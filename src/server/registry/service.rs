//! One request to the registry API, line by line: parse, choose the upstream, ask the mirror, answer.

use std::sync::Arc;
use std::time::Instant;

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::access::caller::Caller;
use crate::access::permits::Permit;
use crate::metrics::Metrics;
use crate::mirror::{Context, Mirror, Outcome, Site, Want, WorkPermit};
use crate::oci::endpoint::{Endpoint, Kind, Prefix, Route};
use crate::oci::name::Namespace;
use crate::server::body::{Body, Buffers};
use crate::server::record::{CounterTable, Entry, RequestRecord};

use super::blob::BlobRequest;
use super::lists::ListRequest;
use super::manifest;
use super::problem::Problem;
use super::respond::{self, OCI_NAMESPACE};

/// Answers requests to the registry API.
pub(crate) struct Service {
    mirror: Arc<Mirror>,
    counters: Arc<CounterTable>,
    buffers: Buffers,
}

/// What was found out about a request while it was answered, for log and metrics.
struct Trail {
    upstream: Option<Namespace>,
    kind: Option<Kind>,
    outcome: Outcome,
    problem: Option<String>,
    turn: Option<Arc<Permit>>,
}

impl Service {
    /// A service in front of `mirror`.
    pub(crate) fn new(mirror: Arc<Mirror>, metrics: &Arc<Metrics>) -> Self {
        let namespaces = mirror
            .sites()
            .iter()
            .map(|(namespace, _)| namespace.clone());
        let counters = Arc::new(CounterTable::new(metrics, namespaces));
        Self {
            mirror,
            counters,
            buffers: Buffers::default(),
        }
    }

    /// Answers one request; never fails, since every failure has a response.
    pub(crate) async fn answer(
        &self,
        request: Request<Incoming>,
        caller: Caller,
    ) -> Response<Body> {
        let started = Instant::now();
        let mut trail = Trail {
            upstream: None,
            kind: None,
            outcome: Outcome::Error,
            problem: None,
            turn: None,
        };
        let response = match self.respond(&request, &caller, &mut trail).await {
            Ok(response) => response,
            Err(problem) => {
                trail.outcome = Outcome::Error;
                trail.problem = Some(problem.message().to_owned());
                problem.into_response()
            }
        };
        let account = self.open_account(&request, &caller, started, trail, response.status());
        if *request.method() == Method::HEAD {
            let (parts, _) = response.into_parts();
            return Response::from_parts(parts, Body::empty().with_account(account));
        }
        response.map(|body| body.with_account(account))
    }

    async fn respond(
        &self,
        request: &Request<Incoming>,
        caller: &Caller,
        trail: &mut Trail,
    ) -> Result<Response<Body>, Problem> {
        let route = Route::parse(request.uri().path(), request.uri().query())?;
        trail.kind = Some(route.endpoint.kind());
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
        let turn = Arc::new(caller.share().request().await?);
        trail.turn = Some(Arc::clone(&turn));
        let lists = ListRequest {
            mirror: &self.mirror,
            uri: request.uri(),
        };
        if route.endpoint.kind() == Kind::Catalog
            && route.ns.is_none()
            && matches!(route.prefix, Prefix::None)
        {
            let (response, outcome) = lists.catalog(None).await?;
            trail.outcome = outcome;
            return Ok(response);
        }
        let ns = route.ns.clone();
        let selected = self.mirror.sites().select(route)?;
        let (site, endpoint) = (Arc::clone(selected.site), selected.endpoint);
        trail.upstream = Some(site.namespace().clone());
        let permit = self.permit(caller, turn, &site, &endpoint, want).await?;
        let context = Context::new(site, permit);
        let (mut response, outcome) = match endpoint {
            Endpoint::Manifest {
                repository,
                reference,
            } => {
                let (mirror, headers) = (&self.mirror, request.headers());
                manifest::answer(mirror, headers, &context, &repository, &reference, want).await?
            }
            Endpoint::Blob { repository, digest } => {
                let blob = BlobRequest {
                    mirror: &self.mirror,
                    buffers: &self.buffers,
                    context: &context,
                    repository: &repository,
                    digest: &digest,
                    version: request.version(),
                };
                blob.answer(request.headers(), want).await?
            }
            Endpoint::Base => (respond::base(), Outcome::Hit),
            Endpoint::Uploads { .. } => return Err(Problem::read_only()),
            Endpoint::Tags { repository } => lists.tags(&context, &repository).await?,
            Endpoint::Referrers { repository, digest } => {
                lists.referrers(&context, &repository, &digest).await?
            }
            Endpoint::Catalog => lists.catalog(Some(&context.site)).await?,
            Endpoint::Search => lists.search(&context).await?,
            Endpoint::SearchPing => lists.ping()?,
        };
        trail.outcome = outcome;
        if let Some(value) = ns.and_then(|ns| HeaderValue::from_str(ns.as_str()).ok()) {
            response.headers_mut().insert(OCI_NAMESPACE, value);
        }
        Ok(response)
    }

    /// What work for this request holds until it is over, though its client may be gone by then: leave for a
    /// transfer if it will start one, else the request's turn.
    async fn permit(
        &self,
        caller: &Caller,
        turn: Arc<Permit>,
        site: &Site,
        endpoint: &Endpoint,
        want: Want,
    ) -> Result<WorkPermit, Problem> {
        match endpoint {
            Endpoint::Blob { digest, .. }
                if want == Want::Content && self.mirror.blobs().would_fill(site, digest) =>
            {
                Ok(Arc::new(caller.share().fill().await?))
            }
            _ => Ok(turn),
        }
    }

    fn open_account(
        &self,
        request: &Request<Incoming>,
        caller: &Caller,
        started: Instant,
        trail: Trail,
        status: StatusCode,
    ) -> RequestRecord {
        let Trail {
            upstream,
            kind,
            outcome,
            problem,
            turn,
        } = trail;
        let entry = Entry {
            client: caller.address(),
            agent: request.headers().get(USER_AGENT).cloned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            upstream,
            kind,
            outcome,
            status,
            problem,
            started,
            header_after: started.elapsed(),
        };
        RequestRecord::new(&self.counters, entry, turn)
    }
}
