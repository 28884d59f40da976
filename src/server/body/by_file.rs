//! Which parts of a body can go out with `sendfile`, and their way into the page cache.
//!
//! `sendfile` waits for the disk where a page is not in the page cache, and all others on the same worker with
//! it. So a part is looked at first, and read by a blocking thread if it is not there.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::Advice;

use super::sendfile::{FileSlice, Lane};
use super::{Arc, Available, Piece, Reader, RequestRecord, State, Step, StoreBody, VecDeque};
use crate::store::blobs::reader::read_blocking;

/// What goes out as one slice.
const SLICE: u64 = 2 * 1024 * 1024;
/// Less than this is cheaper to copy.
const LEAST: u64 = 64 * 1024;
/// How far the places are apart that are looked at: what the kernel reads ahead by default. A page between two
/// of them may be missing all the same; then the worker waits for that one read.
const LOOK_EVERY: u64 = 128 * 1024;

/// A shorter body is copied: it costs little, and what was copied nobody can change any more. The kernel sends pages of
/// the file as they are when their turn comes; who truncates the file in that moment blanks what is on its way.
const LEAST_BODY: u64 = 8 * 1024 * 1024;

/// What a slice may be had by.
pub(super) enum ByFile {
    /// Here it is.
    Slice(FileSlice),
    /// The disk must be waited for: [`StoreBody::warm`].
    Cold(Range<u64>),
    /// Not this way.
    Not,
}

/// Whether a range among `pieces` is worth it.
pub(super) fn is_large(reader: &Reader, pieces: &VecDeque<Piece>) -> bool {
    let known = reader.length().unwrap_or(0);
    pieces.iter().any(|piece| match piece {
        Piece::Range(range) => range.end.min(known).saturating_sub(range.start) >= LEAST_BODY,
        Piece::Bytes(_) => false,
    })
}

impl StoreBody {
    pub(super) fn by_file(&mut self, lane: &Lane, account: Option<&Arc<RequestRecord>>) -> ByFile {
        if self.copy_only || !lane.is_open() {
            return ByFile::Not;
        }
        if self.position >= self.end {
            match self.pieces.pop_front() {
                Some(Piece::Range(range)) => (self.position, self.end) = (range.start, range.end),
                Some(bytes) => self.pieces.push_front(bytes),
                None => {}
            }
        }
        let Some(range) = self.next_slice() else {
            return ByFile::Not;
        };
        if range.end > self.warm {
            match self.is_cached(&range) {
                Ok(true) => {}
                Ok(false) => return ByFile::Cold(range),
                // Reading will tell, and there is a way around it from there.
                Err(_) => {
                    self.copy_only = true;
                    return ByFile::Not;
                }
            }
        }
        self.position = range.end;
        self.sent_by_file = true;
        let account = account.map(Arc::clone);
        ByFile::Slice(lane.slice(self.reader.file(), range, account))
    }

    fn next_slice(&self) -> Option<Range<u64>> {
        if self.position >= self.end || self.window().is_some() || self.lost.is_some() {
            return None;
        }
        let Available::UpTo(upto) = self.reader.available(self.position) else {
            return None;
        };
        let left = upto.min(self.end).saturating_sub(self.position);
        (left > LEAST).then(|| self.position..self.position + left.min(SLICE))
    }

    /// Whether the page cache has it, as far as one look in a while can tell. Fails where the file ends early.
    fn is_cached(&self, range: &Range<u64>) -> io::Result<bool> {
        let places = (range.start..range.end).step_by(LOOK_EVERY as usize);
        for place in places.chain([range.end - 1]) {
            match self.reader.read_now(&mut [0], place)? {
                Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads `range` from the disk. What fails is left to the ordinary way, which knows what to do about it.
    pub(super) async fn warm(mut self: Box<Self>, range: Range<u64>) -> Step {
        let (file, end) = (self.reader.file(), range.end);
        let warmed = tokio::task::spawn_blocking(move || read_through(&file, range)).await?;
        match warmed {
            Ok(()) => self.warm = end,
            Err(error) => {
                tracing::debug!(%error, "a part of a blob cannot be read ahead");
                self.copy_only = true;
            }
        }
        Ok((State::Store(self), None))
    }

    /// Whether there is nothing more to send.
    pub(super) fn is_over(&self) -> bool {
        self.position >= self.end && self.pieces.is_empty()
    }
}

/// Reads a range and has the kernel begin with the one after it.
fn read_through(file: &File, range: Range<u64>) -> io::Result<()> {
    let ahead = std::num::NonZeroU64::new(SLICE);
    // Only a hint.
    let _ = rustix::fs::fadvise(file, range.start, ahead, Advice::WillNeed);
    let mut buffer = vec![0; 128 * 1024];
    let mut position = range.start;
    while position < range.end {
        match read_blocking(file, &mut buffer, position)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => position += count as u64,
        }
    }
    let _ = rustix::fs::fadvise(file, range.end, ahead, Advice::WillNeed);
    Ok(())
}
