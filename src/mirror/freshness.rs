//! Decides what a stored tag or list may be used for. Fresh: it is served, and upstream is not asked. Stale: upstream
//! is asked, and it is served if upstream has no answer. Expired: it is served only if upstream confirms it. Also
//! decides whether a pull may be spent on a newer manifest.
//!
//! Pure: time is an argument, the answer is a value. `manifest/tag.rs` and `lists/mod.rs` do what is decided here.

use std::time::Duration;

use crate::sites::budget::Budget;

/// What an operator allows, for each upstream.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Freshness {
    /// A tag is served this long without asking upstream.
    pub tag_ttl: Duration,
    /// How old a tag may be and still be served when upstream does not answer.
    pub max_stale: Duration,
    /// How long "not there" is believed.
    pub negative_ttl: Duration,
    /// How long upstream may be silent before a stale answer is served instead.
    pub stale_after: Duration,
    /// The last part of the pull quota, in percent, that is kept for what is not stored.
    pub quota_reserve: u8,
}

/// How many times longer than `tag_ttl` a tag is fresh when the reserve of the quota is reached.
const STRETCH: f64 = 10.0;

/// How long a repository's word that a blob is its own is good. Asking again costs a HEAD for each blob that is used, and
/// within a day a revocation upstream is seen.
const VOUCHED_FOR: Duration = Duration::from_secs(24 * 3600);

impl Freshness {
    /// The same, with a longer `tag_ttl` if the pull quota runs low: it grows once less than twice the reserve is left.
    /// Asking about a tag is free, but a tag that moved costs a pull; one that moves ten times while it counts as fresh
    /// costs one.
    pub(crate) fn under(&self, budget: Option<Budget>) -> Self {
        let stretch = budget.map_or(1.0, |budget| self.stretch(budget));
        let longest = self.max_stale.max(self.tag_ttl);
        Self {
            tag_ttl: self.tag_ttl.mul_f64(stretch).min(longest),
            ..self.clone()
        }
    }

    fn stretch(&self, budget: Budget) -> f64 {
        let reserve = f64::from(self.quota_reserve) / 100.0;
        if self.quota_reserve == 0 {
            return 1.0;
        }
        let left = budget.remaining as f64 / budget.limit.max(1) as f64;
        let used = ((2.0 * reserve - left) / reserve).clamp(0.0, 1.0);
        1.0 + (STRETCH - 1.0) * used
    }

    /// Whether a newer manifest may be fetched in place of a stored one: only if that leaves the reserve untouched.
    pub(crate) fn may_spend(&self, budget: Option<Budget>) -> bool {
        let Some(Budget { limit, remaining }) = budget else {
            return true;
        };
        let reserve = u128::from(limit) * u128::from(self.quota_reserve);
        self.quota_reserve == 0 || u128::from(remaining.saturating_sub(1)) * 100 >= reserve
    }
}

/// What to do about a tag that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Serve it; upstream need not be asked for this much longer.
    Fresh(Duration),
    /// Ask upstream; serve it if there is no answer.
    Stale,
    /// Ask upstream; without an answer there is nothing to serve.
    Expired,
}

/// Decides for a tag that upstream confirmed `age` ago.
///
/// `None` is an age that cannot be: confirmed in the future, by a clock that was set back since. Such a tag is
/// stale, or it would stay fresh until the clock has caught up.
pub(crate) fn decide(age: Option<Duration>, freshness: &Freshness) -> Phase {
    phase(age, freshness.tag_ttl, freshness.max_stale)
}

/// The same for the word that a blob belongs to a repository.
pub(crate) fn decide_vouched(age: Option<Duration>, freshness: &Freshness) -> Phase {
    phase(age, VOUCHED_FOR, freshness.max_stale)
}

fn phase(age: Option<Duration>, ttl: Duration, max_stale: Duration) -> Phase {
    let Some(age) = age else {
        return Phase::Stale;
    };
    if let Some(left) = ttl.checked_sub(age).filter(|left| !left.is_zero()) {
        return Phase::Fresh(left);
    }
    if age <= max_stale {
        Phase::Stale
    } else {
        Phase::Expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Freshness = Freshness {
        tag_ttl: Duration::from_secs(60),
        max_stale: Duration::from_secs(600),
        negative_ttl: Duration::from_secs(10),
        stale_after: Duration::from_secs(2),
        quota_reserve: 25,
    };

    fn left(remaining: u64) -> Option<Budget> {
        Some(Budget {
            limit: 100,
            remaining,
        })
    }

    #[test]
    fn a_tag_stays_fresh_longer_as_the_quota_falls() {
        let ttl = |budget| RULES.under(budget).tag_ttl.as_secs();
        assert_eq!(ttl(None), 60, "nothing is limited");
        assert_eq!([ttl(left(100)), ttl(left(50))], [60, 60]);
        assert!(ttl(left(40)) > 60 && ttl(left(40)) < ttl(left(30)));
        assert_eq!([ttl(left(25)), ttl(left(0))], [600, 600]);
        let short = Freshness {
            max_stale: Duration::from_secs(100),
            ..RULES
        };
        assert_eq!(
            short.under(left(0)).tag_ttl.as_secs(),
            100,
            "max_stale is a promise"
        );
        let off = Freshness {
            quota_reserve: 0,
            ..RULES
        };
        assert_eq!(off.under(left(0)), off);
    }

    #[test]
    fn the_reserve_is_not_spent_on_what_is_stored() {
        assert!(RULES.may_spend(None));
        assert!(RULES.may_spend(left(26)));
        for remaining in [25, 1, 0] {
            assert!(!RULES.may_spend(left(remaining)), "{remaining}");
        }
        let off = Freshness {
            quota_reserve: 0,
            ..RULES
        };
        assert!(off.may_spend(left(0)));
        let all = Freshness {
            quota_reserve: 100,
            ..RULES
        };
        assert!(!all.may_spend(left(100)));
    }

    #[test]
    fn a_tag_is_fresh_then_stale_then_expired() {
        let at = |seconds| decide(Some(Duration::from_secs(seconds)), &RULES);
        assert_eq!(at(0), Phase::Fresh(Duration::from_secs(60)));
        assert_eq!(at(59), Phase::Fresh(Duration::from_secs(1)));
        assert_eq!(at(60), Phase::Stale);
        assert_eq!(at(600), Phase::Stale);
        assert_eq!(at(601), Phase::Expired);
    }

    #[test]
    fn a_tag_from_the_future_is_asked_about() {
        assert_eq!(decide(None, &RULES), Phase::Stale);
    }

    #[test]
    fn without_a_ttl_every_request_asks_upstream() {
        let rules = Freshness {
            tag_ttl: Duration::ZERO,
            ..RULES
        };
        assert_eq!(decide(Some(Duration::ZERO), &rules), Phase::Stale);
    }
}
