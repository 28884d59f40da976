//! Fills: blobs on their way from upstream into the store. One transfer of a blob serves all clients that want it.
//!
//! A fill begins with a body: what upstream gave under some repository. The other repositories that read along have
//! proven that they have the blob too.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::flight::{Flights, Landing, Role, Slot};
use crate::metrics::Metrics;
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};
use crate::store::Store;
use crate::store::blobs::ingest::{Growing, Ingest, IngestError};
use crate::store::blobs::partial::Partial;
use crate::store::blobs::progress::IngestFailure;
use crate::store::records::Vouch;
use crate::store::room::usage::NoRoom;
use crate::upstream::FetchedBlob;

use super::receive::receive;
use super::source::Source;
use super::window::{Windows, WindowsOfBlob};

/// Few blobs are larger than a store; each is a digest.
const MAX_OUTGROWN: u64 = 1000;
/// The store may have more room by then.
const OUTGROWN_FOR: Duration = Duration::from_secs(3600);
/// How many repositories a fill remembers to have proven themselves. One more asks upstream each time.
const MOST_PROVEN: usize = 1000;

/// One blob of one upstream: the same bytes in each of its repositories.
type FillKey = (Namespace, Digest);

/// What a fill tells those who wait for it, as soon as it has room.
#[derive(Clone)]
pub(super) enum Landed {
    /// It goes into the store; read along.
    Growing(Fill),
    /// The store has no room for it, so each client needs a body of its own.
    NoRoom(Arc<OpenBody>),
}

/// A blob that goes into the store.
#[derive(Clone)]
pub(super) struct Fill {
    pub(super) growing: Growing,
    pub(super) windows: WindowsOfBlob,
    sharers: Arc<Sharers>,
}

#[derive(Default)]
struct Sharers {
    /// The repositories that have proven that the blob is theirs.
    proven: Mutex<HashSet<QualifiedName>>,
    /// Length and digest were found right.
    verified: AtomicBool,
}

impl Fill {
    /// Whether this repository has proven that it has the blob.
    pub(super) fn is_proven(&self, name: &QualifiedName) -> bool {
        self.proven().contains(name)
    }

    /// Whether all of it came, and is right.
    pub(super) fn is_verified(&self) -> bool {
        self.sharers.verified.load(Ordering::SeqCst)
    }

    fn note_proven(&self, name: &QualifiedName) {
        let mut proven = self.proven();
        if proven.len() < MOST_PROVEN {
            proven.insert(name.clone());
        }
    }

    fn proven(&self) -> MutexGuard<'_, HashSet<QualifiedName>> {
        let proven = &self.sharers.proven;
        proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body that had been opened before no room was found for it: the first client takes it.
pub(super) struct OpenBody(Mutex<Option<FetchedBlob>>);

impl OpenBody {
    pub(super) fn take(&self) -> Option<FetchedBlob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What upstream gave under one repository.
pub(super) struct Opened {
    pub(super) source: Source,
    /// How long the blob is, as a manifest says: what counts where upstream does not say it.
    pub(super) named: Option<u64>,
    pub(super) fetched: FetchedBlob,
    /// What an earlier transfer left, where `fetched` brings the rest of it.
    pub(super) partial: Option<Partial>,
    /// Of the client that asked for it.
    pub(super) permit: FillPermit,
}

/// What a transfer holds to its end: its client's permit, and its place in the metric.
pub(super) struct FillPermit {
    _context: Context,
    in_flight: prometheus::IntGauge,
}

impl FillPermit {
    pub(super) fn new(context: Context, metrics: &Metrics) -> Self {
        let namespace = context.site.namespace().as_str();
        let in_flight = metrics.fills_in_flight.with_label_values(&[namespace]);
        in_flight.inc();
        Self {
            _context: context,
            in_flight,
        }
    }
}

impl Drop for FillPermit {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

/// The fills under way, one for each upstream and digest.
pub(super) struct Fills {
    store: Arc<Store>,
    metrics: Arc<Metrics>,
    under_way: Arc<Flights<FillKey, Landed>>,
    windows: Windows,
    /// Blobs that upstream sent without a length and that did not fit into the store, with the bytes that came until
    /// then. For a while they are passed through: an attempt to store one breaks off under its readers.
    outgrown: Cache<FillKey, u64>,
}

impl Fills {
    pub(super) fn new(store: &Arc<Store>, metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            metrics: Arc::clone(metrics),
            under_way: Arc::default(),
            windows: Windows::default(),
            outgrown: Cache::builder()
                .max_capacity(MAX_OUTGROWN)
                .time_to_live(OUTGROWN_FOR)
                .build(),
        })
    }

    /// The fill of a blob, if one is under way.
    pub(super) fn find(&self, site: &Site, digest: &Digest) -> Option<Landing<Landed>> {
        let key = (site.namespace().clone(), digest.clone());
        self.under_way.find(&key)
    }

    /// Notes that a repository has proven that it has the blob.
    pub(super) async fn prove(&self, fill: &Fill, name: &QualifiedName, digest: &Digest) {
        fill.note_proven(name);
        // The fill writes down who has proven it by then. Later ones do that themselves.
        if fill.is_verified() {
            let entry = (digest.clone(), Vouch::proven());
            self.store.records().vouch(name, vec![entry]).await;
        }
    }

    /// Starts a fill with what upstream gave; if one is under way, that one goes on for both, and this body is dropped.
    pub(super) fn start(self: &Arc<Self>, opened: Opened) -> (Landing<Landed>, Role) {
        let name = opened.source.name();
        let key = (name.namespace.clone(), opened.source.digest().clone());
        let this = Arc::clone(self);
        // Boxed: it is large.
        let start = |slot| Box::pin(this.run(opened, slot));
        self.under_way.join(key, start)
    }

    async fn run(self: Arc<Self>, opened: Opened, mut slot: Slot<FillKey, Landed>) {
        let Opened {
            source,
            named,
            fetched,
            partial,
            permit: _permit,
        } = opened;
        let (name, digest) = (source.name(), source.digest());
        let size = fetched.size.or(named);
        let (ingest, growing) = match self.ingest(&source, size, partial).await {
            Ok(begun) => begun,
            Err(error) => {
                pass_by(name, digest, &error);
                slot.retire();
                // A body that brings all of the blob can be passed to the first client.
                let whole = Some(fetched).filter(|fetched| fetched.part.is_none());
                let body = Arc::new(OpenBody(Mutex::new(whole)));
                return slot.publish(Landed::NoRoom(body));
            }
        };
        let fill = Fill {
            growing,
            windows: WindowsOfBlob::new(&self.windows),
            sharers: Arc::default(),
        };
        // Upstream gives it under this name.
        fill.note_proven(name);
        slot.publish(Landed::Growing(fill.clone()));
        self.finish(&source, (fetched, size), ingest, &fill, slot)
            .await;
    }

    /// Receives the blob that `ingest` has begun, and commits or gives up.
    async fn finish(
        &self,
        source: &Source,
        (fetched, size): (FetchedBlob, Option<u64>),
        mut ingest: Ingest,
        fill: &Fill,
        mut slot: Slot<FillKey, Landed>,
    ) {
        let (repository, digest) = (source.name(), source.digest());
        let verified = match receive(source, fetched, size, &mut ingest).await {
            Ok(()) => ingest.verify(),
            Err(failure) => Err(failure),
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err(failure) => {
                tracing::error!(%repository, %digest, error = %failure, "a blob did not arrive whole; it is not stored");
                if let IngestFailure::Digest { .. } | IngestFailure::Length { .. } = failure {
                    source.note_wrong();
                }
                if let IngestFailure::NoRoom(_) = failure {
                    let key = (repository.namespace.clone(), digest.clone());
                    self.outgrown.insert(key, ingest.written());
                }
                let failed = ingest.give_up(failure).await;
                // First unjoinable, then failed: a fill that has failed must not be joined.
                slot.retire();
                return failed.tell();
            }
        };
        source.note_right();
        fill.sharers.verified.store(true, Ordering::SeqCst);
        // Only now is it known that upstream has this blob, and not just something. It is written down before the blob
        // is committed: after a kill between the two a stored blob would belong to no repository.
        ingest.complete(&verified);
        self.vouch(source, fill).await;
        match ingest.commit(verified).await {
            Ok(bytes) => {
                tracing::debug!(%repository, %digest, bytes, "blob stored");
                let blobs = self.store.blobs();
                blobs.drop_partial(&repository.namespace, digest).await;
            }
            Err(error) => {
                let failures = &self.metrics.ingest_failures;
                failures.with_label_values(&[error.reason()]).inc();
                tracing::error!(%repository, %digest, %error, "a blob was served but cannot be kept");
            }
        }
    }

    /// Writes down who has the blob.
    async fn vouch(&self, source: &Source, fill: &Fill) {
        let (records, digest) = (self.store.records(), source.digest());
        records.note_given(&source.name().namespace, digest).await;
        let names: Vec<_> = fill.proven().iter().cloned().collect();
        for name in names {
            let entry = (digest.clone(), Vouch::proven());
            records.vouch(&name, vec![entry]).await;
        }
    }

    async fn ingest(
        &self,
        source: &Source,
        size: Option<u64>,
        partial: Option<Partial>,
    ) -> Result<(Ingest, Growing), IngestError> {
        let (namespace, digest) = (&source.name().namespace, source.digest());
        if size.is_none()
            && let Some(wanted) = self.outgrown.get(&(namespace.clone(), digest.clone()))
        {
            return Err(IngestError::NoRoom(NoRoom { wanted }));
        }
        self.store
            .blobs()
            .ingest(namespace, digest, size, partial)
            .await
    }
}

fn pass_by(name: &QualifiedName, digest: &Digest, error: &IngestError) {
    match error {
        IngestError::NoRoom(_) => {
            tracing::warn!(repository = %name, %digest, %error, "passing a blob through without keeping it");
        }
        // What is wrong with the disk is told once, not with each blob.
        IngestError::Disk(_) | IngestError::Trouble(_) => {
            tracing::debug!(repository = %name, %digest, %error, "passing a blob through without keeping it");
        }
    }
}
