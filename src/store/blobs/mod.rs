//! How a blob gets in and out.
//!
//! A file gets its final name only after its length and its digest were checked, by [`ingest`]. It knows no manifests
//! and no repositories. Reading order: this file (open a blob, begin one), [`partial`] (the file of a blob that is not
//! whole), [`progress`], [`reader`] (how it gets out), [`sample`] (a piece of one), [`ingest`] (how it gets in).

pub(crate) mod ingest;
pub(crate) mod partial;
pub(crate) mod progress;
pub(crate) mod reader;
pub(crate) mod sample;

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::oci::digest::Digest;
use crate::oci::name::Namespace;
use crate::store::disk::blocking::run;
use crate::store::disk::xattrs;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::damage::{Damage, FoundBy};
use crate::store::room::index::Touched;

use ingest::{Growing, Ingest, IngestError};
use partial::Partial;
use progress::IngestFailure;
use reader::BlobReader;

/// The blobs of a store.
pub struct Blobs {
    room: Arc<Room>,
}

impl Blobs {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        for reason in IngestFailure::REASONS {
            // Present from the start, so that the first count is an increase.
            let failures = &room.disk().metrics().ingest_failures;
            failures.with_label_values(&[reason]);
        }
        Self { room }
    }

    /// Opens a stored blob for reading; `None` when it is not stored.
    ///
    /// Two system calls, and a third the first time after a start. A file whose length is not the one it was committed
    /// with is damaged: it is dropped and reported as not stored, so that the caller fetches it again.
    pub fn open(&self, digest: &Digest) -> Option<BlobReader> {
        let key = StoreKey::Blob(digest.clone());
        let path = self.room.disk().layout().path(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                self.not_opened(&key, &path, &error);
                return None;
            }
        };
        let length = file.metadata().ok()?.len();
        let expected = match self.room.index().touch(&key, length) {
            Touched::Known {
                freshen,
                unproven,
                at,
            } => {
                let committed = unproven.then(|| xattrs::committed_length(&file)).flatten();
                if committed.is_none_or(|committed| committed == length) {
                    if unproven {
                        self.room.index().prove(&key);
                    }
                    if freshen {
                        set_modified_now(&file);
                    }
                    let cached = self.room.disk().cached_reads().clone();
                    return Some(BlobReader::stored(Arc::new(file), cached, length, at));
                }
                committed
            }
            Touched::WrongLength { expected } => Some(expected),
        };
        tracing::error!(%digest, expected, found = length, "a stored blob is damaged: its length changed on disk; it is dropped and fetched again");
        self.room.discard_damaged(&key, FoundBy::Open);
        None
    }

    fn not_opened(&self, key: &StoreKey, path: &Path, error: &io::Error) {
        if error.kind() == io::ErrorKind::NotFound {
            self.room.miss(key);
        } else {
            self.room.disk().read_failed(path, error);
        }
    }

    /// Begins to write a blob of `size` bytes, or of a size not known yet, that comes from `namespace`; continues
    /// `partial` where there is one.
    ///
    /// Room is reserved before the first byte is written, by evicting what was used longest ago.
    pub async fn ingest(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        size: Option<u64>,
        partial: Option<Partial>,
    ) -> Result<(Ingest, Growing), IngestError> {
        let id = Arc::new((namespace.clone(), digest.clone()));
        Ingest::begin(&self.room, id, size, partial).await
    }

    /// How much of a blob an earlier transfer from the same upstream left: what [`Blobs::partial`] would begin with.
    pub(crate) async fn begun(&self, namespace: &Namespace, digest: &Digest) -> Option<u64> {
        let room = Arc::clone(&self.room);
        let id = Arc::new((namespace.clone(), digest.clone()));
        run(move || Partial::begins(&room, &id)).await?
    }

    /// The beginning of a blob that an earlier transfer from the same upstream left, to be continued.
    pub(crate) async fn partial(&self, namespace: &Namespace, digest: &Digest) -> Option<Partial> {
        let room = Arc::clone(&self.room);
        let id = Arc::new((namespace.clone(), digest.clone()));
        run(move || Partial::take(&room, &id)).await?
    }

    /// Drops the beginning that an earlier transfer left: the blob came without it.
    pub(crate) async fn drop_partial(&self, namespace: &Namespace, digest: &Digest) {
        let (room, key) = (Arc::clone(&self.room), StoreKey::partial(namespace, digest));
        if room.index().contains(&key) {
            run(move || room.discard(&key)).await;
        }
    }

    /// Drops a stored blob whose file cannot be read to its end, unless it was replaced since.
    pub(crate) async fn drop_unreadable(&self, digest: &Digest, file: Arc<File>, why: &io::Error) {
        let (room, key) = (Arc::clone(&self.room), StoreKey::Blob(digest.clone()));
        let damage = Damage::Unreadable(io::Error::new(why.kind(), why.to_string()));
        run(move || room.drop_if_still(&key, &file, &damage, FoundBy::Read)).await;
    }
}

/// Recency survives restarts as the file's modification time, written at most once an hour ([`Touched::Known`]).
fn set_modified_now(file: &File) {
    // Not worth an error: the only cost is that the blob looks older after a restart than it is.
    let _ = file.set_modified(SystemTime::now());
}
