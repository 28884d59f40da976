//! What the index counts, and what it gives up first.

use super::*;
use crate::oci::digest::Digest;
use crate::store::key::EntryKind;

fn key(n: u32) -> StoreKey {
    StoreKey::Blob(Digest::of(&n.to_be_bytes()))
}

fn index(bytes: u64) -> Index {
    Index::new(Amount { bytes, files: 1000 }, 0)
}

/// Evicts so many bytes and files.
fn evict(index: &Index, bytes: u64, files: u64) -> Vec<StoreKey> {
    let mut missing = Amount { bytes, files };
    let victims = index.take_victims(&mut missing, usize::MAX).into_iter();
    victims.map(|victim| victim.key).collect()
}

fn found(key: StoreKey, length: u64, modified: u32) -> FoundFile {
    FoundFile {
        key,
        length,
        modified,
        created: Some(modified),
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
    assert_eq!(index.try_reserve(amount(free + 5)), missing(5));
    assert_eq!(index.try_reserve(amount(free)), Ok(()));
    assert_eq!(index.try_reserve(amount(1)), missing(1));
    index.wrote(3);
    let promise = Promise {
        amount: amount(free),
        written: 3,
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
