//! Which parts of a body the kernel can send with `sendfile`, and how they get into the page cache first.
//!
//! Where a page is not in the page cache, `sendfile` waits for the disk, and so does every other connection of the same
//! worker. So each part is looked at first; if it is not there, a blocking thread reads it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::Advice;

use crate::mirror::blob::delivery::FromStore;
use crate::server::record::{BodyError, RequestRecord};

use super::sendfile::{FileSlice, Lane};

/// What goes out as one slice.
const SLICE: u64 = 2 * 1024 * 1024;
/// Less than this is cheaper to copy.
const LEAST: u64 = 64 * 1024;
/// How far the places are apart that are looked at: what the kernel reads ahead by default. A page between two
/// of them may still be missing; then the worker waits for that one read.
const LOOK_EVERY: u64 = 128 * 1024;

/// A shorter body is copied: that costs little, and bytes that were copied can no longer change. The kernel sends pages
/// of the file as they are when their turn comes; a file that is truncated in that moment blanks what is on its way.
const LEAST_BODY: u64 = 8 * 1024 * 1024;

/// Whether a part of a file goes out as a slice.
pub(super) enum ByFile {
    Slice(FileSlice),
    /// The disk must be waited for: [`Kernel::warm`].
    Cold(Range<u64>),
    /// Not this way.
    Not,
}

/// What the kernel may send of a body.
pub(super) struct Kernel {
    /// Up to here the file was brought into the page cache.
    warm: u64,
    /// `sendfile` is not for this body.
    copy_only: bool,
}

impl Kernel {
    /// `longest` is the length of the longest part of the file that is to be sent.
    pub(super) fn new(longest: u64) -> Self {
        Self {
            warm: 0,
            copy_only: longest < LEAST_BODY,
        }
    }

    /// Makes a slice of the beginning of `range`, if that is worth it.
    pub(super) fn slice(
        &mut self,
        stored: &mut FromStore,
        range: &Range<u64>,
        lane: &Lane,
        record: Option<&Arc<RequestRecord>>,
    ) -> ByFile {
        let left = range.end.saturating_sub(range.start);
        if self.copy_only || !lane.is_open() || left <= LEAST {
            return ByFile::Not;
        }
        let range = range.start..range.start + left.min(SLICE);
        if range.end > self.warm {
            match is_cached(stored, &range) {
                Ok(true) => {}
                Ok(false) => return ByFile::Cold(range),
                // Reading will tell, and there is a way around it from there.
                Err(_) => {
                    self.copy_only = true;
                    return ByFile::Not;
                }
            }
        }
        stored.sent_by_kernel(range.end);
        ByFile::Slice(lane.slice(stored.file(), range, record.map(Arc::clone)))
    }

    /// Reads `range` from the disk. If that fails, the bytes are copied, and reading them once more tells why.
    pub(super) async fn warm(
        &mut self,
        file: Arc<File>,
        range: Range<u64>,
    ) -> Result<(), BodyError> {
        let end = range.end;
        match tokio::task::spawn_blocking(move || read_through(&file, range)).await? {
            Ok(()) => self.warm = end,
            Err(error) => {
                tracing::debug!(%error, "a part of a blob cannot be read ahead");
                self.copy_only = true;
            }
        }
        Ok(())
    }
}

/// Whether the page cache has it, as far as one look in a while can tell. Fails where the file ends early.
fn is_cached(stored: &FromStore, range: &Range<u64>) -> io::Result<bool> {
    let places = (range.start..range.end).step_by(LOOK_EVERY as usize);
    for place in places.chain([range.end - 1]) {
        if !stored.is_cached(place)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Reads a range and has the kernel begin with the one after it.
fn read_through(file: &File, range: Range<u64>) -> io::Result<()> {
    let ahead = std::num::NonZeroU64::new(SLICE);
    // Only a hint.
    let _ = rustix::fs::fadvise(file, range.start, ahead, Advice::WillNeed);
    let mut buffer = vec![0; LOOK_EVERY as usize];
    for position in range.clone().step_by(buffer.len()) {
        let length = (range.end - position).min(LOOK_EVERY) as usize;
        file.read_exact_at(buffer.get_mut(..length).unwrap_or_default(), position)?;
    }
    let _ = rustix::fs::fadvise(file, range.end, ahead, Advice::WillNeed);
    Ok(())
}
