//! What the index counts, and what it gives up first.

use super::*;
use crate::oci::digest::Digest;

fn key(n: u32) -> StoreKey {
    StoreKey::Blob(Digest::of(&n.to_be_bytes()))
}

#[test]
fn victims_are_those_used_longest_ago() {
    let index = Index::new(1 << 30, 0);
    (0..4).for_each(|n| index.commit(key(n), 1000, 0, 0));
    index.touch(&key(0), 1000);
    let victims: Vec<_> = index
        .take_victims(cost(1000) + 1)
        .into_iter()
        .map(|victim| victim.key)
        .collect();
    assert_eq!(victims, [key(1), key(2)]);
    assert_eq!(index.usage().blobs, 2);
    assert_eq!(index.usage().trash, 2 * cost(1000));
}

#[test]
fn a_scan_puts_what_it_finds_behind_what_is_in_use() {
    let index = Index::new(1 << 30, 0);
    index.touch(&key(9), 1);
    index.insert_scanned([
        (key(1), 1, 30),
        (key(9), 1, 25),
        (key(2), 1, 20),
        (key(3), 1, 10),
    ]);
    let order: Vec<_> = index
        .take_victims(4 * cost(1))
        .into_iter()
        .map(|victim| victim.key)
        .collect();
    assert_eq!(order, [key(3), key(2), key(1), key(9)]);
}

#[test]
fn a_reservation_that_does_not_fit_says_how_much_is_missing() {
    let index = Index::new(20 * BLOCK, 0);
    let free = 20 * BLOCK - index.usage().overhead;
    assert_eq!(index.try_reserve(free + 5), Err(5));
    assert_eq!(index.try_reserve(free), Ok(()));
    assert_eq!(index.try_reserve(1), Err(1));
    index.wrote(3);
    index.commit(key(1), 3, free, 3);
    assert_eq!(index.usage().reserved, 0);
    assert_eq!(index.usage().written, 0);
    assert_eq!(index.usage().stored, cost(3));
}

#[test]
fn replacing_an_entry_counts_it_once() {
    let index = Index::new(1 << 30, 0);
    index.commit(key(1), 1000, 0, 0);
    index.commit(key(1), 9000, 0, 0);
    assert_eq!(index.usage().stored, cost(9000));
    index.remove(&key(1));
    assert_eq!(index.usage().stored, 0);
    assert_eq!(index.usage().blobs, 0);
}

#[test]
fn a_file_that_changed_its_length_is_noticed() {
    let index = Index::new(1 << 30, 0);
    index.commit(key(1), 1000, 0, 0);
    assert!(matches!(
        index.touch(&key(1), 999),
        Touched::WrongLength { expected: 1000 }
    ));
}

#[test]
fn what_is_pinned_is_no_victim_wherever_it_stands() {
    let index = Index::new(1 << 30, 0);
    index.repin(&[key(0), key(7)], &[]);
    (0..4).for_each(|n| index.commit(key(n), 1000, 0, 0));
    index.repin(&[key(2)], &[]);
    assert_eq!(index.usage().pinned, 2 * cost(1000));
    // There is as much in all, but half of it must stay.
    assert!(index.take_victims(2 * cost(1000) + 1).is_empty());
    let victims = index.take_victims(2 * cost(1000));
    let victims: Vec<_> = victims.into_iter().map(|victim| victim.key).collect();
    assert_eq!(
        victims,
        [key(1), key(3)],
        "pinned: 0 before it came, 2 after"
    );
    assert!(index.take_victims(1).is_empty());
    index.repin(&[], &[key(0)]);
    let victims = index.take_victims(1);
    assert!(victims.iter().map(|victim| &victim.key).eq([&key(0)]));
    index.remove(&key(2));
    assert_eq!(index.usage().pinned, 0);
    assert_eq!(index.usage().stored, 0);
}

#[test]
fn what_is_pinned_is_used_as_everything_else_is() {
    let index = Index::new(1 << 30, 0);
    index.repin(&[key(1)], &[]);
    index.commit(key(1), 1000, 0, 0);
    index.commit(key(1), 5000, 0, 0);
    assert_eq!(index.usage().pinned, cost(5000));
    index.promote(&key(1));
    index.prove(&key(1));
    assert!(index.contains(&key(1)));
    assert!(matches!(
        index.touch(&key(1), 999),
        Touched::WrongLength { expected: 5000 }
    ));
}

#[test]
fn nothing_is_evicted_for_what_can_never_fit() {
    let index = Index::new(1 << 30, 0);
    index.commit(key(1), 1000, 0, 0);
    assert!(index.take_victims(1 << 40).is_empty());
    assert!(index.contains(&key(1)));
}
