//! What is remembered of manifests and tags, and which blobs a repository vouches for.
//!
//! Records live in memory while they are used and on disk always. A manifest's record holds its exact
//! bytes and is checked against its digest whenever it is read from disk. A tag's record is a pointer,
//! written after what it points to. A record that cannot be read is a record that is not there: the
//! mirror asks upstream again.
//!
//! Which blobs a repository vouches for is one list of digests a repository, appended to as manifests
//! name blobs and upstream confirms them. Lists are small and not evicted; those that outgrew what is
//! stored are shortened when they are read.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Tag};

use super::Store;
use super::index::cost;
use super::layout::Key;

/// Memory for manifests: bytes of manifests and of their bookkeeping.
const MANIFEST_MEMORY: u64 = 16 * 1024 * 1024;
/// Tags kept in memory.
const TAGS_IN_MEMORY: u64 = 50_000;
/// Memory for the lists of vouched digests, in bytes.
const VOUCHED_MEMORY: u64 = 16 * 1024 * 1024;
/// A tag confirmed again without having moved is written to disk at most this often.
const PERSIST_EVERY: Duration = Duration::from_secs(600);
/// A record in memory tells the index of its use at most this often (seconds).
const PROMOTE_EVERY: u32 = 10;
/// Lists shorter than this are never shortened.
const SHORT_LIST: usize = 1024;

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
pub(super) struct Records {
    manifests: Cache<(QualifiedName, Digest), Arc<Kept<StoredManifest>>>,
    tags: Cache<(QualifiedName, Tag), Arc<Kept<TagRecord>>>,
    vouched: Cache<QualifiedName, Arc<Vouched>>,
}

/// A record in memory and what the index must be told of its use.
struct Kept<T> {
    value: Arc<T>,
    key: Key,
    promoted: AtomicU32,
    persisted_at: SystemTime,
}

/// The digests one repository vouches for. The lock covers the list in memory and appends to its file.
struct Vouched {
    digests: Mutex<HashSet<Digest>>,
}

impl Default for Records {
    fn default() -> Self {
        let manifest_bytes = |_: &(QualifiedName, Digest), kept: &Arc<Kept<StoredManifest>>| {
            u32::try_from(kept.value.bytes.len() + 512).unwrap_or(u32::MAX)
        };
        let list_bytes = |_: &QualifiedName, list: &Arc<Vouched>| {
            u32::try_from(list.digests().len() * 64 + 256).unwrap_or(u32::MAX)
        };
        Self {
            manifests: Cache::builder()
                .max_capacity(MANIFEST_MEMORY)
                .weigher(manifest_bytes)
                .build(),
            tags: Cache::new(TAGS_IN_MEMORY),
            vouched: Cache::builder()
                .max_capacity(VOUCHED_MEMORY)
                .weigher(list_bytes)
                .build(),
        }
    }
}

impl Records {
    pub(super) fn forget_manifest(&self, name: &QualifiedName, digest: &Digest) {
        self.manifests.invalidate(&(name.clone(), digest.clone()));
    }

    pub(super) fn forget_tag(&self, name: &QualifiedName, tag: &Tag) {
        self.tags.invalidate(&(name.clone(), tag.clone()));
    }
}

impl Vouched {
    fn digests(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Kept<T> {
    fn new(value: T, key: Key, persisted_at: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            value: Arc::new(value),
            key,
            promoted: AtomicU32::new(0),
            persisted_at,
        })
    }

    fn used(&self, store: &Store) -> Arc<T> {
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
        run(move || {
            let key = Key::manifest(&id.0, &id.1);
            let manifest = store.read_record(&key, |bytes| read_manifest(bytes, &id.1))?;
            let persisted_at = manifest.fetched_at;
            let kept = Kept::new(manifest, key, persisted_at);
            store.records.manifests.insert(id, Arc::clone(&kept));
            Some(kept.used(&store))
        })
        .await?
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
        Arc::clone(&kept.value)
    }

    /// What is remembered of a tag.
    pub async fn tag(self: &Arc<Self>, name: &QualifiedName, tag: &Tag) -> Option<Arc<TagRecord>> {
        let id = (name.clone(), tag.clone());
        if let Some(kept) = self.records.tags.get(&id) {
            return Some(kept.used(self));
        }
        let store = Arc::clone(self);
        run(move || {
            let key = Key::tag(&id.0, &id.1);
            let record: TagRecord =
                store.read_record(&key, |bytes| serde_json::from_slice(&bytes).ok())?;
            let persisted_at = record.checked_at;
            let kept = Kept::new(record, key, persisted_at);
            store.records.tags.insert(id, Arc::clone(&kept));
            Some(kept.used(&store))
        })
        .await?
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
        Arc::clone(&kept.value)
    }

    /// Forgets a tag that upstream does not have any more.
    pub async fn drop_tag(self: &Arc<Self>, name: &QualifiedName, tag: &Tag) {
        self.records.forget_tag(name, tag);
        let (store, key) = (Arc::clone(self), Key::tag(name, tag));
        run(move || store.discard(&key)).await;
    }

    /// Whether the repository vouches for the blob: one of its manifests names it, or upstream confirmed it there.
    pub async fn vouches(self: &Arc<Self>, name: &QualifiedName, digest: &Digest) -> bool {
        match self.records.vouched.get(name) {
            Some(list) => list.digests().contains(digest),
            None => self
                .load_vouched(name)
                .await
                .is_some_and(|list| list.digests().contains(digest)),
        }
    }

    /// Adds blobs to those the repository vouches for.
    pub async fn vouch(self: &Arc<Self>, name: &QualifiedName, digests: Vec<Digest>) {
        let Some(list) = self.load_vouched(name).await else {
            return;
        };
        if digests.iter().all(|digest| list.digests().contains(digest)) {
            return;
        }
        let (store, name) = (Arc::clone(self), name.clone());
        run(move || {
            if let Err(error) = store.append_vouched(&name, &list, digests) {
                tracing::warn!(repository = %name, %error, "cannot remember which blobs belong to a repository");
            }
            // Insert anew, so that the list is weighed by its new length.
            store.records.vouched.insert(name, list);
        })
        .await;
    }

    fn append_vouched(
        &self,
        name: &QualifiedName,
        list: &Vouched,
        digests: Vec<Digest>,
    ) -> io::Result<()> {
        let mut known = list.digests();
        let new: Vec<_> = digests
            .into_iter()
            .filter(|digest| known.insert(digest.clone()))
            .collect();
        let lines: String = new.iter().map(|digest| format!("{digest}\n")).collect();
        let path = self.layout.vouched(name);
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        let mut file = File::options()
            .create(true)
            .read(true)
            .append(true)
            .open(&path)?;
        let before = file.metadata()?.len();
        let mut last = *b"\n";
        if before > 0 {
            file.read_exact_at(&mut last, before - 1)?;
        }
        // Not onto a line that a crash has torn, or this one would be skipped with it.
        let lines = if last == *b"\n" {
            lines
        } else {
            format!("\n{lines}")
        };
        // One write, so that a crash tears at most the last line, which is then skipped when read.
        file.write_all(lines.as_bytes())?;
        let counted = if before == 0 { 0 } else { cost(before) };
        self.index
            .add_overhead(cost(before + lines.len() as u64).saturating_sub(counted));
        Ok(())
    }

    async fn load_vouched(self: &Arc<Self>, name: &QualifiedName) -> Option<Arc<Vouched>> {
        if let Some(list) = self.records.vouched.get(name) {
            return Some(list);
        }
        let (store, name) = (Arc::clone(self), name.clone());
        run(move || {
            // Loaded by one caller at a time, so that no two lists of one repository diverge.
            store.records.vouched.get_with(name.clone(), || {
                let digests = store.read_vouched(&store.layout.vouched(&name));
                Arc::new(Vouched {
                    digests: Mutex::new(digests),
                })
            })
        })
        .await
    }

    fn read_vouched(&self, path: &Path) -> HashSet<Digest> {
        // A crash can leave what is not even text; the lines before and after it are as good as ever.
        let bytes = fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let digests: HashSet<Digest> = text.lines().filter_map(|line| line.parse().ok()).collect();
        if digests.len() < SHORT_LIST || !self.index.is_scanned() {
            return digests;
        }
        let useful: HashSet<Digest> = digests
            .iter()
            .filter(|digest| self.has_blob(digest))
            .cloned()
            .collect();
        if useful.len() * 2 > digests.len() {
            return digests;
        }
        let lines: String = useful.iter().map(|digest| format!("{digest}\n")).collect();
        let temporary = self.layout.ingest(self.next_serial());
        match fs::write(&temporary, lines).and_then(|()| fs::rename(&temporary, path)) {
            Ok(()) => useful,
            Err(_) => {
                let _ = fs::remove_file(&temporary);
                digests
            }
        }
    }

    /// Reads a record's file; what `parse` refuses is damaged and dropped.
    fn read_record<T>(&self, key: &Key, parse: impl FnOnce(Vec<u8>) -> Option<T>) -> Option<T> {
        let path = self.layout.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "a record cannot be read");
                }
                self.index.remove(key);
                return None;
            }
        };
        self.index.touch(key, bytes.len() as u64);
        let parsed = parse(bytes);
        if parsed.is_none() {
            tracing::error!(path = %path.display(), "a record is damaged; it is dropped and fetched again");
            self.discard(key);
        }
        parsed
    }

    async fn write_record(self: &Arc<Self>, key: &Key, bytes: Vec<u8>) {
        let reservation = match self.reserve(bytes.len() as u64, key).await {
            Ok(reservation) => reservation,
            Err(error) => {
                tracing::warn!(%error, "a record is kept in memory only");
                return;
            }
        };
        let (store, key) = (Arc::clone(self), key.clone());
        let written = run(move || {
            let temporary = store.layout.ingest(store.next_serial());
            let written = store.write_and_publish(&temporary, key, &bytes);
            if written.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            drop(reservation);
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
            Some(Err(error)) => tracing::warn!(%error, "a record is kept in memory only"),
            None => {}
        }
    }

    fn write_and_publish(
        &self,
        temporary: &Path,
        key: Key,
        bytes: &[u8],
    ) -> io::Result<(File, File)> {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        let directory = self.publish(temporary, key, bytes.len() as u64)?;
        Ok((file, directory))
    }
}

fn read_manifest(mut bytes: Vec<u8>, digest: &Digest) -> Option<StoredManifest> {
    let newline = bytes.iter().position(|byte| *byte == b'\n')?;
    let header: ManifestHeader = serde_json::from_slice(bytes.get(..newline)?).ok()?;
    let bytes = Bytes::from(bytes.split_off(newline + 1));
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    let intact = hasher.finish() == *digest;
    intact.then(|| StoredManifest {
        digest: digest.clone(),
        media_type: header.media_type,
        bytes,
        fetched_at: header.fetched_at,
    })
}

/// Runs disk work in a blocking thread; `None` only when the runtime is shutting down.
async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn unix_seconds() -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
}

/// Times as whole milliseconds of the Unix epoch: readable, exact enough, the same on every machine.
mod unix_millis {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &SystemTime,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis())
            .unwrap_or(u64::MAX)
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<SystemTime, D::Error> {
        let millis = u64::deserialize(deserializer)?;
        UNIX_EPOCH
            .checked_add(Duration::from_millis(millis))
            .ok_or_else(|| serde::de::Error::custom("time out of range"))
    }
}
