//! How a blob gets out: one reader for stored and for growing blobs.
//!
//! A reader keeps its own position and speed. Bytes are read with `preadv2(RWF_NOWAIT)`, which answers
//! from the page cache without ever waiting for the disk; only what is not there costs a blocking thread.
//! The page cache is the buffer between a fill and its readers, so memory stays flat however far apart
//! they are.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::watch;

use crate::oci::digest::Hasher;

use crate::store::blobs::progress::{Failure, Progress};

/// How much of a file is read at a time to be hashed.
const HASH_STEP: usize = 256 * 1024;

/// Reads one blob.
pub struct Reader {
    file: Arc<File>,
    source: Source,
}

enum Source {
    Stored {
        length: u64,
    },
    Growing {
        size: Option<u64>,
        begun: Begun,
        progress: watch::Receiver<Progress>,
    },
}

/// When a blob began to grow, and how much of it was there already.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Begun {
    pub(in crate::store) at: Instant,
    pub(in crate::store) with: u64,
}

/// How a growing blob is doing.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Bytes that can be read by now.
    pub readable: u64,
    /// How many of them have come since it began to grow.
    pub received: u64,
    /// For how long it has been growing.
    pub running: Duration,
}

/// What can be read at a position at this moment.
#[derive(Debug)]
pub enum Available {
    /// Bytes up to this offset (exclusive), which is past the position asked about.
    UpTo(u64),
    /// Nothing yet.
    NotYet,
    /// The position is the end of the blob.
    End,
    /// Nothing more, ever.
    Failed(Failure),
}

impl Reader {
    pub(in crate::store) fn stored(file: Arc<File>, length: u64) -> Self {
        Self {
            file,
            source: Source::Stored { length },
        }
    }

    pub(in crate::store) fn growing(
        file: Arc<File>,
        size: Option<u64>,
        begun: Begun,
        progress: watch::Receiver<Progress>,
    ) -> Self {
        Self {
            file,
            source: Source::Growing {
                size,
                begun,
                progress,
            },
        }
    }

    /// How fast a growing blob grows.
    pub fn pace(&self) -> Pace {
        match &self.source {
            Source::Stored { length } => Pace {
                readable: *length,
                received: *length,
                running: Duration::ZERO,
            },
            Source::Growing {
                begun, progress, ..
            } => {
                let readable = match *progress.borrow() {
                    Progress::Growing(readable) | Progress::Complete(readable) => readable,
                    Progress::Failed(_) => 0,
                };
                Pace {
                    readable,
                    received: readable.saturating_sub(begun.with),
                    running: begun.at.elapsed(),
                }
            }
        }
    }

    /// The length of the whole blob in bytes; `None` while it grows and upstream did not say.
    pub fn length(&self) -> Option<u64> {
        match &self.source {
            Source::Stored { length } => Some(*length),
            Source::Growing { size, progress, .. } => match *progress.borrow() {
                Progress::Complete(length) => Some(length),
                Progress::Growing(_) | Progress::Failed(_) => *size,
            },
        }
    }

    /// What can be read at `position` now.
    pub fn available(&self, position: u64) -> Available {
        match &self.source {
            Source::Stored { length } => complete(position, *length),
            Source::Growing { progress, .. } => {
                let closed = progress.has_changed().is_err();
                match &*progress.borrow() {
                    Progress::Complete(length) => complete(position, *length),
                    Progress::Growing(readable) if position < *readable => {
                        Available::UpTo(*readable)
                    }
                    Progress::Failed(failure) => Available::Failed(failure.clone()),
                    // A writer that is gone will not write: a torn blob must never look like a whole one.
                    Progress::Growing(_) if closed => Available::Failed(Failure::Abandoned),
                    Progress::Growing(_) => Available::NotYet,
                }
            }
        }
    }

    /// Waits until there is something to say about `position` other than [`Available::NotYet`].
    pub async fn wait(&mut self, position: u64) -> Available {
        loop {
            match (self.available(position), &mut self.source) {
                (Available::NotYet, Source::Growing { progress, .. }) => {
                    // An error means that the writer is gone, which `available` sees as well.
                    let _ = progress.changed().await;
                }
                (known, _) => return known,
            }
        }
    }

    /// Waits until the length of the whole blob is known.
    pub async fn wait_length(&mut self) -> Result<u64, Failure> {
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
    pub fn read_now(&self, buffer: &mut [u8], position: u64) -> io::Result<Option<usize>> {
        static UNSUPPORTED: AtomicBool = AtomicBool::new(false);
        if UNSUPPORTED.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let slices = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&*self.file, slices, position, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // Some file systems (network and overlay ones) do not know the flag.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                UNSUPPORTED.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// The file itself, to be read in a blocking thread where [`Reader::read_now`] could not.
    pub fn file(&self) -> Arc<File> {
        Arc::clone(&self.file)
    }
}

/// Reads at `position`, waiting for the disk: for blocking threads only.
pub fn read_blocking(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Hashes the first `length` bytes of a file, waiting for the disk. A file that is shorter is an error.
pub fn hash_beginning(file: &File, hasher: &mut Hasher, length: u64) -> io::Result<()> {
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
