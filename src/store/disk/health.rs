//! Whether the disk does what it is asked: each cause is logged once and shown in the metrics.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// A cause that comes back within this time was logged already.
const TOLD_FOR: Duration = Duration::from_secs(300);

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// No space, or the quota is used up.
    Full,
    /// The file system is mounted read-only.
    ReadOnly,
    /// Permissions are missing.
    Denied,
    /// The store's directory is gone, or something else is in its place.
    Gone,
    /// No file can be opened any more: the limit of the process or of the system.
    Files,
    /// The device fails, or anything else.
    Io,
}

impl Cause {
    const ALL: [Self; 6] = [
        Self::Full,
        Self::ReadOnly,
        Self::Denied,
        Self::Gone,
        Self::Files,
        Self::Io,
    ];

    /// The word for it in metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Denied => "denied",
            Self::Gone => "gone",
            Self::Files => "files",
            Self::Io => "io",
        }
    }

    pub(super) fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::ReadOnlyFilesystem => Self::ReadOnly,
            Kind::PermissionDenied => Self::Denied,
            // The last of these is the error of creating the directory where something else has its name.
            Kind::NotFound | Kind::NotADirectory | Kind::AlreadyExists => Self::Gone,
            _ => match error
                .raw_os_error()
                .map(rustix::io::Errno::from_raw_os_error)
            {
                Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE) => Self::Files,
                _ => Self::Io,
            },
        }
    }
}

/// What keeps the store from being written to.
#[derive(Debug, Clone)]
pub struct DiskTrouble {
    cause: Cause,
    /// What was being done, and the error in the system's words.
    detail: Arc<str>,
    since: Instant,
}

impl DiskTrouble {
    /// The word for its cause.
    pub(crate) fn cause(&self) -> &'static str {
        self.cause.as_str()
    }
}

impl std::fmt::Display for DiskTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

/// The state of the disk as far as it is known.
pub(super) struct Health {
    /// Guards three small values, never held across a system call.
    known: Mutex<HealthState>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct HealthState {
    trouble: Option<DiskTrouble>,
    /// Causes of failed writes.
    writes: Told,
    /// Causes of failed reads: each costs one fetch, and no more.
    reads: Told,
}

/// When each cause was last logged.
#[derive(Default)]
struct Told([Option<Instant>; Cause::ALL.len()]);

impl Told {
    /// Whether it is to be logged now; then it counts as logged.
    fn tell(&mut self, cause: Cause) -> bool {
        let Some(told) = self.0.get_mut(cause as usize) else {
            return true;
        };
        let now = Instant::now();
        let recently = told.is_some_and(|told| now.duration_since(told) < TOLD_FOR);
        if !recently {
            *told = Some(now);
        }
        !recently
    }
}

impl Health {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let health = Self {
            known: Mutex::default(),
            metrics,
        };
        health.show(None);
        for cause in Cause::ALL {
            // Present from the start, so that the first count is an increase.
            let errors = &health.metrics.store_disk_errors;
            errors.with_label_values(&[cause.as_str()]);
        }
        health
    }

    /// What keeps the store from being written to; `None` when nothing does, as far as is known.
    pub(super) fn trouble(&self) -> Option<DiskTrouble> {
        self.known().trouble.clone()
    }

    /// Notes that something stored cannot be read. That costs what was to be read and nothing else.
    pub(super) fn read_failed(&self, path: &Path, error: &io::Error) {
        let cause = Cause::of(error);
        self.count(cause);
        let path = path.display();
        if self.known().reads.tell(cause) {
            tracing::error!(%path, %error, "what is stored cannot be read; it is fetched again");
        } else {
            tracing::debug!(%path, %error, "what is stored cannot be read");
        }
    }

    /// Notes that the disk cannot be written to. True if that is new: the caller then tries the disk until it works.
    pub(super) fn write_failed(&self, cause: Cause, detail: String) -> bool {
        self.count(cause);
        let mut known = self.known();
        if known.trouble.as_ref().is_some_and(|old| old.cause == cause) {
            return false;
        }
        let tell = known.writes.tell(cause);
        let trouble = DiskTrouble {
            cause,
            detail: detail.into(),
            since: Instant::now(),
        };
        let watched = known.trouble.replace(trouble.clone()).is_some();
        drop(known);
        self.show(Some(cause));
        if tell {
            tracing::error!(cause = cause.as_str(), why = %trouble, "the store cannot be written; what comes from upstream passes through");
        } else {
            tracing::debug!(cause = cause.as_str(), why = %trouble, "the store cannot be written");
        }
        !watched
    }

    /// Notes that the disk can be written to.
    pub(super) fn recovered(&self) {
        let Some(trouble) = self.known().trouble.take() else {
            return;
        };
        self.show(None);
        let seconds = trouble.since.elapsed().as_secs();
        tracing::info!(
            cause = trouble.cause.as_str(),
            seconds,
            "the store can be written again"
        );
    }

    pub(super) fn count(&self, cause: Cause) {
        let errors = &self.metrics.store_disk_errors;
        errors.with_label_values(&[cause.as_str()]).inc();
    }

    fn show(&self, now: Option<Cause>) {
        for cause in Cause::ALL {
            let shown = &self.metrics.store_trouble;
            let shown = shown.with_label_values(&[cause.as_str()]);
            shown.set(i64::from(now == Some(cause)));
        }
    }

    fn known(&self) -> MutexGuard<'_, HealthState> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_place() {
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place);
        }
    }

    #[test]
    fn what_the_system_says_is_one_of_the_causes() {
        let cause = |errno: rustix::io::Errno| Cause::of(&errno.into());
        assert_eq!(cause(rustix::io::Errno::NOSPC), Cause::Full);
        assert_eq!(cause(rustix::io::Errno::DQUOT), Cause::Full);
        assert_eq!(cause(rustix::io::Errno::ROFS), Cause::ReadOnly);
        assert_eq!(cause(rustix::io::Errno::ACCESS), Cause::Denied);
        assert_eq!(cause(rustix::io::Errno::PERM), Cause::Denied);
        assert_eq!(cause(rustix::io::Errno::NOENT), Cause::Gone);
        assert_eq!(cause(rustix::io::Errno::EXIST), Cause::Gone);
        assert_eq!(cause(rustix::io::Errno::MFILE), Cause::Files);
        assert_eq!(cause(rustix::io::Errno::IO), Cause::Io);
    }

    #[test]
    fn a_cause_is_told_once() {
        let mut told = Told::default();
        assert!(told.tell(Cause::Full));
        assert!(!told.tell(Cause::Full));
        assert!(told.tell(Cause::Io));
    }
}
