//! The mirror: what to answer, from the store or from upstream.
//!
//! The only place that knows both. It decides; [`crate::store`] and [`crate::upstream`] do. It knows
//! nothing of HTTP towards clients: answers and errors are values, and turning them into responses is the
//! server's work.
//!
//! Reading order: this file (the values), [`manifest`] and [`blob`] (the decisions), [`lists`] (what there is to pull),
//! [`freshness`] (pure).

pub(crate) mod blob;
pub(crate) mod freshness;
pub(crate) mod lists;
pub(crate) mod manifest;
mod once;

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::flight::Flights;
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName, Tag};
use crate::sites::Sites;
use crate::store::Store;
use crate::store::records::Listing;
use crate::store::records::StoredManifest;
use crate::upstream::{self, ManifestHead, Upstream};

use blob::fill::Fill;
use freshness::Policy;
use lists::{catalog, search};
use manifest::tag;
use once::Negatives;

/// How an answer came about; the same word in the log, in the metrics and in `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// From the store, upstream was not asked.
    Hit,
    /// From a transfer that another request had started.
    Joined,
    /// From upstream, and into the store.
    Miss,
    /// From the store, after upstream confirmed it.
    Revalidated,
    /// From the store, because upstream did not answer.
    Stale,
    /// From upstream, past the store, which had no room.
    Bypass,
    /// There was no answer to give.
    Error,
}

impl Outcome {
    /// How many there are.
    pub(crate) const COUNT: usize = Self::Error as usize + 1;

    /// The word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Miss => "miss",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
            Self::Error => "error",
        }
    }
}

/// How much of a thing a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    /// What a HEAD answers with.
    Header,
    /// The bytes too.
    Content,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub(crate) enum Error {
    /// The repository has no such manifest.
    ManifestUnknown,
    /// The repository has no such blob.
    BlobUnknown,
    /// Upstream has no such repository.
    RepositoryUnknown,
    /// Upstream has no search.
    NoSearch,
    /// Upstream was asked and gave nothing that can be passed on.
    Upstream(upstream::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ManifestUnknown => f.write_str("upstream has no such manifest"),
            Self::BlobUnknown => f.write_str("upstream has no such blob in this repository"),
            Self::RepositoryUnknown => f.write_str("upstream has no such repository"),
            Self::NoSearch => f.write_str("upstream has no search"),
            Self::Upstream(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

/// An upstream and what applies to what comes from it.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// Whom to ask.
    pub upstream: Arc<Upstream>,
    /// How long its answers last.
    pub policy: Policy,
    /// What the asker has given into keeping.
    pub held: Option<Held>,
}

/// Something of an asker's that lives as long as work is done on its behalf, also if it leaves before the end.
pub(crate) type Held = Arc<dyn std::any::Any + Send + Sync>;

/// Few blobs are larger than a store; each is a digest.
const MAX_OUTGROWN: u64 = 1000;
/// Tags that moved while the quota was low.
const MAX_SPARED: u64 = 20_000;
/// The store may have more room by then.
const OUTGROWN_FOR: Duration = Duration::from_secs(3600);

type Answered<T> = Result<T, upstream::Error>;
type Shared<K, V> = Arc<Flights<K, V>>;
type ByDigest = (QualifiedName, Digest);

/// The mirror. Shared by all requests.
pub(crate) struct Mirror {
    store: Arc<Store>,
    sites: Sites<Site>,
    metrics: Arc<Metrics>,
    /// Apart, because one digest may be asked for as either.
    missing_blobs: Negatives,
    missing_manifests: Negatives,
    missing_listings: Negatives,
    /// Blobs of unannounced length that outgrew the store, and how far they got: passed through from then on.
    outgrown: Cache<Digest, u64>,
    /// When a tag was seen to have moved to what the pull quota is not spent on.
    spared: Cache<(QualifiedName, Tag), Instant>,
    /// Blobs coming in, one transfer an upstream and digest.
    fills: Shared<(Namespace, Digest), Fill>,
    /// Questions whether a repository has a blob, with the blob's size.
    blob_checks: Shared<ByDigest, Answered<Option<u64>>>,
    /// Manifests coming in by digest.
    manifest_fetches: Shared<ByDigest, Answered<Arc<StoredManifest>>>,
    /// Questions about a manifest by digest.
    manifest_checks: Shared<ByDigest, Answered<ManifestHead>>,
    /// Questions what a tag points to.
    tag_checks: Shared<(QualifiedName, Tag), Answered<tag::Resolved>>,
    /// Lists of tags and of referrers coming in.
    listings: Shared<(QualifiedName, Listing), Answered<lists::Listed>>,
    searches: search::Searches,
    catalog: catalog::Catalog,
}

impl Mirror {
    /// A mirror of `sites` in front of `store`.
    pub(crate) fn new(store: Arc<Store>, sites: Sites<Site>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store,
            sites,
            metrics,
            missing_blobs: Negatives::default(),
            missing_manifests: Negatives::default(),
            missing_listings: Negatives::default(),
            outgrown: Cache::builder()
                .max_capacity(MAX_OUTGROWN)
                .time_to_live(OUTGROWN_FOR)
                .build(),
            spared: Cache::new(MAX_SPARED),
            fills: Arc::default(),
            blob_checks: Arc::default(),
            manifest_fetches: Arc::default(),
            manifest_checks: Arc::default(),
            tag_checks: Arc::default(),
            listings: Arc::default(),
            searches: search::Searches::default(),
            catalog: catalog::Catalog::default(),
        })
    }

    /// The table of sites. The one place that hands it out.
    pub(crate) fn sites(&self) -> &Sites<Site> {
        &self.sites
    }

    /// The store, for figures.
    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }
}
