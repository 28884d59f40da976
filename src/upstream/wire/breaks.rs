//! Bodies that broke off: of which repositories of one origin, and when.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::oci::name::Repository;

/// For how many repositories that is remembered.
const REPOSITORIES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// When a body of each repository last broke off. One blob that is broken says nothing of the other repositories.
pub(crate) struct Breaks(Mutex<LruCache<Repository, Instant>>);

impl Default for Breaks {
    fn default() -> Self {
        Self(Mutex::new(LruCache::sparse(REPOSITORIES)))
    }
}

impl Breaks {
    pub(crate) fn note(&self, repository: &Repository) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(repository.clone(), Instant::now());
    }

    /// Whether that was at most `span` ago.
    pub(crate) fn within(&self, repository: &Repository, span: Duration) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.peek(repository).is_some_and(|at| at.elapsed() < span)
    }
}
