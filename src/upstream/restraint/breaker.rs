//! The gate in front of an origin: its circuit, watched by metrics and the log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::metrics::Metrics;

use super::circuit::{Change, Circuit, Entry, Trouble};
use super::jitter::chance;
use crate::upstream::error::Error;

/// Lets questions through to one origin, unless it failed too often.
pub(crate) struct Gate {
    guarded: Mutex<Guarded>,
    namespace: Arc<str>,
    /// Host and port, or `token` for the realm.
    endpoint: Arc<str>,
    state: prometheus::IntGauge,
    openings: prometheus::IntCounter,
}

/// Held for a look, never while waiting.
#[derive(Default)]
struct Guarded {
    circuit: Circuit,
    /// The last failure, in words, and whether it was silence.
    last: Option<(Arc<str>, Trouble)>,
}

/// Leave to ask once. What became of it must be said; dropped without a word, nothing became of it.
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    question: u64,
    entry: Option<Entry>,
}

impl Gate {
    pub(crate) fn new(namespace: &str, endpoint: &str, metrics: &Metrics) -> Self {
        let labels = [namespace, endpoint];
        // Present from the start, so that the first opening is an increase.
        let state = metrics.circuit_state.with_label_values(&labels);
        let openings = metrics.circuit_openings.with_label_values(&labels);
        Self {
            guarded: Mutex::default(),
            namespace: namespace.into(),
            endpoint: endpoint.into(),
            state,
            openings,
        }
    }

    /// Asks to be let through; `question` is the same number for the same question.
    pub(crate) fn enter(&self, question: u64) -> Result<Pass<'_>, Error> {
        let now = Instant::now();
        let mut guarded = self.guarded();
        let entry = guarded.circuit.enter(now);
        self.state.set(guarded.circuit.number());
        let Entry::Refused(again_in) = entry else {
            return Ok(Pass {
                gate: self,
                question,
                entry: Some(entry),
            });
        };
        let (cause, trouble) = guarded.last.clone().unzip();
        let since = guarded.circuit.since();
        drop(guarded);
        let failing = since.map_or(0, |since| now.saturating_duration_since(since).as_secs());
        let cause = cause.unwrap_or_else(|| "it does not answer".into());
        let again = if again_in.is_zero() {
            "it is being tried right now".to_owned()
        } else {
            format!("it is tried again in {:.1} s", again_in.as_secs_f64())
        };
        let endpoint = &self.endpoint;
        Err(Error::LeftAlone {
            silent: trouble == Some(Trouble::Silent),
            again_in,
            detail: format!("{endpoint} has been left alone for {failing} s because it kept failing, last: {cause}; {again}").into(),
        })
    }

    fn guarded(&self) -> MutexGuard<'_, Guarded> {
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn succeeded(&self) {
        let mut guarded = self.guarded();
        let change = guarded.circuit.succeeded(Instant::now());
        self.state.set(guarded.circuit.number());
        drop(guarded);
        if let Change::Closed(after) = change {
            let (upstream, endpoint) = (&self.namespace, &self.endpoint);
            tracing::info!(%upstream, %endpoint, ?after, "it answers again");
        }
    }

    fn failed(&self, question: u64, entry: Entry, trouble: Trouble, cause: &Error) {
        let words: Arc<str> = cause.detail().into();
        let mut guarded = self.guarded();
        let now = Instant::now();
        let change = guarded
            .circuit
            .failed(entry, question, trouble, now, chance());
        guarded.last = Some((Arc::clone(&words), trouble));
        self.state.set(guarded.circuit.number());
        drop(guarded);
        if let Change::Opened(time) = change {
            self.openings.inc();
            let (upstream, endpoint) = (&self.namespace, &self.endpoint);
            tracing::warn!(%upstream, %endpoint, error = %words, again_in = ?time, "it keeps failing and is left alone for a while; what is stored is served");
        }
    }
}

impl Pass<'_> {
    /// An answer came.
    pub(crate) fn succeeded(mut self) {
        self.entry = None;
        self.gate.succeeded();
    }

    /// None came, or one that says that the origin is not well.
    pub(crate) fn failed(mut self, trouble: Trouble, cause: &Error) {
        if let Some(entry) = self.entry.take() {
            self.gate.failed(self.question, entry, trouble, cause);
        }
    }

    /// Judges by the error that a question to the origin itself ended in.
    pub(crate) fn judge(self, error: &Error) {
        match error {
            Error::Silent(_) => self.failed(Trouble::Silent, error),
            Error::Unavailable(_) => self.failed(Trouble::Unreachable, error),
            Error::NotFound
            | Error::Denied { .. }
            | Error::RateLimited { .. }
            | Error::Wrong(_) => self.succeeded(),
            // It was not asked.
            Error::LeftAlone { .. } | Error::Credentials(_) => {}
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let mut guarded = self.gate.guarded();
            guarded.circuit.gave_up(entry);
            self.gate.state.set(guarded.circuit.number());
        }
    }
}
