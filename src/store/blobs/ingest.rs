//! How a blob gets in: write and hash, verify, commit; or abort, by being dropped.
//!
//! The protocol is containerd's: write under a temporary name, check length and digest, fsync, rename,
//! fsync the directory. Nothing has its final name before it was checked. Readers follow the growing
//! file (see [`crate::store::blobs::reader`]) and get its last chunk only once it was.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rustix::io::Errno;
use tokio::sync::watch;

use crate::oci::digest::Hasher;

use crate::store::Store;
use crate::store::blobs::partial::{Id, Partial};
use crate::store::blobs::progress::{Failure, Progress};
use crate::store::blobs::reader::{Begun, Reader, hash_beginning};
use crate::store::disk::layout::Key;
use crate::store::disk::length;
use crate::store::records::run;
use crate::store::room::index::{NoRoom, cost};

/// The bytes at the end of a blob that no reader gets before the digest was verified.
///
/// A blob shorter than this is verified before its first byte leaves.
const HOLD_BACK: u64 = 16 * 1024;

/// Room that is reserved at a time for a blob whose size upstream did not say.
const UNKNOWN_STEP: u64 = 16 * 1024 * 1024;

/// Pieces that one system call takes.
const IOV_MAX: usize = 1024;

/// Why an ingest could not begin; the caller then passes the bytes through without keeping them.
#[derive(Debug)]
pub enum IngestError {
    /// There is no room and none can be made.
    NoRoom(NoRoom),
    /// The file cannot be written. It has been told already.
    Disk(io::Error),
    /// The disk failed a moment ago and is left alone. It has been told already.
    Trouble(crate::store::disk::health::Trouble),
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

/// A blob being written. Dropping it aborts: its readers are told, and what is there of it is put away.
pub struct Ingest {
    draft: Partial,
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
    size: Option<u64>,
    begun: Begun,
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
    pub(in crate::store) async fn begin(
        store: &Arc<Store>,
        id: Id,
        size: Option<u64>,
        partial: Option<Partial>,
    ) -> Result<(Self, Growing), IngestError> {
        if let Some(trouble) = store.trouble() {
            return Err(IngestError::Trouble(trouble));
        }
        let draft = match open(store, id, size.unwrap_or(UNKNOWN_STEP), partial).await {
            Ok(Ok(draft)) => draft,
            Ok(Err(no_room)) => {
                // It may be the disk that is full, and not the store.
                let trouble = store.trouble().map(IngestError::Trouble);
                return Err(trouble.unwrap_or(IngestError::NoRoom(no_room)));
            }
            Err(error) => {
                store.disk_failed("write to the store", &error);
                return Err(IngestError::Disk(error));
            }
        };
        let begun = draft.written();
        let readable = Progress::Growing(begun.saturating_sub(HOLD_BACK));
        let (progress, receiver) = watch::channel(readable);
        let growing = Growing {
            file: Arc::clone(draft.file()),
            size,
            begun: Begun {
                at: Instant::now(),
                with: begun,
            },
            progress: receiver,
        };
        let hashing = Hashing {
            hasher: draft.digest().hasher(),
            behind: begun,
        };
        let ingest = Self {
            draft,
            size,
            hashing: Some(hashing),
            progress,
        };
        Ok((ingest, growing))
    }

    /// Bytes written so far, those of an earlier transfer included.
    pub fn written(&self) -> u64 {
        self.draft.written()
    }

    /// Writes and hashes `chunks` in a blocking thread, then lets readers have them (but for the last chunk).
    ///
    /// After an error, or when the future is dropped half-way, the ingest can only be failed.
    pub async fn append(&mut self, chunks: Vec<Bytes>) -> Result<(), Failure> {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let after = self.written().saturating_add(length);
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
        let mut hashing = self.hashing.take().ok_or(Failure::Abandoned)?;
        let (file, at) = (Arc::clone(self.draft.file()), self.written());
        let write = move || {
            hashing.catch_up(&file)?;
            write_at(&file, &chunks, at)?;
            for chunk in chunks {
                hashing.hasher.update(&chunk);
            }
            Ok(hashing)
        };
        let hashing = run(write).await.ok_or(Failure::Abandoned)?;
        self.hashing = Some(hashing.map_err(|error| self.disk_failed(error))?);
        self.draft.wrote(length);
        self.progress
            .send_replace(Progress::Growing(after.saturating_sub(HOLD_BACK)));
        Ok(())
    }

    async fn make_room(&mut self, length: u64) -> Result<(), Failure> {
        while cost(length) > self.draft.room() {
            let upto = self.draft.room().saturating_add(UNKNOWN_STEP);
            match self.draft.make_room(upto).await {
                Ok(Ok(())) => {}
                Ok(Err(no_room)) => return Err(Failure::NoRoom(no_room)),
                Err(error) => return Err(self.disk_failed(error)),
            }
        }
        Ok(())
    }

    /// Checks length and digest of all that was written. No reader learns of the result yet: the caller goes
    /// on with [`Ingest::commit`] or [`Ingest::give_up`].
    pub fn verify(&mut self) -> Result<Verified, Failure> {
        let Hashing { hasher, behind } = self.hashing.take().ok_or(Failure::Abandoned)?;
        let found = self.written();
        // Nothing came, not even the end that was cut off: what is there was not looked at.
        let expected = self.size.or((behind > 0).then(|| found.saturating_add(1)));
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Failure::Length { expected, found });
        }
        let found = hasher.finish();
        if found != *self.draft.digest() {
            return Err(Failure::Digest {
                expected: self.draft.digest().clone(),
                found,
            });
        }
        Ok(Verified(()))
    }

    /// Gives readers the rest, then makes the blob durable and visible under its digest.
    ///
    /// An error is one of the disk: readers have right bytes, but nothing is kept.
    pub async fn commit(self, _verified: Verified) -> Result<u64, Failure> {
        let length = self.written();
        self.progress.send_replace(Progress::Complete(length));
        let (store, draft) = (Arc::clone(self.draft.store()), self.draft);
        let publish = move || publish(draft);
        let published = run(publish).await.ok_or(Failure::Abandoned)?;
        published.map_err(|error| {
            store.disk_failed("keep a blob that arrived", &error);
            Failure::Disk(Arc::new(error))
        })?;
        Ok(length)
    }

    /// Gives up: puts away what is there, so that the next transfer can go on with it, and returns the readers,
    /// who are to be told once no more can join them.
    pub async fn give_up(mut self, failure: Failure) -> Failed {
        if !matches!(failure, Failure::Source(_) | Failure::Abandoned) {
            self.draft.is_worthless();
        }
        let metrics = &self.draft.store().metrics;
        metrics
            .ingest_failures
            .with_label_values(&[failure.reason()])
            .inc();
        self.draft.put_away().await;
        Failed {
            failure,
            progress: self.progress,
        }
    }

    fn disk_failed(&self, error: io::Error) -> Failure {
        let store = self.draft.store();
        store.disk_failed("write a blob", &error);
        Failure::Disk(Arc::new(error))
    }
}

/// Readers of an ingest that was given up.
pub struct Failed {
    failure: Failure,
    progress: watch::Sender<Progress>,
}

impl Failed {
    /// Tells them why.
    pub fn tell(self) {
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

/// Opens the file of a blob, or goes on with the one there is, and makes room for `size` bytes.
async fn open(
    store: &Arc<Store>,
    id: Id,
    size: u64,
    partial: Option<Partial>,
) -> io::Result<Result<Partial, NoRoom>> {
    let mut draft = match partial {
        Some(partial) => partial,
        None => match Partial::create(store, id, size).await? {
            Ok(draft) => draft,
            Err(no_room) => return Ok(Err(no_room)),
        },
    };
    Ok(draft.make_room(size).await?.map(|()| draft))
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
fn publish(draft: Partial) -> io::Result<()> {
    let (store, length) = (Arc::clone(draft.store()), draft.written());
    let (file, key) = (Arc::clone(draft.file()), Key::Blob(draft.digest().clone()));
    length::note(&file, length);
    crate::store::check::scrub::note_checked(&file);
    // Dropped before it is durable, it would be a partial of which nothing is missing.
    file.sync_all()?;
    let Some((path, room)) = draft.finish() else {
        return Ok(());
    };
    let published = store.publish(&path, key, length, room);
    if published.is_err() {
        store.unlink(path, || {});
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
