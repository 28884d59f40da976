//! The entries of the index: most in the order of their last use, the pinned ones in no order.
//!
//! Pinned entries are never evicted. Kept apart, they cost nothing when entries to evict are looked for, even if there
//! are many.

use std::collections::{HashMap, HashSet};

use lru::LruCache;

use crate::store::key::StoreKey;

/// A file's recency is written to disk at most this often (seconds).
const FRESHEN_EVERY: u32 = 3600;

/// What memory knows of a stored file. 16 bytes, because there may be a million of them.
pub(super) struct IndexEntry {
    length: u64,
    /// When its recency was last written to disk, in seconds of the Unix epoch.
    freshened: u32,
    /// Whether `length` is what was committed, and not just what was found at the start.
    proven: bool,
}

impl IndexEntry {
    pub(super) fn committed(length: u64, now: u32) -> Self {
        Self {
            length,
            freshened: now,
            proven: true,
        }
    }

    pub(super) fn found(length: u64, modified: u32) -> Self {
        Self {
            length,
            freshened: modified,
            proven: false,
        }
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn is_proven(&self) -> bool {
        self.proven
    }

    pub(super) fn prove(&mut self) {
        self.proven = true;
    }

    /// Whether its recency is to be written to disk now; then it counts as written.
    pub(super) fn freshen(&mut self, now: u32) -> bool {
        // A clock that was ahead must not keep the recency of a file from ever being written again.
        let due = now.abs_diff(self.freshened) >= FRESHEN_EVERY;
        if due {
            self.freshened = now;
        }
        due
    }
}

/// Entries, each in one of two places.
pub(super) struct Entries {
    recent: LruCache<StoreKey, IndexEntry>,
    kept: HashMap<StoreKey, IndexEntry>,
    /// What is pinned, whether it is stored or not.
    pinned: HashSet<StoreKey>,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            recent: LruCache::unbounded(),
            kept: HashMap::new(),
            pinned: HashSet::new(),
        }
    }
}

impl Entries {
    pub(super) fn is_pinned(&self, key: &StoreKey) -> bool {
        self.pinned.contains(key)
    }

    pub(super) fn contains(&self, key: &StoreKey) -> bool {
        self.recent.contains(key) || self.kept.contains_key(key)
    }

    /// An entry that is used now.
    pub(super) fn get_mut(&mut self, key: &StoreKey) -> Option<&mut IndexEntry> {
        match self.recent.get_mut(key) {
            Some(entry) => Some(entry),
            None => self.kept.get_mut(key),
        }
    }

    /// An entry that is only looked at.
    pub(super) fn peek_mut(&mut self, key: &StoreKey) -> Option<&mut IndexEntry> {
        match self.recent.peek_mut(key) {
            Some(entry) => Some(entry),
            None => self.kept.get_mut(key),
        }
    }

    /// An entry that is not used.
    pub(super) fn peek(&self, key: &StoreKey) -> Option<&IndexEntry> {
        self.recent.peek(key).or_else(|| self.kept.get(key))
    }

    /// Forgets all entries, but not what is pinned.
    pub(super) fn clear(&mut self) {
        self.recent.clear();
        self.kept.clear();
    }

    pub(super) fn promote(&mut self, key: &StoreKey) {
        self.recent.promote(key);
    }

    pub(super) fn demote(&mut self, key: &StoreKey) {
        self.recent.demote(key);
    }

    pub(super) fn put(&mut self, key: StoreKey, entry: IndexEntry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
        } else {
            self.recent.put(key, entry);
        }
    }

    pub(super) fn pop(&mut self, key: &StoreKey) -> Option<IndexEntry> {
        self.recent.pop(key).or_else(|| self.kept.remove(key))
    }

    /// Takes out what was used longest ago and is not pinned.
    pub(super) fn pop_lru(&mut self) -> Option<(StoreKey, IndexEntry)> {
        self.recent.pop_lru()
    }

    /// Pins `key`, stored or not; the length of its file if it is stored and was not pinned before.
    pub(super) fn pin(&mut self, key: &StoreKey) -> Option<u64> {
        self.pinned.insert(key.clone());
        let entry = self.recent.pop(key)?;
        let length = entry.length;
        self.kept.insert(key.clone(), entry);
        Some(length)
    }

    /// Lets go of `key`, which counts as used now; the length of its file if it was pinned and is stored.
    pub(super) fn unpin(&mut self, key: &StoreKey) -> Option<u64> {
        self.pinned.remove(key);
        let entry = self.kept.remove(key)?;
        let length = entry.length;
        self.recent.put(key.clone(), entry);
        Some(length)
    }
}
