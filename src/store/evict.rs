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

use super::index::{DIRECTORY, NoRoom, cost};
use super::layout::Key;
use super::{PATIENCE, Store};

/// The thread that unlinks, and the way to hand it work.
pub(super) struct Trash {
    sender: mpsc::Sender<Unlink>,
}

/// One file to unlink.
struct Unlink {
    path: PathBuf,
    done: Box<dyn FnOnce() + Send>,
}

impl Trash {
    pub(super) fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Unlink>();
        let run = move || {
            for Unlink { path, done } in receiver {
                if let Err(error) = fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), %error, "cannot unlink");
                }
                done();
            }
        };
        // Without the thread unlinking happens where it is asked for (see `Store::unlink`).
        if let Err(error) = thread::Builder::new()
            .name("pierglass-trash".into())
            .spawn(run)
        {
            tracing::warn!(%error, "no thread to empty the trash; doing it inline");
        }
        Self { sender }
    }
}

/// Bytes promised to an ingest, given back when dropped.
pub(super) struct Reservation {
    store: Arc<Store>,
    bytes: u64,
    written: u64,
}

impl Reservation {
    /// Promises more to the same ingest, which turned out to be longer than was known.
    pub(super) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        self.store.claim(bytes, PATIENCE).await?;
        self.bytes += bytes;
        Ok(())
    }

    /// Notes that `bytes` of it were written.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        self.store.index.wrote(bytes);
    }

    /// Exchanges it for the file it was made for, which has its final name now.
    pub(super) fn settle(mut self, key: Key, length: u64) {
        self.store
            .index
            .commit(key, length, self.bytes, self.written);
        (self.bytes, self.written) = (0, 0);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
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
    pub(super) async fn reserve(
        self: &Arc<Self>,
        length: u64,
        key: &Key,
        patience: Duration,
    ) -> Result<Reservation, NoRoom> {
        let directories = self
            .layout
            .path(key)
            .strip_prefix(self.layout.root())
            .map_or(0, |path| path.iter().count());
        let bytes = cost(length).saturating_add(directories as u64 * DIRECTORY);
        self.claim(bytes, patience).await?;
        Ok(Reservation {
            store: Arc::clone(self),
            bytes,
            written: 0,
        })
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
    pub(super) fn shrink(self: &Arc<Self>) {
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
        for (key, cost) in &victims {
            self.forget_record(key);
            self.metrics.evicted_bytes.inc_by(*cost);
            self.trash_counted(&self.layout.path(key), *cost);
        }
        !victims.is_empty()
    }

    /// Moves a file into the trash and unlinks it later, lowering the trash by `counted` bytes then.
    fn trash_counted(self: &Arc<Self>, path: &Path, counted: u64) {
        let trash = self.layout.trash(self.next_serial());
        let path = match fs::rename(path, &trash) {
            Ok(()) => trash,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.index.unlinked(counted);
                return;
            }
            // A full disk can refuse the rename. Unlinking in place is slower, and must be done before anybody
            // else may give that name to a new file.
            Err(_) => {
                let _ = fs::remove_file(path);
                self.index.unlinked(counted);
                return;
            }
        };
        let store = Arc::clone(self);
        self.unlink(path, move || store.index.unlinked(counted));
    }

    /// Like [`Self::trash_counted`] for a file that is not counted as trash.
    pub(super) fn trash_file(&self, path: &Path) {
        let trash = self.layout.trash(self.next_serial());
        match fs::rename(path, &trash) {
            Ok(()) => self.unlink(trash, || {}),
            Err(_) => {
                let _ = fs::remove_file(path);
            }
        }
    }

    pub(super) fn unlink(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        if let Err(mpsc::SendError(Unlink { path, done })) = self.trash.sender.send(Unlink {
            path,
            done: Box::new(done),
        }) {
            let _ = fs::remove_file(path);
            done();
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
fn available_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}
