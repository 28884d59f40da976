//! A fill: one blob on its way from upstream into the store, whoever is watching.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

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
const BATCH: usize = 256 * 1024;
/// How often in a row a transfer may break off without getting ahead before it is given up.
const ATTEMPTS: u32 = 4;
/// What counts as getting ahead.
const AHEAD: u64 = 1024 * 1024;
/// How long to wait before the second attempt in a row to go on; each further wait is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

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
    /// The body, if nobody has taken it and it was asked for under the name it is wanted for.
    pub(super) fn take_for(
        &self,
        filled_as: &QualifiedName,
        name: &QualifiedName,
    ) -> Option<FetchedBlob> {
        if filled_as != name {
            return None;
        }
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
    let verified = match receive(&mirror, &site, &name, &digest, fetched, &mut ingest).await {
        Ok(()) => ingest.verify(),
        Err(failure) => Err(failure),
    };
    let verified = match verified {
        Ok(verified) => verified,
        Err(failure) => {
            tracing::error!(repository = %name, %digest, error = %failure, "a blob did not arrive whole; nothing is kept");
            // First unjoinable, then failed: nobody may join a fill that has failed.
            slot.retire();
            if let Failure::Digest { .. } | Failure::Length { .. } = failure {
                site.upstream.distrust_endpoints();
            }
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

/// Receives all of a blob. Where upstream breaks off, goes on at that place with a new request, and with it a
/// fresh token and a fresh signed URL; readers notice nothing.
async fn receive(
    mirror: &Mirror,
    site: &Site,
    name: &QualifiedName,
    digest: &Digest,
    fetched: FetchedBlob,
    ingest: &mut Ingest,
) -> Result<(), Failure> {
    let Some(size) = fetched.size else {
        // Without a length nobody can tell the end from a break.
        return copy(fetched.body, ingest).await;
    };
    let mut broken = whole(copy(fetched.body, ingest).await, ingest, size);
    let mut reached = 0;
    let mut attempt = 0;
    while let Err(Failure::Source(why)) = &broken {
        let written = ingest.written();
        attempt = if written >= reached + AHEAD {
            1
        } else {
            attempt + 1
        };
        reached = reached.max(written);
        if attempt >= ATTEMPTS || written >= size {
            break;
        }
        tracing::warn!(repository = %name, %digest, at = written, of = size, error = %why, "a transfer broke off; going on");
        if attempt > 1 {
            tokio::time::sleep(PAUSE * 2u32.pow(attempt - 2)).await;
        }
        mirror
            .metrics
            .fill_resumes
            .with_label_values(&[name.namespace.as_str()])
            .inc();
        broken = match site
            .upstream
            .get_blob(&name.repository, digest, Some(written..size))
            .await
        {
            Ok(FetchedBlob {
                part: Some(_),
                body,
                ..
            }) => copy(body, ingest).await,
            // An upstream that ignores Range begins anew: what is written already is skipped.
            Ok(FetchedBlob {
                part: None,
                mut body,
                ..
            }) => match skip(&mut body, written).await {
                Ok(rest) => copy_from(rest, body, ingest).await,
                Err(failure) => Err(failure),
            },
            Err(error) => Err(Failure::Source(error.to_string().into())),
        };
        broken = whole(broken, ingest, size);
    }
    broken
}

/// A body that ended before the blob did broke off as well, only more politely.
fn whole(copied: Result<(), Failure>, ingest: &Ingest, size: u64) -> Result<(), Failure> {
    match copied {
        Ok(()) if ingest.written() < size => Err(Failure::Source(
            "upstream sent less than it announced".into(),
        )),
        copied => copied,
    }
}

/// Reads `count` bytes and throws them away; returns what came with the last of them.
async fn skip(body: &mut Body, mut count: u64) -> Result<Bytes, Failure> {
    while let Some(mut chunk) = next(body).await? {
        let skipped = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        count -= skipped as u64;
        let _ = chunk.split_to(skipped);
        if !chunk.is_empty() {
            return Ok(chunk);
        }
    }
    Err(Failure::Source("upstream sent less than before".into()))
}

/// Copies a body into an ingest, reading ahead while the disk is busy.
async fn copy(body: Body, ingest: &mut Ingest) -> Result<(), Failure> {
    copy_from(Bytes::new(), body, ingest).await
}

/// Like [`copy`], for a body of which `first` was taken already.
async fn copy_from(first: Bytes, mut body: Body, ingest: &mut Ingest) -> Result<(), Failure> {
    let mut batch = Batch::default();
    if !first.is_empty() {
        batch.push(first);
    }
    // Known before all that came is written: what came before a break is kept, to go on from there.
    let mut end = None;
    loop {
        if batch.chunks.is_empty() {
            match end {
                Some(end) => return end,
                None => match next(&mut body).await? {
                    Some(chunk) => batch.push(chunk),
                    None => return Ok(()),
                },
            }
        }
        let mut ahead = Batch::default();
        let write = ingest.append(batch.chunks);
        tokio::pin!(write);
        loop {
            tokio::select! {
                biased;
                written = &mut write => { written?; break }
                chunk = next(&mut body), if end.is_none() && ahead.bytes < BATCH => match chunk {
                    Ok(Some(chunk)) => ahead.push(chunk),
                    Ok(None) => end = Some(Ok(())),
                    Err(failure) => end = Some(Err(failure)),
                },
            }
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
