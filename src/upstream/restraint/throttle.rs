//! The limits of one registry: noted when it answers 429, lifted when it answers again, shown in metrics and log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::Metrics;
use crate::upstream::error::{Error, LimitKind};

use super::backoff::{Backoff, not_asked};
use super::jitter;
use super::quota::{PullQuota, RateLimit};

/// Keeps the mirror from asking one registry while that limits it.
pub(crate) struct Throttle {
    /// While it lasts, nothing is asked. Guards a small value, never held while waiting.
    abuse: Mutex<Backoff>,
    namespace: Arc<str>,
    /// The registry's URL, for the log.
    host: Arc<str>,
    metrics: Arc<Metrics>,
}

impl Throttle {
    pub(crate) fn new(namespace: &str, host: &str, metrics: Arc<Metrics>) -> Self {
        Self {
            abuse: Mutex::default(),
            namespace: namespace.into(),
            host: host.into(),
            metrics,
        }
    }

    /// Refuses while the limit against abuse lasts.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.abuse().left(Instant::now()) {
            Some(left) => Err(not_asked(LimitKind::Abuse, left)),
            None => Ok(()),
        }
    }

    /// Notes a 429 that `account` met; returns how long not to ask. `told` is its Retry-After.
    pub(crate) fn strike(
        &self,
        limit: LimitKind,
        told: Option<Duration>,
        account: &str,
        quota: &PullQuota,
    ) -> Duration {
        let now = Instant::now();
        let strike = |backoff: &mut Backoff| {
            let new = backoff.left(now).is_none();
            (backoff.strike(limit, told, now, jitter::fraction()), new)
        };
        let (pause, new) = match limit {
            LimitKind::Quota => quota.with_backoff(strike),
            LimitKind::Abuse => strike(&mut self.abuse()),
        };
        let (metrics, upstream) = (&self.metrics, &*self.namespace);
        let labels = [upstream, limit.as_str()];
        metrics.rate_limits.with_label_values(&labels).inc();
        let until = (SystemTime::now() + pause).duration_since(SystemTime::UNIX_EPOCH);
        let held_until = metrics.held_until.with_label_values(&labels);
        held_until.set(until.unwrap_or_default().as_secs_f64());
        if new {
            let (host, limit) = (&*self.host, limit.as_str());
            tracing::warn!(%upstream, host, limit, identity = account, ?pause, "upstream limits; it is not asked before this is over, and what is stored is served");
        }
        pause
    }

    /// Notes an answer: a limit whose time is over has ended, and so has a quota that says it has something left.
    ///
    /// `spent_pull` says that the answer was to a request that counts as a pull.
    pub(crate) fn answered(&self, spent_pull: bool, stated: Option<RateLimit>, quota: &PullQuota) {
        let now = Instant::now();
        let mut abuse = self.abuse();
        if abuse.left(now).is_none() {
            abuse.clear();
        }
        drop(abuse);
        let refilled = stated
            .and_then(|stated| stated.remaining)
            .is_some_and(|remaining| remaining > 0);
        quota.with_backoff(|backoff| {
            if refilled || spent_pull && backoff.left(now).is_none() {
                backoff.clear();
            }
        });
    }

    /// Remembers what upstream states of the pull quota.
    pub(crate) fn state(&self, stated: RateLimit, quota: &PullQuota) {
        quota.state(stated);
        let labels = [&*self.namespace];
        for (value, gauge) in [
            (stated.limit, &self.metrics.ratelimit_limit),
            (stated.remaining, &self.metrics.ratelimit_remaining),
        ] {
            if let Some(value) = value {
                gauge.with_label_values(&labels).set(value as f64);
            }
        }
    }

    fn abuse(&self) -> MutexGuard<'_, Backoff> {
        self.abuse.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
