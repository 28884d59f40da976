//! How much there is, and what was used longest ago.
//!
//! An exact count in bytes under one short lock. Not moka: its weights are 32 bits wide (a blob can be
//! larger), it may refuse the newest, and it knows no reservations.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use crate::store::disk::layout::Key;
use crate::store::room::entries::Entries;

/// The unit in which file systems hand out space.
const BLOCK: u64 = 4096;

/// What one more name costs in its directory: the longest names of ours, with room to spare.
const NAME: u64 = 128;

/// A file's recency is written to disk at most this often (seconds).
const FRESHEN_EVERY: u32 = 3600;

/// There is no room, and none can be made: the blob is larger than the store, or everything else is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    /// Bytes that were asked for.
    pub wanted: u64,
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the store has no room for {} bytes and can make none",
            self.wanted
        )
    }
}

impl std::error::Error for NoRoom {}

/// What a store holds at one moment, in bytes of disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Committed blobs and records.
    pub stored: u64,
    /// Promised to ingests in progress.
    pub reserved: u64,
    /// How much of what is reserved is on disk by now.
    pub written: u64,
    /// Evicted, not yet unlinked.
    pub trash: u64,
    /// Directories and lists that are not evicted.
    pub overhead: u64,
    /// How much of what is stored is pinned.
    pub pinned: u64,
    /// How many blobs are committed.
    pub blobs: u64,
}

impl Usage {
    /// All of it: what the limit is held against.
    pub fn total(&self) -> u64 {
        self.lasting().saturating_add(self.trash)
    }

    /// What remains once the trash is unlinked.
    pub fn lasting(&self) -> u64 {
        self.stored
            .saturating_add(self.reserved)
            .saturating_add(self.overhead)
    }
}

/// What looking an entry up says about its file.
pub(in crate::store) enum Touched {
    /// As it should be, as far as memory knows. `freshen` asks the caller to write the time of this use to
    /// disk, `unproven` to look whether the file still has the length it was committed with.
    Known { freshen: bool, unproven: bool },
    /// The file is not as long as it was when it was committed.
    WrongLength { expected: u64 },
}

/// Entries by recency, and the sums over them.
pub(in crate::store) struct Index {
    /// Guards the map and the sums, which change together. Never held across a system call.
    inner: Mutex<Inner>,
    max_size: u64,
    /// What an empty store takes.
    base: u64,
    /// Rung when trash was unlinked or a reservation given back, and when the scan ends.
    freed: Notify,
}

struct Inner {
    entries: Entries,
    usage: Usage,
    scanned: bool,
}

/// 16 bytes, because there may be a million of them.
pub(in crate::store) struct Entry {
    /// Length of the file.
    pub(in crate::store) length: u64,
    /// When its recency was last written to disk, in seconds of the Unix epoch.
    freshened: u32,
    /// Whether `length` is what was committed, and not just what was found at the start.
    proven: bool,
}

/// An entry that was taken out, to be evicted.
pub(in crate::store) struct Victim {
    pub(in crate::store) key: Key,
    entry: Entry,
}

impl Victim {
    /// What it takes on disk.
    pub(in crate::store) fn cost(&self) -> u64 {
        cost(self.entry.length)
    }
}

impl Index {
    /// `directories` is how many directories exist already.
    pub(in crate::store) fn new(max_size: u64, directories: u64) -> Self {
        let base = directories * BLOCK + 2 * BLOCK;
        let usage = Usage {
            overhead: base,
            ..Usage::default()
        };
        let inner = Inner {
            entries: Entries::default(),
            usage,
            scanned: false,
        };
        Self {
            inner: Mutex::new(inner),
            max_size,
            base,
            freed: Notify::new(),
        }
    }

    pub(in crate::store) fn usage(&self) -> Usage {
        self.inner().usage
    }

    pub(in crate::store) fn is_scanned(&self) -> bool {
        self.inner().scanned
    }

    /// How long the file of an entry is.
    pub(in crate::store) fn length(&self, key: &Key) -> Option<u64> {
        self.inner().entries.peek(key).map(|entry| entry.length)
    }

    /// Forgets all entries, to be counted anew. Reservations and trash stay: those who hold them give them back.
    pub(in crate::store) fn clear(&self) {
        let mut inner = self.inner();
        inner.entries.clear();
        inner.scanned = false;
        inner.usage.stored = 0;
        inner.usage.blobs = 0;
        inner.usage.pinned = 0;
        inner.usage.overhead = self.base;
    }

    pub(in crate::store) fn contains(&self, key: &Key) -> bool {
        self.inner().entries.contains(key)
    }

    /// Marks an entry as used now. Its file was found `length` bytes long.
    pub(in crate::store) fn touch(&self, key: &Key, length: u64) -> Touched {
        let now = unix_seconds();
        let mut inner = self.inner();
        let Some(entry) = inner.entries.get_mut(key) else {
            // Before the scan came by: the disk is the truth, so it counts from now on.
            // After it: an eviction has it in hand, and the open file can still be read to its end.
            if !inner.scanned {
                inner.insert(key.clone(), length, now, false);
            }
            return Touched::Known {
                freshen: false,
                unproven: true,
            };
        };
        if entry.length != length {
            return Touched::WrongLength {
                expected: entry.length,
            };
        }
        // A clock that was ahead must not keep the recency of a file from ever being written again.
        let freshen = now.abs_diff(entry.freshened) >= FRESHEN_EVERY;
        if freshen {
            entry.freshened = now;
        }
        Touched::Known {
            freshen,
            unproven: !entry.proven,
        }
    }

    /// Notes that a file found at the start has the length it was committed with.
    pub(in crate::store) fn prove(&self, key: &Key) {
        if let Some(entry) = self.inner().entries.peek_mut(key) {
            entry.proven = true;
        }
    }

    /// Marks an entry as used now, if it is known, without a look at its file.
    pub(in crate::store) fn promote(&self, key: &Key) {
        self.inner().entries.promote(key);
    }

    /// Adds a file that was just given its final name, in exchange for what was reserved for it: in one
    /// step, or others would evict for room that is only counted twice.
    pub(in crate::store) fn commit(&self, key: Key, length: u64, reserved: u64, written: u64) {
        let mut inner = self.inner();
        inner.release(reserved, written);
        inner.insert(key, length, unix_seconds(), true);
        drop(inner);
        self.freed.notify_waiters();
    }

    /// Adds what a scan found, oldest last: entries already known are newer and stay as they are.
    pub(in crate::store) fn insert_scanned(
        &self,
        found: impl IntoIterator<Item = (Key, u64, u32)>,
    ) {
        let mut inner = self.inner();
        for (key, length, modified) in found {
            if !inner.entries.contains(&key) {
                inner.insert(key.clone(), length, modified, false);
                inner.entries.demote(&key);
            }
        }
    }

    pub(in crate::store) fn finish_scan(&self) {
        self.inner().scanned = true;
        self.freed.notify_waiters();
    }

    /// Forgets an entry whose file is gone.
    pub(in crate::store) fn remove(&self, key: &Key) {
        let removed = self.inner().remove(key).is_some();
        if removed {
            self.freed.notify_waiters();
        }
    }

    /// Counts bytes that are neither evictable nor reserved: a new directory, a list that grew.
    pub(in crate::store) fn add_overhead(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.usage.overhead = inner.usage.overhead.saturating_add(bytes);
    }

    /// Promises `bytes` if they fit, counting the trash as gone already; says how much is missing otherwise.
    pub(in crate::store) fn try_reserve(&self, bytes: u64) -> Result<(), u64> {
        let mut inner = self.inner();
        let after = inner.usage.lasting().saturating_add(bytes);
        if after > self.max_size {
            return Err(after - self.max_size);
        }
        inner.usage.reserved = inner.usage.reserved.saturating_add(bytes);
        Ok(())
    }

    /// Promises `bytes` that are on disk already, whether they fit or not.
    pub(in crate::store) fn reserve_anyway(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.usage.reserved = inner.usage.reserved.saturating_add(bytes);
    }

    /// Takes back a promise, of which `written` bytes were used.
    pub(in crate::store) fn release(&self, bytes: u64, written: u64) {
        self.inner().release(bytes, written);
        self.freed.notify_waiters();
    }

    /// Notes that `bytes` of what is reserved were written.
    pub(in crate::store) fn wrote(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.usage.written = inner.usage.written.saturating_add(bytes);
    }

    /// Whether everything on disk, trash included, is within the limit now.
    pub(in crate::store) fn is_within_limit(&self) -> bool {
        self.inner().usage.total() <= self.max_size
    }

    /// Completes when something was freed after this was called (and once enabled, see [`Notify::notified`]).
    pub(in crate::store) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Takes entries out, used longest ago first, until they cover `bytes`; what they cost counts as trash.
    ///
    /// Nothing is taken when there is not enough. What is pinned is never taken.
    pub(in crate::store) fn take_victims(&self, bytes: u64) -> Vec<Victim> {
        let mut inner = self.inner();
        if inner.usage.stored.saturating_sub(inner.usage.pinned) < bytes {
            return Vec::new();
        }
        let mut victims = Vec::new();
        let mut covered = 0;
        while covered < bytes {
            let Some((key, entry)) = inner.entries.pop_lru() else {
                break;
            };
            let cost = cost(entry.length);
            inner.forget(&key, cost);
            inner.usage.trash += cost;
            covered += cost;
            victims.push(Victim { key, entry });
        }
        victims
    }

    /// Takes back an entry that could not be evicted: it is still there, and not the next to be tried.
    pub(in crate::store) fn put_back(&self, victim: Victim) {
        let mut inner = self.inner();
        inner.usage.trash = inner.usage.trash.saturating_sub(victim.cost());
        let Entry {
            length,
            freshened,
            proven,
        } = victim.entry;
        inner.insert(victim.key, length, freshened, proven);
    }

    /// Keeps entries from being evicted, now or once they are stored, and lets go of others.
    pub(in crate::store) fn repin(&self, pinned: &[Key], unpinned: &[Key]) {
        let mut inner = self.inner();
        for key in pinned {
            let length = inner.entries.pin(key);
            inner.usage.pinned += length.map_or(0, cost);
        }
        for key in unpinned {
            let length = inner.entries.unpin(key);
            inner.usage.pinned -= length.map_or(0, cost).min(inner.usage.pinned);
        }
        drop(inner);
        // Who waits for room may find some now.
        self.freed.notify_waiters();
    }

    /// The trash shrank by `bytes`.
    pub(in crate::store) fn unlinked(&self, bytes: u64) {
        let mut inner = self.inner();
        inner.usage.trash = inner.usage.trash.saturating_sub(bytes);
        drop(inner);
        self.freed.notify_waiters();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, key: Key, length: u64, freshened: u32, proven: bool) {
        self.remove(&key);
        self.usage.stored = self.usage.stored.saturating_add(cost(length));
        self.usage.blobs += u64::from(matches!(key, Key::Blob(_)));
        if self.entries.is_pinned(&key) {
            self.usage.pinned = self.usage.pinned.saturating_add(cost(length));
        }
        let entry = Entry {
            length,
            freshened,
            proven,
        };
        self.entries.put(key, entry);
    }

    fn release(&mut self, bytes: u64, written: u64) {
        self.usage.reserved = self.usage.reserved.saturating_sub(bytes);
        self.usage.written = self.usage.written.saturating_sub(written);
    }

    fn remove(&mut self, key: &Key) -> Option<()> {
        let entry = self.entries.pop(key)?;
        self.forget(key, cost(entry.length));
        Some(())
    }

    fn forget(&mut self, key: &Key, cost: u64) {
        self.usage.stored = self.usage.stored.saturating_sub(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned = self.usage.pinned.saturating_sub(cost);
        }
        self.usage.blobs = self
            .usage
            .blobs
            .saturating_sub(u64::from(matches!(key, Key::Blob(_))));
    }
}

/// What a file of `length` bytes costs on disk, its name included, rounded up.
pub(in crate::store) fn cost(length: u64) -> u64 {
    length
        .checked_next_multiple_of(BLOCK)
        .unwrap_or(u64::MAX - NAME)
        .saturating_add(NAME)
}

/// What an empty directory costs.
pub(in crate::store) const DIRECTORY: u64 = BLOCK;

fn unix_seconds() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Digest;

    fn key(n: u32) -> Key {
        Key::Blob(Digest::of(&n.to_be_bytes()))
    }

    #[test]
    fn victims_are_those_used_longest_ago() {
        let index = Index::new(1 << 30, 0);
        (0..4).for_each(|n| index.commit(key(n), 1000, 0, 0));
        index.touch(&key(0), 1000);
        let victims: Vec<_> = index
            .take_victims(cost(1000) + 1)
            .into_iter()
            .map(|victim| victim.key)
            .collect();
        assert_eq!(victims, [key(1), key(2)]);
        assert_eq!(index.usage().blobs, 2);
        assert_eq!(index.usage().trash, 2 * cost(1000));
    }

    #[test]
    fn a_scan_puts_what_it_finds_behind_what_is_in_use() {
        let index = Index::new(1 << 30, 0);
        index.touch(&key(9), 1);
        index.insert_scanned([
            (key(1), 1, 30),
            (key(9), 1, 25),
            (key(2), 1, 20),
            (key(3), 1, 10),
        ]);
        let order: Vec<_> = index
            .take_victims(4 * cost(1))
            .into_iter()
            .map(|victim| victim.key)
            .collect();
        assert_eq!(order, [key(3), key(2), key(1), key(9)]);
    }

    #[test]
    fn a_reservation_that_does_not_fit_says_how_much_is_missing() {
        let index = Index::new(20 * BLOCK, 0);
        let free = 20 * BLOCK - index.usage().overhead;
        assert_eq!(index.try_reserve(free + 5), Err(5));
        assert_eq!(index.try_reserve(free), Ok(()));
        assert_eq!(index.try_reserve(1), Err(1));
        index.wrote(3);
        index.commit(key(1), 3, free, 3);
        assert_eq!(index.usage().reserved, 0);
        assert_eq!(index.usage().written, 0);
        assert_eq!(index.usage().stored, cost(3));
    }

    #[test]
    fn replacing_an_entry_counts_it_once() {
        let index = Index::new(1 << 30, 0);
        index.commit(key(1), 1000, 0, 0);
        index.commit(key(1), 9000, 0, 0);
        assert_eq!(index.usage().stored, cost(9000));
        index.remove(&key(1));
        assert_eq!(index.usage().stored, 0);
        assert_eq!(index.usage().blobs, 0);
    }

    #[test]
    fn a_file_that_changed_its_length_is_noticed() {
        let index = Index::new(1 << 30, 0);
        index.commit(key(1), 1000, 0, 0);
        assert!(matches!(
            index.touch(&key(1), 999),
            Touched::WrongLength { expected: 1000 }
        ));
    }

    #[test]
    fn what_is_pinned_is_no_victim_wherever_it_stands() {
        let index = Index::new(1 << 30, 0);
        index.repin(&[key(0), key(7)], &[]);
        (0..4).for_each(|n| index.commit(key(n), 1000, 0, 0));
        index.repin(&[key(2)], &[]);
        assert_eq!(index.usage().pinned, 2 * cost(1000));
        // There is as much in all, but half of it must stay.
        assert!(index.take_victims(2 * cost(1000) + 1).is_empty());
        let victims = index.take_victims(2 * cost(1000));
        let victims: Vec<_> = victims.into_iter().map(|victim| victim.key).collect();
        assert_eq!(
            victims,
            [key(1), key(3)],
            "pinned: 0 before it came, 2 after"
        );
        assert!(index.take_victims(1).is_empty());
        index.repin(&[], &[key(0)]);
        let victims = index.take_victims(1);
        assert!(victims.iter().map(|victim| &victim.key).eq([&key(0)]));
        index.remove(&key(2));
        assert_eq!(index.usage().pinned, 0);
        assert_eq!(index.usage().stored, 0);
    }

    #[test]
    fn what_is_pinned_is_used_as_everything_else_is() {
        let index = Index::new(1 << 30, 0);
        index.repin(&[key(1)], &[]);
        index.commit(key(1), 1000, 0, 0);
        index.commit(key(1), 5000, 0, 0);
        assert_eq!(index.usage().pinned, cost(5000));
        index.promote(&key(1));
        index.prove(&key(1));
        assert!(index.contains(&key(1)));
        assert!(matches!(
            index.touch(&key(1), 999),
            Touched::WrongLength { expected: 5000 }
        ));
    }

    #[test]
    fn nothing_is_evicted_for_what_can_never_fit() {
        let index = Index::new(1 << 30, 0);
        index.commit(key(1), 1000, 0, 0);
        assert!(index.take_victims(1 << 40).is_empty());
        assert!(index.contains(&key(1)));
    }
}
