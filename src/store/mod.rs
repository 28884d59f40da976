//! The store: verified blobs and the records of manifests and tags, as plain files under one directory.
//!
//! It knows no HTTP and no registry; its callers give it digests, names and bytes. The file system is the database: a
//! file that opens under its final name is stored, whatever memory says. What is in memory only serves to answer
//! without the disk, to keep the used bytes under the limit and to choose what is evicted first.
//!
//! Each part is a folder and a type with its own fields. Reading order, from the bottom up; a part uses those before
//! it:
//!
//! - `key`: what is stored under one name.
//! - [`disk`]: the directory, its lock, and a disk that fails or is full.
//! - [`room`]: how much there is, reservations, eviction.
//! - [`blobs`]: how a blob gets in and out. [`records`]: manifests, tags, lists, which blobs belong to a repository.
//! - [`check`]: whether what is stored is still what it was.
//! - [`images`]: what an image consists of, pins, and a store that no mirror is running on.
//!
//! Where a lower part has something to tell a higher one, it calls a `hook`, which [`Store::open`] sets.

pub(crate) mod blobs;
pub(crate) mod check;
pub(crate) mod disk;
mod hook;
pub(crate) mod images;
mod key;
pub mod records;
pub(crate) mod room;

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crate::memory::Memory;
use crate::metrics::Metrics;

use blobs::{Blobs, partial};
use check::Checks;
pub use disk::lock::OpenError;
use disk::{Disk, lock};
use images::Images;
use records::Records;
pub use room::owners::UpstreamShare;
use room::usage::Amount;
use room::{Room, scan};

/// The limit of files that nothing was said about: one for so many bytes of the limit of bytes, between these two.
const BYTES_A_FILE: u64 = 256 * 1024;
const FILES: (u64, u64) = (10_000, 1_000_000);

/// Where the store is and how much it may hold.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory; created when missing.
    pub path: PathBuf,
    /// Bytes on disk that are never exceeded, ingests in progress included.
    pub max_size: u64,
    /// Files that are stored at most: memory and inodes are needed for each. `None`: as many as fit `max_size`.
    pub max_files: Option<u64>,
    /// Bytes of the file system that are always left free.
    pub min_free: u64,
    /// Bytes a second that the check behind the requests may read; 0 turns it off.
    pub scrub_rate: u64,
    /// How long a blob goes without being checked.
    pub scrub_every: Duration,
    /// The upstreams whose content is counted apart, and what each may keep when others need room.
    pub shares: Vec<UpstreamShare>,
}

impl Settings {
    fn limit(&self) -> Amount {
        let files = (self.max_size / BYTES_A_FILE).clamp(FILES.0, FILES.1);
        Amount {
            bytes: self.max_size,
            files: self.max_files.unwrap_or(files),
        }
    }
}

/// The store: its parts.
pub struct Store {
    disk: Arc<Disk>,
    room: Arc<Room>,
    blobs: Blobs,
    records: Arc<Records>,
    checks: Checks,
    images: Arc<Images>,
}

impl Store {
    /// Opens or creates the store and starts counting what is in it, in a thread of its own.
    ///
    /// Hits are served at once; what needs room waits for the scan, for a moment.
    pub fn open(
        settings: Settings,
        memory: &Arc<Memory>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, OpenError> {
        let (path, limit) = (settings.path.clone(), settings.limit());
        let disk = Disk::open(settings.path, settings.min_free, metrics)?;
        let layout = disk.layout();
        let leftovers = disk.leftovers().map_err(OpenError::at(&path))?;
        let room = Room::new(Arc::clone(&disk), limit, &settings.shares);
        let records = Records::new(&room, memory);
        let images = Images::load(&records, &room).map_err(OpenError::at(&layout.pins()))?;

        disk.restored
            .set(told(&room, |room, &()| scan::restart(room)));
        room.gone
            .set(told(&records, |records, key| records.forget(key)));
        room.counted
            .set(told(&images, |images, &()| images.follow_all()));
        records
            .written
            .set(told(&images, |images, name| images.follow(name)));

        let leftovers = if lock::is_same_boot(layout) {
            partial::keep_leftovers(layout, leftovers)
        } else {
            partial::drop_all(layout);
            leftovers
        };
        lock::note_boot(layout);
        scan::start(&room, leftovers).map_err(OpenError::at(&path))?;
        let checks = Checks::start(&room, settings.scrub_rate, settings.scrub_every);
        Ok(Arc::new(Self {
            checks: checks.map_err(OpenError::at(&path))?,
            blobs: Blobs::new(Arc::clone(&room)),
            disk,
            room,
            records,
            images,
        }))
    }

    pub(crate) fn disk(&self) -> &Arc<Disk> {
        &self.disk
    }

    /// The account of what is stored.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The records of manifests and tags, and what else is remembered of repositories.
    pub fn records(&self) -> &Arc<Records> {
        &self.records
    }

    pub(crate) fn checks(&self) -> &Checks {
        &self.checks
    }

    pub(crate) fn images(&self) -> &Arc<Images> {
        &self.images
    }
}

#[cfg(test)]
mod tests;

/// A hook that calls a higher part as long as that exists, and does not keep it alive.
fn told<P: Send + Sync + 'static, T: ?Sized>(
    part: &Arc<P>,
    call: impl Fn(&Arc<P>, &T) + Send + Sync + 'static,
) -> impl Fn(&T) + Send + Sync + 'static {
    let part: Weak<P> = Arc::downgrade(part);
    move |about| {
        if let Some(part) = part.upgrade() {
            call(&part, about);
        }
    }
}
