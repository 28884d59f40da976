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

use super::Room;
use super::index::NoRoom;

/// How long a blob waits for room: for the start-up scan to have counted what is there, and for what was evicted to be
/// unlinked.
///
/// The scan takes about a second for a million files, and hits do not wait for it at all.
pub(crate) const BLOB_PATIENCE: Duration = Duration::from_secs(2);

/// Bytes promised to a file that is being written, given back when dropped.
pub(crate) struct Reservation {
    room: Arc<Room>,
    bytes: u64,
    written: u64,
}

impl Reservation {
    /// Promises room for a file of `length` bytes and the directories on its way, evicting as needed.
    ///
    /// Waits for the start-up scan and for the trash to be emptied, for each no longer than `patience`.
    pub(crate) async fn claim(
        room: &Arc<Room>,
        length: u64,
        key: &StoreKey,
        patience: Duration,
    ) -> Result<Self, NoRoom> {
        let bytes = room.price(length, key);
        claim(room, bytes, patience).await?;
        Ok(Self {
            room: Arc::clone(room),
            bytes,
            written: 0,
        })
    }

    /// For bytes that are on disk already, whether they fit or not.
    pub(crate) fn of_file(room: &Arc<Room>, bytes: u64) -> Self {
        room.index.reserve_anyway(bytes);
        Self {
            room: Arc::clone(room),
            bytes,
            written: 0,
        }
    }

    /// Promises more to a blob that turned out to be longer than was known.
    pub(crate) async fn grow(&mut self, bytes: u64) -> Result<(), NoRoom> {
        claim(&self.room, bytes, BLOB_PATIENCE).await?;
        self.bytes += bytes;
        Ok(())
    }

    /// Notes that `bytes` of it were written.
    pub(crate) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
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
        let promised = (self.bytes, self.written);
        let directory = self.room.publish(finished, key, length, promised)?;
        (self.bytes, self.written) = (0, 0);
        File::open(directory)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How much of it is on disk.
    pub(crate) fn on_disk(&self) -> u64 {
        self.written
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.index.release(self.bytes, self.written);
    }
}

async fn claim(room: &Arc<Room>, bytes: u64, patience: Duration) -> Result<(), NoRoom> {
    let granted = |granted: bool| granted.then_some(()).ok_or(NoRoom { wanted: bytes });
    granted(bytes <= room.index.max_size())?;
    granted(when(room, patience, || room.is_scanned()).await)?;
    while let Err(missing) = room.index.try_reserve(bytes) {
        granted(evict(room, missing).await)?;
    }
    // From here on the bytes are promised; giving up must give them back.
    let claimed = Claimed { room, bytes };
    granted(keep_disk_free(room, patience).await)?;
    granted(when(room, patience, || room.index.is_within_limit()).await)?;
    claimed.keep();
    Ok(())
}

/// Evicts until the file system keeps its free bytes even when all that is reserved gets written.
async fn keep_disk_free(room: &Arc<Room>, patience: Duration) -> bool {
    let min_free = room.disk.min_free();
    loop {
        let usage = room.index.usage();
        let Some(available) = room.disk.available_bytes() else {
            return true;
        };
        let unwritten = usage.reserved.saturating_sub(usage.written);
        let wanted = min_free.saturating_add(unwritten);
        let missing = wanted.saturating_sub(available.saturating_add(usage.trash));
        if missing == 0 {
            let enough = |available: u64| available >= wanted;
            return when(room, patience, || {
                room.index.usage().trash == 0 || room.disk.available_bytes().is_none_or(enough)
            })
            .await;
        }
        if !evict(room, missing).await {
            if available < min_free {
                room.disk.is_full(available);
            }
            return false;
        }
    }
}

/// Evicts at least `bytes`; false when there is not that much to evict.
async fn evict(room: &Arc<Room>, bytes: u64) -> bool {
    let room = Arc::clone(room);
    let evicted = blocking::run(move || room.evict(bytes)).await;
    evicted.unwrap_or(false)
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
    bytes: u64,
}

impl Claimed<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.room.index.release(self.bytes, 0);
    }
}
