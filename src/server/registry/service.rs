//! One request to the registry API, in the steps that every request takes: parse, site, authorize, act, answer.

use std::sync::Arc;

use http::header::WARNING;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use crate::access::action::{Action, Verb};
use crate::access::caller::Caller;
use crate::access::rules::authorize;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::mirror::{Context, Mirror, Outcome, Site, Want};
use crate::oci::endpoint::{Endpoint, Prefix, Route};
use crate::server::body::{Body, Buffers};
use crate::server::browser::Gate;
use crate::server::record::{CounterTable, Entry, RequestRecord};
use crate::sites::SelectError;

use super::blob::BlobRequest;
use super::lists::ListRequest;
use super::manifest;
use super::problem::{Handled, Problem};
use super::respond::{self, OCI_NAMESPACE};

/// Answers requests to the registry API.
pub(crate) struct Service {
    mirror: Arc<Mirror>,
    gate: Gate,
    memory: Arc<Memory>,
    counters: Arc<CounterTable>,
    buffers: Buffers,
}

impl Service {
    /// A service in front of `mirror`.
    pub(crate) fn new(
        mirror: Arc<Mirror>,
        gate: Gate,
        memory: Arc<Memory>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let sites = mirror.sites().iter();
        let namespaces = sites.map(|(namespace, _)| namespace.clone());
        let counters = Arc::new(CounterTable::new(metrics, namespaces));
        Self {
            mirror,
            gate,
            memory,
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
        let mut entry = Entry::new(&request, &caller);
        let mut response = match self.respond(&request, &caller, &mut entry).await {
            Ok((response, outcome)) => {
                entry.outcome = outcome;
                response
            }
            Err(problem) => {
                entry.problem = Some(problem.cause().to_owned());
                problem.into_response()
            }
        };
        self.gate.mark(&request, response.headers_mut());
        let record = RequestRecord::new(&self.counters, entry, response.status());
        let (parts, body) = response.into_parts();
        let body = match *request.method() {
            Method::HEAD => Body::empty(),
            _ => body,
        };
        Response::from_parts(parts, body.with_record(record))
    }

    /// Answers it, and notes in `entry` what it learns about the request.
    async fn respond(
        &self,
        request: &Request<Incoming>,
        caller: &Caller,
        entry: &mut Entry,
    ) -> Handled {
        let is_front =
            request.uri().path() == "/" && matches!(*request.method(), Method::GET | Method::HEAD);
        self.gate.judge(request, is_front)?;
        if is_front {
            return Ok((respond::front(), Outcome::Hit));
        }
        if *request.method() == Method::OPTIONS {
            return Ok((respond::options(), Outcome::Hit));
        }
        let route = Route::parse(request.uri().path(), request.uri().query())?;
        let (ns, kind) = (route.ns.clone(), route.endpoint.kind());
        let action = Action::new(verb(request.method()), kind);
        let action = entry.action.insert(action);
        let (site, endpoint) = self.site(route, action)?;
        authorize(caller, action)?;
        let (mut response, outcome) = match (site, endpoint) {
            // How clients find out whether this is a registry: it takes no permit, so it never waits for one.
            (None, Endpoint::Base) => (respond::base(), Outcome::Hit),
            (site, endpoint) => {
                let permit = Arc::new(caller.share().request().await?);
                entry.permit = Some(Arc::clone(&permit));
                let context = site.map(|site| Context::new(site, permit));
                self.act(request, context.as_ref(), endpoint).await?
            }
        };
        if let Some(value) = ns.and_then(|ns| HeaderValue::from_str(ns.as_str()).ok()) {
            response.headers_mut().insert(OCI_NAMESPACE, value);
        }
        Ok((response, outcome))
    }

    /// Chooses the site, and what the endpoint is called there. `None` if the request is for the mirror as a whole, or
    /// would change something, which no site takes.
    fn site(
        &self,
        route: Route,
        action: &mut Action,
    ) -> Result<(Option<Arc<Site>>, Endpoint), SelectError> {
        let of_all = matches!(route.endpoint, Endpoint::Base | Endpoint::Catalog)
            && route.ns.is_none()
            && matches!(route.prefix, Prefix::None);
        if of_all || action.verb == Verb::Change {
            return Ok((None, route.endpoint));
        }
        let selected = self.mirror.sites().select(route)?;
        action.namespace = Some(selected.namespace.clone());
        action.repository = selected.endpoint.repository().cloned();
        Ok((Some(Arc::clone(selected.site)), selected.endpoint))
    }

    /// Asks the mirror: for something of a site, or, without a site, for the catalog of all sites.
    async fn act(
        &self,
        request: &Request<Incoming>,
        context: Option<&Context>,
        endpoint: Endpoint,
    ) -> Handled {
        let (mirror, headers) = (&self.mirror, request.headers());
        let lists = ListRequest {
            mirror,
            memory: &self.memory,
            uri: request.uri(),
        };
        let want = match *request.method() {
            Method::HEAD => Want::Header,
            _ => Want::Content,
        };
        let Some(context) = context else {
            return lists.catalog(None).await;
        };
        let mut handled = match &endpoint {
            Endpoint::Manifest {
                repository,
                reference,
            } => manifest::answer(mirror, headers, context, repository, reference, want).await,
            Endpoint::Blob { repository, digest } => {
                let blob = BlobRequest {
                    mirror,
                    buffers: &self.buffers,
                    context,
                    repository,
                    digest,
                    version: request.version(),
                };
                blob.answer(headers, want).await
            }
            Endpoint::Base => Ok((respond::base(), Outcome::Hit)),
            Endpoint::Uploads { .. } => Err(Problem::read_only()),
            Endpoint::Tags { repository } => lists.tags(context, repository).await,
            Endpoint::Referrers { repository, digest } => {
                lists.referrers(context, repository, digest).await
            }
            Endpoint::Catalog => lists.catalog(Some(&context.site)).await,
            Endpoint::Search => lists.search(context).await,
            Endpoint::SearchPing => lists.ping(),
        };
        if let Ok((response, outcome)) = &mut handled
            && outcome.is_from_upstream()
            && let Some(warnings) = context.site.upstream().warnings(&endpoint)
        {
            for warning in &*warnings {
                response.headers_mut().append(WARNING, warning.clone());
            }
        }
        handled
    }
}

fn verb(method: &Method) -> Verb {
    match *method {
        Method::GET | Method::HEAD => Verb::Pull,
        _ => Verb::Change,
    }
}
