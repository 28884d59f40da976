//! What is left of a site's pull quota. The upstream writes it when its registry states it; the mirror reads it for
//! every tag.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// What is left of a pull quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    pub limit: u64,
    pub remaining: u64,
}

/// The pull quota of one account. All clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Pulls(Arc<Mutex<AccountQuota>>);

/// What is known of the pull quota of one account.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AccountQuota {
    /// What the registry stated last, and until when that counts; `None` if it states nothing.
    pub stated: Option<(Budget, Instant)>,
    /// Until when the registry lets the account pull nothing.
    pub spent_until: Option<Instant>,
}

impl Pulls {
    pub(crate) fn note(&self, known: AccountQuota) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = known;
    }

    /// What is left at `now`; `None` if that is unknown, or nothing is limited.
    fn left(&self, now: Instant) -> Option<Budget> {
        // Guards two small values, for a copy.
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (budget, _) = known.stated.filter(|(_, until)| now < *until)?;
        let spent = known.spent_until.is_some_and(|until| now < until);
        Some(Budget {
            remaining: if spent { 0 } else { budget.remaining },
            ..budget
        })
    }
}

impl Budget {
    /// The best remaining quota among the accounts of a site; `None` if any is unknown or unlimited.
    pub(crate) fn best(accounts: &[Pulls]) -> Option<Self> {
        let now = Instant::now();
        let mut best: Option<Self> = None;
        for pulls in accounts {
            let budget = pulls.left(now)?;
            if best.is_none_or(|best| best.share() <= budget.share()) {
                best = Some(budget);
            }
        }
        best
    }

    /// In thousandths: quotas are small numbers.
    fn share(&self) -> u128 {
        u128::from(self.remaining) * 1000 / u128::from(self.limit.max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn pulls(remaining: u64, counts_for: Duration) -> Pulls {
        let pulls = Pulls::default();
        let limit = 100;
        pulls.note(AccountQuota {
            stated: Some((Budget { limit, remaining }, Instant::now() + counts_for)),
            spent_until: None,
        });
        pulls
    }

    #[test]
    fn the_account_with_the_most_left_counts_and_an_unlimited_one_more() {
        let hour = Duration::from_secs(3600);
        let left = |accounts: &[Pulls]| Budget::best(accounts).map(|budget| budget.remaining);
        let (few, many) = (pulls(3, hour), pulls(70, hour));
        assert_eq!(left(&[few.clone(), many.clone()]), Some(70));
        assert_eq!(left(&[many, few.clone()]), Some(70));
        assert_eq!(left(&[few.clone(), Pulls::default()]), None);
        assert_eq!(
            left(&[few, pulls(70, Duration::ZERO)]),
            None,
            "a new window"
        );
        assert_eq!(left(&[]), None);
    }

    #[test]
    fn nothing_is_left_while_an_account_may_not_pull() {
        let pulls = pulls(70, Duration::from_secs(3600));
        let known = *pulls.0.lock().unwrap();
        let spent = |for_seconds| {
            let until = Instant::now() + Duration::from_secs(for_seconds);
            pulls.note(AccountQuota {
                spent_until: Some(until),
                ..known
            });
            Budget::best(std::slice::from_ref(&pulls))
                .unwrap()
                .remaining
        };
        assert_eq!((spent(60), spent(0)), (0, 70));
    }
}
