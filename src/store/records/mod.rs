//! What is remembered of manifests and tags.
//!
//! Records live in memory while they are used and on disk always. A manifest's record holds its exact
//! bytes and is checked against its digest whenever it is read from disk. A tag's record is a pointer,
//! written after what it points to. A record that cannot be read is a record that is not there: the
//! mirror asks upstream again.

mod catalog;
pub(in crate::store) mod listings;
pub(in crate::store) mod vouched;

pub use listings::{Listing, StoredListing};

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::manifest;
use crate::oci::name::{QualifiedName, Tag};

use crate::store::FoundBy;
use crate::store::Store;
use crate::store::disk::layout::Key;
use crate::store::room::evict::Reservation;

/// Memory for manifests: bytes of manifests and of their bookkeeping.
const MANIFEST_MEMORY: u64 = 16 * 1024 * 1024;
/// Tags kept in memory.
const TAGS_IN_MEMORY: u64 = 50_000;
/// A tag confirmed again without having moved is written to disk at most this often.
pub(in crate::store) const PERSIST_EVERY: Duration = Duration::from_secs(600);
/// How long an answer waits for room for its record: none to speak of.
const RECORD_PATIENCE: Duration = Duration::from_millis(200);
/// How long a record waits for the start-up scan, behind its answer.
const SCAN_PATIENCE: Duration = Duration::from_secs(60);
/// A record in memory tells the index of its use at most this often (seconds).
const PROMOTE_EVERY: u32 = 10;

/// A manifest of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The Content-Type it is answered with.
    pub media_type: String,
    /// Exactly what upstream sent.
    pub bytes: Bytes,
    /// When upstream sent it.
    pub fetched_at: SystemTime,
}

/// What a tag pointed to when upstream was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// When upstream last confirmed this.
    #[serde(with = "unix_millis")]
    pub checked_at: SystemTime,
    /// The last manifest under this tag whose bytes were fetched, if it is another one than `digest`:
    /// a HEAD learns that a tag moved without fetching what it moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Digest>,
}

/// The first line of a manifest's file; the manifest's bytes follow.
#[derive(Serialize, Deserialize)]
struct ManifestHeader {
    media_type: String,
    #[serde(with = "unix_millis")]
    fetched_at: SystemTime,
}

/// The records in memory.
pub(in crate::store) struct Records {
    manifests: Cache<(QualifiedName, Digest), Arc<Kept<StoredManifest>>>,
    tags: Cache<(QualifiedName, Tag), Arc<Kept<TagRecord>>>,
}

/// A record in memory and what the index must be told of its use.
pub(in crate::store) struct Kept<T> {
    pub(in crate::store) value: Arc<T>,
    key: Key,
    promoted: AtomicU32,
    pub(in crate::store) persisted_at: SystemTime,
}

impl Default for Records {
    fn default() -> Self {
        let manifest_bytes = |_: &(QualifiedName, Digest), kept: &Arc<Kept<StoredManifest>>| {
            u32::try_from(kept.value.bytes.len() + 512).unwrap_or(u32::MAX)
        };
        Self {
            manifests: Cache::builder()
                .max_capacity(MANIFEST_MEMORY)
                .weigher(manifest_bytes)
                .build(),
            tags: Cache::new(TAGS_IN_MEMORY),
        }
    }
}

impl Records {
    pub(in crate::store) fn forget_manifest(&self, name: &QualifiedName, digest: &Digest) {
        self.manifests.invalidate(&(name.clone(), digest.clone()));
    }

    pub(in crate::store) fn forget_tag(&self, name: &QualifiedName, tag: &Tag) {
        self.tags.invalidate(&(name.clone(), tag.clone()));
    }
}

impl<T> Kept<T> {
    pub(in crate::store) fn new(value: T, key: Key, persisted_at: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            value: Arc::new(value),
            key,
            promoted: AtomicU32::new(0),
            persisted_at,
        })
    }

    pub(in crate::store) fn used(&self, store: &Store) -> Arc<T> {
        let now = unix_seconds();
        if now.saturating_sub(self.promoted.load(Ordering::Relaxed)) >= PROMOTE_EVERY {
            self.promoted.store(now, Ordering::Relaxed);
            store.index.promote(&self.key);
        }
        Arc::clone(&self.value)
    }
}

impl Store {
    /// The manifest of that digest, if this repository has it.
    pub async fn manifest(
        self: &Arc<Self>,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Option<Arc<StoredManifest>> {
        let id = (name.clone(), digest.clone());
        if let Some(kept) = self.records.manifests.get(&id) {
            return Some(kept.used(self));
        }
        let store = Arc::clone(self);
        run(move || store.manifest_now(&id.0, &id.1)).await?
    }

    /// The same for blocking threads.
    pub(in crate::store) fn manifest_now(
        &self,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Option<Arc<StoredManifest>> {
        let id = (name.clone(), digest.clone());
        if let Some(kept) = self.records.manifests.get(&id) {
            return Some(kept.used(self));
        }
        let key = Key::manifest(name, digest);
        let manifest = self.read_record(&key, |bytes| read_manifest(bytes, digest))?;
        let persisted_at = manifest.fetched_at;
        let kept = Kept::new(manifest, key, persisted_at);
        let kept = self
            .records
            .manifests
            .entry(id)
            .or_insert(kept)
            .into_value();
        Some(kept.used(self))
    }

    /// Keeps a manifest of a repository. On disk before this returns; durable a moment later.
    ///
    /// Without room on disk it is kept in memory alone.
    pub async fn put_manifest(
        self: &Arc<Self>,
        name: &QualifiedName,
        manifest: StoredManifest,
    ) -> Arc<StoredManifest> {
        let key = Key::manifest(name, &manifest.digest);
        let header = ManifestHeader {
            media_type: manifest.media_type.clone(),
            fetched_at: manifest.fetched_at,
        };
        let mut file = serde_json::to_vec(&header).unwrap_or_default();
        file.push(b'\n');
        file.extend_from_slice(&manifest.bytes);
        self.write_record(&key, file).await;
        let id = (name.clone(), manifest.digest.clone());
        let kept = Kept::new(manifest, key, SystemTime::now());
        self.records.manifests.insert(id, Arc::clone(&kept));
        self.follow_pins(name).await;
        Arc::clone(&kept.value)
    }

    /// What is remembered of a tag.
    pub async fn tag(self: &Arc<Self>, name: &QualifiedName, tag: &Tag) -> Option<Arc<TagRecord>> {
        let id = (name.clone(), tag.clone());
        if let Some(kept) = self.records.tags.get(&id) {
            return Some(kept.used(self));
        }
        let store = Arc::clone(self);
        run(move || store.tag_now(&id.0, &id.1)).await?
    }

    /// The same for blocking threads.
    pub(in crate::store) fn tag_now(
        &self,
        name: &QualifiedName,
        tag: &Tag,
    ) -> Option<Arc<TagRecord>> {
        let id = (name.clone(), tag.clone());
        if let Some(kept) = self.records.tags.get(&id) {
            return Some(kept.used(self));
        }
        let key = Key::tag(name, tag);
        let record: TagRecord =
            self.read_record(&key, |bytes| serde_json::from_slice(&bytes).ok())?;
        let persisted_at = record.checked_at;
        let kept = Kept::new(record, key, persisted_at);
        // What was put in memory meanwhile is newer than what was read.
        let kept = self.records.tags.entry(id).or_insert(kept).into_value();
        Some(kept.used(self))
    }

    /// Remembers what a tag points to: in memory at once, on disk when it moved or was not written for a while.
    pub async fn put_tag(
        self: &Arc<Self>,
        name: &QualifiedName,
        tag: &Tag,
        record: TagRecord,
    ) -> Arc<TagRecord> {
        let id = (name.clone(), tag.clone());
        let key = Key::tag(name, tag);
        let now = SystemTime::now();
        let written = self.records.tags.get(&id).filter(|kept| {
            kept.value.digest == record.digest
                && kept.value.held == record.held
                && now
                    .duration_since(kept.persisted_at)
                    .is_ok_and(|age| age < PERSIST_EVERY)
        });
        let changed = written.is_none();
        let persisted_at = match written {
            Some(kept) => kept.persisted_at,
            None => {
                self.write_record(&key, serde_json::to_vec(&record).unwrap_or_default())
                    .await;
                now
            }
        };
        let kept = Kept::new(record, key, persisted_at);
        self.records.tags.insert(id, Arc::clone(&kept));
        if changed {
            self.follow_pins(name).await;
        }
        Arc::clone(&kept.value)
    }

    /// Forgets a tag that upstream does not have any more.
    pub async fn drop_tag(self: &Arc<Self>, name: &QualifiedName, tag: &Tag) {
        self.records.forget_tag(name, tag);
        let (store, key) = (Arc::clone(self), Key::tag(name, tag));
        run(move || store.discard(&key)).await;
    }

    /// Reads a record's file; what `parse` refuses is damaged and dropped.
    pub(in crate::store) fn read_record<T>(
        &self,
        key: &Key,
        parse: impl FnOnce(Vec<u8>) -> Option<T>,
    ) -> Option<T> {
        let path = self.layout.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.read_failed(&path, &error);
                }
                self.miss(key);
                return None;
            }
        };
        self.index.touch(key, bytes.len() as u64);
        let parsed = parse(bytes);
        if parsed.is_none() {
            tracing::error!(path = %path.display(), "a record is damaged; it is dropped and fetched again");
            self.count_damage(FoundBy::Read);
            self.discard(key);
        }
        parsed
    }

    /// Writes a record before the answer that brought it, unless the store is still being counted: then it
    /// is written once there is room to be had, and the answer does not wait.
    pub(in crate::store) async fn write_record(self: &Arc<Self>, key: &Key, bytes: Vec<u8>) {
        let (store, key) = (Arc::clone(self), key.clone());
        if self.is_scanned() {
            store.write_within(key, bytes, RECORD_PATIENCE).await;
        } else {
            tokio::spawn(async move { store.write_within(key, bytes, SCAN_PATIENCE).await });
        }
    }

    async fn write_within(self: Arc<Self>, key: Key, bytes: Vec<u8>, patience: Duration) {
        if self.trouble().is_some() {
            // Told once, when it began.
            return;
        }
        let reservation = match self.reserve(bytes.len() as u64, &key, patience).await {
            Ok(reservation) => reservation,
            Err(error) => {
                tracing::debug!(%error, "a record is kept in memory only");
                return;
            }
        };
        let store = Arc::clone(&self);
        let written = run(move || {
            let temporary = self.layout.ingest(self.next_serial());
            let written = self.write_and_publish(&temporary, key, &bytes, reservation);
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            written
        });
        match written.await {
            // Durable a moment later, behind the answer: a record lost in a crash costs one question upstream.
            Some(Ok((file, directory))) => {
                tokio::task::spawn_blocking(move || {
                    let _ = file.sync_data();
                    let _ = directory.sync_all();
                });
            }
            Some(Err(error)) => store.disk_failed("write a record", &error),
            None => {}
        }
    }

    fn write_and_publish(
        self: &Arc<Self>,
        temporary: &Path,
        key: Key,
        bytes: &[u8],
        reservation: Reservation,
    ) -> io::Result<(File, File)> {
        let mut file = self.create_file(temporary)?;
        file.write_all(bytes)?;
        let directory = self.publish(temporary, key, bytes.len() as u64, reservation)?;
        Ok((file, directory))
    }
}

/// Whether a record's file holds what it was written with, as far as the file itself can tell.
pub(in crate::store) fn is_intact(key: &Key, file: Vec<u8>) -> bool {
    match key {
        Key::Manifest(id) => read_manifest(file, &id.1).is_some(),
        Key::Tag(_) => serde_json::from_slice::<TagRecord>(&file).is_ok(),
        Key::Listing(_) => listings::is_intact(file),
        Key::Blob(digest) => Digest::of(&file) == *digest,
        // Nothing is known of a part.
        Key::Partial(_) => true,
    }
}

fn read_manifest(mut bytes: Vec<u8>, digest: &Digest) -> Option<StoredManifest> {
    let newline = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: ManifestHeader = serde_json::from_slice(bytes.get(..newline)?).ok()?;
    let bytes = Bytes::from(bytes.split_off(newline + 1));
    let intact = manifest::is_digest_of(digest, &bytes);
    intact.then(|| StoredManifest {
        digest: digest.clone(),
        media_type: header.media_type,
        bytes,
        fetched_at: header.fetched_at,
    })
}

/// Runs disk work in a blocking thread; `None` only when the runtime is shutting down.
pub(in crate::store) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn unix_seconds() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// Times as whole milliseconds of the Unix epoch: readable, exact enough, the same on every machine.
pub(in crate::store) mod unix_millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in crate::store) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis())
            .unwrap_or(u64::MAX)
            .serialize(serializer)
    }

    pub(in crate::store) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(deserializer)?;
        UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or_else(|| serde::de::Error::custom("time out of range"))
    }
}
