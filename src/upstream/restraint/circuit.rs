//! A circuit breaker's states: when an origin that keeps failing is not asked, and when it is tried again. Pure: time
//! and jitter are arguments.
//!
//! Closed: every request may be sent. After failures in a row it opens: no request is sent, for a short time that grows
//! with every further failure. Then it is half open: one request is sent, and its answer decides.
//!
//! A question that is answered with 5xx, or with a broken connection, counts once, even if it is repeated: one broken
//! blob must not shut out a whole registry.

use std::time::{Duration, Instant};

/// Failures in a row, by their weight, that open a circuit.
const ENOUGH: u32 = 5;
/// How long it stays open at first, at most.
const SHORTEST: Duration = Duration::from_secs(2);
/// How long it stays open at most.
const LONGEST: Duration = Duration::from_secs(30);
/// How many different failing questions are remembered.
const QUESTIONS: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// It answered with 5xx, or closed the connection without an answer.
    ServerError,
    Unreachable,
    /// It did not answer in time. That cost a long wait, so it counts twice.
    Silent,
}

impl FailureKind {
    fn weight(self) -> u32 {
        match self {
            Self::ServerError | Self::Unreachable => 1,
            Self::Silent => 2,
        }
    }
}

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Yes; the circuit is closed.
    Pass,
    /// Yes, and its answer decides. It must end in success, failure or giving up. The number tells probes apart.
    Probe(u64),
    /// No, for this long; zero while a probe is under way.
    Refused(Duration),
}

/// How a result changed the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Not in a way that is logged.
    None,
    /// It was closed, and is open for this long.
    Opened(Duration),
    /// It is closed again, this long after it opened.
    Closed(Duration),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum CircuitState {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        probe: Option<u64>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: CircuitState,
    /// Weight of the failures since the last success.
    weight: u32,
    /// Questions that ended in a server error since the last success.
    failing: Vec<u64>,
    /// How often in a row it opened.
    openings: u32,
    /// Since when it is not closed.
    since: Option<Instant>,
    probes: u64,
}

impl Circuit {
    /// Asks whether a request may be sent.
    pub(crate) fn enter(&mut self, now: Instant) -> Admission {
        match self.state {
            CircuitState::Closed => Admission::Pass,
            CircuitState::Open { until } if now < until => Admission::Refused(until - now),
            CircuitState::HalfOpen { probe: Some(_) } => Admission::Refused(Duration::ZERO),
            CircuitState::Open { .. } | CircuitState::HalfOpen { probe: None } => {
                self.probes += 1;
                self.state = CircuitState::HalfOpen {
                    probe: Some(self.probes),
                };
                Admission::Probe(self.probes)
            }
        }
    }

    /// An answer came, to any request: the origin works.
    pub(crate) fn succeeded(&mut self, now: Instant) -> Transition {
        let since = self.since;
        *self = Self {
            probes: self.probes,
            ..Self::default()
        };
        since.map_or(Transition::None, |since| {
            Transition::Closed(now.saturating_duration_since(since))
        })
    }

    /// No answer came to `question`. `jitter` is from 0 to 1.
    pub(crate) fn failed(
        &mut self,
        admission: Admission,
        question: u64,
        kind: FailureKind,
        now: Instant,
        jitter: f64,
    ) -> Transition {
        let known = kind == FailureKind::ServerError && !self.note(question);
        match (self.state, admission) {
            (CircuitState::Closed, _) if known => Transition::None,
            (CircuitState::Closed, _) => {
                self.weight = self.weight.saturating_add(kind.weight());
                if self.weight < ENOUGH {
                    return Transition::None;
                }
                self.since = Some(now);
                Transition::Opened(self.open(now, jitter))
            }
            (CircuitState::HalfOpen { probe }, Admission::Probe(number))
                if probe == Some(number) =>
            {
                if known {
                    // A question that has failed before says nothing about the others.
                    self.openings = 0;
                }
                self.open(now, jitter);
                Transition::None
            }
            // It was sent before the circuit opened.
            (CircuitState::Open { .. } | CircuitState::HalfOpen { .. }, _) => Transition::None,
        }
    }

    /// The request was cancelled before its answer came.
    pub(crate) fn gave_up(&mut self, admission: Admission) {
        if let Admission::Probe(number) = admission
            && self.state
                == (CircuitState::HalfOpen {
                    probe: Some(number),
                })
        {
            self.state = CircuitState::HalfOpen { probe: None };
        }
    }

    /// As a metric has it: 0 closed, 1 half open, 2 open.
    pub(crate) fn number(&self) -> i64 {
        match self.state {
            CircuitState::Closed => 0,
            CircuitState::HalfOpen { .. } => 1,
            CircuitState::Open { .. } => 2,
        }
    }

    /// Since when it is not closed.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Notes a failing question; whether it is a new one.
    fn note(&mut self, question: u64) -> bool {
        let new = !self.failing.contains(&question);
        if new && self.failing.len() < QUESTIONS {
            self.failing.push(question);
        }
        new
    }

    fn open(&mut self, now: Instant, jitter: f64) -> Duration {
        let longest = SHORTEST
            .saturating_mul(1 << self.openings.min(10))
            .min(LONGEST);
        // Half of it is jitter, so that mirrors that lost one registry together do not come back together.
        let time = longest.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0));
        self.openings = self.openings.saturating_add(1);
        self.state = CircuitState::Open { until: now + time };
        time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A circuit that has just opened, and the time.
    fn opened() -> (Circuit, Instant) {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..ENOUGH {
            let admission = circuit.enter(now);
            assert_eq!(admission, Admission::Pass);
            circuit.failed(admission, 0, FailureKind::Unreachable, now, 1.0);
        }
        assert_eq!(circuit.number(), 2);
        (circuit, now)
    }

    #[test]
    fn it_opens_lets_one_through_and_closes() {
        let (mut circuit, now) = opened();
        assert_eq!(circuit.enter(now), Admission::Refused(2 * SECOND));
        let later = now + 2 * SECOND;
        assert_eq!(circuit.enter(later), Admission::Probe(1));
        assert_eq!(circuit.enter(later), Admission::Refused(Duration::ZERO));
        let closed = circuit.succeeded(later + SECOND);
        assert_eq!(closed, Transition::Closed(3 * SECOND));
        assert_eq!(circuit.enter(later), Admission::Pass);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_half_a_minute() {
        let (mut circuit, mut now) = opened();
        for expected in [2, 4, 8, 16, 30, 30] {
            let Admission::Refused(time) = circuit.enter(now) else {
                panic!("not open");
            };
            assert_eq!(time, expected * SECOND);
            now += time;
            let probe = circuit.enter(now);
            assert!(matches!(probe, Admission::Probe(_)));
            circuit.failed(probe, 0, FailureKind::Silent, now, 1.0);
        }
    }

    #[test]
    fn a_success_in_between_counts_from_the_beginning() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for question in 0..100 {
            let admission = circuit.enter(now);
            circuit.failed(admission, question, FailureKind::ServerError, now, 0.0);
            if question % 4 == 3 {
                circuit.succeeded(now);
            }
        }
        assert_eq!(circuit.number(), 0);
    }

    #[test]
    fn one_thing_that_is_broken_shuts_nothing_out() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..1000 {
            let admission = circuit.enter(now);
            assert_eq!(admission, Admission::Pass);
            circuit.failed(admission, 7, FailureKind::ServerError, now, 0.0);
        }
        // Open for another reason, it does not make the time longer.
        for question in 0..ENOUGH {
            circuit.failed(
                Admission::Pass,
                question.into(),
                FailureKind::ServerError,
                now,
                0.0,
            );
        }
        let mut now = now;
        for _ in 0..20 {
            let Admission::Refused(time) = circuit.enter(now) else {
                panic!("not open");
            };
            assert_eq!(time, SECOND);
            now += time;
            let probe = circuit.enter(now);
            circuit.failed(probe, 7, FailureKind::ServerError, now, 0.0);
        }
    }

    #[test]
    fn silence_is_noticed_sooner() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let change: Vec<_> = (0..3)
            .map(|_| circuit.failed(Admission::Pass, 0, FailureKind::Silent, now, 0.0))
            .collect();
        assert_eq!(
            change,
            [
                Transition::None,
                Transition::None,
                Transition::Opened(SECOND)
            ]
        );
    }

    #[test]
    fn a_cancelled_probe_makes_room_for_another() {
        let (mut circuit, now) = opened();
        let now = now + 2 * SECOND;
        let probe = circuit.enter(now);
        // A request sent before it opened changes nothing.
        circuit.gave_up(Admission::Pass);
        circuit.failed(Admission::Pass, 0, FailureKind::Silent, now, 1.0);
        assert_eq!(circuit.enter(now), Admission::Refused(Duration::ZERO));
        circuit.gave_up(probe);
        assert_eq!(circuit.enter(now), Admission::Probe(2));
    }

    proptest! {
        /// In any order of events: never two probes at a time, never shut for longer than half a minute, and a success
        /// opens the door for all.
        #[test]
        fn it_never_stays_shut(steps in prop::collection::vec((0..5_u8, 0..3_u64, 0..5000_u64, 0.0..1.0_f64), 0..200)) {
            let (mut circuit, mut now) = (Circuit::default(), Instant::now());
            // The probe whose answer decides; one that was under way when the circuit closed does not any more.
            let mut deciding = None;
            let mut out = Vec::new();
            for (step, question, millis, jitter) in steps {
                now += Duration::from_millis(millis);
                if step < 2 {
                    match circuit.enter(now) {
                        Admission::Refused(left) => prop_assert!(left <= LONGEST),
                        Admission::Pass => out.push(Admission::Pass),
                        Admission::Probe(number) => {
                            prop_assert_eq!(deciding, None);
                            deciding = Some(number);
                            out.push(Admission::Probe(number));
                        }
                    }
                    continue;
                }
                let Some(admission) = out.pop() else { continue };
                if matches!(admission, Admission::Probe(number) if deciding == Some(number)) {
                    deciding = None;
                }
                match step {
                    2 => circuit.gave_up(admission),
                    3 => {
                        deciding = None;
                        circuit.succeeded(now);
                        prop_assert_eq!(circuit.enter(now), Admission::Pass);
                    }
                    _ => {
                        circuit.failed(admission, question, FailureKind::Unreachable, now, jitter);
                    }
                }
            }
            for admission in out {
                circuit.gave_up(admission);
            }
            now += LONGEST;
            prop_assert!(!matches!(circuit.enter(now), Admission::Refused(_)));
        }
    }
}
