//! How a blob gets out: one reader for stored and for growing blobs.
//!
//! A reader keeps its own position and speed. Bytes are read with `preadv2(RWF_NOWAIT)`, which answers
//! from the page cache without ever waiting for the disk; only what is not there costs a blocking thread.
//! The page cache is the buffer between a fill and its readers, so memory stays flat however far apart
//! they are.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::oci::digest::Hasher;

use crate::store::disk::files::{CachedReads, read_blocking};

use super::progress::{IngestFailure, Progress};

/// How much of a file is read at a time to be hashed.
const HASH_STEP: usize = 256 * 1024;

/// Reads one blob.
#[derive(Clone)]
pub struct BlobReader {
    file: Arc<File>,
    cached: CachedReads,
    extent: Extent,
}

/// How much of the blob is there.
#[derive(Clone)]
enum Extent {
    Stored {
        length: u64,
        /// When it was opened, in seconds of the Unix epoch.
        at: u32,
    },
    Growing {
        size: Option<u64>,
        begun: Begun,
        progress: watch::Receiver<Progress>,
    },
}

/// When a blob began to grow, and how much of it was there already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    pub(super) at: Instant,
    pub(super) with: u64,
}

/// How a growing blob is doing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Growth {
    /// Bytes that can be read by now.
    pub(crate) readable: u64,
    /// How many of them have come since it began to grow.
    pub(crate) received: u64,
    /// For how long it has been growing.
    pub(crate) running: Duration,
}

/// What can be read at a position at this moment.
#[derive(Debug)]
pub(crate) enum Available {
    /// Bytes up to this offset (exclusive), which is past the position asked about.
    UpTo(u64),
    /// Nothing yet.
    NotYet,
    /// The position is the end of the blob.
    End,
    /// Nothing more, ever.
    Failed(IngestFailure),
}

impl BlobReader {
    pub(super) fn stored(file: Arc<File>, cached: CachedReads, length: u64, at: u32) -> Self {
        Self {
            file,
            cached,
            extent: Extent::Stored { length, at },
        }
    }

    pub(super) fn growing(
        file: Arc<File>,
        cached: CachedReads,
        size: Option<u64>,
        begun: Begun,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        Self {
            file,
            cached,
            extent: Extent::Growing {
                size,
                begun,
                progress,
            },
        }
    }

    /// How fast a growing blob grows.
    pub(crate) fn pace(&self) -> Growth {
        match &self.extent {
            Extent::Stored { length, .. } => Growth {
                readable: *length,
                received: *length,
                running: Duration::ZERO,
            },
            Extent::Growing {
                begun, progress, ..
            } => {
                let readable = match *progress.borrow() {
                    Progress::Growing(readable) | Progress::Complete(readable) => readable,
                    Progress::Failed(_) => 0,
                };
                Growth {
                    readable,
                    received: readable.saturating_sub(begun.with),
                    running: begun.at.elapsed(),
                }
            }
        }
    }

    /// The length of the whole blob in bytes; `None` while it grows and upstream did not say.
    pub(crate) fn length(&self) -> Option<u64> {
        match &self.extent {
            Extent::Stored { length, .. } => Some(*length),
            Extent::Growing { size, progress, .. } => match *progress.borrow() {
                Progress::Complete(length) => Some(length),
                Progress::Growing(_) | Progress::Failed(_) => *size,
            },
        }
    }

    /// When a stored blob was opened, in seconds of the Unix epoch; 0 for one that grows.
    pub(crate) fn opened_at(&self) -> u32 {
        match self.extent {
            Extent::Stored { at, .. } => at,
            Extent::Growing { .. } => 0,
        }
    }

    /// What can be read at `position` now.
    pub(crate) fn available(&self, position: u64) -> Available {
        match &self.extent {
            Extent::Stored { length, .. } => complete(position, *length),
            Extent::Growing { progress, .. } => {
                let closed = progress.has_changed().is_err();
                match &*progress.borrow() {
                    Progress::Complete(length) => complete(position, *length),
                    Progress::Growing(readable) if position < *readable => {
                        Available::UpTo(*readable)
                    }
                    Progress::Failed(failure) => Available::Failed(failure.clone()),
                    // A writer that is gone will not write: a torn blob must never look like a whole one.
                    Progress::Growing(_) if closed => Available::Failed(IngestFailure::Abandoned),
                    Progress::Growing(_) => Available::NotYet,
                }
            }
        }
    }

    /// Waits until there is something to say about `position` other than [`Available::NotYet`].
    pub(crate) async fn wait(&mut self, position: u64) -> Available {
        loop {
            match (self.available(position), &mut self.extent) {
                (Available::NotYet, Extent::Growing { progress, .. }) => {
                    // An error means that the writer is gone, which `available` sees as well.
                    let _ = progress.changed().await;
                }
                (known, _) => return known,
            }
        }
    }

    /// Waits until the length of the whole blob is known.
    pub(crate) async fn wait_length(&mut self) -> Result<u64, IngestFailure> {
        loop {
            if let Some(length) = self.length() {
                return Ok(length);
            }
            match self.wait(u64::MAX - 1).await {
                Available::Failed(failure) => return Err(failure),
                Available::End | Available::UpTo(_) | Available::NotYet => {}
            }
        }
    }

    /// Reads into `buffer` what the page cache has at `position`, without ever waiting for the disk.
    ///
    /// `None`: the disk would have to be waited for; see [`read_blocking`].
    pub(crate) fn read_now(&self, buffer: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        self.cached.read(&self.file, buffer, position)
    }

    /// The file itself, to be read in a blocking thread where [`BlobReader::read_now`] could not.
    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

/// Hashes the first `length` bytes of a file, waiting for the disk. A file that is shorter is an error.
pub(crate) fn hash_beginning(file: &File, hasher: &mut Hasher, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; HASH_STEP];
    let mut position = 0;
    while position < length {
        let wanted =
            usize::try_from(length - position).map_or(HASH_STEP, |left| left.min(HASH_STEP));
        let space = buffer.get_mut(..wanted).unwrap_or_default();
        let count = read_blocking(file, space, position)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hasher.update(space.get(..count).unwrap_or_default());
        position += count as u64;
    }
    Ok(())
}

fn complete(position: u64, length: u64) -> Available {
    if position < length {
        Available::UpTo(length)
    } else {
        Available::End
    }
}
