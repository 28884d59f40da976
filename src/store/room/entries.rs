//! The entries of the index, in the order in which they are evicted.
//!
//! What was used once leaves before what was used again: one pull of many new layers must not take away those that are
//! pulled every day. Used again means an hour or more after it came or was last noted as used, because a hundred nodes
//! that pull a new image within a minute are one use. Within each of the two queues what was used longest ago leaves
//! first. This is the segmented LRU of Karedla et al. (1994), whose probation and protection are `once` and `again`.
//!
//! Pinned entries are never evicted. Kept apart, they cost nothing when entries to evict are looked for, even if there
//! are many.

use std::collections::{HashMap, HashSet};

use lru::LruCache;

use crate::store::key::StoreKey;

use super::usage::cost;

/// A file's recency is written to disk at most this often, and a use after this time is another one (seconds).
const ANOTHER_USE: u32 = 3600;

/// What memory knows of a stored file. 16 bytes, because there may be a million of them.
pub(super) struct IndexEntry {
    length: u64,
    /// When its recency was last written to disk, in seconds of the Unix epoch.
    freshened: u32,
    /// Whether `length` is what was committed, and not just what was found at the start.
    proven: bool,
    /// Whether it was used again.
    again: bool,
}

impl IndexEntry {
    pub(super) fn committed(length: u64, now: u32) -> Self {
        Self {
            length,
            freshened: now,
            proven: true,
            again: false,
        }
    }

    /// `created` is when the file was made, where the file system knows: it was used again if it is older than its use.
    pub(super) fn found(length: u64, modified: u32, created: Option<u32>) -> Self {
        let again = |created: u32| modified.saturating_sub(created) >= ANOTHER_USE;
        Self {
            length,
            freshened: modified,
            proven: false,
            again: created.is_some_and(again),
        }
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn prove(&mut self) {
        self.proven = true;
    }
}

/// What the index is told of a use.
pub(super) struct Use {
    pub(super) length: u64,
    pub(super) unproven: bool,
    /// Whether its recency is to be written to disk now.
    pub(super) freshen: bool,
}

/// Entries, each in one of three places.
pub(super) struct Entries {
    once: Queue,
    again: Queue,
    /// What `again` may hold, in bytes. What it has no place for is new once more.
    most_again: u64,
    kept: HashMap<StoreKey, IndexEntry>,
    /// What is pinned, whether it is stored or not.
    pinned: HashSet<StoreKey>,
}

/// What was used longest ago is at the end.
struct Queue {
    entries: LruCache<StoreKey, IndexEntry>,
    bytes: u64,
}

impl Queue {
    fn new() -> Self {
        Self {
            entries: LruCache::unbounded(),
            bytes: 0,
        }
    }

    fn put(&mut self, key: StoreKey, entry: IndexEntry) {
        self.bytes = self.bytes.saturating_add(cost(entry.length));
        self.entries.put(key, entry);
    }

    fn pop(&mut self, key: &StoreKey) -> Option<IndexEntry> {
        let entry = self.entries.pop(key)?;
        self.bytes = self.bytes.saturating_sub(cost(entry.length));
        Some(entry)
    }

    fn pop_last(&mut self) -> Option<(StoreKey, IndexEntry)> {
        let (key, entry) = self.entries.pop_lru()?;
        self.bytes = self.bytes.saturating_sub(cost(entry.length));
        Some((key, entry))
    }
}

impl Entries {
    /// For a store of `max_size` bytes, of which a fifth stays for what is new.
    pub(super) fn new(max_size: u64) -> Self {
        Self {
            once: Queue::new(),
            again: Queue::new(),
            most_again: max_size / 5 * 4,
            kept: HashMap::new(),
            pinned: HashSet::new(),
        }
    }

    pub(super) fn is_pinned(&self, key: &StoreKey) -> bool {
        self.pinned.contains(key)
    }

    pub(super) fn contains(&self, key: &StoreKey) -> bool {
        self.peek(key).is_some()
    }

    /// Uses an entry that has `length`, or any; `None` when there is none.
    pub(super) fn use_now(&mut self, key: &StoreKey, length: Option<u64>, now: u32) -> Option<Use> {
        let entry = match self.again.entries.get_mut(key) {
            Some(entry) => entry,
            None => match self.once.entries.get_mut(key) {
                Some(entry) => entry,
                None => self.kept.get_mut(key)?,
            },
        };
        // A clock that was ahead must not keep the recency of a file from ever being written again.
        let another = now.abs_diff(entry.freshened) >= ANOTHER_USE
            && length.is_none_or(|length| length == entry.length);
        let promoted = another && !entry.again;
        if another {
            entry.freshened = now;
            entry.again = true;
        }
        let used = Use {
            length: entry.length,
            unproven: !entry.proven,
            freshen: another,
        };
        if promoted && let Some(entry) = self.once.pop(key) {
            self.put(key.clone(), entry);
        }
        Some(used)
    }

    /// An entry that is not used.
    pub(super) fn peek(&self, key: &StoreKey) -> Option<&IndexEntry> {
        let queued = self.again.entries.peek(key);
        let queued = queued.or_else(|| self.once.entries.peek(key));
        queued.or_else(|| self.kept.get(key))
    }

    /// An entry that is only looked at.
    pub(super) fn peek_mut(&mut self, key: &StoreKey) -> Option<&mut IndexEntry> {
        match self.again.entries.peek_mut(key) {
            Some(entry) => Some(entry),
            None => match self.once.entries.peek_mut(key) {
                Some(entry) => Some(entry),
                None => self.kept.get_mut(key),
            },
        }
    }

    /// Forgets all entries, but not what is pinned.
    pub(super) fn clear(&mut self) {
        (self.once, self.again) = (Queue::new(), Queue::new());
        self.kept.clear();
    }

    /// Adds an entry behind all others of its queue.
    pub(super) fn put_last(&mut self, key: StoreKey, mut entry: IndexEntry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
            return;
        }
        entry.again &= self.again.bytes.saturating_add(cost(entry.length)) <= self.most_again;
        let queue = match entry.again {
            true => &mut self.again,
            false => &mut self.once,
        };
        queue.put(key.clone(), entry);
        queue.entries.demote(&key);
    }

    /// Adds an entry that is used now.
    pub(super) fn put(&mut self, key: StoreKey, entry: IndexEntry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
            return;
        }
        if !entry.again {
            return self.once.put(key, entry);
        }
        self.again.put(key, entry);
        while self.again.bytes > self.most_again
            && let Some((key, mut entry)) = self.again.pop_last()
        {
            entry.again = false;
            self.once.put(key, entry);
        }
    }

    /// Has `entry` count as used again if the one that it replaces was.
    pub(super) fn replacing(&self, key: &StoreKey, mut entry: IndexEntry) -> IndexEntry {
        entry.again |= self.peek(key).is_some_and(|before| before.again);
        entry
    }

    pub(super) fn pop(&mut self, key: &StoreKey) -> Option<IndexEntry> {
        let queued = self.again.pop(key).or_else(|| self.once.pop(key));
        queued.or_else(|| self.kept.remove(key))
    }

    /// Takes out what is to leave first.
    pub(super) fn pop_victim(&mut self) -> Option<(StoreKey, IndexEntry)> {
        self.once.pop_last().or_else(|| self.again.pop_last())
    }

    /// Pins `key`, stored or not; the length of its file if it is stored and was not pinned before.
    pub(super) fn pin(&mut self, key: &StoreKey) -> Option<u64> {
        self.pinned.insert(key.clone());
        let entry = self.again.pop(key).or_else(|| self.once.pop(key))?;
        let length = entry.length;
        self.kept.insert(key.clone(), entry);
        Some(length)
    }

    /// Lets go of `key`, which counts as used now; the length of its file if it was pinned and is stored.
    pub(super) fn unpin(&mut self, key: &StoreKey) -> Option<u64> {
        self.pinned.remove(key);
        let entry = self.kept.remove(key)?;
        let length = entry.length;
        self.put(key.clone(), entry);
        Some(length)
    }
}

#[cfg(test)]
mod tests;
