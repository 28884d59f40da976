//! Reading and replacing files.

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{Errno, ReadWriteFlags};

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

/// Replaces the file at `path`, durably, by way of `temporary`.
pub(crate) fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = File::create(temporary)
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
