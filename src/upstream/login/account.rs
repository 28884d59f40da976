//! One of those we can be at an upstream: its tokens, its quota, and where it was refused.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::oci::name::Repository;

use super::token::Auth;
use crate::upstream::restraint::backoff::Hold;
use crate::upstream::restraint::quota::{Budget, RateLimit};

/// How long an identity that a repository was refused to is not asked about it first.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Repositories of which that is remembered.
const REFUSED: u64 = 10_000;

/// Somebody we can be. Nothing in it is shared with another.
pub(crate) struct Identity {
    pub(crate) auth: Auth,
    pub(crate) name: String,
    /// Guards a few small values; never held while waiting.
    quota: Mutex<Quota>,
    refused: Cache<Repository, ()>,
}

#[derive(Default)]
struct Quota {
    stated: Option<(RateLimit, Instant)>,
    hold: Hold,
}

impl Identity {
    pub(crate) fn new(auth: Auth, name: String) -> Self {
        let refused = Cache::builder()
            .max_capacity(REFUSED)
            .time_to_live(REFUSED_FOR);
        Self {
            auth,
            name,
            quota: Mutex::default(),
            refused: refused.build(),
        }
    }

    /// Changes or reads the hold that the pull quota puts on it.
    pub(crate) fn with_hold<T>(&self, look: impl FnOnce(&mut Hold) -> T) -> T {
        look(&mut self.quota().hold)
    }

    pub(crate) fn state_quota(&self, stated: RateLimit) {
        self.quota().stated = Some((stated, Instant::now()));
    }

    pub(crate) fn stated_quota(&self) -> Option<RateLimit> {
        self.quota().stated.map(|(stated, _)| stated)
    }

    /// What it has left; `None` if that is not known, or nothing is limited.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let quota = self.quota();
        let (stated, at) = quota.stated?;
        let budget = stated.budget(at.elapsed())?;
        let held = quota.hold.left(Instant::now()).is_some();
        Some(Budget {
            remaining: if held { 0 } else { budget.remaining },
            ..budget
        })
    }

    pub(crate) fn note_refused(&self, repository: &Repository) {
        self.refused.insert(repository.clone(), ());
    }

    pub(crate) fn was_refused(&self, repository: Option<&Repository>) -> bool {
        repository.is_some_and(|repository| self.refused.contains_key(repository))
    }

    fn quota(&self) -> MutexGuard<'_, Quota> {
        self.quota.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
