//! What leaves first, on traces of uses over days.

use lru::LruCache;

use super::*;
use crate::oci::digest::Digest;

const DAY: u32 = 24 * 3600;
const LENGTH: u64 = 10 << 20;

fn key(n: u64) -> StoreKey {
    StoreKey::Blob(Digest::of(&n.to_be_bytes()))
}

/// A store for so many blobs of one size.
struct Trace {
    entries: Entries,
    places: usize,
    stored: usize,
    hits: u32,
}

impl Trace {
    fn of(places: usize) -> Self {
        Self {
            entries: Entries::new(places as u64 * cost(LENGTH), [].into_iter()),
            places,
            stored: 0,
            hits: 0,
        }
    }

    /// One use, at a time in seconds; whether it was stored.
    fn pull(&mut self, n: u64, now: u32) -> bool {
        let key = key(n);
        if self.entries.use_now(&key, Some(LENGTH), now).is_some() {
            self.hits += 1;
            return true;
        }
        if self.stored == self.places {
            self.entries.pop_victim(|_| true).unwrap();
        } else {
            self.stored += 1;
        }
        self.entries
            .put(key, IndexEntry::committed(LENGTH, now, Owner::NONE));
        false
    }
}

/// One pull of a large model took away all that was pulled every day.
#[test]
fn what_is_used_daily_outlives_one_large_pull() {
    let mut trace = Trace::of(1000);
    for day in 0..5 {
        for n in 0..400 {
            trace.pull(n, day * DAY + n as u32);
        }
    }
    // 80 % of the store, once, by several machines.
    for minute in 0..5 {
        for n in 10_000..10_800 {
            trace.pull(n, 5 * DAY + minute * 60);
        }
    }
    let before = trace.hits;
    for n in 0..400 {
        trace.pull(n, 6 * DAY + n as u32);
    }
    assert_eq!(trace.hits - before, 400);
}

#[test]
fn what_was_used_daily_in_another_time_leaves_at_last() {
    let mut trace = Trace::of(1000);
    for day in 0..5 {
        for n in 0..1000 {
            trace.pull(n, day * DAY);
        }
    }
    // Other content is used daily from now on; a fifth of the store is enough for it to come in.
    for day in 5..30 {
        for n in 0..150 {
            let new = 10_000 + u64::from(day) * 10 + n;
            trace.pull(new, day * DAY + n as u32);
        }
    }
    let hits = trace.hits;
    for n in 0..140 {
        trace.pull(10_000 + 29 * 10 + n, 30 * DAY);
    }
    assert_eq!(trace.hits - hits, 140);
    let gone = (0..1000).filter(|n| !trace.entries.contains(&key(*n)));
    assert!(gone.count() > 200);
}

/// Pulls as they are: few are asked for often, many seldom.
#[test]
fn as_much_is_found_as_with_the_order_of_last_use_alone() {
    let mut dice = 1_u64;
    let mut random = move || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (dice >> 11) as f64 / (1_u64 << 53) as f64
    };
    let weights: Vec<f64> = (1..=5000)
        .map(|rank| 1.0 / f64::from(rank).powf(0.9))
        .collect();
    let mut sums = Vec::new();
    for weight in weights {
        sums.push(sums.last().unwrap_or(&0.0) + weight);
    }
    let all = *sums.last().unwrap();
    let mut trace = Trace::of(500);
    let mut plain: LruCache<u64, ()> = LruCache::new(500.try_into().unwrap());
    let mut found = 0;
    for step in 0..200_000_u32 {
        let at = random() * all;
        let n = sums.partition_point(|sum| *sum < at) as u64;
        trace.pull(n, step * 20);
        found += u32::from(plain.get(&n).is_some());
        plain.put(n, ());
    }
    assert!(trace.hits >= found, "{} against {found}", trace.hits);
}

#[test]
fn after_a_restart_the_times_of_the_files_tell_what_was_used_again() {
    let mut entries = Entries::new(1 << 30, [].into_iter());
    let times = [
        (1, 50 * DAY, 50 * DAY),
        (2, 40 * DAY, 10 * DAY),
        (3, 30 * DAY, 30 * DAY),
    ];
    for (n, modified, created) in times {
        let entry = IndexEntry::found(LENGTH, modified, Some(created), Owner::NONE);
        entries.put_last(key(n), entry);
    }
    entries.put_last(
        key(4),
        IndexEntry::found(LENGTH, 20 * DAY, None, Owner::NONE),
    );
    let order: Vec<_> = std::iter::from_fn(|| entries.pop_victim(|_| true))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(order, [key(4), key(3), key(1), key(2)]);
}
