//! For how long a registry that limits requests is not asked, and about what. Pure: time and jitter are arguments.
//!
//! A 429 to a question about a repository is about that repository at first. It holds the whole origin only if a probe
//! (`/v2/`), made before the next question about another one, is answered with 429 as well. No hold is longer than
//! [`REPOSITORY`] or [`ORIGIN`], whatever was announced: after it the registry is asked whether it is still true.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::upstream::error::LimitKind;

use super::backoff::Backoff;

/// How long one repository is held at most before the next question about it is asked.
const REPOSITORY: Duration = Duration::from_secs(300);
/// How long an origin is held at most before it is probed.
const ORIGIN: Duration = Duration::from_secs(60);
/// For how many repositories that is remembered.
const REPOSITORIES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long an origin is not suspected again after a probe that was not limited.
const CLEARED: Duration = Duration::from_secs(5);
/// How long others are told to wait while a held origin is being probed.
const PROBING: Duration = Duration::from_secs(1);

/// Whether a request may be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    Granted,
    /// After a probe, whose answer decides. It must end in [`Holds::probed`] or [`Holds::gave_up`].
    AfterProbe,
    /// Not for this long.
    Held(Duration),
}

/// How a probe was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    /// Not with 429.
    Free,
    /// With 429 and this Retry-After.
    Limited(Option<Duration>),
}

pub(crate) struct Holds {
    origin: Backoff,
    /// Whether a probe is under way.
    probing: bool,
    /// The repository that was limited last, and until when: others are not asked about before a probe.
    suspicion: Option<(String, Instant)>,
    /// There is no suspicion before this.
    cleared_until: Option<Instant>,
    /// The one that was asked for longest ago is forgotten first.
    repositories: LruCache<String, Backoff>,
}

impl Default for Holds {
    fn default() -> Self {
        Self {
            origin: Backoff::default(),
            probing: false,
            suspicion: None,
            cleared_until: None,
            repositories: LruCache::sparse(REPOSITORIES),
        }
    }
}

impl Holds {
    /// Asks whether a request about `repository` may be sent; `None` if it is about none.
    pub(crate) fn ask(&mut self, repository: Option<&str>, now: Instant) -> Leave {
        if let Some(left) = self.held(repository, now) {
            return Leave::Held(left);
        }
        if self.origin.is_struck() {
            return match std::mem::replace(&mut self.probing, true) {
                true => Leave::Held(PROBING),
                false => Leave::AfterProbe,
            };
        }
        let of_another = |(limited, until): &(String, Instant)| {
            now < *until && repository != Some(limited.as_str())
        };
        if !self.probing && self.suspicion.as_ref().is_some_and(of_another) {
            self.probing = true;
            return Leave::AfterProbe;
        }
        Leave::Granted
    }

    /// How much longer not to ask about `repository`.
    pub(crate) fn held(&mut self, repository: Option<&str>, now: Instant) -> Option<Duration> {
        let held = repository.and_then(|name| self.repositories.get(name));
        let of_repository = held.and_then(|held| held.left(now));
        self.origin.left(now).or(of_repository)
    }

    /// A question about `repository` was answered with 429; returns how long not to ask about it, and whether that is
    /// new. `told` is the Retry-After.
    pub(crate) fn limited(
        &mut self,
        repository: Option<&str>,
        told: Option<Duration>,
        now: Instant,
        jitter: f64,
    ) -> (Duration, bool) {
        let Some(name) = repository else {
            return (self.hold_origin(told, now, jitter), true);
        };
        let backoff = self
            .repositories
            .get_or_insert_mut_ref(name, Backoff::default);
        let new = backoff.left(now).is_none();
        let told = told.map(|told| told.min(REPOSITORY));
        let pause = backoff.strike(LimitKind::Abuse, told, now, jitter);
        if self.cleared_until.is_none_or(|until| until <= now) {
            self.suspicion = Some((name.to_owned(), now + pause));
        }
        (pause, new)
    }

    /// How the probe was answered; returns how long not to ask anything, if that is so.
    pub(crate) fn probed(&mut self, probed: Probed, now: Instant, jitter: f64) -> Option<Duration> {
        self.probing = false;
        self.suspicion = None;
        match probed {
            Probed::Limited(told) => Some(self.hold_origin(told, now, jitter)),
            Probed::Free => {
                self.origin.clear();
                self.cleared_until = Some(now + CLEARED);
                None
            }
        }
    }

    /// The probe was cancelled, or there was no answer to it.
    pub(crate) fn gave_up(&mut self) {
        self.probing = false;
    }

    /// A question about `repository` was answered: a limit whose time is over has ended.
    pub(crate) fn answered(&mut self, repository: Option<&str>, now: Instant) {
        let Some(name) = repository else {
            return;
        };
        let over = |held: &Backoff| held.left(now).is_none();
        if self.repositories.peek(name).is_some_and(over) {
            self.repositories.pop(name);
            self.suspicion.take_if(|(limited, _)| limited == name);
        }
    }

    fn hold_origin(&mut self, told: Option<Duration>, now: Instant, jitter: f64) -> Duration {
        let told = told.map(|told| told.min(ORIGIN));
        self.origin.strike(LimitKind::Abuse, told, now, jitter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Option<Duration> = Some(Duration::from_secs(86_400));

    fn limited(holds: &mut Holds, name: &str, told: Option<Duration>, now: Instant) {
        holds.limited(Some(name), told, now, 1.0);
    }

    #[test]
    fn a_limit_of_one_repository_is_about_that_one() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        limited(&mut holds, "a", DAY, now);
        assert_eq!(holds.ask(Some("a"), now), Leave::Held(REPOSITORY));
        assert_eq!(holds.ask(Some("b"), now), Leave::AfterProbe);
        assert_eq!(holds.ask(Some("c"), now), Leave::Granted, "meanwhile");
        assert_eq!(holds.probed(Probed::Free, now, 1.0), None);
        assert_eq!(holds.ask(Some("b"), now), Leave::Granted);
        assert_eq!(holds.ask(Some("a"), now), Leave::Held(REPOSITORY));
        // Its own next question is what tells whether it is over.
        assert_eq!(holds.ask(Some("a"), now + REPOSITORY), Leave::Granted);
        holds.answered(Some("a"), now + REPOSITORY);
        assert!(holds.repositories.is_empty());
    }

    #[test]
    fn a_limit_of_the_origin_is_found_by_a_probe_and_looked_at_each_minute() {
        let (mut holds, mut now) = (Holds::default(), Instant::now());
        limited(&mut holds, "a", DAY, now);
        assert_eq!(holds.ask(Some("b"), now), Leave::AfterProbe);
        assert_eq!(holds.probed(Probed::Limited(DAY), now, 1.0), Some(ORIGIN));
        for _ in 0..10 {
            assert_eq!(holds.ask(Some("c"), now + SECOND), Leave::Held(59 * SECOND));
            now += ORIGIN;
            assert_eq!(holds.ask(Some("c"), now), Leave::AfterProbe);
            assert_eq!(holds.ask(Some("d"), now), Leave::Held(PROBING));
            holds.gave_up();
            assert_eq!(holds.ask(Some("d"), now), Leave::AfterProbe);
            holds.probed(Probed::Limited(DAY), now, 1.0);
        }
        now += ORIGIN;
        assert_eq!(holds.ask(Some("c"), now), Leave::AfterProbe);
        holds.probed(Probed::Free, now, 1.0);
        assert_eq!(holds.ask(Some("c"), now), Leave::Granted);
    }

    #[test]
    fn many_limited_repositories_cost_few_probes() {
        let (mut holds, now) = (Holds::default(), Instant::now());
        let mut probes = 0;
        for number in 0..2000 {
            let name = format!("r{number}");
            if holds.ask(Some(&name), now) == Leave::AfterProbe {
                probes += 1;
                holds.probed(Probed::Free, now, 1.0);
            }
            limited(&mut holds, &name, DAY, now);
        }
        assert_eq!(probes, 1);
        assert_eq!(
            holds.repositories.len(),
            REPOSITORIES.get(),
            "and little room"
        );
    }

    proptest! {
        /// As long as `/v2/` is not limited, no limit of a repository holds another one.
        #[test]
        fn repositories_do_not_hold_each_other(
            steps in prop::collection::vec((0..4_u8, any::<Option<u64>>(), 0..20_000_u64), 0..200),
        ) {
            let (mut holds, mut now) = (Holds::default(), Instant::now());
            for (repository, told, millis) in steps {
                now += Duration::from_millis(millis);
                let name = format!("bad{repository}");
                if holds.ask(Some(&name), now) == Leave::AfterProbe {
                    holds.probed(Probed::Free, now, 0.5);
                }
                let told = told.map(|seconds| Duration::from_secs(seconds / 4));
                let (pause, _) = holds.limited(Some(&name), told, now, 0.5);
                prop_assert!(pause <= REPOSITORY);
                match holds.ask(Some("good"), now) {
                    Leave::Held(left) => prop_assert!(false, "{:?}", left),
                    Leave::AfterProbe => { holds.probed(Probed::Free, now, 0.5); }
                    Leave::Granted => {}
                }
            }
        }
    }
}
