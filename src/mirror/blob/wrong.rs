//! Blobs whose bytes were wrong, and when they may be fetched again.
//!
//! A wrong blob costs a whole transfer, and room for it, each time. After the first one it is tried again at once: an
//! endpoint may have been wrong, and is not asked then. After that the pauses double. It is remembered by repository,
//! because one registry can have repositories of several owners, and one of them must not keep a blob from the others.

use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;

/// Enough for any moment.
const MOST: u64 = 20_000;
/// A blob that was not asked for in this long is tried as if nothing had been.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
const SHORTEST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(600);

/// What is remembered of wrong blobs. All clones are the same one.
#[derive(Clone)]
pub(super) struct WrongBlobs(Cache<(QualifiedName, Digest), Wrong>);

#[derive(Debug, Clone, Copy)]
struct Wrong {
    times: u32,
    until: Instant,
}

impl Default for WrongBlobs {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MOST);
        Self(cache.time_to_idle(FORGOTTEN_AFTER).build())
    }
}

impl WrongBlobs {
    /// Fails with the time until it may be fetched again.
    pub(super) fn check(&self, name: &QualifiedName, digest: &Digest) -> Result<(), Duration> {
        let wrong = self.0.get(&(name.clone(), digest.clone()));
        let left = wrong.map(|wrong| wrong.until.saturating_duration_since(Instant::now()));
        match left {
            Some(left) if !left.is_zero() => Err(left),
            _ => Ok(()),
        }
    }

    pub(super) fn is_noted(&self, name: &QualifiedName, digest: &Digest) -> bool {
        self.0.contains_key(&(name.clone(), digest.clone()))
    }

    pub(super) fn note(&self, name: &QualifiedName, digest: &Digest) {
        let key = (name.clone(), digest.clone());
        let times = self.0.get(&key).map_or(0, |wrong| wrong.times) + 1;
        let until = Instant::now() + pause(times);
        self.0.insert(key, Wrong { times, until });
    }

    /// It was right.
    pub(super) fn forget(&self, name: &QualifiedName, digest: &Digest) {
        self.0.invalidate(&(name.clone(), digest.clone()));
    }
}

/// How long a blob is left alone that was wrong so many times in a row.
fn pause(times: u32) -> Duration {
    match times {
        0 | 1 => Duration::ZERO,
        _ => (SHORTEST * 2u32.saturating_pow((times - 2).min(16))).min(LONGEST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pauses_double_up_to_ten_minutes() {
        let seconds: Vec<_> = (1..=10).map(|times| pause(times).as_secs()).collect();
        assert_eq!(seconds, [0, 5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }

    #[test]
    fn one_repository_is_not_held_for_another() {
        let wrong = WrongBlobs::default();
        let name =
            |name: &str| QualifiedName::new("r.example".parse().unwrap(), name.parse().unwrap());
        let digest = Digest::of(b"x");
        wrong.note(&name("a/b"), &digest);
        assert_eq!(wrong.check(&name("a/b"), &digest), Ok(()));
        wrong.note(&name("a/b"), &digest);
        assert!(wrong.check(&name("a/b"), &digest).is_err());
        assert_eq!(wrong.check(&name("a/c"), &digest), Ok(()));
        wrong.forget(&name("a/b"), &digest);
        assert_eq!(wrong.check(&name("a/b"), &digest), Ok(()));
    }
}
