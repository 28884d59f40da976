//! What the index counts, and what it gives up first.

use super::*;
use proptest::prelude::*;

use crate::oci::digest::Digest;
use crate::store::key::EntryKind;

fn key(n: u32) -> StoreKey {
    StoreKey::Blob(Digest::of(&n.to_be_bytes()))
}

fn index(bytes: u64) -> Index {
    Index::new(Amount { bytes, files: 1000 }, 0, &[])
}

/// Evicts so many bytes and files.
fn evict(index: &Index, bytes: u64, files: u64) -> Vec<StoreKey> {
    let mut missing = Amount { bytes, files };
    let victims = index
        .take_victims(&mut missing, Asker::default(), usize::MAX)
        .into_iter();
    victims.map(|victim| victim.key).collect()
}

fn found(key: StoreKey, length: u64, modified: u32) -> FoundFile {
    FoundFile {
        key,
        length,
        modified,
        created: Some(modified),
        owner: Owner::NONE,
    }
}

#[test]
fn victims_are_those_used_longest_ago() {
    let index = index(1 << 30);
    (0..4).for_each(|n| index.commit(key(n), 1000, Promise::default()));
    index.touch(&key(0), 1000);
    assert_eq!(evict(&index, cost(1000) + 1, 2), [key(1), key(2)]);
    assert_eq!(index.usage().share(EntryKind::Blobs).files, 2);
    assert!(index.usage().trash.bytes >= 2 * cost(1000));
}

#[test]
fn a_scan_puts_what_it_finds_behind_what_is_in_use() {
    let index = index(1 << 30);
    index.touch(&key(9), 1);
    index.insert_scanned([
        found(key(1), 1, 30),
        found(key(9), 1, 25),
        found(key(2), 1, 20),
        found(key(3), 1, 10),
    ]);
    let order = evict(&index, 0, 4);
    assert_eq!(order, [key(3), key(2), key(1), key(9)]);
}

#[test]
fn a_reservation_that_does_not_fit_says_how_much_is_missing() {
    let index = index(80_000);
    let free = 80_000 - index.usage().total();
    let amount = |bytes| Amount { bytes, files: 1 };
    let missing = |bytes| Err(Amount { bytes, files: 0 });
    assert_eq!(index.try_reserve(amount(free + 5), Owner::NONE), missing(5));
    assert_eq!(index.try_reserve(amount(free), Owner::NONE), Ok(()));
    assert_eq!(index.try_reserve(amount(1), Owner::NONE), missing(1));
    index.wrote(3);
    let promise = Promise {
        amount: amount(free),
        written: 3,
        owner: Owner::NONE,
    };
    index.commit(key(1), 3, promise);
    assert_eq!(index.usage().reserved, Amount::default());
    assert_eq!(index.usage().written, 0);
    assert_eq!(index.usage().stored().bytes, cost(3));
}

#[test]
fn replacing_an_entry_counts_it_once() {
    let index = index(1 << 30);
    index.commit(key(1), 1000, Promise::default());
    index.commit(key(1), 9000, Promise::default());
    assert_eq!(index.usage().stored().bytes, cost(9000));
    assert_eq!(index.remove(&key(1)), 2);
    assert_eq!(index.usage().stored(), Amount::default());
    assert_eq!(index.usage().directories, 0);
}

#[test]
fn a_file_that_changed_its_length_is_noticed() {
    let index = index(1 << 30);
    index.commit(key(1), 1000, Promise::default());
    assert!(matches!(
        index.touch(&key(1), 999),
        Touched::WrongLength { expected: 1000 }
    ));
}

#[test]
fn what_is_pinned_is_no_victim_wherever_it_stands() {
    let index = index(1 << 30);
    index.repin(&[key(0), key(7)], &[]);
    (0..4).for_each(|n| index.commit(key(n), 1000, Promise::default()));
    index.repin(&[key(2)], &[]);
    assert_eq!(index.usage().pinned.bytes, 2 * cost(1000));
    // There is as much in all, but half of it must stay.
    assert!(evict(&index, 2 * cost(1000) + 1, 0).is_empty());
    let victims = evict(&index, 0, 2);
    // 0 was pinned before it came, 2 after.
    assert_eq!(victims, [key(1), key(3)]);
    assert!(evict(&index, 1, 1).is_empty());
    index.repin(&[], &[key(0)]);
    assert_eq!(evict(&index, 1, 1), [key(0)]);
    index.remove(&key(2));
    assert_eq!(index.usage().pinned, Amount::default());
    assert_eq!(index.usage().stored(), Amount::default());
}

#[test]
fn what_is_pinned_is_used_as_everything_else_is() {
    let index = index(1 << 30);
    index.repin(&[key(1)], &[]);
    index.commit(key(1), 1000, Promise::default());
    index.commit(key(1), 5000, Promise::default());
    assert_eq!(index.usage().pinned.bytes, cost(5000));
    index.promote(&key(1), seconds_now());
    index.prove(&key(1));
    assert!(index.contains(&key(1)));
    assert!(matches!(
        index.touch(&key(1), 999),
        Touched::WrongLength { expected: 5000 }
    ));
}

#[test]
fn nothing_is_evicted_for_what_can_never_fit() {
    let index = index(1 << 30);
    index.commit(key(1), 1000, Promise::default());
    assert!(evict(&index, 1 << 40, 0).is_empty());
    assert!(index.contains(&key(1)));
}

const STORE: u64 = 1 << 20;

/// A store of which `a.io` may keep a quarter and `b.io` a half when others need room, and `c.io` all.
fn shared() -> (Index, [Owner; 3]) {
    let names = ["a.io", "b.io", "c.io"].map(|name| name.parse::<Namespace>().unwrap());
    let shares = [Some(STORE / 4), Some(STORE / 2), None];
    let shares: Vec<_> = names
        .iter()
        .zip(shares)
        .map(|(name, most)| UpstreamShare {
            namespace: name.clone(),
            most,
        })
        .collect();
    let limit = Amount {
        bytes: STORE,
        files: 1000,
    };
    let index = Index::new(limit, 0, &shares);
    index.finish_scan();
    let owners = names.map(|name| index.owner(Some(&name)));
    (index, owners)
}

/// Has a file of `length` bytes stored for an owner, evicting what is needed for it; how many files were, or `None`
/// without room.
fn put(index: &Index, n: u32, length: u64, owner: Owner) -> Option<Vec<StoreKey>> {
    let promise = Promise::of(cost_with(length, 2), owner);
    let bytes = promise.amount.bytes;
    let mut evicted = Vec::new();
    while let Err(mut missing) = index.try_reserve(promise.amount, owner) {
        let asker = Asker { owner, bytes };
        let victims = index.take_victims(&mut missing, asker, usize::MAX);
        if victims.is_empty() {
            return None;
        }
        for victim in victims {
            index.unlinked(victim.cost());
            evicted.push(victim.key);
        }
    }
    index.commit(key(n), length, promise);
    Some(evicted)
}

#[test]
fn one_upstream_took_the_whole_store() {
    let (index, [a, b, c]) = shared();
    let length = STORE / 32;
    // There is room: more than its share.
    for n in 0..12 {
        assert_eq!(put(&index, n, length, a), Some(vec![]));
    }
    // As the others come, what is above the share leaves, though it was used last.
    for n in 100..113 {
        assert_eq!(put(&index, n, length, c), Some(vec![]));
    }
    let evicted: Vec<_> = (200..204)
        .flat_map(|n| put(&index, n, length, b).unwrap())
        .collect();
    assert_eq!(
        evicted,
        [key(0), key(1), key(2), key(3), key(4)][..evicted.len()]
    );
    assert!(!evicted.is_empty());
    // From then on what comes of it takes the place of its own.
    for n in 300..330 {
        for gone in put(&index, n, length, a).unwrap() {
            assert!(gone != key(200) && !(100..113).any(|n| gone == key(n)));
        }
    }
    assert!((100..113).chain(200..204).all(|n| index.contains(&key(n))));
    // What is larger than its share has no room, and takes none away.
    let before = index.usage();
    assert!(!index.could_hold(STORE / 2, a));
    assert_eq!(put(&index, 400, STORE / 2, a), None);
    assert_eq!(index.usage(), before);
    // Without a share there is no such end.
    assert!(put(&index, 401, STORE / 2, c).is_some());
}

proptest! {
    /// Whatever is brought: an upstream within its share loses nothing as long as another is above its own, and what
    /// would come above a share takes nothing of those within theirs.
    #[test]
    fn what_is_above_its_share_leaves_first(
        steps in prop::collection::vec((0..3_usize, 1..STORE / 6, any::<bool>()), 1..120)
    ) {
        let (index, owners) = shared();
        for (n, (which, length, uses)) in (0..).zip(steps) {
            let owner = owners[which];
            let promise = Promise::of(cost_with(length, 2), owner);
            let asker = Asker { owner, bytes: promise.amount.bytes };
            let mut room = true;
            while let Err(missing) = index.try_reserve(promise.amount, owner) {
                let excess = |of: Owner| index.accounts().owned.excess(of, asker);
                let above: Vec<_> = owners.into_iter().filter(|of| excess(*of) > 0).collect();
                let left = above.iter().any(|of| index.accounts().entries.evictable(*of) > 0);
                let victims = index.take_victims(&mut missing.clone(), asker, 1);
                let Some(victim) = victims.first() else {
                    room = false;
                    break;
                };
                let of = victim.entry.owner();
                prop_assert!(above.contains(&of) || !(left || above.contains(&owner)));
                index.unlinked(victim.cost());
            }
            if room {
                index.commit(key(n), length, promise);
            }
            if uses {
                index.touch(&key(n / 2), length);
            }
            let sum: u64 = index.owned().iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(sum, index.usage().stored().bytes);
            prop_assert!(index.usage().total() <= STORE);
        }
    }
}
