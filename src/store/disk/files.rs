//! Creating, reading and replacing files. What is created belongs to the user of this program alone, whatever the umask:
//! it can be a private image. No link is followed at a name that is known beforehand, because who may write to the
//! directory could have put it there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSliceMut, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

/// How to open a file of the store.
pub(crate) fn options() -> OpenOptions {
    let mut options = File::options();
    let no_link = OFlags::NOFOLLOW.bits().cast_signed();
    options.mode(0o600).custom_flags(no_link);
    options
}

/// Creates a directory of the store; one that exists is an error.
pub(crate) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Reads a file of the store.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    options().read(true).open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes a file of the store in place.
pub(in crate::store) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = options();
    options.create(true).truncate(true).write(true);
    options.open(path)?.write_all(bytes)
}

/// Reads from the page cache of one file system, and remembers whether that file system can.
#[derive(Clone, Default)]
pub(crate) struct CachedReads {
    unsupported: Arc<AtomicBool>,
}

impl CachedReads {
    /// Reads into `buffer` what the page cache has at `position`, without ever waiting for the disk.
    ///
    /// `None`: the disk would have to be waited for; see [`read_blocking`].
    pub(crate) fn read(
        &self,
        file: &File,
        buffer: &mut [u8],
        position: u64,
    ) -> io::Result<Option<usize>> {
        if self.unsupported.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let slices = &mut [IoSliceMut::new(buffer)];
        match rustix::io::preadv2(file, slices, position, ReadWriteFlags::NOWAIT) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // Some file systems (network and overlay ones) do not know the flag.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.unsupported.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Reads at `position`, waiting for the disk: for blocking threads only.
pub(crate) fn read_blocking(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, position) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// Whether `file` is what stands at `path` now: it could have been replaced since it was opened.
pub(crate) fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| a.dev() == b.dev() && a.ino() == b.ino();
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(path)) => same(&file, &path),
        _ => false,
    }
}

/// Renames a file, and creates the directories on its way if they are missing; returns those.
pub(crate) fn move_into_place<'a>(finished: &Path, path: &'a Path) -> io::Result<Vec<&'a Path>> {
    match fs::rename(finished, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        done => return done.map(|()| Vec::new()),
    }
    let missing = path.ancestors().skip(1).take_while(|path| !path.is_dir());
    let mut missing: Vec<_> = missing.collect();
    missing.reverse();
    let done = missing.iter().try_for_each(|path| create_directory(path));
    match done.and_then(|()| fs::rename(finished, path)) {
        Ok(()) => Ok(missing),
        Err(error) => {
            for directory in missing.iter().rev() {
                let _ = fs::remove_dir(directory);
            }
            Err(error)
        }
    }
}

/// Replaces the file at `path`, durably, by way of `temporary`.
pub(crate) fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = options();
    options.create(true).truncate(true).write(true);
    let written = options
        .open(temporary)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(temporary, path))
        .and_then(|()| match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        });
    if written.is_err() {
        let _ = fs::remove_file(temporary);
    }
    written
}
