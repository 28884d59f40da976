//! A circuit breaker's states: when what keeps failing is not asked, and when it is tried again. Pure: time and jitter
//! are arguments.
//!
//! Closed: every request may be sent. After failures in a row it opens: no request is sent, for a short time that grows
//! with every further failure. Then it is half open: one request is sent, and its answer decides.
//!
//! A question that is answered with 5xx, or with a broken connection, counts once, even if it is repeated: one broken
//! blob must not shut out its repository. For an origin, answers like that and silence are no more than a suspicion,
//! because a client may have looked for the five things that are broken. While an origin is suspected everything is
//! asked as before, but for one probe (`/v2/`) that decides.

use std::time::{Duration, Instant};

/// Failures in a row, by their weight, that open a circuit.
const ENOUGH: u32 = 5;
/// How long it stays open at first, at most.
const SHORTEST: Duration = Duration::from_secs(2);
/// How long it stays open at most.
const LONGEST: Duration = Duration::from_secs(30);
/// How many different failing questions are remembered.
const QUESTIONS: usize = 16;
/// How long an origin is not suspected again after a probe that was answered.
const CLEARED: Duration = Duration::from_secs(5);

/// What a circuit stands before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything that one host answers. A probe asks about the host itself.
    Origin,
    /// One repository of it. The next question about the repository is the probe.
    Repository,
}

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
    /// Yes.
    Pass,
    /// A probe may, and its answer decides. It must end in success, failure or giving up. The number tells probes apart.
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
    /// An origin with failures that may be about the questions alone.
    Suspected {
        probe: Option<u64>,
    },
    Open {
        until: Instant,
    },
    HalfOpen {
        probe: Option<u64>,
    },
}

#[derive(Debug)]
pub(crate) struct Circuit {
    scope: Scope,
    state: CircuitState,
    /// Weight of the failures since the last success.
    weight: u32,
    /// Of them those that open it without a probe.
    certain: u32,
    /// Questions that ended in a server error since the last success.
    failing: Vec<u64>,
    /// How often in a row it opened.
    openings: u32,
    /// Since when it is not closed.
    since: Option<Instant>,
    probes: u64,
    /// An origin is not suspected before this.
    cleared_until: Option<Instant>,
}

impl Circuit {
    pub(crate) fn new(scope: Scope) -> Self {
        Self {
            scope,
            state: CircuitState::Closed,
            weight: 0,
            certain: 0,
            failing: Vec::new(),
            openings: 0,
            since: None,
            probes: 0,
            cleared_until: None,
        }
    }

    /// Asks whether a request may be sent.
    pub(crate) fn enter(&mut self, now: Instant) -> Admission {
        match self.state {
            CircuitState::Closed | CircuitState::Suspected { probe: Some(_) } => Admission::Pass,
            CircuitState::Open { until } if now < until => Admission::Refused(until - now),
            CircuitState::HalfOpen { probe: Some(_) } => Admission::Refused(Duration::ZERO),
            CircuitState::Suspected { probe: None } => {
                let probe = self.next_probe();
                self.state = CircuitState::Suspected { probe: Some(probe) };
                Admission::Probe(probe)
            }
            CircuitState::Open { .. } | CircuitState::HalfOpen { probe: None } => {
                let probe = self.next_probe();
                self.state = CircuitState::HalfOpen { probe: Some(probe) };
                Admission::Probe(probe)
            }
        }
    }

    /// An answer came, to any request: it works.
    pub(crate) fn succeeded(&mut self, admission: Admission, now: Instant) -> Transition {
        let since = self.since;
        let cleared_until = match admission {
            Admission::Probe(_) => Some(now + CLEARED),
            _ => self.cleared_until,
        };
        *self = Self {
            probes: self.probes,
            cleared_until,
            ..Self::new(self.scope)
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
            (CircuitState::Closed, _) => self.count(kind, now, jitter),
            (CircuitState::Suspected { probe }, Admission::Probe(number))
                if probe == Some(number) =>
            {
                self.since = Some(now);
                Transition::Opened(self.open(now, jitter))
            }
            (CircuitState::HalfOpen { probe }, Admission::Probe(number))
                if probe == Some(number) =>
            {
                if known && self.scope == Scope::Repository {
                    // A question that has failed before says nothing about the others.
                    self.openings = 0;
                }
                self.open(now, jitter);
                Transition::None
            }
            // It was sent before the circuit opened, or a probe is to decide.
            _ => Transition::None,
        }
    }

    fn count(&mut self, kind: FailureKind, now: Instant, jitter: f64) -> Transition {
        let certain = kind == FailureKind::Unreachable || self.scope == Scope::Repository;
        if !certain && self.cleared_until.is_some_and(|until| now < until) {
            return Transition::None;
        }
        self.weight = self.weight.saturating_add(kind.weight());
        if certain {
            self.certain = self.certain.saturating_add(kind.weight());
        }
        if self.certain >= ENOUGH {
            self.since = Some(now);
            return Transition::Opened(self.open(now, jitter));
        }
        if self.weight >= ENOUGH {
            self.state = CircuitState::Suspected { probe: None };
        }
        Transition::None
    }

    /// The request was cancelled before its answer came.
    pub(crate) fn gave_up(&mut self, admission: Admission) {
        let Admission::Probe(number) = admission else {
            return;
        };
        match &mut self.state {
            CircuitState::Suspected { probe } | CircuitState::HalfOpen { probe } => {
                probe.take_if(|probe| *probe == number);
            }
            CircuitState::Closed | CircuitState::Open { .. } => {}
        }
    }

    /// As a metric has it: 0 closed, 1 half open, 2 open.
    pub(crate) fn number(&self) -> i64 {
        match self.state {
            CircuitState::Closed | CircuitState::Suspected { .. } => 0,
            CircuitState::HalfOpen { .. } => 1,
            CircuitState::Open { .. } => 2,
        }
    }

    /// Since when it is not closed.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    fn next_probe(&mut self) -> u64 {
        self.probes += 1;
        self.probes
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
mod tests;
