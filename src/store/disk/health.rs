//! Whether the disk does what it is asked: told once per cause, looked at again until it does.
//!
//! A store that cannot be written to is no reason to refuse a pull: blobs pass through and what is stored is
//! served. While it is so nobody tries in vain; one thread does, and notices when it is over.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::store::Store;
use crate::store::room::evict::available_bytes;

/// How long to wait before the disk is tried again; doubled up to the second of these.
const TRY_AFTER: Duration = Duration::from_millis(500);
const TRY_AT_MOST_AFTER: Duration = Duration::from_secs(5);
/// A cause that comes back within this time has been told already.
const TOLD_FOR: Duration = Duration::from_secs(300);
/// What is written to find out whether writing works.
const PROBE: usize = 256 * 1024;
/// Free bytes beyond `min_free` without which the disk still counts as full.
const MARGIN: u64 = 4 * 1024 * 1024;

/// What is wrong with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
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
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Full,
        Self::ReadOnly,
        Self::Denied,
        Self::Gone,
        Self::Files,
        Self::Io,
    ];

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::ReadOnly => "read_only",
            Self::Denied => "denied",
            Self::Gone => "gone",
            Self::Files => "files",
            Self::Io => "io",
        }
    }

    fn of(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::StorageFull | Kind::QuotaExceeded => Self::Full,
            Kind::ReadOnlyFilesystem => Self::ReadOnly,
            Kind::PermissionDenied => Self::Denied,
            // The last of these is what making the directory says where something else has its name.
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
pub struct Trouble {
    /// What it is.
    pub cause: Cause,
    /// In the system's words, and what was being done.
    pub detail: Arc<str>,
    since: Instant,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)
    }
}

/// The state of the disk as far as it is known.
#[derive(Default)]
pub(in crate::store) struct Health {
    /// Guards two small values, never held across a system call.
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    trouble: Option<Trouble>,
    /// Causes of failed writes.
    writes: Told,
    /// Causes of failed reads: each costs one fetch, and no more.
    reads: Told,
}

/// When each cause was last told.
#[derive(Default)]
struct Told([Option<Instant>; Cause::ALL.len()]);

impl Told {
    /// Whether it is to be told now; then it counts as told.
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

impl Store {
    /// What keeps the store from being written to; `None` when nothing does, as far as is known.
    pub fn trouble(&self) -> Option<Trouble> {
        self.health().trouble.clone()
    }

    /// Notes that the disk failed at `doing`. From now on it is left alone until it works again.
    pub(in crate::store) fn disk_failed(self: &Arc<Self>, doing: &str, error: &io::Error) {
        let cause = Cause::of(error);
        self.note_trouble(cause, format!("cannot {doing}: {error}"));
    }

    /// Notes that others fill the disk, so that the store cannot leave free what it should.
    pub(in crate::store) fn disk_is_full(self: &Arc<Self>, available: u64) {
        let min_free = self.settings.min_free;
        let detail = format!(
            "cannot write: {available} bytes are free on the disk, fewer than min_free ({min_free}), and nothing is left to evict"
        );
        self.note_trouble(Cause::Full, detail);
    }

    /// Notes that something stored cannot be read. That costs what was to be read and nothing else.
    pub(in crate::store) fn read_failed(&self, path: &Path, error: &io::Error) {
        let cause = Cause::of(error);
        self.count_trouble(cause);
        let path = path.display();
        if self.health().reads.tell(cause) {
            tracing::error!(%path, %error, "what is stored cannot be read; it is fetched again");
        } else {
            tracing::debug!(%path, %error, "what is stored cannot be read");
        }
    }

    fn note_trouble(self: &Arc<Self>, cause: Cause, detail: String) {
        self.count_trouble(cause);
        let mut health = self.health();
        if health
            .trouble
            .as_ref()
            .is_some_and(|known| known.cause == cause)
        {
            return;
        }
        let tell = health.writes.tell(cause);
        let trouble = Trouble {
            cause,
            detail: detail.into(),
            since: Instant::now(),
        };
        let watched = health.trouble.replace(trouble.clone()).is_some();
        drop(health);
        self.show_trouble(Some(cause));
        if tell {
            tracing::error!(cause = cause.as_str(), why = %trouble, "the store cannot be written; what comes from upstream passes through");
        } else {
            tracing::debug!(cause = cause.as_str(), why = %trouble, "the store cannot be written");
        }
        if !watched {
            watch(Arc::downgrade(self));
        }
    }

    fn count_trouble(&self, cause: Cause) {
        self.metrics
            .store_disk_errors
            .with_label_values(&[cause.as_str()])
            .inc();
    }

    fn show_trouble(&self, now: Option<Cause>) {
        for cause in Cause::ALL {
            self.metrics
                .store_trouble
                .with_label_values(&[cause.as_str()])
                .set(i64::from(now == Some(cause)));
        }
    }

    /// Present from the start, so that the first count is an increase.
    pub(in crate::store) fn announce_health(&self) {
        self.show_trouble(None);
        for cause in Cause::ALL {
            self.metrics
                .store_disk_errors
                .with_label_values(&[cause.as_str()]);
        }
    }

    /// Tries the disk again; true when it works.
    fn try_again(self: &Arc<Self>) -> bool {
        if let Err(error) = self.try_disk() {
            self.disk_failed("write to the store", &error);
            return false;
        }
        let Some(trouble) = self.health().trouble.take() else {
            return true;
        };
        self.show_trouble(None);
        let seconds = trouble.since.elapsed().as_secs();
        tracing::info!(
            cause = trouble.cause.as_str(),
            seconds,
            "the store can be written again"
        );
        true
    }

    fn try_disk(self: &Arc<Self>) -> io::Result<()> {
        self.restore_directories()?;
        let enough = self.settings.min_free.saturating_add(MARGIN);
        if available_bytes(self.layout.root()).is_some_and(|available| available < enough) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let path = self.layout.ingest(self.next_serial());
        let tried = File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE])?;
            file.sync_data()
        });
        let removed = fs::remove_file(&path);
        tried.and(removed)
    }

    /// Opens a new file, for reading too, making anew the directories that somebody removed under us.
    pub(in crate::store) fn create_file(self: &Arc<Self>, path: &Path) -> io::Result<File> {
        let create = || {
            File::options()
                .create_new(true)
                .read(true)
                .write(true)
                .open(path)
        };
        match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore_directories()?;
                create()
            }
            done => done,
        }
    }

    /// Makes the directories of the store anew where they are gone, and counts what is left.
    fn restore_directories(self: &Arc<Self>) -> io::Result<()> {
        let gone = |path: &std::path::PathBuf| !path.is_dir();
        if !self.layout.top_directories().iter().any(gone) {
            return Ok(());
        }
        let _moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.layout.top_directories().iter().any(gone) {
            return Ok(());
        }
        for directory in self.layout.top_directories() {
            fs::create_dir_all(directory)?;
        }
        self.claim_directory()?;
        tracing::error!(path = %self.layout.root().display(), "the store was removed while it was in use; it is begun anew");
        self.count_trouble(Cause::Gone);
        self.count_anew()
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.health
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tries the disk in a thread of its own, until it works or the store is gone.
fn watch(store: Weak<Store>) {
    let run = move || {
        let mut pause = TRY_AFTER;
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(TRY_AT_MOST_AFTER);
            match store.upgrade() {
                Some(store) if !store.try_again() => {}
                _ => return,
            }
        }
    };
    let name = "pierglass-disk".to_owned();
    if let Err(error) = thread::Builder::new().name(name).spawn(run) {
        tracing::error!(%error, "no thread to try the disk again; restart when it works");
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
