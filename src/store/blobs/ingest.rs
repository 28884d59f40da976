//! How a blob gets in: write and hash, verify, commit; or abort, by being dropped.
//!
//! The protocol is containerd's: write under a temporary name, check length and digest, fsync, rename, fsync the
//! directory. Nothing has its final name before [`Ingest::verify`] has checked it. Readers follow the growing file (see
//! `reader`) and get its last bytes only after that.
//!
//! When the disk fails or is full in the middle of a transfer, [`Ingest::append`] fails with [`IngestFailure::Disk`],
//! and with [`IngestFailure::NoRoom`] when a blob of unknown size outgrows the store. The fill then gives up, nothing
//! is kept, and readers hear why. Each body that was being sent continues from upstream: `mirror/blob/delivery.rs`.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::oci::digest::Hasher;

use crate::store::disk::blocking::run;
use crate::store::disk::files::CachedReads;
use crate::store::disk::health::DiskTrouble;
use crate::store::disk::xattrs;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::reserve::could_ever_fit;
use crate::store::room::usage::NoRoom;

use super::partial::{Partial, PartialId};
use super::progress::{IngestFailure, Progress};
use super::reader::{Begun, BlobReader, hash_beginning};

/// The bytes at the end of a blob that no reader gets before the digest was verified.
///
/// A blob shorter than this is verified before its first byte leaves.
const HOLD_BACK: u64 = 16 * 1024;

/// The part of the store that is reserved at a time for a blob, and the least and most bytes.
const STEPS: u64 = 64;
const STEP: (u64, u64) = (1024 * 1024, 64 * 1024 * 1024);
/// The most that is reserved at a time for a blob whose size upstream did not say.
const UNKNOWN_STEP: u64 = 16 * 1024 * 1024;

/// Pieces that one system call takes.
const IOV_MAX: usize = 1024;

/// Why an ingest could not begin; the caller then passes the bytes through without keeping them.
#[derive(Debug)]
pub enum IngestError {
    /// There is no room and none can be made.
    NoRoom(NoRoom),
    /// The file cannot be written. It was logged already.
    Disk(io::Error),
    /// The disk failed a moment ago and is not written to. It was logged already.
    Trouble(DiskTrouble),
}

impl std::fmt::Display for IngestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoRoom(error) => error.fmt(f),
            Self::Disk(error) => write!(f, "cannot write to the store: {error}"),
            Self::Trouble(trouble) => trouble.fmt(f),
        }
    }
}

impl std::error::Error for IngestError {}

/// A blob being written. Dropping it aborts: its readers learn of it, and what was written is put away.
pub struct Ingest {
    partial: Partial,
    size: Option<u64>,
    /// Away in a blocking thread during an append; gone once the digest was taken.
    hashing: Option<Hashing>,
    progress: watch::Sender<Progress>,
}

/// How far the hash of what is written has come.
struct Hashing {
    hasher: Hasher,
    /// Bytes of a partial that are still to be hashed, before any other.
    behind: u64,
}

/// The proof that an ingest was checked, without which it cannot be committed.
pub struct Verified(());

/// What askers need to read a blob while it is written.
#[derive(Clone)]
pub struct Growing {
    file: Arc<File>,
    cached: CachedReads,
    size: Option<u64>,
    begun: Begun,
    progress: watch::Receiver<Progress>,
}

impl Growing {
    /// A reader of its own, from the first byte on.
    pub(crate) fn reader(&self) -> BlobReader {
        BlobReader::growing(
            Arc::clone(&self.file),
            self.cached.clone(),
            self.size,
            self.begun,
            self.progress.clone(),
        )
    }

    /// The announced size in bytes, if there was one.
    pub(crate) fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether it has failed.
    pub(crate) fn has_failed(&self) -> bool {
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
        room: &Arc<Room>,
        id: PartialId,
        size: Option<u64>,
        partial: Option<Partial>,
    ) -> Result<(Self, Growing), IngestError> {
        if let Some(trouble) = room.disk().trouble() {
            return Err(IngestError::Trouble(trouble));
        }
        could_ever_fit(room, size.unwrap_or(0), &id.0).map_err(IngestError::NoRoom)?;
        let step = step(room, size);
        let first = size.map_or(step, |size| size.min(step));
        let partial = match open(room, id, first, partial).await {
            Ok(Ok(partial)) => partial,
            Ok(Err(no_room)) => {
                // It may be the disk that is full, and not the store.
                let trouble = room.disk().trouble().map(IngestError::Trouble);
                return Err(trouble.unwrap_or(IngestError::NoRoom(no_room)));
            }
            Err(error) => {
                room.disk().write_failed("write to the store", &error);
                return Err(IngestError::Disk(error));
            }
        };
        let begun = partial.written();
        let readable = Progress::Growing(begun.saturating_sub(HOLD_BACK));
        let (progress, receiver) = watch::channel(readable);
        let growing = Growing {
            file: Arc::clone(partial.file()),
            cached: room.disk().cached_reads().clone(),
            size,
            begun: Begun {
                at: Instant::now(),
                with: begun,
            },
            progress: receiver,
        };
        let hashing = Hashing {
            hasher: partial.digest().hasher(),
            behind: begun,
        };
        let ingest = Self {
            partial,
            size,
            hashing: Some(hashing),
            progress,
        };
        Ok((ingest, growing))
    }

    /// Bytes written so far, those of an earlier transfer included.
    pub(crate) fn written(&self) -> u64 {
        self.partial.written()
    }

    /// Writes and hashes `chunks` in a blocking thread, then lets readers have them (but for the last chunk).
    ///
    /// After an error, or when the future is dropped half-way, the ingest can only be failed.
    pub async fn append(&mut self, chunks: Vec<Bytes>) -> Result<(), IngestFailure> {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let after = self.written().saturating_add(length);
        if let Some(expected) = self.size.filter(|expected| after > *expected) {
            return Err(IngestFailure::Length {
                expected,
                found: after,
            });
        }
        self.make_room(after).await?;
        let mut hashing = self.hashing.take().ok_or(IngestFailure::Abandoned)?;
        let (file, at) = (Arc::clone(self.partial.file()), self.written());
        let write = move || {
            hashing.catch_up(&file)?;
            write_at(&file, &chunks, at)?;
            for chunk in chunks {
                hashing.hasher.update(&chunk);
            }
            Ok(hashing)
        };
        let hashing = run(write).await.ok_or(IngestFailure::Abandoned)?;
        self.hashing = Some(hashing.map_err(|error| self.disk_failed(error))?);
        self.partial.wrote(length);
        self.progress
            .send_replace(Progress::Growing(after.saturating_sub(HOLD_BACK)));
        Ok(())
    }

    async fn make_room(&mut self, length: u64) -> Result<(), IngestFailure> {
        while !self.partial.has_room_for(length) {
            let step = step(self.partial.room(), self.size);
            let upto = self.partial.reserved().saturating_add(step);
            let upto = self.size.map_or(upto, |size| upto.min(size));
            match self.partial.make_room(upto).await {
                Ok(Ok(())) => {}
                Ok(Err(no_room)) => return Err(IngestFailure::NoRoom(no_room)),
                Err(error) => return Err(self.disk_failed(error)),
            }
        }
        Ok(())
    }

    /// Checks length and digest of all that was written. No reader learns of the result yet: the caller then calls
    /// [`Ingest::commit`] or [`Ingest::give_up`].
    pub fn verify(&mut self) -> Result<Verified, IngestFailure> {
        let Hashing { hasher, behind } = self.hashing.take().ok_or(IngestFailure::Abandoned)?;
        let found = self.written();
        // Nothing came, not even the end that was cut off: what is there was not looked at.
        let expected = self.size.or((behind > 0).then(|| found.saturating_add(1)));
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(IngestFailure::Length { expected, found });
        }
        let found = hasher.finish();
        if found != *self.partial.digest() {
            return Err(IngestFailure::Digest {
                expected: self.partial.digest().clone(),
                found,
            });
        }
        Ok(Verified(()))
    }

    /// Gives readers the rest.
    pub(crate) fn complete(&self, _verified: &Verified) {
        let complete = Progress::Complete(self.written());
        self.progress.send_replace(complete);
    }

    /// Gives readers the rest, then makes the blob durable and visible under its digest.
    ///
    /// An error is one of the disk: readers have right bytes, but nothing is kept.
    pub async fn commit(self, verified: Verified) -> Result<u64, IngestFailure> {
        self.complete(&verified);
        let length = self.written();
        let (room, partial) = (Arc::clone(self.partial.room()), self.partial);
        // Of a blob of unknown size more was allocated than it needs.
        let trim = self.size.is_none();
        let publish = move || {
            if trim {
                partial.file().set_len(length)?;
            }
            publish(partial)
        };
        let published = run(publish).await.ok_or(IngestFailure::Abandoned)?;
        published.map_err(|error| {
            room.disk().write_failed("keep a blob that arrived", &error);
            IngestFailure::Disk(Arc::new(error))
        })?;
        Ok(length)
    }

    /// Gives up: puts away what was written, so that the next transfer can continue it, and returns the readers,
    /// which are told as soon as no more can join them.
    pub(crate) async fn give_up(mut self, failure: IngestFailure) -> GivenUp {
        if !matches!(failure, IngestFailure::Source(_) | IngestFailure::Abandoned) {
            self.partial.is_worthless();
        }
        let metrics = self.partial.room().disk().metrics();
        metrics
            .ingest_failures
            .with_label_values(&[failure.reason()])
            .inc();
        self.partial.put_away().await;
        GivenUp {
            failure,
            progress: self.progress,
        }
    }

    fn disk_failed(&self, error: io::Error) -> IngestFailure {
        let disk = self.partial.room().disk();
        disk.write_failed("write a blob", &error);
        IngestFailure::Disk(Arc::new(error))
    }
}

/// Readers of an ingest that was given up.
pub(crate) struct GivenUp {
    failure: IngestFailure,
    progress: watch::Sender<Progress>,
}

impl GivenUp {
    /// Tells them why.
    pub(crate) fn tell(self) {
        self.progress.send_replace(Progress::Failed(self.failure));
    }
}

impl Hashing {
    /// Hashes what an earlier process or transfer wrote.
    fn catch_up(&mut self, file: &File) -> io::Result<()> {
        let behind = std::mem::take(&mut self.behind);
        hash_beginning(file, &mut self.hasher, behind)
    }
}

/// How much room is reserved at a time as a blob comes, a little part of the store: an announced size alone evicts
/// nothing.
fn step(room: &Room, size: Option<u64>) -> u64 {
    let step = (room.index().max_size() / STEPS).clamp(STEP.0, STEP.1);
    match size {
        Some(_) => step,
        None => step.min(UNKNOWN_STEP),
    }
}

/// Opens a file for a blob, or takes the one of an earlier transfer, and makes room for `size` bytes.
async fn open(
    room: &Arc<Room>,
    id: PartialId,
    size: u64,
    partial: Option<Partial>,
) -> io::Result<Result<Partial, NoRoom>> {
    let mut partial = match partial {
        Some(partial) => partial,
        None => match Partial::create(room, id, size).await? {
            Ok(partial) => partial,
            Err(no_room) => return Ok(Err(no_room)),
        },
    };
    Ok(partial.make_room(size).await?.map(|()| partial))
}

/// Writes `chunks` one after the other from `at` on, in as few system calls as can be: the kernel then has large
/// pieces of memory for them, which cost less to write and to read.
fn write_at(file: &File, chunks: &[Bytes], mut at: u64) -> io::Result<()> {
    // Nothing but empty ones would look like a disk that takes nothing.
    let chunks = chunks.iter().filter(|chunk| !chunk.is_empty());
    let mut slices: Vec<_> = chunks.map(|chunk| IoSlice::new(chunk)).collect();
    let mut left = slices.as_mut_slice();
    while !left.is_empty() {
        let some = left.get(..IOV_MAX).unwrap_or(left);
        match rustix::io::pwritev(file, some, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                at += count as u64;
                IoSlice::advance_slices(&mut left, count);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Gives a blob its final name. Bytes before name, name before the directory's entry: what a crash of the machine
/// leaves under that name is whole.
fn publish(partial: Partial) -> io::Result<()> {
    let (room, length) = (Arc::clone(partial.room()), partial.written());
    let file = Arc::clone(partial.file());
    let key = StoreKey::Blob(partial.digest().clone());
    xattrs::note_committed(&file, length, partial.namespace());
    xattrs::note_checked(&file);
    // Dropped before it is durable, it would be a partial of which nothing is missing.
    file.sync_all()?;
    let Some((path, reservation)) = partial.finish() else {
        return Ok(());
    };
    let published = reservation.publish(&path, key, length);
    if published.is_err() {
        room.unlink(path, || {});
    }
    published?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_number_and_size_are_written_in_order() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut chunks: Vec<_> = (0..3 * IOV_MAX + 1)
            .map(|number| Bytes::from(vec![(number % 251) as u8; number % 3]))
            .collect();
        chunks.push(Bytes::from(vec![7; 1 << 20]));
        write_at(file.as_file(), &chunks, 5).unwrap();
        let written = std::fs::read(file.path()).unwrap();
        assert_eq!(written[..5], [0; 5]);
        assert!(written[5..] == chunks.concat());
        write_at(file.as_file(), &[Bytes::new(), Bytes::new()], 0).unwrap();
    }
}
