//! The circuit breaker in front of one origin: its circuit with a lock, metrics and log lines.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::metrics::Metrics;

use crate::upstream::error::Error;

use super::circuit::{Admission, Circuit, FailureKind, Transition};
use super::jitter;

/// Lets requests through to one origin, unless it failed too often.
pub(crate) struct Breaker {
    guarded: Mutex<Guarded>,
    namespace: Arc<str>,
    /// Host and port; for the realm followed by `token`.
    endpoint: Arc<str>,
    state: prometheus::IntGauge,
    openings: prometheus::IntCounter,
}

/// Never locked while waiting.
#[derive(Default)]
struct Guarded {
    circuit: Circuit,
    /// The cause and the kind of the last failure.
    last: Option<(Arc<str>, FailureKind)>,
}

/// Permission for one request. Report success or failure; dropping it counts as cancelled.
pub(crate) struct Permission<'a> {
    breaker: &'a Breaker,
    question: u64,
    admission: Option<Admission>,
}

impl Breaker {
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

    /// Asks whether a request may be sent; `question` is the same number for the same question.
    pub(crate) fn enter(&self, question: u64) -> Result<Permission<'_>, Error> {
        let now = Instant::now();
        let admission = self.update(|guarded| guarded.circuit.enter(now));
        let Admission::Refused(again_in) = admission else {
            return Ok(Permission {
                breaker: self,
                question,
                admission: Some(admission),
            });
        };
        let (last, since) = self.update(|guarded| (guarded.last.clone(), guarded.circuit.since()));
        let (cause, kind) = last.unzip();
        let failing = since.map_or(0, |since| now.saturating_duration_since(since).as_secs());
        let cause = cause.unwrap_or_else(|| "it does not answer".into());
        let again = if again_in.is_zero() {
            "it is being tried right now".to_owned()
        } else {
            format!("it is tried again in {:.1} s", again_in.as_secs_f64())
        };
        let endpoint = &self.endpoint;
        Err(Error::CircuitOpen {
            silent: kind == Some(FailureKind::Silent),
            again_in,
            detail: format!("{endpoint} has been left alone for {failing} s because it kept failing, last: {cause}; {again}").into(),
        })
    }

    /// Changes or reads the circuit, and shows its state in the metric.
    fn update<T>(&self, change: impl FnOnce(&mut Guarded) -> T) -> T {
        let mut guarded = self.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut guarded);
        self.state.set(guarded.circuit.number());
        result
    }

    fn succeeded(&self) {
        let change = self.update(|guarded| guarded.circuit.succeeded(Instant::now()));
        if let Transition::Closed(after) = change {
            let (upstream, endpoint) = (&self.namespace, &self.endpoint);
            tracing::info!(%upstream, %endpoint, ?after, "it answers again");
        }
    }

    fn failed(&self, question: u64, admission: Admission, kind: FailureKind, cause: &Error) {
        let words: Arc<str> = cause.detail().into();
        let (now, jitter) = (Instant::now(), jitter::fraction());
        let change = self.update(|guarded| {
            guarded.last = Some((Arc::clone(&words), kind));
            let circuit = &mut guarded.circuit;
            circuit.failed(admission, question, kind, now, jitter)
        });
        if let Transition::Opened(time) = change {
            self.openings.inc();
            let (upstream, endpoint) = (&self.namespace, &self.endpoint);
            tracing::warn!(%upstream, %endpoint, error = %words, again_in = ?time, "it keeps failing and is left alone for a while; what is stored is served");
        }
    }
}

impl Permission<'_> {
    /// An answer came.
    pub(crate) fn succeeded(mut self) {
        self.admission = None;
        self.breaker.succeeded();
    }

    /// No answer came, or one that says that the origin is not well.
    pub(crate) fn failed(mut self, kind: FailureKind, cause: &Error) {
        if let Some(admission) = self.admission.take() {
            self.breaker.failed(self.question, admission, kind, cause);
        }
    }

    /// Reports success or failure by the error that the request ended in.
    pub(crate) fn judge(self, error: &Error) {
        match error {
            Error::Silent(_) => self.failed(FailureKind::Silent, error),
            Error::Unavailable(_) => self.failed(FailureKind::Unreachable, error),
            Error::NotFound
            | Error::Denied { .. }
            | Error::RateLimited { .. }
            | Error::Wrong(_) => self.succeeded(),
            // It was not asked.
            Error::CircuitOpen { .. } | Error::Credentials(_) => {}
        }
    }
}

impl Drop for Permission<'_> {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            self.breaker
                .update(|guarded| guarded.circuit.gave_up(admission));
        }
    }
}
