//! How much there is, and how room is made: what was used longest ago is evicted.
//!
//! It knows files by their keys and lengths, and nothing of what they hold. Reading order: [`usage`] (what is counted),
//! [`owners`] (whose it is), [`index`] (what there is, and what is to leave first), `entries` and `directories` (what the
//! index consists of),
//! `trash` (the thread that unlinks), this file (a file and its entry in the index change together), [`reserve`] (how
//! room is promised), [`scan`] (how it is counted after a start), [`damage`].

pub(crate) mod damage;
mod directories;
mod entries;
pub(crate) mod index;
pub(crate) mod owners;
pub(crate) mod reserve;
pub(crate) mod scan;
mod trash;
pub(crate) mod usage;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::store::disk::Disk;
use crate::store::disk::files::{is_at, move_into_place, options};
use crate::store::hook::Hook;
use crate::store::key::{EntryKind, StoreKey};

use damage::{Damage, FoundBy};
use index::{Index, seconds_now};
use owners::{Asker, UpstreamShare};
use trash::Trash;
use usage::{Amount, DIRECTORY, Promise, cost};

/// Files that are evicted under one lock: commits wait for it, and answers for some of those.
const BATCH: usize = 64;

/// The files of a store together with the account of them.
pub struct Room {
    disk: Arc<Disk>,
    index: Index,
    trash: Trash,
    /// Held for every rename into or out of `blobs/`, `repositories/` and `partial/` together with its entry in the
    /// index, so that an eviction can never carry away what was committed under the same name a moment before.
    /// Only commits and evictions take it, in blocking threads; the index's own lock is taken inside.
    moves: Mutex<()>,
    /// Called with each key whose file was evicted or dropped, so that memory does not keep it either.
    pub(crate) gone: Hook<StoreKey>,
    /// Called when all files were counted, before the first eviction.
    pub(crate) counted: Hook<()>,
}

impl Room {
    /// Holds at most `limit`.
    pub(crate) fn new(disk: Arc<Disk>, limit: Amount, shares: &[UpstreamShare]) -> Arc<Self> {
        let metrics = disk.metrics();
        metrics.store_capacity.set(limit.bytes as f64);
        for found_by in FoundBy::ALL {
            // Present from the start, so that the first count is an increase.
            metrics.damaged.with_label_values(&[found_by.as_str()]);
        }
        let directories = disk.layout().top_directories().len();
        Arc::new(Self {
            index: Index::new(limit, directories as u64, shares),
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
        metrics.store_pinned.set(usage.pinned.bytes as f64);
        for share in EntryKind::ALL {
            let amount = usage.share(share);
            let bytes = metrics
                .store_share_bytes
                .with_label_values(&[share.as_str()]);
            bytes.set(amount.bytes as f64);
            let files = metrics.store_files.with_label_values(&[share.as_str()]);
            files.set(i64::try_from(amount.files).unwrap_or(i64::MAX));
        }
        for (upstream, bytes) in self.index.owned() {
            let owned = metrics.store_upstream_bytes.with_label_values(&[upstream]);
            owned.set(bytes as f64);
        }
        let directories = i64::try_from(usage.directories).unwrap_or(i64::MAX);
        let words = &["directories"];
        metrics
            .store_files
            .with_label_values(words)
            .set(directories);
        let bytes = metrics.store_share_bytes.with_label_values(words);
        bytes.set((usage.directories * DIRECTORY) as f64);
        let blobs = usage.share(EntryKind::Blobs).files;
        metrics
            .store_blobs
            .set(i64::try_from(blobs).unwrap_or(i64::MAX));
    }

    /// Notes a use of what memory has, so that its file is not looked at.
    pub(crate) fn used(self: &Arc<Self>, key: &StoreKey) {
        if self.index.promote(key, seconds_now()) {
            let path = self.path(key);
            // Not worth an error: after a restart it looks as if it was used longer ago than it was.
            self.later(move || drop(note_use(&path)));
        }
    }

    /// Forgets an entry whose file was not found, unless it was committed since.
    pub(crate) fn miss(&self, key: &StoreKey) {
        if self.index.contains(key) {
            let _moves = self.moves();
            let path = self.path(key);
            if !path.exists() {
                let emptied = self.index.remove(key);
                remove_directories(&path, emptied);
            }
        }
    }

    /// Moves what `key` names out of sight and forgets it.
    pub(crate) fn discard(self: &Arc<Self>, key: &StoreKey) {
        let _moves = self.moves();
        self.discard_held(key, &self.path(key));
    }

    /// The caller holds the lock on moves.
    fn discard_held(self: &Arc<Self>, key: &StoreKey, path: &Path) {
        let (cost, emptied) = self.index.throw_away(key);
        if let Err(error) = self.trash_counted(path, cost) {
            tracing::debug!(path = %path.display(), %error, "cannot remove what is not stored any more");
            self.index.unlinked(cost);
        }
        remove_directories(path, emptied);
    }

    /// Discards a file that is not what was stored; the caller has logged why.
    pub(crate) fn discard_damaged(self: &Arc<Self>, key: &StoreKey, found_by: FoundBy) {
        self.count_damage(found_by);
        self.discard(key);
    }

    /// Drops what a check found damaged, unless another file has its name by now; says whether it did.
    pub(crate) fn drop_if_still(
        self: &Arc<Self>,
        key: &StoreKey,
        file: &File,
        damage: &Damage,
        found_by: FoundBy,
    ) -> bool {
        let path = self.path(key);
        let moves = self.moves();
        let still = is_at(file, &path);
        if still {
            self.gone.call(key);
            self.discard_held(key, &path);
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
        let from = self.path(key);
        let renamed = fs::rename(&from, path);
        let emptied = self.index.remove(key);
        remove_directories(&from, emptied);
        renamed
    }

    /// Evicts what is `missing` to `asker`, if there is that much to evict; says whether anything was evicted.
    fn evict(self: &Arc<Self>, mut missing: Amount, asker: Asker) -> bool {
        let mut evicted = false;
        loop {
            let _moves = self.moves();
            let victims = self.index.take_victims(&mut missing, asker, BATCH);
            if victims.is_empty() {
                return evicted;
            }
            for victim in victims {
                let (path, cost) = (self.path(&victim.key), victim.cost());
                match self.trash_counted(&path, cost) {
                    Ok(()) => {
                        remove_directories(&path, victim.emptied);
                        self.gone.call(&victim.key);
                        self.disk.metrics().evicted_bytes.inc_by(cost);
                        evicted = true;
                    }
                    Err(error) => {
                        self.disk
                            .write_failed("remove what is to make room", &error);
                        self.index.put_back(victim);
                        // Or what cannot be evicted would be tried without end.
                        missing = Amount::default();
                    }
                }
            }
        }
    }

    /// Ends the count: nothing was evicted before.
    fn finish_count(self: &Arc<Self>) {
        self.counted.call(&());
        self.index.finish_scan();
        // A store that was filled under larger limits is brought within the present ones.
        let excess = self.index.excess().at_most(self.index.usage().evictable());
        self.evict(excess, Asker::default());
    }

    /// Forgets the count: the directories are not what they were.
    fn forget_count(&self) {
        let _moves = self.moves();
        self.index.clear();
    }

    /// Removes a directory that a scan found empty, unless something was put into it since; counts one that stays.
    fn settle_directory(&self, path: &Path) {
        let known = self.disk.layout().read_directory(path);
        let _moves = self.moves();
        let in_use = known.is_some_and(|directory| self.index.has_directory(&directory));
        // One that is not empty stays: then something of others is in it.
        if !in_use && fs::remove_dir(path).is_err() {
            self.index.count_foreign(DIRECTORY);
        }
    }

    /// Gives a finished file its final name and counts it in exchange for what was reserved for it, replacing
    /// what had that name before. Returns the directory it is in.
    fn publish(
        &self,
        finished: &Path,
        key: StoreKey,
        length: u64,
        promise: Promise,
    ) -> io::Result<PathBuf> {
        let path = self.path(&key);
        let moves = self.moves();
        let created = move_into_place(finished, &path)?;
        self.index.commit(key, length, promise);
        drop(moves);
        for directory in created {
            // Its name must be as durable as what is in it. That it is not costs a record or a blob after a crash.
            if let Err(error) = sync_parent(directory) {
                tracing::warn!(path = %directory.display(), %error, "a new directory of the store may not outlive a crash");
            }
        }
        let parent = path.parent().unwrap_or(self.disk.layout().root());
        Ok(parent.to_path_buf())
    }

    /// Counts a file that was written to where it is, and is `length` bytes long now, in exchange for what was
    /// reserved for that; false if it is not at its place any more.
    fn recount(&self, file: &File, key: &StoreKey, length: u64, promise: Promise) -> bool {
        let _moves = self.moves();
        let still = is_at(file, &self.path(key));
        if still {
            self.index.commit(key.clone(), length, promise);
        }
        still
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

    /// Unlinks a file behind the requests, then calls `done`.
    pub(crate) fn unlink(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        self.trash.unlink(path, done);
    }

    /// Has `job` done in the thread that unlinks.
    pub(crate) fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.trash.later(job);
    }

    /// What a file of `length` bytes costs at most, the directories on its way included.
    pub(crate) fn price(&self, length: u64, key: &StoreKey) -> u64 {
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

/// Notes in the file system that a file is used now.
fn note_use(path: &Path) -> io::Result<()> {
    // Opened for reading: the owner may set its times all the same.
    options()
        .read(true)
        .open(path)?
        .set_modified(SystemTime::now())
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Removes so many directories, from that of `path` upwards, in which nothing is left.
fn remove_directories(path: &Path, emptied: usize) {
    for directory in path.ancestors().skip(1).take(emptied) {
        // Something of others may be in it.
        if fs::remove_dir(directory).is_err() {
            return;
        }
    }
}
