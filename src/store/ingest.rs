//! How a blob gets in: write and hash, verify, commit; or abort, by being dropped.
//!
//! The protocol is containerd's: write under a temporary name, check length and digest, fsync, rename,
//! fsync the directory. Nothing has its final name before it was checked. Readers follow the growing
//! file (see [`super::reader`]) and get its last chunk only once it was.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::watch;

use crate::oci::digest::{Digest, Hasher};

use super::evict::Reservation;
use super::index::{NoRoom, cost};
use super::layout::Key;
use super::length;
use super::progress::{Failure, Progress};
use super::reader::Reader;
use super::{PATIENCE, Store};

/// The bytes at the end of a blob that no reader gets before the digest was verified.
///
/// A blob shorter than this is verified before its first byte leaves.
const HOLD_BACK: u64 = 16 * 1024;

/// Room that is reserved at a time for a blob whose size upstream did not say.
const UNKNOWN_STEP: u64 = 16 * 1024 * 1024;

/// Why an ingest could not begin; the caller then passes the bytes through without keeping them.
#[derive(Debug)]
pub enum IngestError {
    /// There is no room and none can be made.
    NoRoom(NoRoom),
    /// The temporary file cannot be created.
    Disk(io::Error),
}

impl std::fmt::Display for IngestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::Disk(error) => write!(f, "cannot write to the store: {error}"),
        }
    }
}

impl std::error::Error for IngestError {}

/// A blob being written. Dropping it aborts: the file is removed and its readers are told.
pub struct Ingest {
    store: Arc<Store>,
    digest: Digest,
    size: Option<u64>,
    written: u64,
    /// Away in a blocking thread during an append; gone once committed.
    writer: Option<Writer>,
    path: PathBuf,
    /// Gone once committed.
    reservation: Option<Reservation>,
    progress: watch::Sender<Progress>,
}

struct Writer {
    file: Arc<File>,
    hasher: Hasher,
}

/// The proof that an ingest was checked, without which it cannot be committed.
pub struct Verified {
    file: Arc<File>,
}

/// What askers need to read a blob while it is written.
#[derive(Clone)]
pub struct Growing {
    file: Arc<File>,
    size: Option<u64>,
    begun: Instant,
    progress: watch::Receiver<Progress>,
}

impl Growing {
    /// A reader of its own, from the first byte on.
    pub fn reader(&self) -> Reader {
        Reader::growing(
            Arc::clone(&self.file),
            self.size,
            self.begun,
            self.progress.clone(),
        )
    }

    /// The announced size in bytes, if there was one.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether it has failed by now.
    pub fn has_failed(&self) -> bool {
        let abandoned = self.progress.has_changed().is_err();
        match *self.progress.borrow() {
            Progress::Growing(_) => abandoned,
            Progress::Complete(_) => false,
            Progress::Failed(_) => true,
        }
    }
}

impl Ingest {
    pub(super) async fn begin(
        store: Arc<Store>,
        digest: Digest,
        size: Option<u64>,
    ) -> Result<(Self, Growing), IngestError> {
        let key = Key::Blob(digest.clone());
        let reservation = store
            .reserve(size.unwrap_or(UNKNOWN_STEP), &key, PATIENCE)
            .await
            .map_err(IngestError::NoRoom)?;
        let path = store.layout.ingest(store.next_serial());
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(IngestError::Disk)?;
        let file = Arc::new(file);
        let (progress, receiver) = watch::channel(Progress::Growing(0));
        let growing = Growing {
            file: Arc::clone(&file),
            size,
            begun: Instant::now(),
            progress: receiver,
        };
        let writer = Some(Writer {
            file,
            hasher: digest.hasher(),
        });
        let reservation = Some(reservation);
        Ok((
            Self {
                store,
                digest,
                size,
                written: 0,
                writer,
                path,
                reservation,
                progress,
            },
            growing,
        ))
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Writes and hashes `chunks` in a blocking thread, then lets readers have them (but for the last chunk).
    ///
    /// After an error, or when the future is dropped half-way, the ingest can only be failed.
    pub async fn append(&mut self, chunks: Vec<Bytes>) -> Result<(), Failure> {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let after = self.written.saturating_add(length);
        match self.size {
            Some(expected) if after > expected => {
                return Err(Failure::Length {
                    expected,
                    found: after,
                });
            }
            Some(_) => {}
            None => self.make_room(after).await?,
        }
        let mut writer = self.writer.take().ok_or(Failure::Abandoned)?;
        let write = move || {
            for chunk in chunks {
                (&*writer.file).write_all(&chunk)?;
                writer.hasher.update(&chunk);
            }
            Ok(writer)
        };
        let writer = tokio::task::spawn_blocking(write)
            .await
            .map_err(|_| Failure::Abandoned)?;
        self.writer = Some(writer.map_err(|error: io::Error| Failure::Disk(Arc::new(error)))?);
        self.written = after;
        if let Some(reservation) = &mut self.reservation {
            reservation.wrote(length);
        }
        self.progress
            .send_replace(Progress::Growing(after.saturating_sub(HOLD_BACK)));
        Ok(())
    }

    async fn make_room(&mut self, length: u64) -> Result<(), Failure> {
        let Some(reservation) = &mut self.reservation else {
            return Err(Failure::Abandoned);
        };
        while cost(length) > reservation.bytes() {
            reservation
                .grow(UNKNOWN_STEP)
                .await
                .map_err(Failure::NoRoom)?;
        }
        Ok(())
    }

    /// Checks length and digest of all that was written. No reader learns of the result yet: the caller goes
    /// on with [`Ingest::commit`] or [`Ingest::fail`].
    pub fn verify(&mut self) -> Result<Verified, Failure> {
        let Writer { file, hasher } = self.writer.take().ok_or(Failure::Abandoned)?;
        if let Some(expected) = self.size
            && self.written != expected
        {
            return Err(Failure::Length {
                expected,
                found: self.written,
            });
        }
        let found = hasher.finish();
        if found != self.digest {
            return Err(Failure::Digest {
                expected: self.digest.clone(),
                found,
            });
        }
        Ok(Verified { file })
    }

    /// Gives readers the rest, then makes the blob durable and visible under its digest.
    ///
    /// An error is one of the disk: readers have right bytes, but nothing is kept.
    pub async fn commit(self, verified: Verified) -> Result<u64, Failure> {
        self.progress.send_replace(Progress::Complete(self.written));
        self.publish(verified.file).await
    }

    async fn publish(mut self, file: Arc<File>) -> Result<u64, Failure> {
        let publish = move || {
            length::note(&file, self.written);
            super::scrub::note_checked(&file);
            file.sync_all()?;
            let key = Key::Blob(self.digest.clone());
            let path = std::mem::take(&mut self.path);
            let Some(reservation) = self.reservation.take() else {
                return Ok(self.written);
            };
            let published = self.store.publish(&path, key, self.written, reservation);
            if published.is_err() {
                self.store.unlink(path, || {});
            }
            published?.sync_all()?;
            Ok(self.written)
        };
        let published = tokio::task::spawn_blocking(publish)
            .await
            .map_err(|_| Failure::Abandoned)?;
        published.map_err(|error: io::Error| Failure::Disk(Arc::new(error)))
    }

    /// Gives up and tells the readers why.
    pub fn fail(self, failure: Failure) {
        self.store
            .metrics
            .ingest_failures
            .with_label_values(&[failure.reason()])
            .inc();
        self.progress.send_replace(Progress::Failed(failure));
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.progress.send_if_modified(|progress| {
            let unfinished = matches!(progress, Progress::Growing(_));
            if unfinished {
                *progress = Progress::Failed(Failure::Abandoned);
            }
            unfinished
        });
        let Some(reservation) = self.reservation.take() else {
            return;
        };
        // The bytes are on disk until they are unlinked, so they stay reserved until then.
        self.store
            .unlink(std::mem::take(&mut self.path), move || drop(reservation));
    }
}
