//! Whose the stored bytes are.
//!
//! A file has one owner: the upstream it is about, and of a blob, which all upstreams share, the one that gave its bytes.
//! An owner may have a share of the store. It may be above that while there is room. But when room is made, what is
//! above its share leaves first, and what would come above it takes the place of its owner's alone. So an upstream takes
//! nothing away from the others beyond its share.

use std::collections::HashMap;

use crate::oci::name::Namespace;
use crate::store::disk::xattrs::mark;

/// What an upstream may keep of the store when others need room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamShare {
    /// The upstream.
    pub namespace: Namespace,
    /// Bytes; `None`: all of the store.
    pub most: Option<u64>,
}

/// An upstream, as entries know it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner(u16);

impl Owner {
    /// Of what comes from no upstream of the configuration, as far as is known.
    pub(crate) const NONE: Self = Self(0);

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The upstreams of the configuration. Those that have a share come first.
pub(super) struct Owners {
    by_namespace: HashMap<Namespace, Owner>,
    /// By what is noted beside blobs.
    by_mark: HashMap<u32, Owner>,
}

impl Owners {
    pub(super) fn of(&self, namespace: Option<&Namespace>) -> Owner {
        let owner = namespace.and_then(|namespace| self.by_namespace.get(namespace));
        owner.copied().unwrap_or(Owner::NONE)
    }

    pub(super) fn marked(&self, mark: Option<u32>) -> Owner {
        let owner = mark.and_then(|mark| self.by_mark.get(&mark));
        owner.copied().unwrap_or(Owner::NONE)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Namespace, Owner)> {
        let owners = self.by_namespace.iter();
        owners.map(|(namespace, owner)| (namespace, *owner))
    }
}

/// Who needs room, and how much that is not promised yet.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asker {
    pub(super) owner: Owner,
    pub(super) bytes: u64,
}

/// Bytes of each owner, without directories.
pub(super) struct Owned {
    /// Of [`Owner::NONE`], then of those that have a share, then of the others.
    sums: Vec<OwnedBytes>,
    shares: Vec<u64>,
}

#[derive(Clone, Copy, Default)]
struct OwnedBytes {
    stored: u64,
    promised: u64,
}

impl Owned {
    /// Numbers the upstreams.
    pub(super) fn new(shares: &[UpstreamShare]) -> (Owners, Self) {
        let (with, without): (Vec<_>, Vec<_>) =
            shares.iter().partition(|share| share.most.is_some());
        let numbered = with.iter().chain(&without).zip(1..=u16::MAX);
        let by_namespace: HashMap<_, _> = numbered
            .map(|(share, number)| (share.namespace.clone(), Owner(number)))
            .collect();
        let marks = by_namespace
            .iter()
            .map(|(name, owner)| (mark(name), *owner));
        let owners = Owners {
            by_mark: marks.collect(),
            by_namespace,
        };
        let owned = Self {
            sums: vec![OwnedBytes::default(); shares.len() + 1],
            shares: with.iter().filter_map(|share| share.most).collect(),
        };
        (owners, owned)
    }

    /// Those that have a share.
    pub(super) fn with_share(&self) -> impl Iterator<Item = Owner> {
        (1..=u16::MAX).take(self.shares.len()).map(Owner)
    }

    pub(super) fn share(&self, owner: Owner) -> Option<u64> {
        self.shares.get(owner.index().checked_sub(1)?).copied()
    }

    /// Stored and promised.
    pub(super) fn bytes(&self, owner: Owner) -> u64 {
        let sum = self.sums.get(owner.index()).copied().unwrap_or_default();
        sum.stored.saturating_add(sum.promised)
    }

    /// How much an owner has above its share, with what `asker` wants.
    pub(super) fn excess(&self, owner: Owner, asker: Asker) -> u64 {
        let Some(share) = self.share(owner) else {
            return 0;
        };
        let wanted = if owner == asker.owner { asker.bytes } else { 0 };
        self.bytes(owner)
            .saturating_add(wanted)
            .saturating_sub(share)
    }

    pub(super) fn store(&mut self, owner: Owner, bytes: u64) {
        self.change(owner, |sum| sum.stored = sum.stored.saturating_add(bytes));
    }

    pub(super) fn remove(&mut self, owner: Owner, bytes: u64) {
        self.change(owner, |sum| sum.stored = sum.stored.saturating_sub(bytes));
    }

    pub(super) fn promise(&mut self, owner: Owner, bytes: u64) {
        self.change(owner, |sum| {
            sum.promised = sum.promised.saturating_add(bytes);
        });
    }

    pub(super) fn release(&mut self, owner: Owner, bytes: u64) {
        self.change(owner, |sum| {
            sum.promised = sum.promised.saturating_sub(bytes);
        });
    }

    /// Forgets what is stored. What is promised stays: its holders give it back.
    pub(super) fn forget_stored(&mut self) {
        self.sums.iter_mut().for_each(|sum| sum.stored = 0);
    }

    fn change(&mut self, owner: Owner, change: impl FnOnce(&mut OwnedBytes)) {
        if let Some(sum) = self.sums.get_mut(owner.index()) {
            change(sum);
        }
    }
}
