//! How much there is, and what is to leave first.
//!
//! An exact count in bytes under one short lock. Not moka: its weights are 32 bits wide (a blob can be
//! larger), it may refuse the newest, and it knows no reservations.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::store::disk::xattrs::unix_seconds;
use crate::store::key::{StoreDirectory, StoreKey};

use super::directories::Directories;
use super::entries::{Entries, IndexEntry};
use super::usage::{Amount, BASE, DIRECTORY, Promise, Usage, cost};

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
    limit: Amount,
    /// Notified when trash was unlinked or a reservation given back, and when the scan ends.
    freed: Notify,
}

struct Accounts {
    entries: Entries,
    directories: Directories,
    usage: Usage,
    /// What was removed since the scan began, which may have seen it; `None` once the scan is over.
    removed: Option<HashSet<StoreKey>>,
}

/// A file that a scan found.
pub(super) struct FoundFile {
    pub(super) key: StoreKey,
    pub(super) length: u64,
    pub(super) modified: u32,
    /// Where the file system knows.
    pub(super) created: Option<u32>,
}

/// An entry that was taken out, to be evicted.
pub(super) struct Victim {
    pub(super) key: StoreKey,
    entry: IndexEntry,
    /// How many directories are empty without it, from its own upwards.
    pub(super) emptied: usize,
}

impl Victim {
    /// What it takes on disk, the directories included that are empty without it.
    pub(super) fn cost(&self) -> u64 {
        cost_with(self.entry.length(), self.emptied)
    }
}

impl Index {
    /// For a store of so many bytes and files. `directories` is how many exist already and are never removed.
    pub(super) fn new(limit: Amount, directories: u64) -> Self {
        let usage = Usage::of_own(BASE + directories * DIRECTORY);
        let accounts = Accounts {
            entries: Entries::new(limit.bytes),
            directories: Directories::default(),
            usage,
            removed: Some(HashSet::new()),
        };
        Self {
            accounts: Mutex::new(accounts),
            limit,
            freed: Notify::new(),
        }
    }

    /// Bytes on disk that are never exceeded.
    pub(crate) fn max_size(&self) -> u64 {
        self.limit.bytes
    }

    pub(crate) fn usage(&self) -> Usage {
        self.accounts().usage
    }

    pub(crate) fn is_scanned(&self) -> bool {
        self.accounts().removed.is_none()
    }

    /// How long the file of an entry is.
    pub(crate) fn length(&self, key: &StoreKey) -> Option<u64> {
        self.accounts().entries.peek(key).map(IndexEntry::length)
    }

    /// Forgets all entries, to be counted again. Reservations and trash stay: their holders give them back.
    pub(super) fn clear(&self) {
        let mut accounts = self.accounts();
        accounts.entries.clear();
        accounts.directories.clear();
        accounts.usage.forget_stored();
        accounts.removed = Some(HashSet::new());
    }

    pub(crate) fn contains(&self, key: &StoreKey) -> bool {
        self.accounts().entries.contains(key)
    }

    pub(super) fn has_directory(&self, directory: &StoreDirectory) -> bool {
        self.accounts().directories.contains(directory)
    }

    /// Marks an entry as used now. Its file was found `length` bytes long.
    pub(crate) fn touch(&self, key: &StoreKey, length: u64) -> Touched {
        let now = seconds_now();
        let mut accounts = self.accounts();
        let Some(used) = accounts.entries.use_now(key, Some(length), now) else {
            // Before the scan has found it: the disk is the truth, so it counts from now on.
            // After it: the file is being evicted, and the open file can still be read to its end.
            if accounts
                .removed
                .as_ref()
                .is_some_and(|removed| !removed.contains(key))
            {
                accounts.insert(key.clone(), IndexEntry::found(length, now, None));
            }
            return Touched::Known {
                freshen: false,
                unproven: true,
                at: now,
            };
        };
        if used.length != length {
            return Touched::WrongLength {
                expected: used.length,
            };
        }
        Touched::Known {
            freshen: used.freshen,
            unproven: used.unproven,
            at: now,
        }
    }

    /// Notes that a file found at the start has the length it was committed with.
    pub(crate) fn prove(&self, key: &StoreKey) {
        if let Some(entry) = self.accounts().entries.peek_mut(key) {
            entry.prove();
        }
    }

    /// Marks an entry as used now, if it is known, without a look at its file. True when the time of this use is to be
    /// written to disk.
    pub(super) fn promote(&self, key: &StoreKey, now: u32) -> bool {
        let used = self.accounts().entries.use_now(key, None, now);
        used.is_some_and(|used| used.freshen)
    }

    /// Adds a file that was just given its final name, in exchange for what was reserved for it: in one
    /// step, or others would evict for room that is only counted twice.
    pub(super) fn commit(&self, key: StoreKey, length: u64, promise: Promise) {
        let mut accounts = self.accounts();
        accounts.release(promise);
        accounts.insert(key, IndexEntry::committed(length, seconds_now()));
        drop(accounts);
        self.freed.notify_waiters();
    }

    /// Adds what a scan found, oldest last: entries already known are newer and stay as they are.
    pub(super) fn insert_scanned(&self, found: impl IntoIterator<Item = FoundFile>) {
        let mut accounts = self.accounts();
        for file in found {
            let removed = accounts.removed.as_ref();
            let gone = removed.is_some_and(|removed| removed.contains(&file.key));
            if !gone && !accounts.entries.contains(&file.key) {
                let entry = IndexEntry::found(file.length, file.modified, file.created);
                accounts.count(&file.key, entry.length());
                accounts.entries.put_last(file.key, entry);
            }
        }
    }

    pub(super) fn finish_scan(&self) {
        self.accounts().removed = None;
        self.freed.notify_waiters();
    }

    /// Forgets an entry whose file is gone; how many directories are empty now, from its own upwards.
    pub(super) fn remove(&self, key: &StoreKey) -> usize {
        let emptied = self.accounts().remove(key);
        self.freed.notify_waiters();
        emptied
    }

    /// Forgets an entry whose file goes into the trash; what it takes there, and how many directories are empty now.
    pub(super) fn throw_away(&self, key: &StoreKey) -> (u64, usize) {
        let mut accounts = self.accounts();
        let length = accounts.entries.peek(key).map(IndexEntry::length);
        let emptied = accounts.remove(key);
        let cost = length.map_or(0, |length| cost_with(length, emptied));
        accounts.usage.trash.add(cost);
        (cost, emptied)
    }

    /// Counts a file of the store that is not evicted, and is `after` bytes long where it was `before`.
    pub(crate) fn count_own(&self, before: Option<u64>, after: u64) {
        let mut accounts = self.accounts();
        let without = accounts.usage.own.saturating_sub(before.map_or(0, cost));
        accounts.usage.own = without.saturating_add(cost(after));
    }

    /// Counts what a scan found that is not of the store.
    pub(super) fn count_foreign(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.foreign = accounts.usage.foreign.saturating_add(bytes);
    }

    /// Promises `wanted` if it fits, counting the trash as gone already; says how much is missing otherwise.
    pub(super) fn try_reserve(&self, wanted: Amount) -> Result<(), Amount> {
        let mut accounts = self.accounts();
        let (usage, bytes) = (&accounts.usage, wanted.bytes);
        let after = usage.lasting().saturating_add(bytes);
        let files = usage.stored().files + usage.reserved.files + wanted.files;
        let missing = Amount {
            bytes: after.saturating_sub(self.limit.bytes),
            files: files.saturating_sub(self.limit.files),
        };
        if !missing.is_nothing() {
            return Err(missing);
        }
        accounts.reserve(wanted);
        Ok(())
    }

    /// Whether `bytes` could be reserved if all that can be evicted were.
    pub(super) fn could_hold(&self, bytes: u64) -> bool {
        let usage = self.usage();
        let fixed = usage.fixed().saturating_add(usage.pinned.bytes);
        fixed.saturating_add(bytes) <= self.limit.bytes && usage.pinned.files < self.limit.files
    }

    /// Promises what is on disk already, whether it fits or not.
    pub(super) fn reserve_anyway(&self, amount: Amount) {
        self.accounts().reserve(amount);
    }

    pub(super) fn release(&self, promise: Promise) {
        self.accounts().release(promise);
        self.freed.notify_waiters();
    }

    /// Notes that `bytes` of what is reserved were written.
    pub(super) fn wrote(&self, bytes: u64) {
        let mut accounts = self.accounts();
        accounts.usage.written = accounts.usage.written.saturating_add(bytes);
    }

    /// Whether everything on disk, trash included, is within the limit now.
    pub(super) fn is_within_limit(&self) -> bool {
        self.accounts().usage.total() <= self.limit.bytes
    }

    /// How much is beyond the limit, the trash left out.
    pub(super) fn excess(&self) -> Amount {
        let usage = self.usage();
        Amount {
            bytes: usage.lasting().saturating_sub(self.limit.bytes),
            files: usage.stored().files.saturating_sub(self.limit.files),
        }
    }

    /// Completes when something was freed after this was called (and once enabled, see [`Notify::notified`]).
    pub(super) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }

    /// Takes entries out, those first that are to leave first, until they cover `missing` or are `at_most` so many;
    /// what they cost counts as trash, and as missing no more.
    ///
    /// Nothing is taken when there is not enough. What is pinned is never taken.
    pub(super) fn take_victims(&self, missing: &mut Amount, at_most: usize) -> Vec<Victim> {
        let mut accounts = self.accounts();
        let mut victims = Vec::new();
        if !missing.fits_into(accounts.usage.evictable()) {
            return victims;
        }
        while !missing.is_nothing() && victims.len() < at_most {
            let Some((key, entry)) = accounts.entries.pop_victim() else {
                break;
            };
            let emptied = accounts.discount(&key, entry.length());
            let cost = cost_with(entry.length(), emptied);
            accounts.usage.trash.add(cost);
            missing.subtract(cost);
            victims.push(Victim {
                key,
                entry,
                emptied,
            });
        }
        victims
    }

    /// Takes back an entry that could not be evicted: it is still there, and not the next to be tried.
    pub(super) fn put_back(&self, victim: Victim) {
        let mut accounts = self.accounts();
        accounts.usage.trash.subtract(victim.cost());
        accounts.insert(victim.key, victim.entry);
    }

    /// Keeps entries from being evicted, now or once they are stored, and lets go of others.
    pub(crate) fn repin(&self, pinned: &[StoreKey], unpinned: &[StoreKey]) {
        let mut accounts = self.accounts();
        for key in pinned {
            if let Some(length) = accounts.entries.pin(key) {
                accounts.usage.pinned.add(cost(length));
            }
        }
        for key in unpinned {
            if let Some(length) = accounts.entries.unpin(key) {
                accounts.usage.pinned.subtract(cost(length));
            }
        }
        drop(accounts);
        // Who waits for room may find some now.
        self.freed.notify_waiters();
    }

    /// A file of the trash, of `bytes`, was unlinked.
    pub(super) fn unlinked(&self, bytes: u64) {
        self.accounts().usage.trash.subtract(bytes);
        self.freed.notify_waiters();
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Accounts {
    fn insert(&mut self, key: StoreKey, entry: IndexEntry) {
        let entry = self.entries.replacing(&key, entry);
        self.remove(&key);
        if let Some(removed) = &mut self.removed {
            removed.remove(&key);
        }
        self.count(&key, entry.length());
        self.entries.put(key, entry);
    }

    fn reserve(&mut self, amount: Amount) {
        let reserved = &mut self.usage.reserved;
        reserved.bytes = reserved.bytes.saturating_add(amount.bytes);
        reserved.files += amount.files;
    }

    fn release(&mut self, promise: Promise) {
        let Promise { amount, written } = promise;
        let reserved = &mut self.usage.reserved;
        reserved.bytes = reserved.bytes.saturating_sub(amount.bytes);
        reserved.files = reserved.files.saturating_sub(amount.files);
        self.usage.written = self.usage.written.saturating_sub(written);
    }

    fn remove(&mut self, key: &StoreKey) -> usize {
        if let Some(removed) = &mut self.removed {
            removed.insert(key.clone());
        }
        let entry = self.entries.pop(key);
        entry.map_or(0, |entry| self.discount(key, entry.length()))
    }

    fn count(&mut self, key: &StoreKey, length: u64) {
        let cost = cost(length);
        self.usage.share_mut(key.share()).add(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned.add(cost);
        }
        self.directories.enter(key.directory());
        self.usage.directories = self.directories.count();
    }

    /// How many directories are empty now.
    fn discount(&mut self, key: &StoreKey, length: u64) -> usize {
        let cost = cost(length);
        self.usage.share_mut(key.share()).subtract(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned.subtract(cost);
        }
        let emptied = self.directories.leave(key.directory());
        self.usage.directories = self.directories.count();
        emptied
    }
}

/// What a file costs with the directories that are empty without it.
fn cost_with(length: u64, emptied: usize) -> u64 {
    cost(length).saturating_add(emptied as u64 * DIRECTORY)
}

/// Seconds of the Unix epoch, in as few bytes as a million entries should hold.
pub(in crate::store) fn seconds_now() -> u32 {
    u32::try_from(unix_seconds(SystemTime::now())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
