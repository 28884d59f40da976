//! The limits of one registry, or of the realm it names: noted when it answers 429, lifted when it answers again, shown
//! in metrics and log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::Metrics;
use crate::upstream::error::{Error, LimitKind};

use super::backoff::not_asked;
use super::holds::{Holds, Leave, Probed};
use super::jitter;
use super::quota::{PullQuota, RateLimit};

/// Keeps the mirror from asking one registry while that limits it.
pub(crate) struct Throttle {
    /// Guards small values, never held while waiting.
    holds: Mutex<Holds>,
    namespace: Arc<str>,
    /// The registry's URL, for the log.
    host: Arc<str>,
    metrics: Arc<Metrics>,
}

/// A probe that is under way. Dropping it counts as cancelled.
struct Probing<'a>(Option<&'a Throttle>);

impl Throttle {
    pub(crate) fn new(namespace: &str, host: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            holds: Mutex::default(),
            namespace: namespace.into(),
            host: host.into(),
            metrics,
        }
    }

    /// Refuses while a limit lasts. `ping` asks the registry something that is about no repository; it runs if the
    /// answer to that decides.
    pub(crate) async fn admit(
        &self,
        repository: Option<&str>,
        ping: impl Future<Output = Result<Probed, Error>>,
    ) -> Result<(), Error> {
        let asked = self.holds().ask(repository, Instant::now());
        match asked {
            Leave::Granted => return Ok(()),
            Leave::Held(left) => return Err(not_asked(LimitKind::Abuse, left)),
            Leave::AfterProbe => {}
        }
        let mut probing = Probing(Some(self));
        // A registry that does not answer does not limit; that it does not is for its circuit.
        let probed = ping.await.unwrap_or(Probed::Free);
        probing.0 = None;
        let (now, jitter) = (Instant::now(), jitter::fraction());
        let held = self.holds().probed(probed, now, jitter);
        if let Some(pause) = held {
            self.note(LimitKind::Abuse, pause);
            let (upstream, host) = (&*self.namespace, &*self.host);
            tracing::warn!(%upstream, host, limit = "abuse", ?pause, "upstream limits; it is not asked before this is over, and what is stored is served");
        }
        match self.holds().held(repository, now) {
            Some(left) => Err(not_asked(LimitKind::Abuse, left)),
            None => Ok(()),
        }
    }

    /// Notes a 429 to a question about `repository`; returns how long not to ask about it. `told` is its Retry-After.
    pub(crate) fn limited(
        &self,
        limit: LimitKind,
        repository: Option<&str>,
        told: Option<Duration>,
    ) -> Duration {
        let (now, jitter) = (Instant::now(), jitter::fraction());
        let (pause, new) = self.holds().limited(repository, told, now, jitter);
        self.count(limit);
        if new {
            let (upstream, host, limit) = (&*self.namespace, &*self.host, limit.as_str());
            let repository = repository.unwrap_or_default();
            tracing::info!(%upstream, host, limit, repository, ?pause, "upstream limits; this is not asked before that is over");
        }
        pause
    }

    /// Notes that `account` has no pulls left; returns how long not to ask for one. `told` is the 429's Retry-After.
    pub(crate) fn spent(
        &self,
        told: Option<Duration>,
        account: &str,
        quota: &PullQuota,
    ) -> Duration {
        let now = Instant::now();
        let (pause, new) = quota.with_backoff(|backoff| {
            let new = backoff.left(now).is_none();
            let jitter = jitter::fraction();
            (backoff.strike(LimitKind::Quota, told, now, jitter), new)
        });
        self.count(LimitKind::Quota);
        self.note(LimitKind::Quota, pause);
        if new {
            let (upstream, host) = (&*self.namespace, &*self.host);
            tracing::warn!(%upstream, host, limit = "quota", identity = account, ?pause, "upstream limits; it is not asked before this is over, and what is stored is served");
        }
        pause
    }

    /// Notes an answer about `repository`: a limit whose time is over has ended.
    pub(crate) fn answered(&self, repository: Option<&str>) {
        self.holds().answered(repository, Instant::now());
    }

    /// Remembers what upstream states of the pull quota, or that it states none any more.
    pub(crate) fn state(&self, stated: Option<RateLimit>, quota: &PullQuota) {
        let changed = quota.state(stated);
        let labels = [&*self.namespace];
        for (value, gauge) in [
            (
                stated.and_then(|it| it.limit),
                &self.metrics.ratelimit_limit,
            ),
            (
                stated.and_then(|it| it.remaining),
                &self.metrics.ratelimit_remaining,
            ),
        ] {
            match value {
                Some(value) => gauge.with_label_values(&labels).set(value as f64),
                None if changed && stated.is_none() => {
                    // Another account may have removed it.
                    let _ = gauge.remove_label_values(&labels);
                }
                None => {}
            }
        }
    }

    fn count(&self, limit: LimitKind) {
        let labels = [&*self.namespace, limit.as_str()];
        self.metrics.rate_limits.with_label_values(&labels).inc();
    }

    /// Shows until when nothing is asked.
    fn note(&self, limit: LimitKind, pause: Duration) {
        let labels = [&*self.namespace, limit.as_str()];
        let until = (SystemTime::now() + pause).duration_since(SystemTime::UNIX_EPOCH);
        let held_until = self.metrics.held_until.with_label_values(&labels);
        held_until.set(until.unwrap_or_default().as_secs_f64());
    }

    fn holds(&self) -> MutexGuard<'_, Holds> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        if let Some(throttle) = self.0 {
            throttle.holds().gave_up();
        }
    }
}
