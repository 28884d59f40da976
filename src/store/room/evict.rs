//! Making room: reservations, the trash, and the thread that empties it.
//!
//! Evicting renames a file into `trash/`, which takes microseconds whatever its size. Unlinking a large
//! file can take long and is left to one thread. Room counts as made once the unlinking is done, because
//! the limit is what `du` sees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::store::PATIENCE;
use crate::store::Store;
use crate::store::disk::layout::Key;
use crate::store::room::index::{DIRECTORY, NoRoom, cost};

/// How long to wait before a file is unlinked that could not be.
const UNLINK_AGAIN: Duration = Duration::from_secs(2);

/// The thread that unlinks, and the way to hand it work.
pub(in crate::store) struct Trash {
    sender: mpsc::Sender<Job>,
}

/// What is done behind everybody's back.
enum Job {
    /// A file to unlink, and what to do once it is.
    Unlink(Unlink),
    /// Anything else that waits for the disk.
    Other(Box<dyn FnOnce() + Send>),
}

struct Unlink {
    path: PathBuf,
    done: Box<dyn FnOnce() + Send>,
}

impl Trash {
    pub(in crate::store) fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Job>();
        // Without the thread unlinking happens where it is asked for (see `Store::unlink`).
        if let Err(error) = thread::Builder::new()
            .name("pierglass-trash".into())
            .spawn(move || empty(&receiver))
        {
            tracing::warn!(%error, "no thread to empty the trash; doing it inline");
        }
        Self { sender }
    }
}

/// Does the work until nobody is left to hand it any. What cannot be unlinked still takes its room, so it stays
/// counted and is tried again.
fn empty(jobs: &mpsc::Receiver<Job>) {
    let mut stuck = Vec::new();
    loop {
        let job = if stuck.is_empty() {
            jobs.recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(UNLINK_AGAIN)
        };
        match job {
            Ok(Job::Other(job)) => job(),
            Ok(Job::Unlink(file)) => stuck.extend(unlink(file)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                stuck = stuck.into_iter().filter_map(unlink).collect();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Unlinks a file; gives it back where that fails.
fn unlink(file: Unlink) -> Option<Unlink> {
    match fs::remove_file(&file.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %file.path.display(), %error, "cannot unlink yet");
            Some(file)
        }
        _ => {
            (file.done)();
            None
        }
    }
}

/// Bytes promised to an ingest, given back when dropped.
pub(in crate::store) struct Reservation {
    store: Arc<Store>,
    bytes: u64,
    written: u64,
}

impl Reservation {
    /// For bytes that are on disk already, whether they fit or not.
    pub(in crate::store) fn of_file(store: &Arc<Store>, bytes: u64) -> Self {
        store.index.reserve_anyway(bytes);
        Self {
            store: Arc::clone(store),
            bytes,
            written: 0,
        }
    }

    /// Promises more to the same ingest, which turned out to be longer than was known.
    pub(in crate::store) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.store.claim(bytes, PATIENCE).await?;
        self.bytes += bytes;
        Ok(())
    }

    /// Notes that `bytes` of it were written.
    pub(in crate::store) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        self.store.index.wrote(bytes);
    }

    /// Exchanges it for the file it was made for, which has its final name now.
    pub(in crate::store) fn settle(mut self, key: Key, length: u64) {
        self.store
            .index
            .commit(key, length, self.bytes, self.written);
        (self.bytes, self.written) = (0, 0);
    }

    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it is on disk.
    pub(in crate::store) fn on_disk(&self) -> u64 {
        self.written
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.index.release(self.bytes, self.written);
    }
}

impl Store {
    /// Promises room for a file of `length` bytes and the directories on its way, evicting as needed.
    ///
    /// Waits for the start-up scan and for the trash to be emptied, for each no longer than `patience`.
    pub(in crate::store) async fn reserve(
        self: &Arc<Self>,
        length: u64,
        key: &Key,
        patience: Duration,
    ) -> Result<Reservation, NoRoom> {
        let bytes = self.price(length, key);
        self.claim(bytes, patience).await?;
        Ok(Reservation {
            store: Arc::clone(self),
            bytes,
            written: 0,
        })
    }

    /// What a file of `length` bytes costs at most, the directories on its way included.
    pub(in crate::store) fn price(&self, length: u64, key: &Key) -> u64 {
        let directories = self
            .layout
            .path(key)
            .strip_prefix(self.layout.root())
            .map_or(0, |path| path.iter().count());
        cost(length).saturating_add(directories as u64 * DIRECTORY)
    }

    async fn claim(self: &Arc<Self>, bytes: u64, patience: Duration) -> Result<(), NoRoom> {
        let no_room = NoRoom { wanted: bytes };
        if bytes > self.settings.max_size {
            return Err(no_room);
        }
        self.when(patience, || self.index.is_scanned())
            .await
            .then_some(())
            .ok_or(no_room)?;
        while let Err(missing) = self.index.try_reserve(bytes) {
            self.evict(missing).await.then_some(()).ok_or(no_room)?;
        }
        // From here on the bytes are ours; giving up must give them back.
        let claimed = Claimed { store: self, bytes };
        self.keep_disk_free(patience)
            .await
            .then_some(())
            .ok_or(no_room)?;
        self.when(patience, || self.index.is_within_limit())
            .await
            .then_some(())
            .ok_or(no_room)?;
        claimed.keep();
        Ok(())
    }

    /// Evicts until the file system keeps its free bytes even when all that is reserved gets written.
    async fn keep_disk_free(self: &Arc<Self>, patience: Duration) -> bool {
        loop {
            let usage = self.usage();
            let Some(available) = available_bytes(self.layout.root()) else {
                return true;
            };
            let unwritten = usage.reserved.saturating_sub(usage.written);
            let wanted = self.settings.min_free.saturating_add(unwritten);
            let missing = wanted.saturating_sub(available.saturating_add(usage.trash));
            if missing == 0 {
                return self
                    .when(patience, || {
                        self.usage().trash == 0
                            || available_bytes(self.layout.root())
                                .is_none_or(|available| available >= wanted)
                    })
                    .await;
            }
            if !self.evict(missing).await {
                if available < self.settings.min_free {
                    self.disk_is_full(available);
                }
                return false;
            }
        }
    }

    /// Evicts at least `bytes`; false when there is not that much to evict.
    async fn evict(self: &Arc<Self>, bytes: u64) -> bool {
        let store = Arc::clone(self);
        tokio::task::spawn_blocking(move || store.evict_now(bytes))
            .await
            .unwrap_or(false)
    }

    /// Brings a store that was filled under a larger limit within the present one.
    pub(in crate::store) fn shrink(self: &Arc<Self>) {
        let excess = self
            .usage()
            .lasting()
            .saturating_sub(self.settings.max_size);
        if excess > 0 {
            self.evict_now(excess);
        }
    }

    fn evict_now(self: &Arc<Self>, bytes: u64) -> bool {
        let _moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let victims = self.index.take_victims(bytes);
        let mut evicted = false;
        for victim in victims {
            let cost = victim.cost();
            match self.trash_counted(&self.layout.path(&victim.key), cost) {
                Ok(()) => {
                    self.forget_record(&victim.key);
                    self.metrics.evicted_bytes.inc_by(cost);
                    evicted = true;
                }
                Err(error) => {
                    self.disk_failed("remove what is to make room", &error);
                    self.index.put_back(victim);
                }
            }
        }
        evicted
    }

    /// Forgets what memory has of a record whose file is gone.
    pub(in crate::store) fn forget_record(&self, key: &Key) {
        match key {
            Key::Manifest(id) => self.records.forget_manifest(&id.0, &id.1),
            Key::Tag(id) => self.records.forget_tag(&id.0, &id.1),
            Key::Listing(id) => self.listings.forget(id),
            Key::Blob(_) | Key::Partial(_) => {}
        }
    }

    /// Moves a file into the trash and unlinks it later, lowering the trash by `counted` bytes then.
    fn trash_counted(self: &Arc<Self>, path: &Path, counted: u64) -> io::Result<()> {
        let trash = self.layout.trash(self.next_serial());
        match fs::rename(path, &trash) {
            Ok(()) => {
                let store = Arc::clone(self);
                self.unlink(trash, move || store.index.unlinked(counted));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.index.unlinked(counted),
            // A full disk can refuse the rename. Unlinking in place is slower, and must be done before anybody
            // else may give that name to a new file.
            Err(_) => {
                fs::remove_file(path)?;
                self.index.unlinked(counted);
            }
        }
        Ok(())
    }

    /// Like [`Self::trash_counted`] for a file that is not counted as trash.
    pub(in crate::store) fn trash_file(&self, path: &Path) {
        let trash = self.layout.trash(self.next_serial());
        match fs::rename(path, &trash) {
            Ok(()) => self.unlink(trash, || {}),
            Err(_) => {
                let _ = fs::remove_file(path);
            }
        }
    }

    pub(in crate::store) fn unlink(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        let done = Box::new(done);
        self.hand_over(Job::Unlink(Unlink { path, done }));
    }

    /// Has `job` done in the thread that empties the trash.
    pub(in crate::store) fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.hand_over(Job::Other(Box::new(job)));
    }

    fn hand_over(&self, job: Job) {
        match self.trash.sender.send(job) {
            Ok(()) => {}
            Err(mpsc::SendError(Job::Other(job))) => job(),
            Err(mpsc::SendError(Job::Unlink(file))) => {
                if let Some(file) = unlink(file) {
                    (file.done)();
                }
            }
        }
    }

    /// Waits until `condition` holds, looking again whenever something was freed; false after `patience`.
    async fn when(&self, patience: Duration, condition: impl Fn() -> bool) -> bool {
        let wait = async {
            loop {
                // Registered before the look, so that nothing freed in between is missed.
                let freed = self.index.freed();
                tokio::pin!(freed);
                freed.as_mut().enable();
                if condition() {
                    return;
                }
                freed.await;
            }
        };
        tokio::time::timeout(patience, wait).await.is_ok()
    }
}

/// Gives claimed bytes back unless the claim succeeded.
struct Claimed<'a> {
    store: &'a Store,
    bytes: u64,
}

impl Claimed<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.store.index.release(self.bytes, 0);
    }
}

/// Bytes an unprivileged process may still write; `None` when the file system does not say.
pub(in crate::store) fn available_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
