//! A site of the mirror: an upstream and what applies to what comes from it. What a request that is
//! answered from the store needs is here, so that it never calls the upstream's code.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::access::permits::{OverShare, Permit};
use crate::oci::name::{Namespace, QualifiedName, Repository};
use crate::sites::budget::{Budget, Pulls};
use crate::upstream::{self, Upstream};

use super::clock::seconds_now;
use super::freshness::Freshness;

/// How many seconds pass between two warnings that something is served stale.
const BETWEEN_WARNINGS: u32 = 60;

/// An entry of the table of sites.
pub(crate) struct Site {
    namespace: Namespace,
    upstream: Arc<Upstream>,
    freshness: Freshness,
    /// What each account has left of its pull quota; the upstream writes it.
    pulls: Vec<Pulls>,
    /// When it was last warned that something is served stale, in seconds of the Unix epoch.
    warned_at: AtomicU32,
}

impl Site {
    pub(crate) fn new(upstream: Upstream, freshness: Freshness) -> Self {
        Self {
            namespace: upstream.namespace().clone(),
            pulls: upstream.pulls(),
            upstream: Arc::new(upstream),
            freshness,
            warned_at: AtomicU32::new(0),
        }
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub(super) fn freshness(&self) -> &Freshness {
        &self.freshness
    }

    /// The full name of one of its repositories.
    pub(super) fn qualify(&self, repository: &Repository) -> QualifiedName {
        QualifiedName::new(self.namespace.clone(), repository.clone())
    }

    /// Says in the log that something is served stale, and why. In an outage each request would be a warning.
    pub(super) fn tell_stale(
        &self,
        repository: &QualifiedName,
        what: &dyn Display,
        error: &upstream::Error,
    ) {
        let (now, before) = (seconds_now(), self.warned_at.load(Ordering::Relaxed));
        // That the circuit is open was said when it opened.
        let is_news = !error.is_circuit_open() && now.abs_diff(before) >= BETWEEN_WARNINGS;
        let exchange = || {
            let ordering = Ordering::Relaxed;
            self.warned_at
                .compare_exchange(before, now, ordering, ordering)
        };
        if is_news && exchange().is_ok() {
            tracing::warn!(%repository, %what, %error, "upstream has no answer; serving what is stored, here and for a minute without another warning");
        } else {
            tracing::debug!(%repository, %what, %error, "upstream has no answer; serving what is stored");
        }
    }

    /// What is left of the pull quota at this moment.
    pub(super) fn budget(&self) -> Option<Budget> {
        Budget::best(&self.pulls)
    }
}

/// What a request brings to the mirror. Work for it holds a copy until it is over, also if the client leaves before.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) site: Arc<Site>,
    permit: Arc<Permit>,
}

impl Context {
    pub(crate) fn new(site: Arc<Site>, permit: Arc<Permit>) -> Self {
        Self { site, permit }
    }

    /// Counts a question to upstream that the client causes.
    pub(super) fn miss(&self) -> Result<(), upstream::Error> {
        let counted = self.permit.miss();
        counted.map_err(|over| upstream::Error::OverRate {
            again_in: over.again_in,
        })
    }

    /// A permit for a request that runs beside a transfer, if the client may have one more.
    pub(super) fn try_fill(&self) -> Option<Permit> {
        self.permit.try_fill()
    }

    /// The same for a transfer, which has a permit of its own.
    pub(super) async fn for_fill(&self) -> Result<Self, OverShare> {
        let permit = Arc::new(self.permit.fill().await?);
        Ok(Self::new(Arc::clone(&self.site), permit))
    }
}
