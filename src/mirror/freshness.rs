//! How long what is remembered of a tag may be used. Pure: time is an argument, the answer is a value.

use std::time::Duration;

/// What an operator allows, per upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// A tag is served this long without asking upstream.
    pub tag_ttl: Duration,
    /// How old a tag may be and still be served when upstream does not answer.
    pub max_stale: Duration,
    /// How long "not there" is believed.
    pub negative_ttl: Duration,
    /// How long upstream may be silent before a stale answer is served in its stead.
    pub stale_after: Duration,
}

/// What to do about a tag that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
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
pub fn decide(age: Option<Duration>, policy: &Policy) -> Freshness {
    let Some(age) = age else {
        return Freshness::Stale;
    };
    if let Some(left) = policy
        .tag_ttl
        .checked_sub(age)
        .filter(|left| !left.is_zero())
    {
        return Freshness::Fresh(left);
    }
    if age <= policy.max_stale {
        Freshness::Stale
    } else {
        Freshness::Expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        tag_ttl: Duration::from_secs(60),
        max_stale: Duration::from_secs(600),
        negative_ttl: Duration::from_secs(10),
        stale_after: Duration::from_secs(2),
    };

    #[test]
    fn a_tag_is_fresh_then_stale_then_expired() {
        let at = |seconds| decide(Some(Duration::from_secs(seconds)), &POLICY);
        assert_eq!(at(0), Freshness::Fresh(Duration::from_secs(60)));
        assert_eq!(at(59), Freshness::Fresh(Duration::from_secs(1)));
        assert_eq!(at(60), Freshness::Stale);
        assert_eq!(at(600), Freshness::Stale);
        assert_eq!(at(601), Freshness::Expired);
    }

    #[test]
    fn a_tag_from_the_future_is_asked_about() {
        assert_eq!(decide(None, &POLICY), Freshness::Stale);
    }

    #[test]
    fn without_a_ttl_every_request_asks_upstream() {
        let policy = Policy {
            tag_ttl: Duration::ZERO,
            ..POLICY
        };
        assert_eq!(decide(Some(Duration::ZERO), &policy), Freshness::Stale);
    }
}
