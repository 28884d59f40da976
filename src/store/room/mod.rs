//! How much there is, and how room is made: what was used longest ago is evicted.
//!
//! It knows files by their keys and lengths, and nothing of what they hold. Reading order: [`index`] (what there is, by
//! recency), `entries` (what the index consists of), `trash` (the thread that unlinks), this file (a file and its entry
//! in the index change together), [`reserve`] (how room is promised), [`scan`] (how it is counted after a start),
//! [`damage`].

pub(crate) mod damage;
mod entries;
pub(crate) mod index;
pub(crate) mod reserve;
pub(crate) mod scan;
mod trash;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::disk::Disk;
use crate::store::disk::files::{create_directory, is_at};
use crate::store::hook::Hook;
use crate::store::key::StoreKey;

use damage::{Damage, FoundBy};
use index::{DIRECTORY, Index, cost};
use trash::Trash;

/// The files of a store together with the account of them.
pub struct Room {
    disk: Arc<Disk>,
    index: Index,
    trash: Trash,
    /// Held for every rename into or out of `blobs/` and `records/` together with its entry in the index,
    /// so that an eviction can never carry away what was committed under the same name a moment before.
    /// Only commits and evictions take it, in blocking threads; the index's own lock is taken inside.
    moves: Mutex<()>,
    /// Called with each key whose file was evicted or dropped, so that memory does not keep it either.
    pub(crate) gone: Hook<StoreKey>,
    /// Called when all files were counted, before the first eviction.
    pub(crate) counted: Hook<()>,
}

impl Room {
    pub(crate) fn new(disk: Arc<Disk>, max_size: u64) -> Arc<Self> {
        let metrics = disk.metrics();
        metrics.store_capacity.set(max_size as f64);
        for found_by in FoundBy::ALL {
            // Present from the start, so that the first count is an increase.
            metrics.damaged.with_label_values(&[found_by.as_str()]);
        }
        let directories = disk.layout().top_directories().len();
        Arc::new(Self {
            index: Index::new(max_size, directories as u64),
            trash: Trash::start(),
            moves: Mutex::new(()),
            gone: Hook::default(),
            counted: Hook::default(),
            disk,
        })
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    pub(crate) fn index(&self) -> &Index {
        &self.index
    }

    /// Whether the start-up scan has counted everything.
    pub fn is_scanned(&self) -> bool {
        self.index.is_scanned()
    }

    /// Whether something is stored, without opening it.
    pub(crate) fn has(&self, key: &StoreKey) -> bool {
        self.index.contains(key) || (!self.is_scanned() && self.path(key).exists())
    }

    /// Writes the figures of the store into the metrics; called before they are rendered.
    pub(crate) fn export(&self) {
        let (metrics, usage) = (self.disk.metrics(), self.index.usage());
        metrics.store_bytes.set(usage.total() as f64);
        let blobs = i64::try_from(usage.blobs).unwrap_or(i64::MAX);
        metrics.store_blobs.set(blobs);
        metrics.store_pinned.set(usage.pinned as f64);
    }

    /// Forgets an entry whose file was not found, unless it was committed since.
    pub(crate) fn miss(&self, key: &StoreKey) {
        if self.index.contains(key) {
            let _moves = self.moves();
            if !self.path(key).exists() {
                self.index.remove(key);
            }
        }
    }

    /// Moves what `key` names out of sight and forgets it.
    pub(crate) fn discard(&self, key: &StoreKey) {
        let _moves = self.moves();
        self.index.remove(key);
        self.trash_file(&self.path(key));
    }

    /// Discards a file that is not what was stored; the caller has logged why.
    pub(crate) fn discard_damaged(&self, key: &StoreKey, found_by: FoundBy) {
        self.count_damage(found_by);
        self.discard(key);
    }

    /// Drops what a check found damaged, unless another file has its name by now; says whether it did.
    pub(crate) fn drop_if_still(
        &self,
        key: &StoreKey,
        file: &File,
        damage: &Damage,
        found_by: FoundBy,
    ) -> bool {
        let path = self.path(key);
        let moves = self.moves();
        let still = is_at(file, &path);
        if still {
            self.index.remove(key);
            self.gone.call(key);
            self.trash_file(&path);
        }
        drop(moves);
        if still {
            self.count_damage(found_by);
            tracing::error!(path = %path.display(), %damage, found_by = found_by.as_str(), "stored content is damaged; it is dropped and fetched again when asked for");
        }
        still
    }

    /// Takes a file away from its name, to be continued at `path`. It is not counted any more.
    pub(crate) fn take_out(&self, key: &StoreKey, path: &Path) -> io::Result<()> {
        let _moves = self.moves();
        let renamed = fs::rename(self.path(key), path);
        self.index.remove(key);
        renamed
    }

    /// Evicts at least `bytes`, if there is that much to evict; says whether anything was evicted.
    fn evict(self: &Arc<Self>, bytes: u64) -> bool {
        let _moves = self.moves();
        let mut evicted = false;
        for victim in self.index.take_victims(bytes) {
            let cost = victim.cost();
            match self.trash_counted(&self.path(&victim.key), cost) {
                Ok(()) => {
                    self.gone.call(&victim.key);
                    self.disk.metrics().evicted_bytes.inc_by(cost);
                    evicted = true;
                }
                Err(error) => {
                    self.disk
                        .write_failed("remove what is to make room", &error);
                    self.index.put_back(victim);
                }
            }
        }
        evicted
    }

    /// Ends the count: nothing was evicted before.
    fn finish_count(self: &Arc<Self>, overhead: u64) {
        self.index.add_overhead(overhead);
        self.counted.call(&());
        self.index.finish_scan();
        // A store that was filled under a larger limit is brought within the present one.
        let lasting = self.index.usage().lasting();
        let excess = lasting.saturating_sub(self.index.max_size());
        if excess > 0 {
            self.evict(excess);
        }
    }

    /// Forgets what was counted: the directories are not what they were.
    fn forget_count(&self) {
        let _moves = self.moves();
        self.index.clear();
    }

    /// Gives a finished file its final name and counts it in exchange for `reserved` bytes, of which `written` were
    /// used, replacing what had that name before. Returns the directory it is in.
    fn publish(
        &self,
        finished: &Path,
        key: StoreKey,
        length: u64,
        (reserved, written): (u64, u64),
    ) -> io::Result<PathBuf> {
        let path = self.path(&key);
        let parent = path.parent().unwrap_or(self.disk.layout().root());
        self.create_directories(parent)?;
        let moves = self.moves();
        fs::rename(finished, &path)?;
        self.index.commit(key, length, reserved, written);
        drop(moves);
        Ok(parent.to_path_buf())
    }

    /// Creates a directory below the root and its parents, and counts what was created.
    pub(crate) fn create_directories(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        match create_directory(path) {
            Ok(()) => {
                self.index.add_overhead(DIRECTORY);
                // Its name must be as durable as what will be in it.
                if let Some(parent) = path.parent() {
                    File::open(parent)?.sync_all()?;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Moves a file into the trash and unlinks it later, lowering the trash by `counted` bytes then.
    fn trash_counted(self: &Arc<Self>, path: &Path, counted: u64) -> io::Result<()> {
        let trash = self.disk.layout().trash(self.disk.next_serial());
        match fs::rename(path, &trash) {
            Ok(()) => {
                let room = Arc::clone(self);
                self.unlink(trash, move || room.index.unlinked(counted));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.index.unlinked(counted),
            // A full disk can refuse the rename. Unlinking in place is slower, and must be done before a new file can
            // get that name.
            Err(_) => {
                fs::remove_file(path)?;
                self.index.unlinked(counted);
            }
        }
        Ok(())
    }

    /// The same for a file that is not counted as trash.
    fn trash_file(&self, path: &Path) {
        let trash = self.disk.layout().trash(self.disk.next_serial());
        match fs::rename(path, &trash) {
            Ok(()) => self.unlink(trash, || {}),
            Err(_) => {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Unlinks a file behind the requests, then calls `done`.
    pub(crate) fn unlink(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        self.trash.unlink(path, done);
    }

    /// Has `job` done in the thread that unlinks.
    pub(crate) fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.trash.later(job);
    }

    /// What a file of `length` bytes costs at most, the directories on its way included.
    fn price(&self, length: u64, key: &StoreKey) -> u64 {
        let path = self.path(key);
        let directories = path
            .strip_prefix(self.disk.layout().root())
            .map_or(0, |path| path.iter().count());
        cost(length).saturating_add(directories as u64 * DIRECTORY)
    }

    fn count_damage(&self, found_by: FoundBy) {
        let damaged = &self.disk.metrics().damaged;
        damaged.with_label_values(&[found_by.as_str()]).inc();
    }

    fn path(&self, key: &StoreKey) -> PathBuf {
        self.disk.layout().path(key)
    }

    fn moves(&self) -> MutexGuard<'_, ()> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
