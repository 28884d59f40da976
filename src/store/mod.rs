//! The store: verified blobs and the records of manifests and tags, as plain files under one directory.
//!
//! It knows no HTTP and no registry; it is told digests, names and bytes. The file system is the
//! database: a file that opens under its final name is stored, whatever memory thinks. What is in memory
//! (`index`) only serves to keep the used bytes under the limit and to choose what goes first.
//!
//! Reading order: `disk` (where things are, and a disk that fails), `room` (how much there is, what is evicted),
//! [`blobs`] (how a blob gets in and out), [`records`] (manifests, tags, lists, which blobs belong to a repository),
//! [`check`] (is it still what it was), [`images`] (what is never evicted; a store at rest).

pub mod blobs;
pub mod check;
pub mod disk;
pub mod images;
pub mod records;
mod room;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::name::Namespace;

use blobs::ingest::{Growing, Ingest, IngestError};
use blobs::partial::Partial;
use blobs::progress;
use blobs::reader::Reader;
use check::{hash, scrub};
use disk::health::Health;
use disk::layout::{self, Key, Layout};
use disk::length;
use images::pins;
use records::Records;
use records::listings::Listings;
use records::vouched;
use room::evict::{Reservation, Trash};
use room::index::{self, Index};
pub use room::index::{NoRoom, Usage};
use room::scan;

/// Where the store is and how much it may hold.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; created when missing.
    pub path: PathBuf,
    /// Bytes on disk that are never exceeded, ingests in progress included.
    pub max_size: u64,
    /// Bytes of the file system that are always left free.
    pub min_free: u64,
    /// Bytes a second that the check behind the requests may read; 0 turns it off.
    pub scrub_rate: u64,
    /// How long a blob goes without being checked.
    pub scrub_every: Duration,
}

/// How damage came to light: a label of the metrics.
#[derive(Debug, Clone, Copy)]
enum FoundBy {
    /// A blob that was to be served has another length.
    Open,
    /// A record that was to be used does not parse, or has another digest.
    Read,
    /// The check behind the requests.
    Scrub,
    /// The check that somebody ordered.
    Verify,
}

impl FoundBy {
    const ALL: [Self; 4] = [Self::Open, Self::Read, Self::Scrub, Self::Verify];

    fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Scrub => "scrub",
            Self::Verify => "verify",
        }
    }
}

/// Why a store could not be opened; the message names the path and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// A directory or file of the store cannot be created, read or written.
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process holds the store.
    Locked {
        /// The store.
        path: PathBuf,
    },
    /// The directory was written by a version of this program that lays files out differently.
    Version {
        /// The store.
        path: PathBuf,
        /// What its version file says.
        found: String,
    },
}

impl std::fmt::Display for OpenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io { path, source } => write!(
                f,
                "store {}: {source}; the directory must be writable, or choose another with store.path",
                path.display()
            ),
            Self::Locked { path } => write!(
                f,
                "store {} is in use by another pierglass; stop it, or give this one its own store.path",
                path.display()
            ),
            Self::Version { path, found } => write!(
                f,
                "store {} has layout {found:?}, this program writes {:?}; choose an empty store.path",
                path.display(),
                layout::VERSION.trim()
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Locked { .. } | Self::Version { .. } => None,
        }
    }
}

/// How long an ingest waits for room: for the start-up scan to have counted what is there, and for what was
/// evicted to be unlinked.
///
/// The scan takes about a second for a million files, and hits do not wait for it at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// The blobs of a store.
pub struct Blobs<'a>(&'a Arc<Store>);

impl Blobs<'_> {
    /// Opens a stored blob for reading.
    pub fn open(&self, digest: &Digest) -> Option<Reader> {
        self.0.open_blob(digest)
    }
}

impl std::ops::Deref for Blobs<'_> {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        self.0
    }
}

/// The store. Cheap to share; all methods take `&self`.
pub struct Store {
    layout: Layout,
    settings: Settings,
    index: Index,
    trash: Trash,
    records: Records,
    listings: Listings,
    vouched: vouched::Lists,
    pins: pins::Held,
    metrics: Arc<Metrics>,
    /// Names ingests and pieces of trash; starts at 0 with each process, whose leftovers are gone by then.
    serial: AtomicU64,
    /// Held for every rename into or out of `blobs/` and `records/` together with its entry in the index,
    /// so that an eviction can never carry away what was committed under the same name a moment before.
    /// Only commits and evictions take it, in blocking threads; the index's own lock is taken inside.
    moves: Mutex<()>,
    health: Health,
    /// Keeps the lock on the directory for the life of the store. Another one when the directory was removed
    /// and made anew.
    lock: Mutex<File>,
    /// Dropped with the store, which ends the scrub.
    _alive: scrub::Alive,
}

impl Store {
    /// Opens or creates the store and starts counting what is in it, in a thread of its own.
    ///
    /// Hits are served at once; what needs room waits for the scan, for a moment.
    pub fn open(settings: Settings, metrics: Arc<Metrics>) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(settings.path.clone());
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |source| OpenError::Io { path, source }
        };
        for dir in layout.top_directories() {
            fs::create_dir_all(&dir).map_err(io(&dir))?;
        }
        let lock = lock(&layout)?;
        check_version(&layout)?;
        metrics.store_capacity.set(settings.max_size as f64);
        for reason in progress::Failure::REASONS {
            // Present from the start, so that the first count is an increase.
            metrics.ingest_failures.with_label_values(&[reason]);
        }
        for found_by in FoundBy::ALL {
            metrics.damaged.with_label_values(&[found_by.as_str()]);
        }
        let (alive, stop) = scrub::alive();
        let pins = pins::Held::load(&layout).map_err(io(&layout.pins()))?;
        let store = Arc::new(Self {
            index: Index::new(settings.max_size, layout.top_directories().len() as u64),
            trash: Trash::start(),
            records: Records::default(),
            listings: Listings::default(),
            vouched: vouched::Lists::default(),
            pins,
            layout,
            settings,
            metrics,
            serial: AtomicU64::new(0),
            moves: Mutex::new(()),
            health: Health::default(),
            lock: Mutex::new(lock),
            _alive: alive,
        });
        store.announce_health();
        scan::start(&store)
            .and_then(|()| scrub::start(&store, stop))
            .map_err(io(&store.settings.path))?;
        Ok(store)
    }

    /// The blobs. (Until the parts are types of their own, each of these is the store itself.)
    pub fn blobs(self: &Arc<Self>) -> Blobs<'_> {
        Blobs(self)
    }

    /// The records.
    pub fn records(self: &Arc<Self>) -> &Arc<Self> {
        self
    }

    /// The images.
    pub fn images(self: &Arc<Self>) -> &Arc<Self> {
        self
    }

    /// The checks.
    pub fn checks(self: &Arc<Self>) -> &Arc<Self> {
        self
    }

    /// The disk.
    pub fn disk(self: &Arc<Self>) -> &Arc<Self> {
        self
    }

    /// The room.
    pub fn room(self: &Arc<Self>) -> &Arc<Self> {
        self
    }

    /// Opens a stored blob for reading; `None` when it is not stored.
    ///
    /// Two system calls, and a third the first time after a start. A file whose length is not the one it was committed with is damaged: it is
    /// dropped and reported as not stored, so that the caller fetches it again.
    pub fn open_blob(&self, digest: &Digest) -> Option<Reader> {
        let key = Key::Blob(digest.clone());
        let path = self.layout.path(&key);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    self.miss(&key);
                } else {
                    self.read_failed(&path, &error);
                }
                return None;
            }
        };
        let metadata = file.metadata().ok()?;
        match self.index.touch(&key, metadata.len()) {
            index::Touched::Known { freshen, unproven } => {
                if unproven {
                    match length::committed(&file) {
                        Some(expected) if expected != metadata.len() => {
                            self.drop_damaged(&key, digest, expected, metadata.len());
                            return None;
                        }
                        Some(_) | None => self.index.prove(&key),
                    }
                }
                if freshen {
                    set_modified_now(&file);
                }
            }
            index::Touched::WrongLength { expected } => {
                self.drop_damaged(&key, digest, expected, metadata.len());
                return None;
            }
        }
        Some(Reader::stored(Arc::new(file), metadata.len()))
    }

    /// Whether a blob is stored, without opening it.
    pub fn has(&self, digest: &Digest) -> bool {
        let key = Key::Blob(digest.clone());
        self.index.contains(&key) || (!self.index.is_scanned() && self.layout.path(&key).exists())
    }

    /// Begins to write a blob of `size` bytes, or of a size not known yet, that comes from `namespace`; goes on
    /// with `partial` where there is one.
    ///
    /// Room is reserved before the first byte is written, by evicting what was used longest ago.
    pub async fn ingest(
        self: &Arc<Self>,
        namespace: &Namespace,
        digest: &Digest,
        size: Option<u64>,
        partial: Option<Partial>,
    ) -> Result<(Ingest, Growing), IngestError> {
        let id = Arc::new((namespace.clone(), digest.clone()));
        Ingest::begin(self, id, size, partial).await
    }

    /// How much is stored and reserved at this moment.
    pub fn usage(&self) -> Usage {
        self.index.usage()
    }

    /// Whether the start-up scan has counted everything.
    pub fn is_scanned(&self) -> bool {
        self.index.is_scanned()
    }

    /// Writes the figures of the store into the metrics; called before they are rendered.
    pub fn export(&self) {
        let usage = self.usage();
        self.metrics.store_bytes.set(usage.total() as f64);
        self.metrics
            .store_blobs
            .set(i64::try_from(usage.blobs).unwrap_or(i64::MAX));
        self.metrics.store_pinned.set(usage.pinned as f64);
    }

    fn drop_damaged(&self, key: &Key, digest: &Digest, expected: u64, found: u64) {
        tracing::error!(%digest, expected, found, "a stored blob is damaged: its length changed on disk; it is dropped and fetched again");
        self.count_damage(FoundBy::Open);
        self.discard(key);
    }

    /// Drops a stored blob whose file cannot be read to its end, unless it was replaced since.
    pub async fn drop_unreadable(
        self: &Arc<Self>,
        digest: &Digest,
        file: Arc<File>,
        why: &io::Error,
    ) {
        let (store, key) = (Arc::clone(self), Key::Blob(digest.clone()));
        let damage = hash::Damage::Unreadable(io::Error::new(why.kind(), why.to_string()));
        records::run(move || store.drop_if_still(&key, &file, &damage, FoundBy::Read)).await;
    }

    /// Drops what a check found damaged, unless another file has its name by now; says whether it did.
    fn drop_if_still(
        &self,
        key: &Key,
        file: &File,
        damage: &hash::Damage,
        found_by: FoundBy,
    ) -> bool {
        let path = self.layout.path(key);
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let still = hash::is_at(file, &path);
        if still {
            self.index.remove(key);
            self.forget_record(key);
            self.trash_file(&path);
        }
        drop(moves);
        if still {
            self.count_damage(found_by);
            tracing::error!(path = %path.display(), %damage, found_by = found_by.as_str(), "stored content is damaged; it is dropped and fetched again when asked for");
        }
        still
    }

    fn count_damage(&self, found_by: FoundBy) {
        let counted = self.metrics.damaged.with_label_values(&[found_by.as_str()]);
        counted.inc();
    }

    /// Forgets an entry whose file was not found, unless it was committed since.
    fn miss(&self, key: &Key) {
        if self.index.contains(key) {
            let _moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.layout.path(key).exists() {
                self.index.remove(key);
            }
        }
    }

    /// Moves what `key` names out of sight and forgets it.
    fn discard(&self, key: &Key) {
        let _moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        self.index.remove(key);
        self.trash_file(&self.layout.path(key));
    }

    /// Gives a finished file its final name and counts it, replacing what had that name before.
    ///
    /// Returns the directory, whose fsync makes the new name survive a crash of the machine.
    fn publish(
        &self,
        finished: &Path,
        key: Key,
        length: u64,
        reservation: Reservation,
    ) -> io::Result<File> {
        let path = self.layout.path(&key);
        let parent = path.parent().unwrap_or(self.layout.root());
        self.create_directories(parent)?;
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        fs::rename(finished, &path)?;
        reservation.settle(key, length);
        drop(moves);
        File::open(parent)
    }

    /// Creates a directory below the root and its parents, and counts what was created.
    fn create_directories(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.create_directories(parent)?;
        }
        match fs::create_dir(path) {
            Ok(()) => {
                self.index.add_overhead(index::DIRECTORY);
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

    /// Takes the lock on a directory that was made anew, and writes its version.
    fn claim_directory(&self) -> io::Result<()> {
        let claimed = lock(&self.layout).and_then(|lock| {
            check_version(&self.layout)?;
            Ok(lock)
        });
        let lock = claimed.map_err(|error| io::Error::other(error.to_string()))?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = lock;
        self.note_boot();
        Ok(())
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.settings.path)
            .finish_non_exhaustive()
    }
}

/// Takes the lock that keeps a second process out; the kernel frees it when this one ends, however it ends.
fn lock(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io)?;
    hold(file, layout)
}

/// Takes the lock of an open file.
fn hold(file: File, layout: &Layout) -> Result<File, OpenError> {
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: layout.root().to_path_buf(),
        }),
        Err(errno) => Err(OpenError::Io {
            path: layout.lock(),
            source: errno.into(),
        }),
    }
}

fn check_version(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.version();
    let io = |source| OpenError::Io {
        path: path.clone(),
        source,
    };
    match fs::read_to_string(&path) {
        Ok(found) if found == layout::VERSION => Ok(()),
        // An empty file is what a crash between creating and writing it leaves.
        Ok(found) if !found.is_empty() => Err(OpenError::Version {
            path: layout.root().to_path_buf(),
            found,
        }),
        Ok(_) => fs::write(&path, layout::VERSION).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::write(&path, layout::VERSION).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

/// Recency survives restarts as the file's modification time, written at most once an hour (`index::Touched`).
fn set_modified_now(file: &File) {
    // Not worth an error: the only cost is that the blob looks older after a restart than it is.
    let _ = file.set_modified(SystemTime::now());
}
