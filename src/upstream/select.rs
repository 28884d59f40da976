//! Which upstream a request is for.

use std::collections::HashMap;
use std::sync::Arc;

use crate::metrics::Metrics;
use crate::oci::endpoint::{Endpoint, EndpointError, Prefix, Route};
use crate::oci::name::Namespace;

use super::settings::DOCKER_HUB;
use super::{Settings, StartError, Upstream};

/// All upstreams, and the choice among them.
pub(crate) struct Upstreams {
    by_namespace: HashMap<Namespace, Arc<Upstream>>,
    default: Option<Arc<Upstream>>,
}

/// Why a request names no upstream.
#[derive(Debug)]
pub(crate) enum SelectError {
    /// The namespace is not configured here; it is never dialled.
    UnknownNamespace(Namespace),
    /// No namespace was given and there is no default.
    NoDefault,
    /// The repository's name is not valid on that upstream.
    Endpoint(EndpointError),
}

impl Upstreams {
    /// Builds a client for each of `settings`; reads certificate files, opens no connection.
    pub(crate) fn new(settings: Vec<Settings>, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let mut by_namespace = HashMap::new();
        let mut default = None;
        for settings in settings {
            let is_default = settings.default;
            let upstream = Arc::new(Upstream::new(settings, metrics)?);
            if is_default {
                default = Some(Arc::clone(&upstream));
            }
            by_namespace.insert(upstream.settings.namespace.clone(), upstream);
        }
        Ok(Self {
            by_namespace,
            default,
        })
    }

    /// All of them, by name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let mut all: Vec<_> = self.by_namespace.values().collect();
        all.sort_by(|a, b| a.settings.namespace.cmp(&b.settings.namespace));
        all.into_iter()
    }

    /// The one for requests that name none.
    pub(crate) fn default_namespace(&self) -> Option<&Namespace> {
        self.default.as_ref().map(|upstream| upstream.namespace())
    }

    /// Chooses the upstream of a request: `ns`, else the path's prefix, else the default (the public contract).
    ///
    /// The endpoint comes back with the repository as that upstream calls it: without the prefix, and on
    /// Docker Hub with `library/` before a single component.
    pub(crate) fn select(&self, route: Route) -> Result<(Arc<Upstream>, Endpoint), SelectError> {
        let (upstream, route) = match (&route.ns, &route.prefix) {
            (Some(ns), prefix) => {
                let upstream = self.named(ns)?;
                // BuildKit sends the mirror's path and `ns`. A prefix that names another registry is not a
                // prefix: it is a repository whose first component has a dot.
                let same = match prefix {
                    Prefix::InRepository(prefix) => {
                        canonical(prefix) == upstream.settings.namespace
                    }
                    Prefix::None | Prefix::BeforeV2(_) => true,
                } || route.endpoint.repository().is_none();
                let route = if same {
                    route
                } else {
                    route.keep_prefix().map_err(SelectError::Endpoint)?
                };
                (upstream, route)
            }
            (None, Prefix::BeforeV2(prefix) | Prefix::InRepository(prefix)) => {
                (self.named(prefix)?, route)
            }
            (None, Prefix::None) => (self.default.as_ref().ok_or(SelectError::NoDefault)?, route),
        };
        let endpoint = upstream
            .own_name_for(route.endpoint)
            .map_err(SelectError::Endpoint)?;
        Ok((Arc::clone(upstream), endpoint))
    }

    fn named(&self, namespace: &Namespace) -> Result<&Arc<Upstream>, SelectError> {
        let namespace = canonical(namespace);
        self.by_namespace
            .get(&namespace)
            .ok_or(SelectError::UnknownNamespace(namespace))
    }
}

/// Docker Hub goes by several names; all others by one.
pub(crate) fn canonical(namespace: &Namespace) -> Namespace {
    let hub = matches!(
        namespace.as_str(),
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com"
    );
    let canonical = if hub { DOCKER_HUB.parse().ok() } else { None };
    canonical.unwrap_or_else(|| namespace.clone())
}
