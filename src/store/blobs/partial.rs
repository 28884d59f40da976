//! The file of a blob on its way in, the room promised to it, and what becomes of both when it does not arrive.
//!
//! A transfer that breaks off leaves the beginning of a blob. It is kept as a **partial**, counted and evicted
//! like everything else, and the next transfer of that blob from that upstream goes on where it ends. Nothing
//! of it was verified: that is done over all of the blob, at its end.
//!
//! While it is written its name says which blob it is, so that a process that was killed leaves a partial too.
//! A machine that crashed leaves none: nothing here is made durable, and parts of a blob are served before all of
//! it is verified.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::oci::digest::Digest;
use crate::oci::name::Namespace;

use crate::store::PATIENCE;
use crate::store::Store;
use crate::store::disk::layout::Key;
use crate::store::records::run;
use crate::store::room::evict::Reservation;
use crate::store::room::index::cost;

/// A beginning that is shorter is fetched again sooner than it is found.
const WORTH_KEEPING: u64 = 1024 * 1024;

/// A partial is cut back to a multiple of this, and by a byte at least: what comes next is then never nothing,
/// which no range can ask for.
const CUT: u64 = 4096;

/// Files shorter than this are not worth a system call to find out whether they fit.
const ALLOCATE_FROM: u64 = 1024 * 1024;

/// A blob is the same bytes everywhere, but what one upstream sent of it is not trusted on behalf of another.
pub(in crate::store) type Id = Arc<(Namespace, Digest)>;

/// The file of a blob that is being written. Dropped, it becomes a partial, or it is removed.
pub struct Partial {
    store: Arc<Store>,
    id: Id,
    file: Arc<File>,
    /// Gone once the file has its final name, or has none any more.
    path: Option<PathBuf>,
    room: Option<Reservation>,
    written: u64,
    worthless: bool,
}

impl Partial {
    /// Opens a new file for a blob of `size` bytes, or of a size not known yet.
    pub(in crate::store) async fn create(
        store: &Arc<Store>,
        id: Id,
        size: u64,
    ) -> io::Result<PartialOrNoRoom> {
        let key = Key::Blob(id.1.clone());
        let room = match store.reserve(size, &key, PATIENCE).await {
            Ok(room) => room,
            Err(no_room) => return Ok(Err(no_room)),
        };
        let (store, path) = (
            Arc::clone(store),
            store.layout.ingest_of(store.next_serial(), &id),
        );
        let create = move || {
            let file = store.create_file(&path)?;
            Ok(Self::new(store, id, file, path, room))
        };
        run(create).await.unwrap_or_else(stopped).map(Ok)
    }

    fn new(store: Arc<Store>, id: Id, file: File, path: PathBuf, room: Reservation) -> Self {
        Self {
            store,
            id,
            file: Arc::new(file),
            path: Some(path),
            room: Some(room),
            written: 0,
            worthless: false,
        }
    }

    pub(in crate::store) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(in crate::store) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// How many bytes of the blob are in the file.
    pub fn written(&self) -> u64 {
        self.written
    }

    pub(in crate::store) fn digest(&self) -> &Digest {
        &self.id.1
    }

    /// Bytes of disk promised to it.
    pub(in crate::store) fn room(&self) -> u64 {
        self.room.as_ref().map_or(0, Reservation::bytes)
    }

    /// Sees to it that `size` bytes fit: promised by the store, and where the file system can do that, given by
    /// it. A full disk shows now and not in the middle of the blob.
    pub(in crate::store) async fn make_room(
        &mut self,
        size: u64,
    ) -> io::Result<Result<(), crate::store::NoRoom>> {
        let Some(room) = &mut self.room else {
            return Ok(Ok(()));
        };
        let missing = cost(size).saturating_sub(room.bytes());
        if missing > 0
            && let Err(no_room) = room.grow(missing).await
        {
            return Ok(Err(no_room));
        }
        if size < ALLOCATE_FROM {
            return Ok(Ok(()));
        }
        let file = Arc::clone(&self.file);
        let allocate = move || rustix::fs::fallocate(&*file, FallocateFlags::KEEP_SIZE, 0, size);
        match run(allocate).await {
            Some(Ok(())) => {
                room.wrote(size.saturating_sub(room.on_disk()));
                Ok(Ok(()))
            }
            Some(Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS))) => {
                Err(errno.into())
            }
            // Not every file system can; then it shows when it is written.
            Some(Err(_)) | None => Ok(Ok(())),
        }
    }

    /// Notes that the file has `bytes` more of the blob.
    pub(in crate::store) fn wrote(&mut self, bytes: u64) {
        self.written += bytes;
        if let Some(room) = &mut self.room {
            room.wrote(self.written.saturating_sub(room.on_disk()));
        }
    }

    /// What is in the file is wrong, or will not become a blob: it is not kept.
    pub(in crate::store) fn is_worthless(&mut self) {
        self.worthless = true;
    }

    /// Removes it: it is no beginning of the blob.
    pub async fn remove(mut self) {
        self.is_worthless();
        self.put_away().await;
    }

    /// Puts it away now, where the next transfer finds it, instead of some time after it is dropped.
    pub async fn put_away(mut self) {
        if let Some(away) = self.taken_away() {
            let store = Arc::clone(&self.store);
            run(move || store.put_away(away)).await;
        }
    }

    /// All that is needed to make a partial of it, or to remove it; `None` if that was done, or it was committed.
    fn taken_away(&mut self) -> Option<Away> {
        let (path, room) = self.path.take().zip(self.room.take())?;
        Some(Away {
            path,
            room,
            worthless: self.worthless,
            written: self.written,
            file: Arc::clone(&self.file),
            id: Arc::clone(&self.id),
        })
    }

    /// The file and its room, for a commit.
    pub(in crate::store) fn finish(mut self) -> Option<(PathBuf, Reservation)> {
        self.path.take().zip(self.room.take())
    }
}

pub(in crate::store) type PartialOrNoRoom = Result<Partial, crate::store::NoRoom>;

/// A draft on its way to being a partial, or nothing.
pub(in crate::store) struct Away {
    path: PathBuf,
    room: Reservation,
    worthless: bool,
    written: u64,
    file: Arc<File>,
    id: Id,
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The bytes are on disk until they are unlinked, so they stay promised until then.
        if let Some(away) = self.taken_away() {
            let store = Arc::clone(&self.store);
            self.store.later(move || store.put_away(away));
        }
    }
}

impl Store {
    /// The beginning of a blob that an earlier transfer from the same upstream left, to be gone on with.
    pub async fn partial(
        self: &Arc<Self>,
        namespace: &Namespace,
        digest: &Digest,
    ) -> Option<Partial> {
        let (store, id) = (
            Arc::clone(self),
            Arc::new((namespace.clone(), digest.clone())),
        );
        run(move || store.take_partial(&id)).await?
    }

    fn take_partial(self: &Arc<Self>, id: &Id) -> Option<Partial> {
        let key = Key::Partial(Arc::clone(id));
        let path = self.layout.ingest_of(self.next_serial(), id);
        let moves = self.moves.lock().unwrap_or_else(PoisonError::into_inner);
        let renamed = fs::rename(self.layout.path(&key), &path);
        self.index.remove(&key);
        drop(moves);
        renamed.ok()?;
        let room = Reservation::of_file(self, 0);
        let mut draft = self.reopen(Arc::clone(id), path, room).ok()?;
        let length = draft.file.metadata().ok()?.len();
        let cut = length.saturating_sub(1) / CUT * CUT;
        if cut < WORTH_KEEPING || draft.file.set_len(cut).is_err() {
            draft.is_worthless();
            return None;
        }
        draft.room = Some(Reservation::of_file(self, cost(cut)));
        draft.wrote(cut);
        Some(draft)
    }

    fn reopen(self: &Arc<Self>, id: Id, path: PathBuf, room: Reservation) -> io::Result<Partial> {
        let opened = File::options().read(true).write(true).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                self.disk_failed("read what is left of a transfer", &error);
                self.unlink(path, || {});
                return Err(error);
            }
        };
        Ok(Partial::new(Arc::clone(self), id, file, path, room))
    }

    /// Makes a partial of a draft, or removes it.
    fn put_away(self: &Arc<Self>, away: Away) {
        if away.worthless || away.written < WORTH_KEEPING {
            let room = away.room;
            return self.unlink(away.path, move || drop(room));
        }
        let (path, length) = (away.path.clone(), away.written);
        let key = Key::Partial(Arc::clone(&away.id));
        // Gives back what was allocated past its end.
        let kept = away.file.set_len(length).and_then(|()| {
            if self.index.length(&key).is_some_and(|other| other >= length) {
                return Err(io::Error::from(io::ErrorKind::AlreadyExists));
            }
            self.publish(&path, key, length, away.room).map(drop)
        });
        if kept.is_err() {
            self.unlink(path, || {});
        }
    }

    /// Makes partials of what a process that was killed has left in `ingest/`; says what is no partial.
    pub(in crate::store) fn keep_unfinished(&self, leftovers: Vec<PathBuf>) -> Vec<PathBuf> {
        let rest = leftovers.into_iter().filter(|path| {
            let (_, key) = crate::store::disk::layout::Layout::read_leftover(path);
            let Some(key) = key.filter(|_| path.starts_with(self.layout.ingests())) else {
                return true;
            };
            self.keep_one(path, &key).is_err()
        });
        rest.collect()
    }

    /// Whether the machine has not been started anew since the store was last used. If it has, what was not made
    /// durable may be there with its length and without its bytes, and parts of it would be served unseen.
    pub(in crate::store) fn is_same_boot(&self) -> bool {
        let known = fs::read_to_string(self.layout.boot()).ok();
        known.is_some() && known == boot()
    }

    /// Writes down which run of the machine this is.
    pub(in crate::store) fn note_boot(&self) {
        let Some(boot) = boot() else { return };
        let written = fs::write(self.layout.boot(), boot);
        if let Err(error) = written {
            tracing::debug!(%error, "cannot note the boot: partial transfers will be dropped at the next start");
        }
    }

    pub(in crate::store) fn drop_partials(&self) {
        let dropped = fs::remove_dir_all(self.layout.partials())
            .and_then(|()| fs::create_dir(self.layout.partials()));
        if let Err(error) = dropped {
            tracing::warn!(%error, "cannot drop the partial transfers of an earlier run of this machine");
        }
    }

    fn keep_one(&self, path: &std::path::Path, key: &Key) -> io::Result<()> {
        let too_short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let file = File::options().write(true).open(path)?;
        let length = file.metadata()?.len();
        let target = self.layout.path(key);
        let other = fs::metadata(&target).map_or(0, |other| other.len());
        if length < WORTH_KEEPING || length <= other {
            return Err(too_short());
        }
        // Gives back what was allocated past its end.
        file.set_len(length)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(path, &target)
    }
}

/// What Linux calls this run of the machine (random(4)).
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

fn stopped<T>() -> io::Result<T> {
    Err(io::Error::other("the program is being stopped"))
}
