//! How room is promised before the first byte is written.
//!
//! Evicting renames a file into `trash/`, which takes microseconds for a file of any size. The promise waits
//! until enough of the trash is unlinked.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::store::disk::blocking;
use crate::store::key::StoreKey;

use crate::oci::name::Namespace;

use super::Room;
use super::owners::{Asker, Owner};
use super::usage::{Amount, NoRoom, Promise, cost};

/// How long a blob waits for room: for the start-up scan to have counted what is there, and for what was evicted to be
/// unlinked.
///
/// The scan takes about a second for a million files, and hits do not wait for it at all.
pub(crate) const BLOB_PATIENCE: Duration = Duration::from_secs(2);

/// What is evicted at least when the disk is full.
const AT_LEAST: Amount = Amount {
    bytes: 1024 * 1024,
    files: 64,
};

/// Bytes promised to a file that is being written, given back when dropped.
pub(crate) struct Reservation {
    room: Arc<Room>,
    promise: Promise,
}

impl Reservation {
    /// Promises `owner` room for a file of `length` bytes and the directories on its way, evicting as needed.
    ///
    /// Waits for the start-up scan and for the trash to be emptied, for each no longer than `patience`.
    pub(crate) async fn claim(
        room: &Arc<Room>,
        length: u64,
        key: &StoreKey,
        owner: Owner,
        patience: Duration,
    ) -> Result<Self, NoRoom> {
        let promise = Promise::of(room.price(length, key), owner);
        claim(room, promise, patience).await?;
        Ok(Self {
            room: Arc::clone(room),
            promise,
        })
    }

    /// For bytes that are on disk already, whether they fit or not.
    pub(crate) fn of_file(room: &Arc<Room>, bytes: u64, owner: Owner) -> Self {
        let promise = Promise::of(bytes, owner);
        room.index.reserve_anyway(promise.amount, owner);
        Self {
            room: Arc::clone(room),
            promise,
        }
    }

    /// Promises more to a blob that turned out to be longer than was known.
    pub(crate) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        let more = Promise {
            amount: Amount { bytes, files: 0 },
            written: 0,
            owner: self.promise.owner,
        };
        claim(&self.room, more, BLOB_PATIENCE).await?;
        self.promise.amount.bytes += bytes;
        Ok(())
    }

    /// Notes that `bytes` of it were written.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.promise.written += bytes;
        self.room.index.wrote(bytes);
    }

    /// Exchanges it for the finished file it was made for, which gets its final name.
    ///
    /// Returns the directory, whose fsync makes the new name survive a crash of the machine.
    pub(crate) fn publish(
        mut self,
        finished: &Path,
        key: StoreKey,
        length: u64,
    ) -> io::Result<File> {
        let directory = self.room.publish(finished, key, length, self.promise)?;
        self.promise = Promise::default();
        File::open(directory)
    }

    /// Exchanges it for what was written to a file that has its final name already, and is `length` bytes long now.
    /// False if the file was evicted meanwhile.
    pub(crate) fn recount(mut self, file: &File, key: &StoreKey, length: u64) -> bool {
        let counted = self.room.recount(file, key, length, self.promise);
        if counted {
            self.promise = Promise::default();
        }
        counted
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.promise.amount.bytes
    }

    /// How much of it is on disk.
    pub(crate) fn on_disk(&self) -> u64 {
        self.promise.written
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.index.release(self.promise);
    }
}

async fn claim(room: &Arc<Room>, promise: Promise, patience: Duration) -> Result<(), NoRoom> {
    let (wanted, owner) = (promise.amount, promise.owner);
    let no_room = NoRoom {
        wanted: wanted.bytes,
    };
    let granted = |granted: bool| granted.then_some(()).ok_or(no_room);
    granted(room.index.could_hold(wanted.bytes, owner))?;
    granted(when(room, patience, || room.is_scanned()).await)?;
    while let Err(missing) = room.index.try_reserve(wanted, owner) {
        let bytes = wanted.bytes;
        granted(evict(room, missing, Asker { owner, bytes }).await)?;
    }
    // From here on the bytes are promised; giving up must give them back.
    let claimed = Claimed { room, promise };
    granted(keep_disk_free(room, owner, patience).await)?;
    granted(when(room, patience, || room.index.is_within_limit()).await)?;
    claimed.keep();
    Ok(())
}

/// Whether a file of `bytes` from `namespace` could ever be kept: what is not can be refused before anything is evicted
/// for it.
pub(crate) fn could_ever_fit(room: &Room, bytes: u64, namespace: &Namespace) -> Result<(), NoRoom> {
    let owner = room.index.owner(Some(namespace));
    let could = room.index.could_hold(cost(bytes), owner);
    could.then_some(()).ok_or(NoRoom { wanted: bytes })
}

/// Evicts until the file system keeps its free bytes even when all that is reserved gets written, and its free inodes.
async fn keep_disk_free(room: &Arc<Room>, owner: Owner, patience: Duration) -> bool {
    loop {
        let usage = room.index.usage();
        let Some(free) = room.disk.free() else {
            return true;
        };
        let unwritten = usage.reserved.bytes.saturating_sub(usage.written);
        let wanted = room.disk.min_free().saturating_add(unwritten);
        let missing = Amount {
            bytes: wanted.saturating_sub(free.bytes.saturating_add(usage.trash.bytes)),
            files: free.inodes_missing.saturating_sub(usage.trash.files),
        };
        if missing.is_nothing() {
            let enough = || {
                let free = room.disk.free();
                free.is_none_or(|free| free.bytes >= wanted && free.inodes_missing == 0)
            };
            let emptied = || room.index.usage().trash.is_nothing();
            return when(room, patience, || emptied() || enough()).await;
        }
        if !evict(room, missing, Asker { owner, bytes: 0 }).await {
            // What its share forbids is no fault of the disk.
            if !room.index.is_above_share(owner) {
                room.disk.note_if_full(free);
            }
            return false;
        }
    }
}

/// Evicts at least that; false when there is not that much to evict.
async fn evict(room: &Arc<Room>, missing: Amount, asker: Asker) -> bool {
    let room = Arc::clone(room);
    let evicted = blocking::run(move || room.evict(missing, asker)).await;
    evicted.unwrap_or(false)
}

/// Makes way for `bytes` on a disk that is full though its figures did not say so: a quota, or the last inode. True when
/// it is worth trying again.
pub(crate) async fn make_way(room: &Arc<Room>, error: &io::Error, bytes: u64) -> bool {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
    if !full.contains(&error.kind()) {
        return false;
    }
    let wanted = Amount {
        bytes: bytes.max(AT_LEAST.bytes),
        files: AT_LEAST.files,
    };
    let there = room.index.usage().evictable();
    let evicted = evict(room, wanted.at_most(there), Asker::default()).await;
    let emptied = || room.index.usage().trash.is_nothing();
    evicted && when(room, BLOB_PATIENCE, emptied).await
}

/// Waits until `condition` holds, looking again whenever something was freed; false after `patience`.
async fn when(room: &Room, patience: Duration, condition: impl Fn() -> bool) -> bool {
    let wait = async {
        loop {
            // Registered before the look, so that nothing freed in between is missed.
            let freed = room.index.freed();
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

/// Gives claimed bytes back unless the claim succeeded.
struct Claimed<'a> {
    room: &'a Room,
    promise: Promise,
}

impl Claimed<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.room.index.release(self.promise);
    }
}
