//! How much there is, and what is to leave first.
//!
//! An exact count in bytes under one short lock. Not moka: its weights are 32 bits wide (a blob can be
//! larger), it may refuse the newest, and it knows no reservations.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use crate::oci::name::Namespace;
use crate::store::disk::xattrs::unix_seconds;
use crate::store::key::{StoreDirectory, StoreKey};

use super::directories::Directories;
use super::entries::{Entries, FoundFile, IndexEntry, Victim};
use super::owners::{Asker, Owned, Owner, Owners, UpstreamShare};
use super::usage::{Amount, BASE, DIRECTORY, Promise, Usage, cost, cost_with};

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

/// What is of no upstream of the configuration, in the metrics.
const OTHER: &str = "other";

/// Entries by recency, and the sums over them.
pub(crate) struct Index {
    /// Guards the map and the sums, which change together. Never held across a system call.
    accounts: Mutex<Accounts>,
    limit: Amount,
    owners: Arc<Owners>,
    /// Notified when trash was unlinked or a reservation given back, and when the scan ends.
    freed: Notify,
}

struct Accounts {
    entries: Entries,
    directories: Directories,
    usage: Usage,
    owned: Owned,
    /// What was removed since the scan began, which may have seen it; `None` once the scan is over.
    removed: Option<HashSet<StoreKey>>,
}

impl Index {
    /// For a store of so many bytes and files. `directories` is how many exist already and are never removed.
    pub(super) fn new(limit: Amount, directories: u64, shares: &[UpstreamShare]) -> Self {
        let (owners, owned) = Owned::new(shares);
        let usage = Usage::of_own(BASE + directories * DIRECTORY);
        let accounts = Accounts {
            entries: Entries::new(limit.bytes, owned.with_share()),
            directories: Directories::default(),
            usage,
            owned,
            removed: Some(HashSet::new()),
        };
        Self {
            accounts: Mutex::new(accounts),
            limit,
            owners: Arc::new(owners),
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

    pub(super) fn owners(&self) -> &Arc<Owners> {
        &self.owners
    }

    /// Whose it is what comes from there.
    pub(crate) fn owner(&self, namespace: Option<&Namespace>) -> Owner {
        self.owners.of(namespace)
    }

    /// Bytes of each upstream of the configuration, and of all others together.
    pub(crate) fn owned(&self) -> Vec<(&str, u64)> {
        let accounts = self.accounts();
        let named = self.owners.iter();
        let named = named.map(|(namespace, owner)| (namespace.as_str(), owner));
        let all = named.chain([(OTHER, Owner::NONE)]);
        all.map(|(name, owner)| (name, accounts.owned.bytes(owner)))
            .collect()
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
        accounts.owned.forget_stored();
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
                // Whose a blob is, the scan will know.
                let owner = self.owner(key.namespace());
                let entry = IndexEntry::found(length, now, None, owner);
                accounts.insert(key.clone(), entry);
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
        let entry = IndexEntry::committed(length, seconds_now(), promise.owner);
        accounts.insert(key, entry);
        drop(accounts);
        self.freed.notify_waiters();
    }

    /// Adds what a scan found, oldest last: entries already known are newer and stay as they are.
    pub(super) fn insert_scanned(&self, found: impl IntoIterator<Item = FoundFile>) {
        let mut accounts = self.accounts();
        for file in found {
            let removed = accounts.removed.as_ref();
            let gone = removed.is_some_and(|removed| removed.contains(&file.key));
            if gone || accounts.give(&file.key, file.owner) {
                continue;
            }
            let entry = IndexEntry::found(file.length, file.modified, file.created, file.owner);
            accounts.count(&file.key, &entry);
            accounts.entries.put_last(file.key, entry);
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

    /// Promises `wanted` to `owner` if it fits, counting the trash as gone already; says how much is missing otherwise.
    pub(super) fn try_reserve(&self, wanted: Amount, owner: Owner) -> Result<(), Amount> {
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
        accounts.reserve(wanted, owner);
        Ok(())
    }

    /// Whether `owner` could have `bytes` reserved if all were evicted that can be for it.
    pub(super) fn could_hold(&self, bytes: u64, owner: Owner) -> bool {
        let accounts = self.accounts();
        let usage = &accounts.usage;
        let fixed = usage.fixed().saturating_add(usage.pinned.bytes);
        let fits = |there: u64| there.saturating_add(bytes) <= self.limit.bytes;
        let share = accounts.owned.share(owner);
        let within_share = share.is_none_or(|share| bytes <= share);
        fits(fixed)
            && usage.pinned.files < self.limit.files
            && (within_share || fits(usage.lasting()))
    }

    /// Whether `owner` has more than its share.
    pub(super) fn is_above_share(&self, owner: Owner) -> bool {
        let asker = Asker { owner, bytes: 0 };
        self.accounts().owned.excess(owner, asker) > 0
    }

    /// Promises what is on disk already, whether it fits or not.
    pub(super) fn reserve_anyway(&self, amount: Amount, owner: Owner) {
        self.accounts().reserve(amount, owner);
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
    /// What is of an owner above its share is taken first, and as long as `asker` would be above its own, nothing else.
    /// Nothing is taken when there is not enough. What is pinned is never taken.
    pub(super) fn take_victims(
        &self,
        missing: &mut Amount,
        asker: Asker,
        at_most: usize,
    ) -> Vec<Victim> {
        let mut accounts = self.accounts();
        let mut victims = Vec::new();
        if !accounts.can_give(*missing, asker) {
            return victims;
        }
        while !missing.is_nothing() && victims.len() < at_most {
            let Some((key, entry)) = accounts.pop_victim(asker) else {
                break;
            };
            let emptied = accounts.discount(&key, &entry);
            let victim = Victim {
                key,
                entry,
                emptied,
            };
            accounts.usage.trash.add(victim.cost());
            missing.subtract(victim.cost());
            victims.push(victim);
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
        self.count(&key, &entry);
        self.entries.put(key, entry);
    }

    fn reserve(&mut self, amount: Amount, owner: Owner) {
        let reserved = &mut self.usage.reserved;
        reserved.bytes = reserved.bytes.saturating_add(amount.bytes);
        reserved.files += amount.files;
        self.owned.promise(owner, amount.bytes);
    }

    fn release(&mut self, promise: Promise) {
        let Promise {
            amount,
            written,
            owner,
        } = promise;
        self.owned.release(owner, amount.bytes);
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
        entry.map_or(0, |entry| self.discount(key, &entry))
    }

    fn count(&mut self, key: &StoreKey, entry: &IndexEntry) {
        let cost = cost(entry.length());
        self.owned.store(entry.owner(), cost);
        self.usage.share_mut(key.share()).add(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned.add(cost);
        }
        self.directories.enter(key.directory());
        self.usage.directories = self.directories.count();
    }

    /// How many directories are empty now.
    fn discount(&mut self, key: &StoreKey, entry: &IndexEntry) -> usize {
        let cost = cost(entry.length());
        self.owned.remove(entry.owner(), cost);
        self.usage.share_mut(key.share()).subtract(cost);
        if self.entries.is_pinned(key) {
            self.usage.pinned.subtract(cost);
        }
        let emptied = self.directories.leave(key.directory());
        self.usage.directories = self.directories.count();
        emptied
    }

    /// Notes whose an entry is that was found before the scan came to it; false when there is none.
    fn give(&mut self, key: &StoreKey, owner: Owner) -> bool {
        let Some(entry) = self.entries.peek(key) else {
            return false;
        };
        if entry.owner() == Owner::NONE && owner != Owner::NONE {
            let cost = cost(entry.length());
            self.owned.remove(Owner::NONE, cost);
            self.owned.store(owner, cost);
            self.entries.give(key, owner);
        }
        true
    }

    /// Whether so much can be evicted for `asker`: what it would have above its share, of what is above a share.
    fn can_give(&self, missing: Amount, asker: Asker) -> bool {
        let above = self.owned.with_share().map(|owner| {
            let excess = self.owned.excess(owner, asker);
            self.entries.evictable(owner).min(excess)
        });
        let needed = self.owned.excess(asker.owner, asker).min(missing.bytes);
        missing.fits_into(self.usage.evictable()) && needed <= above.sum()
    }

    fn pop_victim(&mut self, asker: Asker) -> Option<(StoreKey, IndexEntry)> {
        let is_above = |owner| self.owned.excess(owner, asker) > 0;
        let victim = self.entries.pop_victim(is_above);
        if victim.is_some() || is_above(asker.owner) {
            return victim;
        }
        self.entries.pop_victim(|_| true)
    }
}

/// Seconds of the Unix epoch, in as few bytes as a million entries should hold.
pub(in crate::store) fn seconds_now() -> u32 {
    u32::try_from(unix_seconds(SystemTime::now())).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
