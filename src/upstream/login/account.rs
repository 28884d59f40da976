//! One account at an upstream: its login with its tokens, its pull quota, and the repositories it was refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::oci::name::Repository;
use crate::upstream::error::{Error, LimitKind};
use crate::upstream::restraint::backoff::not_asked;
use crate::upstream::restraint::quota::PullQuota;
use crate::upstream::wire::http::Http;

use super::authenticator::Authenticator;
use super::kinds::Login;
use super::realm::Realms;

/// After a 401 or 403 for a repository, other accounts are tried first for this long.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// For how many repositories that is remembered.
const REFUSED: u64 = 10_000;

/// One account. It shares nothing with other accounts.
pub(crate) struct Account {
    name: String,
    authenticator: Authenticator,
    quota: PullQuota,
    refused: Cache<Repository, ()>,
}

impl Account {
    pub(crate) fn new(login: &Login, realms: Arc<Realms>, http: Http) -> Self {
        let refused = Cache::builder()
            .max_capacity(REFUSED)
            .time_to_live(REFUSED_FOR);
        Self {
            name: login.name().to_owned(),
            authenticator: Authenticator::new(login.clone(), realms, http),
            quota: PullQuota::default(),
            refused: refused.build(),
        }
    }

    /// The name in logs and reports.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn authenticator(&self) -> &Authenticator {
        &self.authenticator
    }

    pub(crate) fn quota(&self) -> &PullQuota {
        &self.quota
    }

    pub(crate) fn note_refused(&self, repository: &Repository) {
        self.refused.insert(repository.clone(), ());
    }

    /// Whether it was refused that repository, or its login altogether.
    fn was_refused(&self, repository: Option<&Repository>) -> bool {
        self.authenticator.is_held()
            || repository.is_some_and(|repository| self.refused.contains_key(repository))
    }
}

/// The accounts that may ask about `repository`: those whose quota is not spent, if the request counts as a pull; and
/// of them those that were not refused lately, unless all were.
pub(crate) fn who_may<'a>(
    accounts: &'a [Account],
    spends_pull: bool,
    repository: Option<&'a Repository>,
) -> Result<impl Iterator<Item = &'a Account>, Error> {
    let now = Instant::now();
    let spent_for = move |account: &Account| account.quota.spent_for(now);
    let free = move |account: &&Account| !spends_pull || spent_for(account).is_none();
    let mut candidates = accounts.iter().filter(free).peekable();
    if candidates.peek().is_none() {
        let shortest = accounts.iter().filter_map(spent_for).min();
        return Err(not_asked(LimitKind::Quota, shortest.unwrap_or_default()));
    }
    let all_refused = candidates.all(|account| account.was_refused(repository));
    let welcome = move |account: &&Account| all_refused || !account.was_refused(repository);
    Ok(accounts.iter().filter(free).filter(welcome))
}
