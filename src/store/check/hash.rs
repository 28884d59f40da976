//! Reading again what is stored: does it still have its digest?
//!
//! For blocking threads. A check reads what no client asked for, so it leaves the page cache almost as it found it:
//! what clients use stays, what only the check brought in goes out again.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::num::NonZeroU64;
use std::ops::ControlFlow;

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

use crate::oci::digest::Digest;
use crate::store::disk::files::read_blocking;
use crate::store::disk::layout::Layout;
use crate::store::key::StoreKey;
use crate::store::records;
use crate::store::room::damage::Damage;

/// How much is read at a time.
const PIECE: usize = 256 * 1024;

/// The file of an entry, read to its end.
pub(super) struct Checked {
    pub(super) file: File,
    pub(super) damage: Option<Damage>,
}

/// Hashes the file of an entry, telling `pace` of each piece.
///
/// `Ok(None)`: the file is gone, or `pace` broke off. An error says that the file could not be looked at,
/// which is no word about its content.
pub(super) fn entry(
    layout: &Layout,
    key: &StoreKey,
    pace: impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Option<Checked>> {
    let file = match File::open(layout.path(key)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damage = match key {
        StoreKey::Blob(digest) => match hash(&file, digest, pace) {
            Ok(None) => return Ok(None),
            Ok(Some(found)) => (found != *digest).then_some(Damage::Digest(found)),
            Err(error) => Some(Damage::Unreadable(error)),
        },
        record => match read_whole(&file, pace) {
            Ok(bytes) => (!records::is_intact(record, bytes)).then_some(Damage::Record),
            Err(error) => Some(Damage::Unreadable(error)),
        },
    };
    Ok(Some(Checked { file, damage }))
}

fn read_whole(
    mut file: &File,
    mut pace: impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let count = file.read_to_end(&mut bytes)?;
    // Small as it is, it is judged before anything breaks off.
    let _ = pace(count as u64);
    Ok(bytes)
}

fn hash(
    file: &File,
    digest: &Digest,
    mut pace: impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Option<Digest>> {
    // Without readahead, or the next piece would look as if a client used it.
    let _ = fadvise(file, 0, None, Advice::Random);
    let mut hasher = digest.hasher();
    let mut buffer = vec![0; PIECE];
    let mut position = 0;
    loop {
        // Up to the end of a piece, not a piece: or what is put out would reach into the next one.
        let within = (position % PIECE as u64) as usize;
        let space = buffer.get_mut(within..).unwrap_or_default();
        let count = read_gently(file, space, position)?;
        if count == 0 {
            return Ok(Some(hasher.finish()));
        }
        hasher.update(space.get(..count).unwrap_or_default());
        position += count as u64;
        if pace(count as u64).is_break() {
            return Ok(None);
        }
    }
}

/// Reads from the page cache, or else from the disk and out of the cache again.
///
/// `POSIX_FADV_NOREUSE` would be shorter, and does nothing before Linux 6.3.
fn read_gently(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let slices = &mut [IoSliceMut::new(buffer)];
    match rustix::io::preadv2(file, slices, position, ReadWriteFlags::NOWAIT) {
        Ok(count) if count > 0 => return Ok(count),
        // The end, not in the cache, or a file system that does not know the flag: the plain way tells.
        Ok(_)
        | Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let count = read_blocking(file, buffer, position)?;
    let _ = fadvise(
        file,
        position,
        NonZeroU64::new(count as u64),
        Advice::DontNeed,
    );
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::metrics::Metrics;
    use crate::store::blobs::Blobs;
    use crate::store::disk::Disk;
    use crate::store::room::damage::FoundBy;
    use crate::store::room::usage::Amount;
    use crate::store::room::{Room, scan};

    fn room(root: &Path) -> Arc<Room> {
        let metrics = Arc::new(Metrics::new().unwrap());
        let disk = Disk::open(root.to_path_buf(), 0, metrics).unwrap();
        let limit = Amount {
            bytes: 1 << 30,
            files: 1000,
        };
        let room = Room::new(disk, limit, &[]);
        scan::start(&room, Vec::new()).unwrap();
        room
    }

    async fn commit(room: &Arc<Room>, bytes: &'static [u8]) -> StoreKey {
        let digest = Digest::of(bytes);
        let namespace = "docker.io".parse().unwrap();
        let size = Some(bytes.len() as u64);
        let blobs = Blobs::new(Arc::clone(room));
        let ingest = blobs.ingest(&namespace, &digest, size, None);
        let (mut ingest, _growing) = ingest.await.unwrap();
        ingest
            .append(vec![Bytes::from_static(bytes)])
            .await
            .unwrap();
        let verified = ingest.verify().unwrap();
        ingest.commit(verified).await.unwrap();
        StoreKey::Blob(digest)
    }

    #[tokio::test]
    async fn a_blob_committed_while_its_damaged_predecessor_was_read_stays() {
        let root = tempfile::tempdir().unwrap();
        let room = room(root.path());
        let layout = room.disk().layout();
        let key = commit(&room, b"some content").await;
        let path = layout.path(&key);
        fs::write(&path, b"some c0ntent").unwrap();
        let checked = entry(layout, &key, |_| ControlFlow::Continue(()));
        let Checked { file, damage } = checked.unwrap().unwrap();
        let damage = damage.unwrap();
        assert!(matches!(damage, Damage::Digest(_)), "{damage}");

        commit(&room, b"some content").await;
        assert!(!room.drop_if_still(&key, &file, &damage, FoundBy::Scrub));
        assert_eq!(fs::read(&path).unwrap(), b"some content");
        assert!(room.index().contains(&key));

        // Whereas what is still there goes, from the disk and from the index.
        fs::write(&path, b"s0me content").unwrap();
        let checked = entry(layout, &key, |_| ControlFlow::Continue(()));
        let Checked { file, damage } = checked.unwrap().unwrap();
        assert!(room.drop_if_still(&key, &file, &damage.unwrap(), FoundBy::Scrub));
        assert!(!path.exists());
        assert!(!room.index().contains(&key));
    }

    #[tokio::test]
    async fn what_only_the_check_read_does_not_stay_in_the_page_cache() {
        // Not in memory, as /tmp may be: the page cache of a disk.
        let root = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = root.path().join("file");
        let bytes = vec![7; 8 * PIECE + 100];
        fs::write(&path, &bytes).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let is_cached = |position: usize| {
            let mut byte = [0];
            let slices = &mut [IoSliceMut::new(&mut byte)];
            let read = rustix::io::preadv2(&file, slices, position as u64, ReadWriteFlags::NOWAIT);
            read == Ok(1)
        };
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let digest = Digest::of(&bytes);
        let attempt = || {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            if is_cached(PIECE) {
                // A file system without a cache to speak of, or without a say over it.
                return true;
            }
            // A client uses one piece.
            read_blocking(&file, &mut vec![0; PIECE], 4 * PIECE as u64).unwrap();
            let check = File::open(&path).unwrap();
            let found = hash(&check, &digest, |_| ControlFlow::Continue(())).unwrap();
            assert_eq!(found.as_ref(), Some(&digest));
            is_cached(4 * PIECE + 1) && !is_cached(6 * PIECE + 1)
        };
        // The kernel takes it as advice, which it may not follow while the machine is busy.
        assert!(
            (0..20).any(|_| attempt()),
            "what was used stays, the rest goes"
        );
    }
}
