//! What is counted, and in which unit.

use crate::store::key::EntryKind;

use super::owners::Owner;

/// The unit in which file systems hand out space.
const BLOCK: u64 = 4096;

/// What one more name costs in its directory: the longest names that the store uses, with room to spare.
const NAME: u64 = 128;

/// What an empty directory costs, with its name, which can be as long as a repository's. File systems that keep names
/// in trees leave up to half of a block empty.
pub(super) const DIRECTORY: u64 = BLOCK + 512;

/// What the files of an empty store cost.
pub(super) const BASE: u64 = 2 * BLOCK;

/// What a file of `length` bytes costs on disk, its name included, rounded up.
pub(crate) fn cost(length: u64) -> u64 {
    length
        .checked_next_multiple_of(BLOCK)
        .unwrap_or(u64::MAX - NAME)
        .saturating_add(NAME)
}

/// What a file costs with so many directories that are empty without it.
pub(super) fn cost_with(length: u64, emptied: usize) -> u64 {
    cost(length).saturating_add(emptied as u64 * DIRECTORY)
}

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

/// Bytes of disk, and how many files they are in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.files += 1;
    }

    pub(super) fn subtract(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.files = self.files.saturating_sub(1);
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }

    pub(super) fn fits_into(self, other: Self) -> bool {
        self.bytes <= other.bytes && self.files <= other.files
    }

    /// The lesser of both, in bytes and in files.
    pub(super) fn at_most(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.min(other.bytes),
            files: self.files.min(other.files),
        }
    }
}

/// What is reserved for a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) amount: Amount,
    /// How much of it is on disk by now.
    pub(super) written: u64,
    pub(super) owner: Owner,
}

impl Promise {
    /// For a file of which nothing is written.
    pub(super) fn of(bytes: u64, owner: Owner) -> Self {
        Self {
            amount: Amount { bytes, files: 1 },
            written: 0,
            owner,
        }
    }
}

/// What a store holds at one moment, in bytes of disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// What is stored, by [`EntryKind`].
    shares: [Amount; EntryKind::ALL.len()],
    /// Promised to what is being written.
    pub(crate) reserved: Amount,
    /// How much of what is reserved is on disk by now.
    pub(crate) written: u64,
    /// Evicted, not yet unlinked.
    pub(crate) trash: Amount,
    /// How many directories there are.
    pub(crate) directories: u64,
    /// Files of the store that are not evicted, and the top directories.
    pub(super) own: u64,
    /// Files and directories of others that the scan found.
    pub(super) foreign: u64,
    /// How much of what is stored is pinned.
    pub(crate) pinned: Amount,
}

impl Usage {
    /// An empty store, whose own files take so much.
    pub(super) fn of_own(own: u64) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    pub(crate) fn share(&self, share: EntryKind) -> Amount {
        self.shares.get(share as usize).copied().unwrap_or_default()
    }

    pub(super) fn share_mut(&mut self, share: EntryKind) -> &mut Amount {
        let [blobs, records, vouched, partials] = &mut self.shares;
        match share {
            EntryKind::Blobs => blobs,
            EntryKind::Records => records,
            EntryKind::Vouched => vouched,
            EntryKind::Partials => partials,
        }
    }

    /// Everything that has a name of its own, pinned or not.
    pub(crate) fn stored(&self) -> Amount {
        let sum = |sum: Amount, share: &Amount| Amount {
            bytes: sum.bytes.saturating_add(share.bytes),
            files: sum.files + share.files,
        };
        self.shares.iter().fold(Amount::default(), sum)
    }

    /// What could be evicted.
    pub(super) fn evictable(&self) -> Amount {
        let stored = self.stored();
        Amount {
            bytes: stored.bytes.saturating_sub(self.pinned.bytes),
            files: stored.files.saturating_sub(self.pinned.files),
        }
    }

    /// What can never be evicted.
    pub(super) fn fixed(&self) -> u64 {
        let directories = self.directories.saturating_mul(DIRECTORY);
        self.own
            .saturating_add(self.foreign)
            .saturating_add(directories)
    }

    /// All of it: what the limit is held against.
    pub(crate) fn total(&self) -> u64 {
        self.lasting().saturating_add(self.trash.bytes)
    }

    /// What remains once the trash is unlinked.
    pub(crate) fn lasting(&self) -> u64 {
        self.stored()
            .bytes
            .saturating_add(self.reserved.bytes)
            .saturating_add(self.fixed())
    }

    /// Forgets what is stored. What is reserved and in the trash stays: its holders give it back.
    pub(super) fn forget_stored(&mut self) {
        self.shares = Default::default();
        self.pinned = Amount::default();
        (self.directories, self.foreign) = (0, 0);
    }
}
