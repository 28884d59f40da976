//! A fill: one blob on its way from upstream into the store, whoever is watching.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::flight::Slot;
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName};
use crate::store::NoRoom;
use crate::store::ingest::{Growing, Ingest, IngestError};
use crate::store::progress::Failure;
use crate::upstream::{self, Body, FetchedBlob};

use super::{Mirror, Site};

/// How much may be read from upstream while the disk is busy with what came before: the most memory a
/// fill takes, twice.
const BATCH: usize = 1024 * 1024;

/// What a fill tells those who wait for it, as soon as upstream's header is in.
#[derive(Clone)]
pub(super) struct Fill {
    /// The repository it was asked for under.
    pub(super) name: QualifiedName,
    pub(super) filling: Result<Filling, upstream::Error>,
}

/// What became of upstream's yes.
#[derive(Clone)]
pub(super) enum Filling {
    /// It goes into the store; read along.
    Growing(Growing),
    /// There is no room for it. The first to come may have the body that is open already.
    NoRoom(Arc<Spare>),
}

/// An open body for whoever takes it first.
pub(super) struct Spare(Mutex<Option<FetchedBlob>>);

impl Spare {
    pub(super) fn take(&self) -> Option<FetchedBlob> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

type FillSlot = Slot<(Namespace, Digest), Fill>;

/// The work of a fill, to be run by a flight.
pub(super) fn start(
    mirror: Arc<Mirror>,
    site: Site,
    name: QualifiedName,
    digest: Digest,
) -> impl FnOnce(FillSlot) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
    |slot| Box::pin(run(mirror, site, name, digest, slot))
}

async fn run(
    mirror: Arc<Mirror>,
    site: Site,
    name: QualifiedName,
    digest: Digest,
    mut slot: FillSlot,
) {
    let in_flight = mirror
        .metrics
        .fills_in_flight
        .with_label_values(&[site.upstream.namespace().as_str()]);
    let _counted = Counted::new(in_flight);
    if mirror.store.blob(&digest).is_some() {
        // Another fill was committed between the asker's look into the store and this one's start.
        return;
    }
    let fetched = match site
        .upstream
        .get_blob(&name.repository, &digest, None)
        .await
    {
        Ok(fetched) => fetched,
        Err(error) => {
            mirror
                .missing_blobs
                .note(&name, &digest, &error, site.policy.negative_ttl);
            slot.retire();
            return slot.publish(Fill {
                name,
                filling: Err(error),
            });
        }
    };
    let begun = match outgrown(&mirror, &digest, fetched.size) {
        Some(no_room) => Err(IngestError::NoRoom(no_room)),
        None => mirror.store.ingest(digest.clone(), fetched.size).await,
    };
    let (mut ingest, growing) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            tracing::warn!(repository = %name, %digest, %error, "passing a blob through without keeping it");
            slot.retire();
            let spare = Arc::new(Spare(Mutex::new(Some(fetched))));
            return slot.publish(Fill {
                name,
                filling: Ok(Filling::NoRoom(spare)),
            });
        }
    };
    // Upstream gives it under this name, so this repository has it.
    mirror.store.vouch(&name, vec![digest.clone()]).await;
    slot.publish(Fill {
        name: name.clone(),
        filling: Ok(Filling::Growing(growing)),
    });
    let verified = match copy(fetched.body, &mut ingest).await {
        Ok(()) => ingest.verify(),
        Err(failure) => Err(failure),
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(failure) => {
            tracing::error!(repository = %name, %digest, error = %failure, "a blob did not arrive whole; nothing is kept");
            // First unjoinable, then failed: nobody may join a fill that has failed.
            slot.retire();
            if let Failure::NoRoom(_) = failure {
                mirror.outgrown.insert(digest, ingest.written());
            }
            return ingest.fail(failure);
        }
    };
    match ingest.commit(verified).await {
        Ok(bytes) => tracing::debug!(repository = %name, %digest, bytes, "blob stored"),
        Err(error) => {
            mirror
                .metrics
                .ingest_failures
                .with_label_values(&[error.reason()])
                .inc();
            tracing::error!(repository = %name, %digest, %error, "a blob was served but cannot be kept");
        }
    }
}

/// Whether it is known from an earlier attempt that there is no room for a blob of unannounced length.
/// That attempt failed, since its readers had begun; without this every further one would fail as well.
fn outgrown(mirror: &Mirror, digest: &Digest, size: Option<u64>) -> Option<NoRoom> {
    let wanted = mirror.outgrown.get(digest).filter(|_| size.is_none())?;
    Some(NoRoom { wanted })
}

/// Copies a body into an ingest, reading ahead while the disk is busy.
async fn copy(mut body: Body, ingest: &mut Ingest) -> Result<(), Failure> {
    let mut batch = Batch::default();
    let mut ended = false;
    loop {
        if batch.chunks.is_empty() {
            match next(&mut body).await? {
                Some(chunk) => batch.push(chunk),
                None => return Ok(()),
            }
        }
        let mut ahead = Batch::default();
        let write = ingest.append(batch.chunks);
        tokio::pin!(write);
        loop {
            tokio::select! {
                biased;
                written = &mut write => { written?; break }
                chunk = next(&mut body), if !ended && ahead.bytes < BATCH => match chunk? {
                    Some(chunk) => ahead.push(chunk),
                    None => ended = true,
                },
            }
        }
        if ended && ahead.chunks.is_empty() {
            return Ok(());
        }
        batch = ahead;
    }
}

async fn next(body: &mut Body) -> Result<Option<Bytes>, Failure> {
    body.chunk()
        .await
        .map_err(|error| Failure::Source(error.to_string().into()))
}

#[derive(Default)]
struct Batch {
    chunks: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.chunks.push(chunk);
    }
}

/// A gauge that is one higher while this lives.
struct Counted(prometheus::IntGauge);

impl Counted {
    fn new(gauge: prometheus::IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
