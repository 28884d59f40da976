//! Memory for what is on its way to clients: zeroed once, and used again and again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Large enough that a system call costs little beside its copy, small enough that many slow clients fit.
const SMALL: usize = 64 * 1024;
/// The same beside encryption and a write to the network: a tenth less CPU than with small ones.
pub(crate) const LARGE: usize = 256 * 1024;
/// Large buffers in use at a time; further bodies get small ones. So what slow clients hold is limited.
const MOST_LARGE: usize = 64;
/// Buffers of a kind that are kept for use again.
const MOST_SPARE: usize = 32;

/// Where buffers are taken from.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Shelves>);

#[derive(Default)]
struct Shelves {
    small: Shelf,
    large: Shelf,
    /// Large ones that are in use.
    large_taken: AtomicUsize,
}

/// Spare buffers of one size.
#[derive(Default)]
struct Shelf {
    /// Guards a short list, for a push or a pop.
    spare: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use. Dropped, it goes back to where it came from.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    length: usize,
    large: bool,
    home: Buffers,
}

impl Buffers {
    /// A buffer for up to `wanted` bytes.
    pub(super) fn take(&self, wanted: u64) -> Buffer {
        let wanted = usize::try_from(wanted).unwrap_or(LARGE);
        let large = wanted > SMALL && self.0.may_take_large();
        let size = if large { LARGE } else { SMALL };
        Buffer {
            bytes: self.0.shelf(large).take(size),
            length: wanted.min(size),
            large,
            home: self.clone(),
        }
    }
}

impl Shelves {
    fn may_take_large(&self) -> bool {
        let another = |taken| (taken < MOST_LARGE).then_some(taken + 1);
        self.large_taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, another)
            .is_ok()
    }

    fn shelf(&self, large: bool) -> &Shelf {
        if large { &self.large } else { &self.small }
    }
}

impl Shelf {
    fn take(&self, size: usize) -> Vec<u8> {
        let spare = self.spare.lock();
        let spare = spare.unwrap_or_else(PoisonError::into_inner).pop();
        spare.unwrap_or_else(|| vec![0; size])
    }

    fn put_back(&self, buffer: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < MOST_SPARE {
            spare.push(buffer);
        }
    }
}

impl Buffer {
    pub(super) fn space(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// Its first `count` bytes, which hold it until they are dropped.
    pub(super) fn filled(mut self, count: usize) -> Bytes {
        self.length = count.min(self.length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.space()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let pool = &self.home.0;
        if self.large {
            pool.large_taken.fetch_sub(1, Ordering::Relaxed);
        }
        pool.shelf(self.large)
            .put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_long_as_wanted_or_as_it_can_be() {
        let buffers = Buffers::default();
        let length = |wanted| buffers.take(wanted).space().len();
        assert_eq!((length(0), length(10)), (0, 10));
        assert_eq!(length(SMALL as u64), SMALL);
        assert_eq!(length(SMALL as u64 + 1), SMALL + 1);
        assert_eq!((length(1 << 40), length(u64::MAX)), (LARGE, LARGE));
        let mut buffer = buffers.take(10);
        buffer.space().copy_from_slice(b"0123456789");
        assert_eq!(buffer.filled(4), &b"0123"[..]);
    }

    #[test]
    fn large_ones_are_few_and_used_again() {
        let buffers = Buffers::default();
        let mut taken: Vec<_> = (0..MOST_LARGE).map(|_| buffers.take(u64::MAX)).collect();
        assert_eq!(buffers.take(u64::MAX).space().len(), SMALL);
        let sent = taken.pop().map(|buffer| buffer.filled(5));
        assert_eq!(
            buffers.take(u64::MAX).space().len(),
            SMALL,
            "it is still held"
        );
        drop(sent);
        let again = buffers.take(u64::MAX);
        assert_eq!(again.length, LARGE);
        drop((taken, again));
        assert_eq!(buffers.0.large_taken.load(Ordering::Relaxed), 0);
        assert_eq!(buffers.0.large.spare.lock().unwrap().len(), MOST_SPARE);
    }
}
