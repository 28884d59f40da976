//! The mirror: what to answer, from the store or from upstream.
//!
//! The only place that knows both. It decides; [`crate::store`] and [`crate::upstream`] do. It knows nothing of HTTP
//! towards clients: answers and errors are values, and turning them into responses is the server's work.
//!
//! Reading order: this file (the parts), [`answer`] and [`site`] (the values), `clock` (how old something is),
//! [`freshness`] (fresh, stale or expired; pure), `once` (ask upstream once for all who want the same thing), `children` (what is no blob). Then the
//! decisions: [`manifest`] (a tag that is stale, among others), [`blob`] (fills, and fetching ahead of them),
//! [`lists`].

mod answer;
pub(crate) mod blob;
mod children;
mod clock;
pub(crate) mod freshness;
pub(crate) mod lists;
pub(crate) mod manifest;
mod once;
mod site;

use std::sync::Arc;

use bytes::Bytes;

use crate::metrics::Metrics;
use crate::sites::Sites;
use crate::store::Store;

pub(crate) use answer::{Error, Outcome, Want};
pub(crate) use site::{Context, Site};

use blob::BlobMirror;
use children::Children;
use lists::Lists;
use lists::catalog::Catalog;
use lists::search::Searches;
use manifest::Manifests;

/// The mirror. Shared by all requests.
pub(crate) struct Mirror {
    store: Arc<Store>,
    sites: Sites<Arc<Site>>,
    blobs: Arc<BlobMirror>,
    manifests: Manifests,
    lists: Arc<Lists>,
    searches: Arc<Searches>,
    catalog: Catalog,
}

impl Mirror {
    /// A mirror of `sites` in front of `store`.
    pub(crate) fn new(
        store: Arc<Store>,
        sites: Sites<Arc<Site>>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let children = Children::default();
        let manifests = Manifests::new(&store, &children);
        Arc::new(Self {
            blobs: BlobMirror::new(&store, &children, metrics),
            lists: Lists::new(&store, manifests.tags()),
            searches: Arc::default(),
            catalog: Catalog::new(&store),
            manifests,
            sites,
            store,
        })
    }

    /// The table of sites. The one place that hands it out.
    pub(crate) fn sites(&self) -> &Sites<Arc<Site>> {
        &self.sites
    }

    pub(crate) fn blobs(&self) -> &Arc<BlobMirror> {
        &self.blobs
    }

    pub(crate) fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    pub(crate) fn lists(&self) -> &Arc<Lists> {
        &self.lists
    }

    pub(crate) fn searches(&self) -> &Arc<Searches> {
        &self.searches
    }

    /// Names of the repositories that are stored, sorted, one to a line: of one site, by its own names; or of all, as they
    /// are pulled from here.
    pub(crate) async fn catalog(&self, site: Option<&Site>) -> Bytes {
        self.catalog.names(&self.sites, site).await
    }

    /// The store, for figures, pins and checks.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}
