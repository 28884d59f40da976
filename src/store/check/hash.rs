//! Reading again what is stored: does it still have its digest?
//!
//! For blocking threads. Whoever checks reads what nobody asked for, so it leaves the page cache as it
//! found it, give or take a piece: what clients use stays, what only the check brought in goes out again.

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read};
use std::num::NonZeroU64;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, fadvise};
use rustix::io::{Errno, ReadWriteFlags};

use crate::oci::digest::Digest;

use crate::store::blobs::reader::read_blocking;
use crate::store::disk::layout::{Found, Key, Layout};
use crate::store::records;

/// How much is read at a time.
pub(in crate::store) const PIECE: usize = 256 * 1024;

/// What is wrong with a file.
#[derive(Debug)]
pub(in crate::store) enum Damage {
    /// It has another digest.
    Digest(Digest),
    /// The disk does not give its bytes back.
    Unreadable(io::Error),
    /// A record that does not parse, or holds a manifest other than its own.
    Record,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(found) => write!(f, "its bytes have the digest {found}"),
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Record => f.write_str("it does not hold what it was written with"),
        }
    }
}

/// The file of an entry, read to its end.
pub(in crate::store) struct Checked {
    pub(in crate::store) file: File,
    pub(in crate::store) damage: Option<Damage>,
}

/// Hashes the file of an entry, telling `pace` of each piece.
///
/// `Ok(None)`: the file is gone, or `pace` broke off. An error says that the file could not be looked at,
/// which is no word about its content.
pub(in crate::store) fn entry(
    layout: &Layout,
    key: &Key,
    pace: impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<Option<Checked>> {
    let file = match File::open(layout.path(key)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damage = match key {
        Key::Blob(digest) => match hash(&file, digest, pace) {
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

/// Whether `file` is what stands at `path` now: it could have been replaced since it was opened.
pub(in crate::store) fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| a.dev() == b.dev() && a.ino() == b.ino();
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(path)) => same(&file, &path),
        _ => false,
    }
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
    // Without readahead, or the next piece would look as if somebody used it.
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

/// Walks through the files of a directory below the root that are entries, until `visit` breaks off.
pub(in crate::store) fn walk(
    layout: &Layout,
    directory: &Path,
    visit: &mut impl FnMut(Key, PathBuf) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // What vanishes meanwhile was evicted; what cannot be listed, the scan at the start has complained about.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, kind) = (entry.path(), entry.file_type());
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            walk(layout, &path, visit)?;
        } else if let Found::Entry(key) = layout.read(&path)
            && kind.is_ok_and(|kind| kind.is_file())
        {
            visit(key, path)?;
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::metrics::Metrics;
    use crate::store::{FoundBy, Settings, Store};

    fn store(root: &Path) -> Arc<Store> {
        let settings = Settings {
            path: root.to_path_buf(),
            max_size: 1 << 30,
            min_free: 0,
            scrub_rate: 0,
            scrub_every: Duration::from_secs(1),
        };
        Store::open(settings, Arc::new(Metrics::new().unwrap())).unwrap()
    }

    async fn commit(store: &Arc<Store>, bytes: &'static [u8]) -> Key {
        let digest = Digest::of(bytes);
        let namespace = "docker.io".parse().unwrap();
        let size = Some(bytes.len() as u64);
        let ingest = store.ingest(&namespace, &digest, size, None);
        let (mut ingest, _growing) = ingest.await.unwrap();
        ingest
            .append(vec![Bytes::from_static(bytes)])
            .await
            .unwrap();
        let verified = ingest.verify().unwrap();
        ingest.commit(verified).await.unwrap();
        Key::Blob(digest)
    }

    #[tokio::test]
    async fn a_blob_committed_while_its_damaged_predecessor_was_read_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = store(root.path());
        let key = commit(&store, b"some content").await;
        let path = store.layout.path(&key);
        fs::write(&path, b"some c0ntent").unwrap();
        let checked = entry(&store.layout, &key, |_| ControlFlow::Continue(()));
        let Checked { file, damage } = checked.unwrap().unwrap();
        let damage = damage.unwrap();
        assert!(matches!(damage, Damage::Digest(_)), "{damage}");

        commit(&store, b"some content").await;
        assert!(!store.drop_if_still(&key, &file, &damage, FoundBy::Scrub));
        assert_eq!(fs::read(&path).unwrap(), b"some content");
        assert!(store.index.contains(&key));

        // Whereas what is still there goes, from the disk and from the index.
        fs::write(&path, b"s0me content").unwrap();
        let checked = entry(&store.layout, &key, |_| ControlFlow::Continue(()));
        let Checked { file, damage } = checked.unwrap().unwrap();
        assert!(store.drop_if_still(&key, &file, &damage.unwrap(), FoundBy::Scrub));
        assert!(!path.exists());
        assert!(!store.index.contains(&key));
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
            // Somebody uses one piece.
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
