//! The entries of the index: most by recency, the pinned ones apart from it.
//!
//! What is pinned is in no order, because it is never a victim: a search for one must not step over
//! entries that it may not take, however many they are.

use std::collections::{HashMap, HashSet};

use lru::LruCache;

use crate::store::disk::layout::Key;
use crate::store::room::index::Entry;

/// Entries, each in one of two places.
pub(in crate::store) struct Entries {
    recent: LruCache<Key, Entry>,
    kept: HashMap<Key, Entry>,
    /// What is pinned, whether it is stored or not.
    pinned: HashSet<Key>,
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
    pub(in crate::store) fn is_pinned(&self, key: &Key) -> bool {
        self.pinned.contains(key)
    }

    pub(in crate::store) fn contains(&self, key: &Key) -> bool {
        self.recent.contains(key) || self.kept.contains_key(key)
    }

    /// An entry that is used now.
    pub(in crate::store) fn get_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        match self.recent.get_mut(key) {
            Some(entry) => Some(entry),
            None => self.kept.get_mut(key),
        }
    }

    /// An entry that is only looked at.
    pub(in crate::store) fn peek_mut(&mut self, key: &Key) -> Option<&mut Entry> {
        match self.recent.peek_mut(key) {
            Some(entry) => Some(entry),
            None => self.kept.get_mut(key),
        }
    }

    /// An entry that is not used.
    pub(in crate::store) fn peek(&self, key: &Key) -> Option<&Entry> {
        self.recent.peek(key).or_else(|| self.kept.get(key))
    }

    /// Forgets all entries, but not what is pinned.
    pub(in crate::store) fn clear(&mut self) {
        self.recent.clear();
        self.kept.clear();
    }

    pub(in crate::store) fn promote(&mut self, key: &Key) {
        self.recent.promote(key);
    }

    pub(in crate::store) fn demote(&mut self, key: &Key) {
        self.recent.demote(key);
    }

    pub(in crate::store) fn put(&mut self, key: Key, entry: Entry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
        } else {
            self.recent.put(key, entry);
        }
    }

    pub(in crate::store) fn pop(&mut self, key: &Key) -> Option<Entry> {
        self.recent.pop(key).or_else(|| self.kept.remove(key))
    }

    /// Takes out what was used longest ago and is not pinned.
    pub(in crate::store) fn pop_lru(&mut self) -> Option<(Key, Entry)> {
        self.recent.pop_lru()
    }

    /// Pins `key`, stored or not; the length of its file if it is stored and was not pinned before.
    pub(in crate::store) fn pin(&mut self, key: &Key) -> Option<u64> {
        self.pinned.insert(key.clone());
        let entry = self.recent.pop(key)?;
        let length = entry.length;
        self.kept.insert(key.clone(), entry);
        Some(length)
    }

    /// Lets go of `key`, which counts as used now; the length of its file if it was pinned and is stored.
    pub(in crate::store) fn unpin(&mut self, key: &Key) -> Option<u64> {
        self.pinned.remove(key);
        let entry = self.kept.remove(key)?;
        let length = entry.length;
        self.recent.put(key.clone(), entry);
        Some(length)
    }
}
