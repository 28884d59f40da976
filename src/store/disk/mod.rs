//! The directory of the store: where things are in it, which process owns it, and whether it can be written to.
//!
//! It knows nothing of what the files hold nor of how much there may be. Reading order: [`layout`], [`files`],
//! `old_layout`, [`lock`], [`xattrs`], [`health`], [`blocking`]; this file puts them together.
//!
//! A store that cannot be written to is no reason to refuse a pull: blobs pass through and what is stored is served. As
//! long as writing fails, no request tries it; one thread does, and notices when it works again.

pub(crate) mod blocking;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod layout;
pub(crate) mod lock;
mod old_layout;
pub(crate) mod xattrs;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::store::hook::Hook;

use files::{CachedReads, create_directory, options};
use health::{Cause, DiskTrouble, Health};
use layout::Layout;
use lock::{Lock, OpenError};

/// How long to wait before the disk is tried again; doubled up to the second of these.
const TRY_AFTER: Duration = Duration::from_millis(500);
const TRY_AT_MOST_AFTER: Duration = Duration::from_secs(5);
/// What is written to find out whether writing works.
const PROBE: usize = 256 * 1024;
/// Free bytes beyond `min_free` without which the disk still counts as full.
const MARGIN: u64 = 4 * 1024 * 1024;

/// The part of the file system's inodes that is always left free for others, and the most that are.
const INODES_KEPT: u64 = 50;
const MOST_INODES_KEPT: u64 = 20_000;
/// A file and the directories on its way.
const INODES_OF_A_FILE: u64 = 4;

/// What is free on the file system.
#[derive(Clone, Copy)]
pub(crate) struct Free {
    pub(crate) bytes: u64,
    /// How many inodes are too few, so that enough is left for others.
    pub(crate) inodes_missing: u64,
}

/// The directory of a store in use.
pub(crate) struct Disk {
    layout: Layout,
    /// Bytes of the file system that are always kept free.
    min_free: u64,
    /// Names files in `ingest/` and `trash/`. Starts above what an earlier process left there.
    serial: AtomicU64,
    health: Health,
    cached_reads: CachedReads,
    metrics: Arc<Metrics>,
    /// For the life of the store. Renewed when the directory was removed and is created again, and held meanwhile.
    lock: Mutex<Lock>,
    /// Called when the directories were created again: what was counted is gone.
    pub(crate) restored: Hook<()>,
}

impl Disk {
    /// Creates what is missing of the directory and takes the lock on it.
    pub(crate) fn open(
        root: PathBuf,
        min_free: u64,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(root);
        let lock = Lock::claim(&layout)?;
        create_top_directories(&layout).map_err(OpenError::at(layout.root()))?;
        Ok(Arc::new(Self {
            layout,
            min_free,
            serial: AtomicU64::new(0),
            health: Health::new(Arc::clone(&metrics)),
            cached_reads: CachedReads::default(),
            metrics,
            lock: Mutex::new(lock),
            restored: Hook::default(),
        }))
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn min_free(&self) -> u64 {
        self.min_free
    }

    pub(crate) fn cached_reads(&self) -> &CachedReads {
        &self.cached_reads
    }

    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// A name that no other file in `ingest/` or `trash/` has.
    pub(crate) fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// A path for a file that is written before it gets its name.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.layout.ingest(self.next_serial())
    }

    /// Lists what an earlier process left unfinished, and numbers new files above it, so that removing an old file can
    /// never hit a new one. Called before anything is written.
    pub(crate) fn leftovers(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for directory in [self.layout.ingests(), self.layout.all_trash()] {
            for entry in fs::read_dir(directory)? {
                paths.push(entry?.path());
            }
        }
        let serials = paths
            .iter()
            .filter_map(|path| Layout::read_leftover(path).0);
        let next = serials.max().map_or(0, |serial| serial + 1);
        self.serial.store(next, Ordering::Relaxed);
        Ok(paths)
    }

    /// What an unprivileged process may still write; `None` when the file system does not say.
    pub(crate) fn free(&self) -> Option<Free> {
        let stat = rustix::fs::statvfs(self.layout.root()).ok()?;
        let kept = match stat.f_files {
            // No count (btrfs).
            0 => 0,
            files => (files / INODES_KEPT).min(MOST_INODES_KEPT) + INODES_OF_A_FILE,
        };
        Some(Free {
            bytes: stat.f_bavail.checked_mul(stat.f_frsize)?,
            inodes_missing: kept.saturating_sub(stat.f_favail),
        })
    }

    /// What keeps the store from being written to; `None` when nothing does, as far as is known.
    pub(crate) fn trouble(&self) -> Option<DiskTrouble> {
        self.health.trouble()
    }

    /// Notes that something stored cannot be read.
    pub(crate) fn read_failed(&self, path: &Path, error: &io::Error) {
        self.health.read_failed(path, error);
    }

    /// Notes that the disk failed at `doing`. From now on it is not written to until it works again.
    pub(crate) fn write_failed(self: &Arc<Self>, doing: &str, error: &io::Error) {
        if error.kind() == io::ErrorKind::InvalidFilename {
            // Of that name (ENAMETOOLONG), and not of the disk.
            tracing::warn!(%error, "cannot {doing}: the file system takes no name of that length");
            return;
        }
        self.note_trouble(Cause::of(error), format!("cannot {doing}: {error}"));
    }

    /// Notes it when others fill the disk, so that the store cannot keep free what it should.
    pub(crate) fn note_if_full(self: &Arc<Self>, free: Free) {
        let (available, min_free) = (free.bytes, self.min_free);
        let what = match (available < min_free, free.inodes_missing) {
            (true, _) => {
                format!("{available} bytes are free on the disk, fewer than min_free ({min_free})")
            }
            (false, 0) => return,
            (false, missing) => format!("{missing} inodes too few are free on the disk"),
        };
        let detail = format!("cannot write: {what}, and nothing is left to evict");
        self.note_trouble(Cause::Full, detail);
    }

    fn note_trouble(self: &Arc<Self>, cause: Cause, detail: String) {
        if self.health.write_failed(cause, detail) {
            watch(Arc::downgrade(self));
        }
    }

    /// Opens a new file, for reading too. Creates the directories of the store again if they were removed.
    pub(crate) fn create_file(&self, path: &Path) -> io::Result<File> {
        let mut options = options();
        options.create_new(true).read(true).write(true);
        match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.restore_directories()?;
                options.open(path)
            }
            done => done,
        }
    }

    /// Tries the disk again; true when it works.
    fn try_again(self: &Arc<Self>) -> bool {
        if let Err(error) = self.try_to_write() {
            self.write_failed("write to the store", &error);
            return false;
        }
        self.health.recovered();
        true
    }

    fn try_to_write(&self) -> io::Result<()> {
        self.restore_directories()?;
        let enough = self.min_free.saturating_add(MARGIN);
        if self
            .free()
            .is_some_and(|free| free.bytes < enough || free.inodes_missing > 0)
        {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let path = self.temporary();
        let mut options = options();
        options.create_new(true).write(true);
        let tried = options.open(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE])?;
            file.sync_data()
        });
        let removed = fs::remove_file(&path);
        tried.and(removed)
    }

    /// Creates the directories of the store again where they are gone, and has what is left counted.
    fn restore_directories(&self) -> io::Result<()> {
        let gone = || {
            self.layout
                .top_directories()
                .iter()
                .any(|path| !path.is_dir())
        };
        if !gone() {
            return Ok(());
        }
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !gone() {
            return Ok(());
        }
        let renewed = lock.renew(&self.layout);
        renewed.map_err(OpenError::into_io)?;
        create_top_directories(&self.layout)?;
        lock::note_boot(&self.layout);
        tracing::error!(path = %self.layout.root().display(), "the store was removed while it was in use; it is begun again");
        self.health.count(Cause::Gone);
        self.restored.call(&());
        Ok(())
    }
}

/// Creates those that are missing below the root.
fn create_top_directories(layout: &Layout) -> io::Result<()> {
    for directory in layout.top_directories() {
        match create_directory(&directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
            done => done?,
        }
    }
    Ok(())
}

/// Tries the disk in a thread of its own, until it works or the store is gone.
fn watch(disk: Weak<Disk>) {
    let run = move || {
        let mut pause = TRY_AFTER;
        loop {
            thread::sleep(pause);
            pause = (pause * 2).min(TRY_AT_MOST_AFTER);
            match disk.upgrade() {
                Some(disk) if !disk.try_again() => {}
                _ => return,
            }
        }
    };
    let name = "pierglass-disk".to_owned();
    if let Err(error) = thread::Builder::new().name(name).spawn(run) {
        tracing::error!(%error, "no thread to try the disk again; restart when it works");
    }
}
