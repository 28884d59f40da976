//! When an origin that keeps failing is left alone, and when it is tried again. Pure: time and chance are arguments.
//!
//! Closed: everybody may ask. After failures in a row it opens: nobody may, for a short time that grows with every
//! further failure. Then it is half open: one request may ask, and its answer decides.
//!
//! An origin that answers is there, whatever it says of one thing. So a question that was answered with 5xx, or with a
//! broken connection, counts once, however often it is repeated: one broken blob must not shut a registry out.

use std::time::{Duration, Instant};

/// Failures in a row, by their weight, that open a circuit.
const ENOUGH: u32 = 5;
/// How long it stays open at first, at most.
const SHORTEST: Duration = Duration::from_secs(2);
/// How long it stays open at most.
const LONGEST: Duration = Duration::from_secs(30);
/// Failing questions that are told apart.
const QUESTIONS: usize = 16;

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It answered with 5xx, or broke the connection off when it was asked.
    Refused,
    /// It could not be reached.
    Unreachable,
    /// It said nothing. Whoever finds that out has waited long, so it weighs double.
    Silent,
}

impl Trouble {
    fn weight(self) -> u32 {
        match self {
            Self::Refused | Self::Unreachable => 1,
            Self::Silent => 2,
        }
    }
}

/// Whether one may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// As ever.
    Pass,
    /// As the one whose answer decides. It has to be given back: by success, by failure or by giving up.
    /// The number tells it from those before it.
    Probe(u64),
    /// Not for this long; zero while somebody else's answer is awaited.
    Refused(Duration),
}

/// What became of the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing that anybody need be told.
    None,
    /// It was closed, and is open for this long.
    Opened(Duration),
    /// It is closed again, this long after it opened.
    Closed(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen { probe: Option<u64> },
}

/// What is remembered of an origin's failures.
#[derive(Debug)]
pub(crate) struct Circuit {
    state: State,
    /// Weight of the failures since the last success.
    weight: u32,
    /// Questions that were refused so since the last success.
    failing: Vec<u64>,
    /// How often in a row it opened.
    openings: u32,
    /// Since when it is not closed.
    since: Option<Instant>,
    /// Probes so far.
    probes: u64,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            state: State::Closed,
            weight: 0,
            failing: Vec::new(),
            openings: 0,
            since: None,
            probes: 0,
        }
    }
}

impl Circuit {
    /// Asks to be let through.
    pub(crate) fn enter(&mut self, now: Instant) -> Entry {
        match self.state {
            State::Closed => Entry::Pass,
            State::Open { until } if now < until => Entry::Refused(until - now),
            State::HalfOpen { probe: Some(_) } => Entry::Refused(Duration::ZERO),
            State::Open { .. } | State::HalfOpen { probe: None } => {
                self.probes += 1;
                self.state = State::HalfOpen {
                    probe: Some(self.probes),
                };
                Entry::Probe(self.probes)
            }
        }
    }

    /// An answer came, whoever asked: the origin is there.
    pub(crate) fn succeeded(&mut self, now: Instant) -> Change {
        let since = self.since;
        *self = Self {
            probes: self.probes,
            ..Self::default()
        };
        since.map_or(Change::None, |since| {
            Change::Closed(now.saturating_duration_since(since))
        })
    }

    /// No answer came to `question`. `chance` is from 0 to 1.
    pub(crate) fn failed(
        &mut self,
        entry: Entry,
        question: u64,
        trouble: Trouble,
        now: Instant,
        chance: f64,
    ) -> Change {
        let known = trouble == Trouble::Refused && !self.note(question);
        match (self.state, entry) {
            (State::Closed, _) if known => Change::None,
            (State::Closed, _) => {
                self.weight = self.weight.saturating_add(trouble.weight());
                if self.weight < ENOUGH {
                    return Change::None;
                }
                self.since = Some(now);
                Change::Opened(self.open(now, chance))
            }
            (State::HalfOpen { probe }, Entry::Probe(number)) if probe == Some(number) => {
                if known {
                    // What failed before for its own reasons, perhaps, says nothing about the others.
                    self.openings = 0;
                }
                self.open(now, chance);
                Change::None
            }
            // It set out before the circuit opened: nothing new.
            (State::Open { .. } | State::HalfOpen { .. }, _) => Change::None,
        }
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn gave_up(&mut self, entry: Entry) {
        if let Entry::Probe(number) = entry
            && self.state
                == (State::HalfOpen {
                    probe: Some(number),
                })
        {
            self.state = State::HalfOpen { probe: None };
        }
    }

    /// As a metric has it: 0 closed, 1 half open, 2 open.
    pub(crate) fn number(&self) -> i64 {
        match self.state {
            State::Closed => 0,
            State::HalfOpen { .. } => 1,
            State::Open { .. } => 2,
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

    fn open(&mut self, now: Instant, chance: f64) -> Duration {
        let longest = SHORTEST
            .saturating_mul(1 << self.openings.min(10))
            .min(LONGEST);
        // Half of it is chance, so that mirrors that lost one registry together do not come back together.
        let time = longest.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { until: now + time };
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
            let entry = circuit.enter(now);
            assert_eq!(entry, Entry::Pass);
            circuit.failed(entry, 0, Trouble::Unreachable, now, 1.0);
        }
        assert_eq!(circuit.number(), 2);
        (circuit, now)
    }

    #[test]
    fn it_opens_lets_one_through_and_closes() {
        let (mut circuit, now) = opened();
        assert_eq!(circuit.enter(now), Entry::Refused(2 * SECOND));
        let later = now + 2 * SECOND;
        assert_eq!(circuit.enter(later), Entry::Probe(1));
        assert_eq!(circuit.enter(later), Entry::Refused(Duration::ZERO));
        let closed = circuit.succeeded(later + SECOND);
        assert_eq!(closed, Change::Closed(3 * SECOND));
        assert_eq!(circuit.enter(later), Entry::Pass);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_half_a_minute() {
        let (mut circuit, mut now) = opened();
        for expected in [2, 4, 8, 16, 30, 30] {
            let Entry::Refused(time) = circuit.enter(now) else {
                panic!("not open");
            };
            assert_eq!(time, expected * SECOND);
            now += time;
            let probe = circuit.enter(now);
            assert!(matches!(probe, Entry::Probe(_)));
            circuit.failed(probe, 0, Trouble::Silent, now, 1.0);
        }
    }

    #[test]
    fn a_success_in_between_counts_from_the_beginning() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for question in 0..100 {
            let entry = circuit.enter(now);
            circuit.failed(entry, question, Trouble::Refused, now, 0.0);
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
            let entry = circuit.enter(now);
            assert_eq!(entry, Entry::Pass);
            circuit.failed(entry, 7, Trouble::Refused, now, 0.0);
        }
        // Open for another reason, it does not make the time longer.
        for question in 0..ENOUGH {
            circuit.failed(Entry::Pass, question.into(), Trouble::Refused, now, 0.0);
        }
        let mut now = now;
        for _ in 0..20 {
            let Entry::Refused(time) = circuit.enter(now) else {
                panic!("not open");
            };
            assert_eq!(time, SECOND);
            now += time;
            let probe = circuit.enter(now);
            circuit.failed(probe, 7, Trouble::Refused, now, 0.0);
        }
    }

    #[test]
    fn silence_is_noticed_sooner() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        let change: Vec<_> = (0..3)
            .map(|_| circuit.failed(Entry::Pass, 0, Trouble::Silent, now, 0.0))
            .collect();
        assert_eq!(change, [Change::None, Change::None, Change::Opened(SECOND)]);
    }

    #[test]
    fn a_probe_nobody_waits_for_leaves_room_for_another() {
        let (mut circuit, now) = opened();
        let now = now + 2 * SECOND;
        let probe = circuit.enter(now);
        // Somebody who set out before it opened has no say.
        circuit.gave_up(Entry::Pass);
        circuit.failed(Entry::Pass, 0, Trouble::Silent, now, 1.0);
        assert_eq!(circuit.enter(now), Entry::Refused(Duration::ZERO));
        circuit.gave_up(probe);
        assert_eq!(circuit.enter(now), Entry::Probe(2));
    }

    proptest! {
        /// Whatever happens: never two probes at a time, never shut for longer than half a minute, and a success
        /// opens the door for all.
        #[test]
        fn it_never_locks_anybody_out(steps in prop::collection::vec((0..5_u8, 0..3_u64, 0..5000_u64, 0.0..1.0_f64), 0..200)) {
            let (mut circuit, mut now) = (Circuit::default(), Instant::now());
            // The probe whose answer decides; one that was under way when the circuit closed does not any more.
            let mut deciding = None;
            let mut out = Vec::new();
            for (step, question, millis, chance) in steps {
                now += Duration::from_millis(millis);
                if step < 2 {
                    match circuit.enter(now) {
                        Entry::Refused(left) => prop_assert!(left <= LONGEST),
                        Entry::Pass => out.push(Entry::Pass),
                        Entry::Probe(number) => {
                            prop_assert_eq!(deciding, None);
                            deciding = Some(number);
                            out.push(Entry::Probe(number));
                        }
                    }
                    continue;
                }
                let Some(entry) = out.pop() else { continue };
                if matches!(entry, Entry::Probe(number) if deciding == Some(number)) {
                    deciding = None;
                }
                match step {
                    2 => circuit.gave_up(entry),
                    3 => {
                        deciding = None;
                        circuit.succeeded(now);
                        prop_assert_eq!(circuit.enter(now), Entry::Pass);
                    }
                    _ => {
                        circuit.failed(entry, question, Trouble::Unreachable, now, chance);
                    }
                }
            }
            for entry in out {
                circuit.gave_up(entry);
            }
            now += LONGEST;
            prop_assert!(!matches!(circuit.enter(now), Entry::Refused(_)));
        }
    }
}
