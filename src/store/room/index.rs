//! How much there is, and what was used longest ago.
//!
//! An exact count in bytes under one short lock. Not moka: its weights are 32 bits wide (a blob can be
//! larger), it may refuse the newest, and it knows no reservations.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::store::disk::xattrs::unix_seconds;
use crate::store::key::StoreKey;

use super::entries::{Entries, IndexEntry};

/// The unit in which file systems hand out space.
const BLOCK: u64 = 4096;

/// What one more name costs in its directory: the longest names that the store uses, with room to spare.
const NAME: u64 = 128;

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
pub(crate) struct Usage {
    /// Committed blobs and records.
    pub(crate) stored: u64,
    /// Promised to ingests in progress.
    pub(crate) reserved: u64,
    /// How much of what is reserved is on disk by now.
    pub(crate) written: u64,
    /// Evicted, not yet unlinked.
    pub(crate) trash: u64,
    /// Directories and lists that are not evicted.
    pub(crate) overhead: u64,
    /// How much of what is stored is pinned.
    pub(crate) pinned: u64,
    /// How many blobs are committed.
    pub(crate) blobs: u64,
}

impl Usage {
    /// All of it: what the limit is held against.
    pub(crate) fn total(&self) -> u64 {
        self.lasting().saturating_add(self.trash)
    }

    /// What remains once the trash is unlinked.
    pub(crate) fn lasting(&self) -> u64 {
        self.stored
            .saturating_add(self.reserved)
            .saturating_add(self.overhead)
    }
}

/// What looking an entry up says about its file.
pub(crate) enum Touched {
    /// As it should be, as far as memory knows. `freshen` asks the caller to write the time of this use to
    /// disk, `unproven` to look whether the file still has the length it was committed with. `at` is that time, in
    /// seconds of the Unix epoch.
    Known {
        freshen: bool,
        unproven: bool,
        at: u32,
    },
    /// The file is not as long as it was when it was committed.
    WrongLength { expected: u64 },
}

/// Entries by recency, and the sums over them.
pub(crate) struct Index {
    /// Guards the map and the sums, which change together. Never held across a system call.
    accounts: Mutex<Accounts>,
    max_size: u64,
    /// What an empty store takes.
    base: u64,
    /// Notified when trash was unlinked or a reservation given back, and when the scan ends.
    freed: Notify,
}

struct Accounts {
    entries: Entries,
    usage: Usage,
    scanned: bool,
}

/// An entry that was taken out, to be evicted.
pub(super) struct Victim {
    pub(super) key: StoreKey,
    entry: IndexEntry,
}

impl Victim {
    /// What it takes on disk.
    pub(super) fn cost(&self) -> u64 {
        cost(self.entry.length())
    }
}

impl Index {
    /// `directories` is how many directories exist already.
    pub(super) fn new(max_size: u64, directories: u64) -> Self {
        let base = directories * BLOCK + 2 * BLOCK;
        let usage = Usage {
            overhead: base,
            ..Usage::default()
        };
        let accounts = Accounts {
            entries: Entries::default(),
            usage,
            scanned: false,
        };
        Self {
            accounts: Mutex::new(accounts),
            max_size,
            base,
            freed: Notify::new(),
        }
    }

    /// Bytes on disk that are never exceeded.
    pub(crate) fn max_size(&self) -> u64 {
        self.max_size
    }

    pub(crate) fn usage(&self) -> Usage {
        self.accounts().usage
    }

    pub(crate) fn is_scanned(&self) -> bool {
        self.accounts().scanned
    }

    /// How long the file of an entry is.
    pub(crate) fn length(&self, key: &StoreKey) -> Option<u64> {
        self.accounts().entries.peek(key).map(IndexEntry::length)
    }

    /// Forgets all entries, to be counted again. Reservations and trash stay: their holders give them back.
    pub(super) fn clear(&self) {
        let mut accounts = self.accounts();
        accounts.entries.clear();
        accounts.scanned = false;
        accounts.usage.stored = 0;
        accounts.usage.blobs = 0;
        accounts.usage.pinned = 0;
        accounts.usage.overhead = self.base;
    }

    pub(crate) fn contains(&self, key: &StoreKey) -> bool {
        self.accounts().entries.contains(key)
    }

    /// Marks an entry as used now. Its file was found `length` bytes long.
    pub(crate) fn touch(&self, key: &StoreKey, length: u64) -> Touched {
        let now = seconds_now();
        let mut accounts = self.accounts();
        let Some(entry) = accounts.entries.get_mut(key) else {
            // Before the scan has found it: the disk is the truth, so it counts from now on.
            // After it: the file is being evicted, and the open file can still be read to its end.
            if !accounts.scanned {
                accounts.insert(key.clone(), IndexEntry::found(length, now));
            }
            return Touched::Known {
                freshen: false,
                unproven: true,
                at: now,
            };
        };
        if entry.length() != length {
            return Touched::WrongLength {
                expected: entry.length(),
            };
        }
        Touched::Known {
            freshen: entry.freshen(now),
            unproven: !entry.is_proven(),
            at: now,
        }
    }

    /// Notes that a file found at the start has the length it was committed with.
    pub(crate) fn prove(&self, key: &StoreKey) {
        if let Some(entry) = self.accounts().entries.peek_mut(key) {
            entry.prove();
        }
    }

    /// Marks an entry as used now, if it is known, without a look at its file.
    pub(crate) fn promote(&self, key: &StoreKey) {
        self.accounts().entries.promote(key);
    }

    /// Adds a file that was just given its final name, in exchange for what was reserved for it: in one
    /// step, or others would evict for room that is only counted twice.
    pub(super) fn commit(&self, key: StoreKey, length: u64, reserved: u64, written: u64) {
        let mut accounts = self.accounts();
        accounts.release(reserved, written);
        accounts.insert(key, IndexEntry::committed(length, seconds_now()));
        drop(accounts);
        self.freed.notify_waiters();
    }

    /// Adds what a scan found, oldest last: entries already known are newer and stay as they are.
    pub(super) fn insert_scanned(&self, found: impl IntoIterator<Item = (StoreKey, u64, u32)>) {
        let mut accounts = self.accounts();
        for (key, length, modified) in found {
            if !accounts.entries.contains(&key) {
                accounts.insert(key.clone(), IndexEntry::found(length, modified));
                accounts.entries.demote(&key);
            }
        }
    }

    pub(super) fn finish_scan(&self) {
        self.accounts().scanned = true;
        self.freed.notify_waiters();
    }

    /// Forgets an entry whose file is gone.
    pub(super) fn remove(&self, key: &StoreKey) {
        let removed = self.accounts().remove(key).is_some();
        if removed {
            self.freed.notify_waiters();
        }
    }

    /// Counts bytes that are neither evictable nor reserved: a new directory, a list that grew.
    pub(crate) fn add_overhead(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.overhead = accounts.usage.overhead.saturating_add(bytes);
    }

    /// Counts such bytes no more.
    pub(crate) fn take_overhead(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.overhead = accounts.usage.overhead.saturating_sub(bytes);
    }

    /// Promises `bytes` if they fit, counting the trash as gone already; says how much is missing otherwise.
    pub(super) fn try_reserve(&self, bytes: u64) -> Result<(), u64> {
        let mut accounts = self.accounts();
        let after = accounts.usage.lasting().saturating_add(bytes);
        if after > self.max_size {
            return Err(after - self.max_size);
        }
        accounts.usage.reserved = accounts.usage.reserved.saturating_add(bytes);
        Ok(())
    }

    /// Promises `bytes` that are on disk already, whether they fit or not.
    pub(super) fn reserve_anyway(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.reserved = accounts.usage.reserved.saturating_add(bytes);
    }

    /// Takes back a promise, of which `written` bytes were used.
    pub(super) fn release(&self, bytes: u64, written: u64) {
        self.accounts().release(bytes, written);
        self.freed.notify_waiters();
    }

    /// Notes that `bytes` of what is reserved were written.
    pub(super) fn wrote(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.written = accounts.usage.written.saturating_add(bytes);
    }

    /// Whether everything on disk, trash included, is within the limit now.
    pub(super) fn is_within_limit(&self) -> bool {
        self.accounts().usage.total() <= self.max_size
    }

    /// Completes when something was freed after this was called (and once enabled, see [`Notify::notified`]).
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Takes entries out, used longest ago first, until they cover `bytes`; what they cost counts as trash.
    ///
    /// Nothing is taken when there is not enough. What is pinned is never taken.
    pub(super) fn take_victims(&self, bytes: u64) -> Vec<Victim> {
        let mut accounts = self.accounts();
        if accounts.usage.stored.saturating_sub(accounts.usage.pinned) < bytes {
            return Vec::new();
        }
        let mut victims = Vec::new();
        let mut covered = 0;
        while covered < bytes {
            let Some((key, entry)) = accounts.entries.pop_lru() else {
                break;
            };
            let cost = cost(entry.length());
            accounts.forget(&key, cost);
            accounts.usage.trash += cost;
            covered += cost;
            victims.push(Victim { key, entry });
        }
        victims
    }

    /// Takes back an entry that could not be evicted: it is still there, and not the next to be tried.
    pub(super) fn put_back(&self, victim: Victim) {
        let mut accounts = self.accounts();
        accounts.usage.trash = accounts.usage.trash.saturating_sub(victim.cost());
        accounts.insert(victim.key, victim.entry);
    }

    /// Keeps entries from being evicted, now or once they are stored, and lets go of others.
    pub(crate) fn repin(&self, pinned: &[StoreKey], unpinned: &[StoreKey]) {
        let mut accounts = self.accounts();
        for key in pinned {
            let length = accounts.entries.pin(key);
            accounts.usage.pinned += length.map_or(0, cost);
        }
        for key in unpinned {
            let length = accounts.entries.unpin(key);
            accounts.usage.pinned -= length.map_or(0, cost).min(accounts.usage.pinned);
        }
        drop(accounts);
        // Who waits for room may find some now.
        self.freed.notify_waiters();
    }

    /// The trash shrank by `bytes`.
    pub(super) fn unlinked(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.trash = accounts.usage.trash.saturating_sub(bytes);
        drop(accounts);
        self.freed.notify_waiters();
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn insert(&mut self, key: StoreKey, entry: IndexEntry) {
        self.remove(&key);
        let cost = cost(entry.length());
        self.usage.stored = self.usage.stored.saturating_add(cost);
        self.usage.blobs += u64::from(matches!(key, StoreKey::Blob(_)));
        if self.entries.is_pinned(&key) {
            self.usage.pinned = self.usage.pinned.saturating_add(cost);
        }
        self.entries.put(key, entry);
    }

    fn release(&mut self, bytes: u64, written: u64) {
        self.usage.reserved = self.usage.reserved.saturating_sub(bytes);
        self.usage.written = self.usage.written.saturating_sub(written);
    }

    fn remove(&mut self, key: &StoreKey) -> Option<()> {
        let entry = self.entries.pop(key)?;
        self.forget(key, cost(entry.length()));
        Some(())
    }

    fn forget(&mut self, key: &StoreKey, cost: u64) {
        self.usage.stored = self.usage.stored.saturating_sub(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned = self.usage.pinned.saturating_sub(cost);
        }
        self.usage.blobs = self
            .usage
            .blobs
            .saturating_sub(u64::from(matches!(key, StoreKey::Blob(_))));
    }
}

/// What a file of `length` bytes costs on disk, its name included, rounded up.
pub(crate) fn cost(length: u64) -> u64 {
    length
        .checked_next_multiple_of(BLOCK)
        .unwrap_or(u64::MAX - NAME)
        .saturating_add(NAME)
}

/// What an empty directory costs.
pub(crate) const DIRECTORY: u64 = BLOCK;

/// Seconds of the Unix epoch, in as few bytes as a million entries should hold.
pub(in crate::store) fn seconds_now() -> u32 {
    u32::try_from(unix_seconds(SystemTime::now())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
