//! Whose directory it is: the lock of the process that uses it, the version that laid it out, the boot it was used in.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::layout::Layout;

/// The content of the version file.
const VERSION: &str = "pierglass store 1\n";

/// Why a store could not be opened; the message names the path and what to do.
#[derive(Debug)]
pub enum OpenError {
    /// A directory or file of the store cannot be created, read or written.
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another process holds the store.
    Locked {
        /// The directory of the store.
        path: PathBuf,
    },
    /// The directory was written by a version of this program that lays files out differently.
    Version {
        /// The directory of the store.
        path: PathBuf,
        /// The content of its version file.
        found: String,
    },
}

impl OpenError {
    /// The error of the system at `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }
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
                VERSION.trim()
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

/// Takes the lock that keeps a second process out, and sees to the version. The kernel frees the lock when this process
/// ends, however it ends.
pub(super) fn claim(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(OpenError::at(&path))?;
    let lock = hold(file, layout)?;
    match read_version(layout) {
        Ok(()) => Ok(()),
        // An empty file is what a crash between creating and writing it leaves.
        Err(OpenError::Version { found, .. }) if found.is_empty() => write_version(layout),
        Err(OpenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            write_version(layout)
        }
        Err(error) => Err(error),
    }?;
    Ok(lock)
}

/// Takes the lock of a store that exists already, creating nothing.
pub(crate) fn claim_existing(layout: &Layout) -> Result<File, OpenError> {
    read_version(layout)?;
    // Reading is enough to hold a lock, and all that another user may do.
    let path = layout.lock();
    let lock = File::open(&path).map_err(OpenError::at(&path))?;
    hold(lock, layout)
}

fn hold(file: File, layout: &Layout) -> Result<File, OpenError> {
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: layout.root().to_path_buf(),
        }),
        Err(errno) => Err(OpenError::at(&layout.lock())(errno.into())),
    }
}

fn read_version(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.version();
    let found = fs::read_to_string(&path).map_err(OpenError::at(&path))?;
    if found == VERSION {
        return Ok(());
    }
    Err(OpenError::Version {
        path: layout.root().to_path_buf(),
        found,
    })
}

fn write_version(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.version();
    fs::write(&path, VERSION).map_err(OpenError::at(&path))
}

/// Whether the machine was not restarted since the store was last used. After a restart, what was not made durable may
/// be there with its length and without its bytes, and parts of it would be served without a check.
pub(crate) fn is_same_boot(layout: &Layout) -> bool {
    let known = fs::read_to_string(layout.boot()).ok();
    known.is_some() && known == boot()
}

/// Writes down the present boot of the machine.
pub(crate) fn note_boot(layout: &Layout) {
    let Some(boot) = boot() else { return };
    if let Err(error) = fs::write(layout.boot(), boot) {
        tracing::debug!(%error, "cannot note the boot: partial transfers will be dropped at the next start");
    }
}

/// What Linux calls the present boot of the machine (random(4)).
fn boot() -> Option<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}
