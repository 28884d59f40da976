//! The circuit breaker in front of one origin: its circuit and those of its repositories, with a lock, metrics and log
//! lines.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::metrics::Metrics;

use crate::upstream::error::Error;

use super::circuit::{Admission, Circuit, FailureKind, Scope, Transition};
use super::jitter;

/// For how many failing repositories of an origin that is remembered.
const REPOSITORIES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Lets requests through to one origin, unless it failed too often, or the repository did.
pub(crate) struct Breaker {
    guarded: Mutex<Guarded>,
    namespace: Arc<str>,
    /// Host and port; for the realm followed by `token`.
    endpoint: Arc<str>,
    state: prometheus::IntGauge,
    openings: prometheus::IntCounter,
    repository_openings: prometheus::IntCounter,
}

/// Never locked while waiting.
struct Guarded {
    origin: Watched,
    /// Those with a failure since their last success. The one that was asked for longest ago is forgotten first.
    repositories: LruCache<String, Watched>,
}

/// A circuit, and the cause and the kind of the last failure.
struct Watched {
    circuit: Circuit,
    last: Option<(Arc<str>, FailureKind)>,
}

/// What a request is about: the repository, if it is about one, and a number that is the same for the same question.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) repository: Option<&'a str>,
    pub(crate) question: u64,
}

/// Permission for one request. Report success or failure; dropping it counts as cancelled.
pub(crate) struct Permission<'a> {
    breaker: &'a Breaker,
    subject: Subject<'a>,
    admissions: Option<Admissions>,
}

#[derive(Clone, Copy)]
struct Admissions {
    origin: Admission,
    repository: Admission,
}

impl Breaker {
    pub(crate) fn new(namespace: &str, endpoint: &str, metrics: &Metrics) -> Self {
        let labels = [namespace, endpoint];
        // Present from the start, so that the first opening is an increase.
        let state = metrics.circuit_state.with_label_values(&labels);
        let openings = metrics.circuit_openings.with_label_values(&labels);
        let of_repositories = &metrics.repository_circuit_openings;
        let repository_openings = of_repositories.with_label_values(&[namespace]);
        Self {
            guarded: Mutex::new(Guarded {
                origin: Watched::new(Scope::Origin),
                repositories: LruCache::sparse(REPOSITORIES),
            }),
            namespace: namespace.into(),
            endpoint: endpoint.into(),
            state,
            openings,
            repository_openings,
        }
    }

    /// Asks whether a request may be sent. `ping` asks the origin something that is about no repository; it runs if the
    /// answer to that decides.
    pub(crate) async fn admit<'a>(
        &'a self,
        subject: Subject<'a>,
        ping: impl Future<Output = Result<(), Error>>,
    ) -> Result<Permission<'a>, Error> {
        let permission = self.enter(subject)?;
        if !permission.is_for_ping() {
            return Ok(permission);
        }
        match ping.await {
            Ok(()) => permission.succeeded(),
            Err(error) => permission.judge(&error),
        }
        self.enter(subject)
    }

    fn enter<'a>(&'a self, subject: Subject<'a>) -> Result<Permission<'a>, Error> {
        let now = Instant::now();
        let admissions = self.update(|guarded| {
            let origin = guarded.origin.circuit.enter(now);
            let watched = match origin {
                Admission::Refused(again_in) => {
                    return Err(guarded.origin.refusal(&self.endpoint, again_in, now));
                }
                // The ping comes first.
                Admission::Probe(_) => None,
                Admission::Pass => guarded.of(subject.repository),
            };
            let repository = match watched {
                None => Admission::Pass,
                Some(watched) => match watched.circuit.enter(now) {
                    Admission::Refused(again_in) => {
                        let name = subject.repository.unwrap_or_default();
                        let what = format!("{name} at {}", self.endpoint);
                        return Err(watched.refusal(&what, again_in, now));
                    }
                    admission => admission,
                },
            };
            Ok(Admissions { origin, repository })
        })?;
        Ok(Permission {
            breaker: self,
            subject,
            admissions: Some(admissions),
        })
    }

    /// Changes or reads the circuits, and shows the origin's state in the metric.
    fn update<T>(&self, change: impl FnOnce(&mut Guarded) -> T) -> T {
        let mut guarded = self.guarded.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut guarded);
        self.state.set(guarded.origin.circuit.number());
        result
    }

    fn succeeded(&self, subject: Subject<'_>, admissions: Admissions) {
        let change = self.update(|guarded| {
            if let (Some(name), false) = (subject.repository, admissions.is_for_ping()) {
                guarded.repositories.pop(name);
            }
            let circuit = &mut guarded.origin.circuit;
            circuit.succeeded(admissions.origin, Instant::now())
        });
        if let Transition::Closed(after) = change {
            let (upstream, endpoint) = (&self.namespace, &self.endpoint);
            tracing::info!(%upstream, %endpoint, ?after, "it answers again");
        }
    }

    fn failed(
        &self,
        subject: Subject<'_>,
        admissions: Admissions,
        kind: FailureKind,
        cause: &Error,
    ) {
        let cause: Arc<str> = cause.detail().into();
        let failure = FailureReport {
            question: subject.question,
            kind,
            cause: &cause,
            now: Instant::now(),
            jitter: jitter::fraction(),
        };
        let (origin, repository) = self.update(|guarded| {
            // A host that cannot be reached says nothing of a repository.
            let about = subject
                .repository
                .filter(|_| !admissions.is_for_ping() && kind != FailureKind::Unreachable);
            let repository = about.map(|name| {
                let new = || Watched::new(Scope::Repository);
                let watched = guarded.repositories.get_or_insert_mut_ref(name, new);
                watched.failed(admissions.repository, &failure)
            });
            if about.is_none() {
                guarded.gave_up(subject.repository, admissions.repository);
            }
            (
                guarded.origin.failed(admissions.origin, &failure),
                repository,
            )
        });
        let (upstream, endpoint) = (&self.namespace, &self.endpoint);
        if let Some(Transition::Opened(time)) = repository {
            self.repository_openings.inc();
            let repository = subject.repository.unwrap_or_default();
            tracing::info!(%upstream, %endpoint, repository, error = %cause, again_in = ?time, "this repository keeps failing and is left alone for a while; what is stored is served");
        }
        if let Transition::Opened(time) = origin {
            self.openings.inc();
            tracing::warn!(%upstream, %endpoint, error = %cause, again_in = ?time, "it keeps failing and is left alone for a while; what is stored is served");
        }
    }
}

/// A failure as the circuits take it.
struct FailureReport<'a> {
    question: u64,
    kind: FailureKind,
    cause: &'a Arc<str>,
    now: Instant,
    jitter: f64,
}

impl Guarded {
    fn of(&mut self, repository: Option<&str>) -> Option<&mut Watched> {
        self.repositories.get_mut(repository?)
    }

    fn gave_up(&mut self, repository: Option<&str>, admission: Admission) {
        if let Some(watched) = self.of(repository) {
            watched.circuit.gave_up(admission);
        }
    }
}

impl Watched {
    fn new(scope: Scope) -> Self {
        Self {
            circuit: Circuit::new(scope),
            last: None,
        }
    }

    fn failed(&mut self, admission: Admission, failure: &FailureReport<'_>) -> Transition {
        self.last = Some((Arc::clone(failure.cause), failure.kind));
        let (question, kind) = (failure.question, failure.kind);
        self.circuit
            .failed(admission, question, kind, failure.now, failure.jitter)
    }

    /// Why `what` is not asked.
    fn refusal(&self, what: &str, again_in: Duration, now: Instant) -> Error {
        let since = self.circuit.since();
        let failing = since.map_or(0, |since| now.saturating_duration_since(since).as_secs());
        let (cause, kind) = self.last.clone().unzip();
        let cause = cause.unwrap_or_else(|| "it does not answer".into());
        let again = if again_in.is_zero() {
            "it is being tried right now".to_owned()
        } else {
            format!("it is tried again in {:.1} s", again_in.as_secs_f64())
        };
        Error::CircuitOpen {
            silent: kind == Some(FailureKind::Silent),
            again_in,
            detail: format!("{what} has been left alone for {failing} s because it kept failing, last: {cause}; {again}").into(),
        }
    }
}

impl Admissions {
    /// Whether it is the origin that is to be tried, and not the question that was asked.
    fn is_for_ping(self) -> bool {
        matches!(self.origin, Admission::Probe(_))
    }
}

impl Permission<'_> {
    fn is_for_ping(&self) -> bool {
        self.admissions.is_some_and(Admissions::is_for_ping)
    }

    /// An answer came.
    pub(crate) fn succeeded(mut self) {
        if let Some(admissions) = self.admissions.take() {
            self.breaker.succeeded(self.subject, admissions);
        }
    }

    /// No answer came, or one that says that something is not well.
    pub(crate) fn failed(mut self, kind: FailureKind, cause: &Error) {
        if let Some(admissions) = self.admissions.take() {
            self.breaker.failed(self.subject, admissions, kind, cause);
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
            Error::Busy(_)
            | Error::CircuitOpen { .. }
            | Error::OverRate { .. }
            | Error::Credentials(_) => {}
        }
    }
}

impl Drop for Permission<'_> {
    fn drop(&mut self) {
        let Some(admissions) = self.admissions.take() else {
            return;
        };
        let repository = self.subject.repository;
        self.breaker.update(|guarded| {
            guarded.origin.circuit.gave_up(admissions.origin);
            guarded.gave_up(repository, admissions.repository);
        });
    }
}
