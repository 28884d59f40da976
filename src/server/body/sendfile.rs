//! Large bodies over plain HTTP/1.1 without copying them: `sendfile` under hyper.
//!
//! hyper queues the pieces of a body and hands their memory to `poll_write_vectored`. A [`FileSlice`] is such
//! a piece, whose memory is one byte that stands for a part of a file: `Sendfile`, which is what hyper writes
//! to, knows that byte by its address, has the kernel send the file instead, and says how much went out.
//! hyper takes that many bytes off the slice, so lengths, keep-alive and pipelining stay hyper's work.
//!
//! That hyper passes on a count larger than the memory it showed is not promised anywhere: `tests/it/sendfile`
//! holds it. Should hyper begin to copy what it queues, a slice shows it the real bytes, read at that moment
//! ([`Buf::chunk`]): that costs speed and not correctness. No page of a file is ever mapped, so a file that is
//! cut off meanwhile is an error here and not a signal.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{Buf, Bytes};

use crate::server::record::{RequestRecord, Transmission};

/// What is read at once where bytes must be copied after all.
const COPY: usize = 64 * 1024;

/// A piece of a body: bytes, or a part of a file.
pub(crate) enum Data {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes that the kernel takes from a file.
    File(FileSlice),
}

/// The slices that are queued on one connection, by the address of their byte.
#[derive(Clone, Default)]
pub(crate) struct Lane(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Guards a list of one or two, for a look.
    queued: Mutex<Vec<Arc<Part>>>,
    /// Its length: most writes find nothing queued and need no lock.
    count: AtomicUsize,
    /// A slice was copied and could not be read: nothing more may leave.
    broken: AtomicBool,
    /// Not all file systems can do it; then it is not tried again on this connection.
    unsupported: AtomicBool,
}

/// A part of a file, and the byte that stands for it.
pub(super) struct Part {
    token: [u8; 1],
    file: Arc<File>,
    position: AtomicU64,
    end: u64,
}

/// A part of a file, to be sent over the connection of its `Lane` and no other.
pub(crate) struct FileSlice {
    part: Arc<Part>,
    lane: Lane,
    /// The bytes at `position`, if they had to be shown.
    copied: OnceLock<Bytes>,
    record: Option<Arc<RequestRecord>>,
}

impl Lane {
    /// Whether slices can be sent on at all.
    pub(crate) fn is_open(&self) -> bool {
        !self.0.unsupported.load(Ordering::Relaxed)
    }

    /// Makes no more slices: the file system cannot send them.
    pub(super) fn close(&self) {
        self.0.unsupported.store(true, Ordering::Relaxed);
    }

    /// Whether a slice could not be read, so that nothing more may leave.
    pub(super) fn is_broken(&self) -> bool {
        self.0.broken.load(Ordering::Relaxed)
    }

    /// Makes a slice of `range`. What is sent of it is noted in `record`.
    pub(crate) fn slice(
        &self,
        file: Arc<File>,
        range: Range<u64>,
        record: Option<Arc<RequestRecord>>,
    ) -> FileSlice {
        let part = Arc::new(Part {
            token: [0],
            file,
            position: AtomicU64::new(range.start),
            end: range.end,
        });
        let mut queued = self.0.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.push(Arc::clone(&part));
        self.0.count.store(queued.len(), Ordering::Release);
        drop(queued);
        FileSlice {
            part,
            lane: self.clone(),
            copied: OnceLock::new(),
            record,
        }
    }

    /// The first slice among `buffers`, and how many buffers are before it.
    pub(super) fn find(&self, buffers: &[IoSlice<'_>]) -> Option<(usize, Arc<Part>)> {
        if self.0.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let queued = self.0.queued.lock().unwrap_or_else(PoisonError::into_inner);
        buffers.iter().enumerate().find_map(|(place, buffer)| {
            let part = queued
                .iter()
                .find(|part| std::ptr::eq(part.token.as_ptr(), buffer.as_ptr()))?;
            Some((place, Arc::clone(part)))
        })
    }

    fn remove(&self, part: &Arc<Part>) {
        let mut queued = self.0.queued.lock().unwrap_or_else(PoisonError::into_inner);
        queued.retain(|other| !Arc::ptr_eq(other, part));
        self.0.count.store(queued.len(), Ordering::Release);
    }
}

impl Part {
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Relaxed)
    }

    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.position())
    }

    /// Reads what is next. The slice must not be at its end.
    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.left()).unwrap_or(COPY).min(COPY);
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, self.position())?;
        Ok(bytes)
    }
}

impl FileSlice {
    fn copied(&self) -> &[u8] {
        self.copied.get_or_init(|| {
            let bytes = self.part.read().unwrap_or_else(|error| {
                tracing::warn!(%error, "a stored blob cannot be read; its client is cut off");
                // Something must be shown; it does not leave, because nothing does any more.
                self.lane.0.broken.store(true, Ordering::Relaxed);
                vec![0]
            });
            Bytes::from(bytes)
        })
    }
}

impl Buf for FileSlice {
    fn remaining(&self) -> usize {
        usize::try_from(self.part.left()).unwrap_or(usize::MAX)
    }

    /// The bytes themselves, for code that copies them. `sendfile` needs none of this.
    fn chunk(&self) -> &[u8] {
        if self.part.left() == 0 {
            return &[];
        }
        self.copied()
    }

    fn chunks_vectored<'a>(&'a self, buffers: &mut [IoSlice<'a>]) -> usize {
        match buffers.first_mut() {
            Some(buffer) if self.part.left() > 0 => {
                *buffer = IoSlice::new(&self.part.token);
                1
            }
            _ => 0,
        }
    }

    fn advance(&mut self, count: usize) {
        let count_wide = (count as u64).min(self.part.left());
        self.part.position.fetch_add(count_wide, Ordering::Relaxed);
        let copied = self.copied.take();
        let way = if copied.is_some() {
            Transmission::Copied
        } else {
            Transmission::Sendfile
        };
        if let Some(record) = &self.record {
            record.sent(count_wide, way);
        }
        if let Some(rest) =
            copied.and_then(|mut bytes| (count < bytes.len()).then(|| bytes.split_off(count)))
        {
            let _ = self.copied.set(rest);
        }
    }
}

impl Drop for FileSlice {
    fn drop(&mut self) {
        self.lane.remove(&self.part);
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::File(slice) => slice.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::File(slice) => slice.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, buffers: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(buffers),
            Self::File(slice) => slice.chunks_vectored(buffers),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Bytes(bytes) => bytes.advance(count),
            Self::File(slice) => slice.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_bytes(length),
            Self::File(slice) => slice.copy_to_bytes(length),
        }
    }
}

impl From<Bytes> for Data {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn slice_of(bytes: &[u8], end: u64) -> (Lane, FileSlice) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let lane = Lane::default();
        let slice = lane.slice(Arc::new(file), 1..end, None);
        (lane, slice)
    }

    #[test]
    fn whoever_copies_a_slice_gets_the_bytes() {
        let bytes: Vec<_> = (0..200_000_u32)
            .map(|number| (number % 251) as u8)
            .collect();
        let (_lane, mut slice) = slice_of(&bytes, 200_000);
        assert_eq!(slice.remaining(), 199_999);
        assert_eq!(slice.copy_to_bytes(70_000), bytes[1..70_001]);
        // The rest in odd steps.
        let mut rest = Vec::new();
        while slice.has_remaining() {
            let chunk = slice.chunk();
            let count = chunk.len().min(777);
            rest.extend_from_slice(&chunk[..count]);
            slice.advance(count);
        }
        assert_eq!(rest, bytes[70_001..]);
    }

    #[test]
    fn a_slice_is_known_by_its_byte_while_it_lives() {
        let (lane, mut slice) = slice_of(b"0123456789", 10);
        let header = *b"\0";
        let mut shown = [IoSlice::new(&header); 2];
        assert_eq!(slice.chunks_vectored(&mut shown[1..]), 1);
        let (place, part) = lane.find(&shown).unwrap();
        assert_eq!((place, part.left()), (1, 9));
        assert!(lane.find(&[IoSlice::new(&header)]).is_none());
        slice.advance(4);
        assert_eq!((part.left(), slice.chunk()), (5, &b"56789"[..]));
        drop(slice);
        assert_eq!(lane.0.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_leaves_once_a_copy_failed() {
        let (lane, slice) = slice_of(b"0123456789", 20);
        assert!(!slice.chunk().is_empty());
        assert!(lane.0.broken.load(Ordering::Relaxed));
    }
}
