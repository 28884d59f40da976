//! The entries of the index, in the order in which they are evicted.
//!
//! What was used once leaves before what was used again: one pull of many new layers must not take away those that are
//! pulled every day. Used again means an hour or more after it came or was last noted as used, because a hundred nodes
//! that pull a new image within a minute are one use. Within each of the two queues what was used longest ago leaves
//! first. This is the segmented LRU of Karedla et al. (1994), whose probation and protection are `once` and `again`.
//!
//! What is of an upstream with a share of the store has queues of its own, so that what is to leave of it is found at once.
//!
//! Pinned entries are never evicted. Kept apart, they cost nothing when entries to evict are looked for, even if there
//! are many.

use std::collections::{HashMap, HashSet};

use lru::LruCache;

use crate::store::key::StoreKey;

use super::owners::Owner;
use super::usage::{cost, cost_with};

/// A file's recency is written to disk at most this often, and a use after this time is another one (seconds).
const ANOTHER_USE: u32 = 3600;

/// What memory knows of a stored file. 16 bytes, because there may be a million of them.
pub(super) struct IndexEntry {
    length: u64,
    /// When its recency was last written to disk, in seconds of the Unix epoch.
    freshened: u32,
    owner: Owner,
    /// Whether `length` is what was committed, and not just what was found at the start.
    proven: bool,
    /// Whether it was used again.
    again: bool,
}

impl IndexEntry {
    pub(super) fn committed(length: u64, now: u32, owner: Owner) -> Self {
        Self {
            length,
            freshened: now,
            owner,
            proven: true,
            again: false,
        }
    }

    /// `created` is when the file was made, where the file system knows: it was used again if it is older than its use.
    pub(super) fn found(length: u64, modified: u32, created: Option<u32>, owner: Owner) -> Self {
        let again = |created: u32| modified.saturating_sub(created) >= ANOTHER_USE;
        Self {
            length,
            freshened: modified,
            owner,
            proven: false,
            again: created.is_some_and(again),
        }
    }

    /// Length of the file.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) fn prove(&mut self) {
        self.proven = true;
    }
}

/// A file that a scan found.
pub(super) struct FoundFile {
    pub(super) key: StoreKey,
    pub(super) length: u64,
    pub(super) modified: u32,
    /// Where the file system knows.
    pub(super) created: Option<u32>,
    pub(super) owner: Owner,
}

/// An entry that was taken out, to be evicted.
pub(super) struct Victim {
    pub(super) key: StoreKey,
    pub(super) entry: IndexEntry,
    /// How many directories are empty without it, from its own upwards.
    pub(super) emptied: usize,
}

impl Victim {
    /// What it takes on disk, the directories included that are empty without it.
    pub(super) fn cost(&self) -> u64 {
        cost_with(self.entry.length(), self.emptied)
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
    /// First those of what has no share, then two for each share.
    queues: Vec<Queues>,
    /// What all `again` may hold, in bytes. What it has no place for is new once more.
    most_again: u64,
    kept: HashMap<StoreKey, IndexEntry>,
    /// What is pinned, whether it is stored or not.
    pinned: HashSet<StoreKey>,
}

struct Queues {
    owner: Owner,
    once: Queue,
    again: Queue,
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
    pub(super) fn new(max_size: u64, with_share: impl Iterator<Item = Owner>) -> Self {
        let queues = |owner| Queues {
            owner,
            once: Queue::new(),
            again: Queue::new(),
        };
        Self {
            queues: std::iter::once(Owner::NONE)
                .chain(with_share)
                .map(queues)
                .collect(),
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
        let queued = all_of(&mut self.queues).find_map(|queue| queue.entries.get_mut(key));
        let entry = match queued {
            Some(entry) => entry,
            None => self.kept.get_mut(key)?,
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
        let moved = promoted
            .then(|| all_of(&mut self.queues).find_map(|queue| queue.pop(key)))
            .flatten();
        if let Some(entry) = moved {
            self.put(key.clone(), entry);
        }
        Some(used)
    }

    /// An entry that is not used.
    pub(super) fn peek(&self, key: &StoreKey) -> Option<&IndexEntry> {
        let queues = self.queues.iter().flat_map(|it| [&it.again, &it.once]);
        let queued = queues.filter_map(|queue| queue.entries.peek(key)).next();
        queued.or_else(|| self.kept.get(key))
    }

    /// An entry that is only looked at.
    pub(super) fn peek_mut(&mut self, key: &StoreKey) -> Option<&mut IndexEntry> {
        let queued = all_of(&mut self.queues).find_map(|queue| queue.entries.peek_mut(key));
        queued.or_else(|| self.kept.get_mut(key))
    }

    /// Forgets all entries, but not what is pinned.
    pub(super) fn clear(&mut self) {
        all_of(&mut self.queues).for_each(|queue| *queue = Queue::new());
        self.kept.clear();
    }

    /// Adds an entry behind all others of its queue.
    pub(super) fn put_last(&mut self, key: StoreKey, mut entry: IndexEntry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
            return;
        }
        entry.again &= self.again().saturating_add(cost(entry.length)) <= self.most_again;
        if let Some(queue) = self.put_into(key.clone(), entry) {
            queue.entries.demote(&key);
        }
    }

    /// Adds an entry that is used now.
    pub(super) fn put(&mut self, key: StoreKey, entry: IndexEntry) {
        if self.is_pinned(&key) {
            self.kept.insert(key, entry);
            return;
        }
        self.put_into(key, entry);
        while self.again() > self.most_again
            && let Some((key, mut entry)) = self.pop_oldest(|it| &mut it.again, |_| true)
        {
            entry.again = false;
            self.put_into(key, entry);
        }
    }

    /// Puts an entry into the queue in which it belongs.
    fn put_into(&mut self, key: StoreKey, entry: IndexEntry) -> Option<&mut Queue> {
        let own = self.queues.iter().position(|it| it.owner == entry.owner);
        let queues = self.queues.get_mut(own.unwrap_or(0))?;
        let queue = match entry.again {
            true => &mut queues.again,
            false => &mut queues.once,
        };
        queue.put(key, entry);
        Some(queue)
    }

    /// Bytes of what was used again.
    fn again(&self) -> u64 {
        self.queues.iter().map(|it| it.again.bytes).sum()
    }

    /// What could be evicted of what an owner with a share has, in bytes.
    pub(super) fn evictable(&self, owner: Owner) -> u64 {
        let of_owner = self.queues.iter().filter(|it| it.owner == owner);
        of_owner
            .map(|it| it.once.bytes.saturating_add(it.again.bytes))
            .sum()
    }

    /// Notes whose an entry is.
    pub(super) fn give(&mut self, key: &StoreKey, owner: Owner) {
        if let Some(mut entry) = self.pop(key) {
            entry.owner = owner;
            self.put(key.clone(), entry);
        }
    }

    /// Has `entry` count as used again if the one that it replaces was.
    pub(super) fn replacing(&self, key: &StoreKey, mut entry: IndexEntry) -> IndexEntry {
        entry.again |= self.peek(key).is_some_and(|before| before.again);
        entry
    }

    pub(super) fn pop(&mut self, key: &StoreKey) -> Option<IndexEntry> {
        let queued = all_of(&mut self.queues).find_map(|queue| queue.pop(key));
        queued.or_else(|| self.kept.remove(key))
    }

    /// Takes out what is to leave first of what is of some owners; those without a share are one, [`Owner::NONE`].
    pub(super) fn pop_victim(
        &mut self,
        among: impl Fn(Owner) -> bool,
    ) -> Option<(StoreKey, IndexEntry)> {
        let victim = self.pop_oldest(|it| &mut it.once, &among);
        victim.or_else(|| self.pop_oldest(|it| &mut it.again, &among))
    }

    /// Takes out what was used longest ago in one of the queues. Among those the hour decides, which is all that is
    /// noted of it.
    fn pop_oldest(
        &mut self,
        which: impl Fn(&mut Queues) -> &mut Queue,
        among: impl Fn(Owner) -> bool,
    ) -> Option<(StoreKey, IndexEntry)> {
        let queues = self
            .queues
            .iter_mut()
            .filter(|it| among(it.owner))
            .map(which);
        let dated = queues.filter_map(|queue| {
            let (_, last) = queue.entries.peek_lru()?;
            Some((last.freshened, queue))
        });
        let (_, oldest) = dated.min_by_key(|(freshened, _)| *freshened)?;
        oldest.pop_last()
    }

    /// Pins `key`, stored or not; the length of its file if it is stored and was not pinned before.
    pub(super) fn pin(&mut self, key: &StoreKey) -> Option<u64> {
        self.pinned.insert(key.clone());
        let entry = all_of(&mut self.queues).find_map(|queue| queue.pop(key))?;
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

/// Those are looked at first that most uses find.
fn all_of(queues: &mut [Queues]) -> impl Iterator<Item = &mut Queue> {
    queues
        .iter_mut()
        .flat_map(|it| [&mut it.again, &mut it.once])
}

#[cfg(test)]
mod tests;
