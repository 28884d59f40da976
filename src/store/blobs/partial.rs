//! The file of a blob that is not whole yet, and the room promised to it.
//!
//! A transfer that breaks off leaves the beginning of a blob. It is kept as a **partial**, counted and evicted
//! like everything else, and the next transfer of that blob from that upstream continues where it ends. Nothing
//! of it was verified: that is done over all of the blob, at its end.
//!
//! While it is written its name says which blob it is, so that a process that was killed leaves a partial too.
//! A machine that crashed leaves none: nothing here is made durable, and parts of a blob are served before all of
//! it is verified.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::oci::digest::Digest;
use crate::oci::name::Namespace;

use crate::store::disk::blocking::{run, try_run};
use crate::store::disk::files::{create_directory, options};
use crate::store::disk::layout::Layout;
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::reserve::{BLOB_PATIENCE, Reservation, make_way};
use crate::store::room::usage::{NoRoom, cost};

/// Below this size continuing a transfer costs more than fetching the blob again.
const WORTH_KEEPING: u64 = 1024 * 1024;

/// A partial is cut back to a multiple of this, and by a byte at least: what comes next is then never nothing,
/// which no range can ask for.
const CUT: u64 = 4096;

/// Files shorter than this are not worth a system call to find out whether they fit.
const ALLOCATE_FROM: u64 = 1024 * 1024;

/// A blob is the same bytes everywhere, but what one upstream sent of it is not trusted on behalf of another.
pub(super) type PartialId = Arc<(Namespace, Digest)>;

/// The file of a blob that is not whole. Dropped, it is kept for the next transfer, or it is removed.
pub struct Partial {
    room: Arc<Room>,
    id: PartialId,
    file: Arc<File>,
    /// Gone once the file has its final name, or has none any more.
    path: Option<PathBuf>,
    reservation: Option<Reservation>,
    written: u64,
    worthless: bool,
}

impl Partial {
    /// Opens a new file for a blob of `size` bytes, or of a size not known yet.
    pub(super) async fn create(
        room: &Arc<Room>,
        id: PartialId,
        size: u64,
    ) -> io::Result<Result<Self, NoRoom>> {
        let key = StoreKey::Blob(id.1.clone());
        let owner = room.index().owner(Some(&id.0));
        let reservation = match Reservation::claim(room, size, &key, owner, BLOB_PATIENCE).await {
            Ok(reservation) => reservation,
            Err(no_room) => return Ok(Err(no_room)),
        };
        let mut created = create_file(room, &id).await;
        if let Err(error) = &created
            && make_way(room, error, size).await
        {
            created = create_file(room, &id).await;
        }
        let (file, path) = created?;
        let room = Arc::clone(room);
        Ok(Ok(Self::new(room, id, file, path, reservation)))
    }

    /// How much [`Partial::take`] would find. For blocking threads.
    pub(super) fn begins(room: &Room, id: &PartialId) -> Option<u64> {
        let path = room
            .disk()
            .layout()
            .path(&StoreKey::Partial(Arc::clone(id)));
        worth_continuing(fs::metadata(path).ok()?.len())
    }

    /// The beginning of a blob that an earlier transfer from the same upstream left. For blocking threads.
    pub(super) fn take(room: &Arc<Room>, id: &PartialId) -> Option<Self> {
        let path = temporary(room, id);
        room.take_out(&StoreKey::Partial(Arc::clone(id)), &path)
            .ok()?;
        let owner = room.index().owner(Some(&id.0));
        let reservation = Reservation::of_file(room, 0, owner);
        let file = match options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) => {
                let disk = room.disk();
                disk.write_failed("read what is left of a transfer", &error);
                room.unlink(path, || {});
                return None;
            }
        };
        let mut partial = Self::new(Arc::clone(room), Arc::clone(id), file, path, reservation);
        let length = partial.file.metadata().ok()?.len();
        let cut = worth_continuing(length).filter(|cut| partial.file.set_len(*cut).is_ok());
        let Some(cut) = cut else {
            partial.is_worthless();
            return None;
        };
        partial.reservation = Some(Reservation::of_file(room, cost(cut), owner));
        partial.wrote(cut);
        Some(partial)
    }

    fn new(
        room: Arc<Room>,
        id: PartialId,
        file: File,
        path: PathBuf,
        reservation: Reservation,
    ) -> Self {
        Self {
            room,
            id,
            file: Arc::new(file),
            path: Some(path),
            reservation: Some(reservation),
            written: 0,
            worthless: false,
        }
    }

    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// How many bytes of the blob are in the file.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// The upstream that it comes from.
    pub(super) fn namespace(&self) -> &Namespace {
        &self.id.0
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.id.1
    }

    /// Bytes of disk promised to it.
    pub(super) fn reserved(&self) -> u64 {
        self.reservation.as_ref().map_or(0, Reservation::bytes)
    }

    /// Whether a blob of `size` bytes fits into what is promised. What is promised for directories is not for its bytes:
    /// they are counted as soon as it gets its name.
    pub(super) fn has_room_for(&self, size: u64) -> bool {
        self.price(size) <= self.reserved()
    }

    fn price(&self, size: u64) -> u64 {
        self.room.price(size, &StoreKey::Blob(self.id.1.clone()))
    }

    /// Sees to it that `size` bytes fit: promised by the store, and where the file system can do that, given by
    /// it. A full disk shows now and not in the middle of the blob.
    pub(super) async fn make_room(&mut self, size: u64) -> io::Result<Result<(), NoRoom>> {
        let price = self.price(size);
        let Some(reservation) = &mut self.reservation else {
            return Ok(Ok(()));
        };
        let missing = price.saturating_sub(reservation.bytes());
        if missing > 0
            && let Err(no_room) = reservation.grow(missing).await
        {
            return Ok(Err(no_room));
        }
        if size < ALLOCATE_FROM {
            return Ok(Ok(()));
        }
        let mut allocated = allocate(&self.file, size).await;
        if let Err(error) = &allocated
            && make_way(&self.room, error, missing).await
        {
            allocated = allocate(&self.file, size).await;
        }
        if allocated? {
            reservation.wrote(size.saturating_sub(reservation.on_disk()));
        }
        Ok(Ok(()))
    }

    /// Notes that the file has `bytes` more of the blob.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        if let Some(reservation) = &mut self.reservation {
            reservation.wrote(self.written.saturating_sub(reservation.on_disk()));
        }
    }

    /// What is in the file is wrong, or will not become a blob: it is not kept.
    pub(super) fn is_worthless(&mut self) {
        self.worthless = true;
    }

    /// Puts it away now, where the next transfer finds it, instead of some time after it is dropped.
    pub(super) async fn put_away(mut self) {
        if let Some(away) = self.taken_away() {
            run(move || away.put_away()).await;
        }
    }

    /// All that is needed to keep it, or to remove it; `None` if that was done, or it was committed.
    fn taken_away(&mut self) -> Option<PutAway> {
        let (path, reservation) = self.path.take().zip(self.reservation.take())?;
        Some(PutAway {
            room: Arc::clone(&self.room),
            path,
            reservation,
            keep: (!self.worthless && self.written >= WORTH_KEEPING).then_some(self.written),
            file: Arc::clone(&self.file),
            id: Arc::clone(&self.id),
        })
    }

    /// The file and its room, for a commit.
    pub(super) fn finish(mut self) -> Option<(PathBuf, Reservation)> {
        self.path.take().zip(self.reservation.take())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The bytes are on disk until they are unlinked, so they stay promised until then.
        if let Some(away) = self.taken_away() {
            self.room.later(move || away.put_away());
        }
    }
}

/// A file that is about to be kept for the next transfer, or to be removed.
struct PutAway {
    room: Arc<Room>,
    path: PathBuf,
    reservation: Reservation,
    /// How many bytes are kept, if they are.
    keep: Option<u64>,
    file: Arc<File>,
    id: PartialId,
}

impl PutAway {
    fn put_away(self) {
        let (room, path, reservation) = (self.room, self.path, self.reservation);
        let key = StoreKey::Partial(self.id);
        let other = room.index().length(&key).unwrap_or(0);
        let Some(length) = self.keep.filter(|length| *length > other) else {
            return room.unlink(path, move || drop(reservation));
        };
        // Gives back what was allocated past its end.
        let kept = self
            .file
            .set_len(length)
            .and_then(|()| reservation.publish(&path, key, length));
        if kept.is_err() {
            room.unlink(path, || {});
        }
    }
}

/// How much of a beginning of that length is continued, if it is worth that.
fn worth_continuing(length: u64) -> Option<u64> {
    let cut = length.saturating_sub(1) / CUT * CUT;
    (cut >= WORTH_KEEPING).then_some(cut)
}

async fn create_file(room: &Arc<Room>, id: &PartialId) -> io::Result<(File, PathBuf)> {
    let (room, id) = (Arc::clone(room), Arc::clone(id));
    try_run(move || {
        let path = temporary(&room, &id);
        let file = room.disk().create_file(&path)?;
        Ok((file, path))
    })
    .await
}

/// Has the file system give a file its first `size` bytes; false where that cannot be done.
async fn allocate(file: &Arc<File>, size: u64) -> io::Result<bool> {
    let file = Arc::clone(file);
    let allocate = move || rustix::fs::fallocate(&*file, FallocateFlags::KEEP_SIZE, 0, size);
    match run(allocate).await {
        Some(Ok(())) => Ok(true),
        Some(Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS))) => {
            Err(errno.into())
        }
        // Not every file system can; then it shows when it is written.
        Some(Err(_)) | None => Ok(false),
    }
}

/// Where a blob is written until it has its name.
fn temporary(room: &Room, id: &PartialId) -> PathBuf {
    let disk = room.disk();
    disk.layout().ingest_of(disk.next_serial(), id)
}

/// Keeps what a process that was killed has left in `ingest/` for the next transfer; returns what cannot be kept.
pub(crate) fn keep_leftovers(layout: &Layout, leftovers: Vec<PathBuf>) -> Vec<PathBuf> {
    let rest = leftovers.into_iter().filter(|path| {
        let (_, key) = Layout::read_leftover(path);
        let Some(key) = key.filter(|_| path.starts_with(layout.ingests())) else {
            return true;
        };
        keep_leftover(layout, path, &key).is_err()
    });
    rest.collect()
}

fn keep_leftover(layout: &Layout, path: &Path, key: &StoreKey) -> io::Result<()> {
    let file = options().write(true).open(path)?;
    let length = file.metadata()?.len();
    let target = layout.path(key);
    let other = fs::metadata(&target).map_or(0, |other| other.len());
    if length < WORTH_KEEPING || length <= other {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // Gives back what was allocated past its end.
    file.set_len(length)?;
    if let Some(parent) = target.parent().filter(|parent| !parent.is_dir()) {
        create_directory(parent)?;
    }
    fs::rename(path, &target)
}

/// Removes all partials: the machine was restarted since they were written.
pub(crate) fn drop_all(layout: &Layout) {
    let dropped =
        fs::remove_dir_all(layout.partials()).and_then(|()| create_directory(&layout.partials()));
    if let Err(error) = dropped {
        tracing::warn!(%error, "cannot drop the partial transfers of an earlier run of this machine");
    }
}
