//! Random pauses, so that many mirrors do not come back at the same moment. Not for secrets.

use std::hash::{BuildHasher, Hasher, RandomState};

/// A random number from 0 to 1.
pub(crate) fn fraction() -> f64 {
    // The standard library seeds its hash maps at random, which makes a crate for this unnecessary.
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spread_over_all_of_it() {
        let numbers: Vec<_> = (0..1000).map(|_| fraction()).collect();
        assert!(numbers.iter().all(|number| (0.0..=1.0).contains(number)));
        for tenth in 0..10 {
            let (low, high) = (f64::from(tenth) / 10.0, f64::from(tenth + 1) / 10.0);
            let count = numbers.iter().filter(|n| (low..=high).contains(*n)).count();
            assert!((30..300).contains(&count), "{count} in {low}..{high}");
        }
    }
}
