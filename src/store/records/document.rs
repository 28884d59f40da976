//! One kind of record: in memory while it is used, on disk always. [`Durability`] says when it must be on disk.
//!
//! A record that cannot be read counts as not stored: the mirror asks upstream again.

use std::fs::{self, File};
use std::hash::Hash;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use moka::sync::Cache;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::memory::{Held, Memory};
use crate::store::disk::blocking::{run, try_run};
use crate::store::disk::files::options;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::damage::FoundBy;
use crate::store::room::index::seconds_now;
use crate::store::room::reserve::{Reservation, make_way};

/// A record that says what it said before is written to disk at most this often.
const PERSIST_EVERY: Duration = Duration::from_secs(600);
/// How long an answer waits for room for its record: hardly at all.
const ANSWER_PATIENCE: Duration = Duration::from_millis(200);
/// How long a record waits for the start-up scan where no answer waits for it, or where it must be kept.
const SCAN_PATIENCE: Duration = Duration::from_secs(60);
/// Records that are made durable behind their answers at a time. Each takes a blocking thread for as long as the disk
/// takes, and what is read from disk for a client needs those threads too.
static SYNCS: Semaphore = Semaphore::const_new(32);
/// A record in memory tells the index of its use at most this often (seconds).
const PROMOTE_EVERY: u32 = 10;

/// Whether a record is made durable before or behind the answer that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives a crash of the machine once `put` returns; otherwise `put` says so. For what exists nowhere else.
    Before,
    /// It is on disk when `put` returns, if that needs no waiting, and durable a moment later. Without room on disk it
    /// is kept in memory alone. For what upstream still has: a record that is lost costs one question.
    Behind,
}

/// A record that was put. It is in memory in any case.
#[derive(Debug)]
pub struct Put<T> {
    /// The record.
    pub value: Arc<T>,
    /// Whether it is on disk, as far as [`Durability`] asks for it.
    pub kept: io::Result<()>,
    /// Whether it says something else than before, or has not been written for a while.
    pub(super) changed: bool,
}

/// What a kind of record consists of.
pub(crate) trait Document: Send + Sync + Sized + 'static {
    /// What a record of this kind is found by.
    type Id: Clone + Eq + Hash + Send + Sync + 'static;

    /// What memory may hold of this kind, in the unit of `weight`.
    const MEMORY: u64;

    fn weight(&self) -> u32;

    fn key(id: &Self::Id) -> StoreKey;

    /// The content of its file.
    fn to_file(&self) -> Vec<u8>;

    /// Reads that back; `None` if it is damaged.
    fn from_file(id: &Self::Id, file: Bytes) -> Option<Self>;

    /// When upstream last said so.
    fn time(&self) -> SystemTime;

    /// Whether it says what `before` said, apart from the time.
    fn repeats(&self, before: &Self) -> bool;
}

/// The records of one kind.
pub(crate) struct Documents<D: Document> {
    remembered: Cache<D::Id, Arc<Remembered<D>>>,
    room: Arc<Room>,
    memory: Arc<Memory>,
}

/// A record in memory, and what the index must be told of its use.
struct Remembered<D> {
    value: Arc<D>,
    key: StoreKey,
    promoted: AtomicU32,
    persisted_at: SystemTime,
}

impl<D> Remembered<D> {
    fn new(value: D, key: StoreKey, persisted_at: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            value: Arc::new(value),
            key,
            promoted: AtomicU32::new(0),
            persisted_at,
        })
    }

    fn used(&self, room: &Arc<Room>) -> Arc<D> {
        let now = seconds_now();
        if now.saturating_sub(self.promoted.load(Ordering::Relaxed)) >= PROMOTE_EVERY {
            self.promoted.store(now, Ordering::Relaxed);
            room.used(&self.key);
        }
        Arc::clone(&self.value)
    }
}

impl<D: Document> Documents<D> {
    pub(super) fn new(room: &Arc<Room>, memory: &Arc<Memory>) -> Arc<Self> {
        let remembered = Cache::builder()
            .max_capacity(D::MEMORY)
            .weigher(|_, remembered: &Arc<Remembered<D>>| remembered.value.weight())
            .build();
        Arc::new(Self {
            remembered,
            room: Arc::clone(room),
            memory: Arc::clone(memory),
        })
    }

    /// The record, from memory or else from disk.
    pub(super) async fn get(self: &Arc<Self>, id: D::Id) -> Option<Arc<D>> {
        if let Some(remembered) = self.remembered.get(&id) {
            return Some(remembered.used(&self.room));
        }
        let (documents, wanted) = (Arc::clone(self), id.clone());
        let Long(length) = match run(move || documents.read(wanted, None)).await? {
            Ok(record) => return record,
            Err(long) => long,
        };
        // Without room it counts as not stored: upstream is asked, for whose answer there is none either.
        let held = self.memory.hold(length).await.ok()?;
        let documents = Arc::clone(self);
        run(move || documents.read(id, Some(held))).await?.ok()?
    }

    /// Whether memory has the record.
    pub(super) fn remembers(&self, id: &D::Id) -> bool {
        self.remembered.contains_key(id)
    }

    /// The same as `get` for blocking threads, one at a time.
    pub(super) fn get_blocking(&self, id: D::Id) -> Option<Arc<D>> {
        if let Some(remembered) = self.remembered.get(&id) {
            return Some(remembered.used(&self.room));
        }
        self.read(id, Some(Held::default())).ok()?
    }

    /// Reads a record from disk into memory; a long one needs room there.
    fn read(&self, id: D::Id, held: Option<Held>) -> Result<Option<Arc<D>>, Long> {
        let key = D::key(&id);
        let Some(value) = read(&self.room, &key, held, |file| D::from_file(&id, file))? else {
            return Ok(None);
        };
        let time = value.time();
        let read = Remembered::new(value, key, time);
        // What was put in memory meanwhile is newer than what was read.
        let remembered = self.remembered.entry(id).or_insert(read).into_value();
        self.make_room(remembered.value.weight());
        Ok(Some(remembered.used(&self.room)))
    }

    /// Drops at once what a large record takes the place of; by itself the cache does so later.
    fn make_room(&self, weight: u32) {
        if u64::from(weight) > D::MEMORY / 64 {
            self.remembered.run_pending_tasks();
        }
    }

    /// Puts a record into memory, and on disk unless it says what it said a short time ago.
    pub(super) async fn put(&self, id: D::Id, value: D, durability: Durability) -> Put<D> {
        let key = D::key(&id);
        let now = SystemTime::now();
        let written = self.remembered.get(&id).filter(|before| {
            let age = now.duration_since(before.persisted_at);
            // What was written before may have been behind its answer, and not be durable.
            durability == Durability::Behind
                && value.repeats(&before.value)
                && age.is_ok_and(|age| age < PERSIST_EVERY)
        });
        let (persisted_at, kept) = match &written {
            Some(before) => (before.persisted_at, Ok(())),
            None => (now, self.write(&key, value.to_file(), durability).await),
        };
        let remembered = Remembered::new(value, key, persisted_at);
        self.remembered.insert(id, Arc::clone(&remembered));
        self.make_room(remembered.value.weight());
        Put {
            value: Arc::clone(&remembered.value),
            kept,
            changed: written.is_none(),
        }
    }

    /// Forgets a record that upstream does not have any more.
    pub(super) async fn remove(&self, id: &D::Id) {
        self.forget(id);
        let (room, key) = (Arc::clone(&self.room), D::key(id));
        run(move || room.discard(&key)).await;
    }

    /// Forgets what memory has of a record whose file is gone.
    pub(super) fn forget(&self, id: &D::Id) {
        self.remembered.invalidate(id);
    }

    /// Writes a record. One that may be durable behind the answer does not wait while the store is still being counted:
    /// it is written once there is room.
    async fn write(&self, key: &StoreKey, file: Vec<u8>, durability: Durability) -> io::Result<()> {
        let (room, key) = (Arc::clone(&self.room), key.clone());
        match durability {
            Durability::Before => {
                let (file, directory) = write_within(&room, key, file, SCAN_PATIENCE).await?;
                try_run(move || make_durable(&file, &directory)).await
            }
            Durability::Behind if room.is_scanned() => {
                write_behind(&room, key, file, ANSWER_PATIENCE).await
            }
            Durability::Behind => {
                tokio::spawn(async move { write_behind(&room, key, file, SCAN_PATIENCE).await });
                Ok(())
            }
        }
    }
}

async fn write_behind(
    room: &Arc<Room>,
    key: StoreKey,
    file: Vec<u8>,
    patience: Duration,
) -> io::Result<()> {
    let (file, directory) = write_within(room, key, file, patience).await?;
    // Where so many wait for the disk already, the kernel writes it when it likes: the worst is one question upstream.
    // To wait for a turn would keep two files open for each.
    if let Ok(permit) = SYNCS.try_acquire() {
        tokio::task::spawn_blocking(move || {
            let _ = make_durable(&file, &directory);
            drop(permit);
        });
    }
    Ok(())
}

fn make_durable(file: &File, directory: &File) -> io::Result<()> {
    file.sync_data()?;
    directory.sync_all()
}

/// Writes a record's file and gives it its name; returns it and its directory.
async fn write_within(
    room: &Arc<Room>,
    key: StoreKey,
    bytes: Vec<u8>,
    patience: Duration,
) -> io::Result<(File, File)> {
    if let Some(trouble) = room.disk().trouble() {
        // It was logged when it began.
        return Err(io::Error::other(trouble.to_string()));
    }
    let length = bytes.len() as u64;
    let bytes = Bytes::from(bytes);
    let mut reservation = claim(room, &key, length, patience).await?;
    match write_reserved(room, key.clone(), bytes.clone(), reservation).await {
        Err(error) if make_way(room, &error, length).await => {
            reservation = claim(room, &key, length, patience).await?;
            write_reserved(room, key, bytes, reservation).await
        }
        done => done,
    }
    .inspect_err(|error| room.disk().write_failed("write a record", error))
}

async fn claim(
    room: &Arc<Room>,
    key: &StoreKey,
    length: u64,
    patience: Duration,
) -> io::Result<Reservation> {
    let owner = room.index().owner(key.namespace());
    let reservation = Reservation::claim(room, length, key, owner, patience).await;
    reservation.map_err(|no_room| {
        tracing::debug!(error = %no_room, "a record is kept in memory only");
        io::Error::new(io::ErrorKind::StorageFull, no_room)
    })
}

async fn write_reserved(
    room: &Arc<Room>,
    key: StoreKey,
    bytes: Bytes,
    reservation: Reservation,
) -> io::Result<(File, File)> {
    let disk = Arc::clone(room.disk());
    let write = move || {
        let temporary = disk.temporary();
        let written = disk.create_file(&temporary).and_then(|mut file| {
            file.write_all(&bytes)?;
            let directory = reservation.publish(&temporary, key, bytes.len() as u64)?;
            Ok((file, directory))
        });
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    };
    try_run(write).await
}

/// A record of this length needs room in memory before it is read.
struct Long(usize);

/// Reads a record's file; what `parse` refuses is damaged and dropped. Without `held`, a long one is not read.
fn read<T>(
    room: &Arc<Room>,
    key: &StoreKey,
    held: Option<Held>,
    parse: impl FnOnce(Bytes) -> Option<T>,
) -> Result<Option<T>, Long> {
    let path = room.disk().layout().path(key);
    let long = |length: u64| usize::try_from(length).unwrap_or(usize::MAX);
    let read = options().read(true).open(&path).and_then(|mut file| {
        let length = long(file.metadata()?.len());
        if held.is_none() && !Memory::is_small(length) {
            return Ok(Err(Long(length)));
        }
        let mut bytes = Vec::with_capacity(length);
        file.read_to_end(&mut bytes)?;
        Ok(Ok(bytes))
    });
    let bytes = match read {
        Ok(read) => held.unwrap_or_default().with(read?),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                room.disk().read_failed(&path, &error);
            }
            room.miss(key);
            return Ok(None);
        }
    };
    room.index().touch(key, bytes.len() as u64);
    let parsed = parse(bytes);
    if parsed.is_none() {
        tracing::error!(path = %path.display(), "a record is damaged; it is dropped and fetched again");
        room.discard_damaged(key, FoundBy::Read);
    }
    Ok(parsed)
}

/// A file whose first line says what the bytes after it are.
pub(super) fn with_header(header: &impl Serialize, bytes: &[u8]) -> Vec<u8> {
    let mut file = serde_json::to_vec(header).unwrap_or_default();
    file.push(b'\n');
    file.extend_from_slice(bytes);
    file
}

/// Reads that back.
pub(super) fn split_header<H: DeserializeOwned>(file: &Bytes) -> Option<(H, Bytes)> {
    let newline = file.iter().position(|byte| *byte == b'\n')?;
    let header = serde_json::from_slice(file.get(..newline)?).ok()?;
    Some((header, file.slice(newline + 1..)))
}

#[cfg(test)]
mod tests;
