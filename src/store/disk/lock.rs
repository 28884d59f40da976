//! Whose directory it is: the lock of the process that uses it, the version that laid it out, the boot it was used in.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::files::{create_directory, is_at, options, read, write};
use super::layout::Layout;
use super::old_layout;

/// The content of the version file.
const VERSION: &[u8] = b"pierglass store 2\n";
/// What versions before 0.3 wrote, whose records are moved.
const OLD_VERSION: &[u8] = b"pierglass store 1\n";
/// How long another lock on the directory is waited for: a second in all.
const DIRECTORY_ATTEMPTS: u32 = 20;
const DIRECTORY_PAUSE: Duration = Duration::from_millis(50);
/// Permissions of the group and of all others.
const OTHERS: u32 = 0o077;

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
    /// The directory holds something, and no store.
    NoStore {
        /// The directory.
        path: PathBuf,
        /// One of the things that are in it.
        found: PathBuf,
    },
}

impl OpenError {
    /// As an error of a directory that was whole before.
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        }
    }

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
                "store {} was written by another version of this program (it says {found:?}, this one writes {:?}); choose an empty store.path, or delete it: nothing is lost but speed",
                path.display(),
                String::from_utf8_lossy(VERSION).trim()
            ),
            Self::NoStore { path, found } => write!(
                f,
                "{} is not empty and no store of this program ({} is in it); nothing in it was touched; choose an empty or new directory as store.path",
                path.display(),
                found.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Locked { .. } | Self::Version { .. } | Self::NoStore { .. } => None,
        }
    }
}

/// Keeps every other process out as long as it lives. The kernel frees it when this process ends, however it ends.
pub(crate) struct Lock {
    /// The directory itself: no file that could be removed.
    directory: File,
    /// What versions before 0.3 look at. Gone if it was removed from a store at rest.
    file: Option<File>,
}

impl Lock {
    /// Takes the directory if it is a store or empty, and sees to its version. Nothing in any other is touched.
    pub(super) fn claim(layout: &Layout) -> Result<Self, OpenError> {
        let root = layout.root();
        create_root(root).map_err(OpenError::at(root))?;
        let directory = File::open(root).map_err(OpenError::at(root))?;
        let is_store = is_store(layout)?;
        if !is_store && let Some(found) = stranger(layout).map_err(OpenError::at(root))? {
            let path = root.to_path_buf();
            return Err(OpenError::NoStore { path, found });
        }
        keep_others_out(&directory, root);
        let file = Some(create_lock_file(layout)?);
        let lock = Self::hold(layout, directory, file)?;
        if !is_store {
            write_version(layout)?;
        }
        bring_up_to_date(layout)?;
        Ok(lock)
    }

    /// The same for a store that exists already.
    pub(crate) fn claim_existing(layout: &Layout) -> Result<Self, OpenError> {
        let (root, path) = (layout.root(), layout.version());
        let directory = File::open(root).map_err(OpenError::at(root))?;
        if !is_store(layout)? {
            return Err(OpenError::at(&path)(io::ErrorKind::NotFound.into()));
        }
        // Reading is enough to hold a lock, and all that another user may do.
        let file = match options().read(true).open(layout.lock()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened.map_err(OpenError::at(&layout.lock()))?),
        };
        let lock = Self::hold(layout, directory, file)?;
        bring_up_to_date(layout)?;
        Ok(lock)
    }

    /// Takes it again after what is in the directory was removed, or the directory itself.
    pub(super) fn renew(&mut self, layout: &Layout) -> Result<(), OpenError> {
        if !is_at(&self.directory, layout.root()) {
            *self = Self::claim(layout)?;
            return Ok(());
        }
        let held = self.file.as_ref();
        if held.is_none_or(|file| !is_at(file, &layout.lock())) {
            let file = create_lock_file(layout)?;
            lock(&file, layout)?;
            self.file = Some(file);
        }
        write_version(layout)
    }

    fn hold(layout: &Layout, directory: File, file: Option<File>) -> Result<Self, OpenError> {
        if let Some(file) = &file {
            lock(file, layout)?;
        }
        lock_directory(&directory, layout)?;
        Ok(Self { directory, file })
    }
}

fn create_root(root: &Path) -> io::Result<()> {
    if root.is_dir() {
        return Ok(());
    }
    if let Some(parent) = root.parent() {
        fs::create_dir_all(parent)?;
    }
    create_directory(root)
}

fn create_lock_file(layout: &Layout) -> Result<File, OpenError> {
    let path = layout.lock();
    let mut options = options();
    options.create(true).truncate(false).write(true);
    options.open(&path).map_err(OpenError::at(&path))
}

fn lock(file: &File, layout: &Layout) -> Result<(), OpenError> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(OpenError::Locked {
            path: layout.root().to_path_buf(),
        }),
        Err(errno) => Err(OpenError::at(&layout.lock())(errno.into())),
    }
}

/// Locks the directory. What cleans up temporary files (systemd-tmpfiles) locks a directory for a moment too.
fn lock_directory(directory: &File, layout: &Layout) -> Result<(), OpenError> {
    for _ in 0..DIRECTORY_ATTEMPTS {
        match flock(directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(DIRECTORY_PAUSE),
            Ok(()) => return Ok(()),
            // NFS cannot lock a directory; there the file has to do.
            Err(error) => {
                tracing::debug!(%error, "the directory of the store cannot be locked, only a file in it");
                return Ok(());
            }
        }
    }
    let path = layout.root().to_path_buf();
    Err(OpenError::Locked { path })
}

/// Whether a store was begun in the directory. An error is one of another version.
fn is_store(layout: &Layout) -> Result<bool, OpenError> {
    let path = layout.version();
    let found = match read(&path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::at(&path)(error)),
    };
    match found.as_slice() {
        VERSION | OLD_VERSION => Ok(true),
        // What a crash between creating and writing it leaves.
        b"" => Ok(false),
        found => Err(OpenError::Version {
            path: layout.root().to_path_buf(),
            found: String::from_utf8_lossy(found).trim().to_owned(),
        }),
    }
}

/// What is in a directory without a version that no beginning of a store has.
fn stranger(layout: &Layout) -> io::Result<Option<PathBuf>> {
    // Those of a version before this one too.
    let begun = [layout.top_directories().as_slice(), &[layout.old_records()]].concat();
    for entry in fs::read_dir(layout.root())? {
        let path = entry?.path();
        let is_empty_file = || {
            path.symlink_metadata()
                .is_ok_and(|it| it.is_file() && it.len() == 0)
        };
        let is_empty_directory = || fs::read_dir(&path).is_ok_and(|mut it| it.next().is_none());
        let known = path.file_name() == Some(OsStr::new("lost+found"))
            || ((path == layout.lock() || path == layout.version()) && is_empty_file())
            || (begun.contains(&path) && is_empty_directory());
        if !known {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Takes from other users of the machine what they may do in the directory: private images are in it.
fn keep_others_out(directory: &File, root: &Path) {
    let Ok(found) = directory.metadata() else {
        return;
    };
    let path = root.display();
    if found.uid() != rustix::process::geteuid().as_raw() {
        tracing::warn!(%path, owner = found.uid(), "the directory of the store belongs to another user, who can read and change all that is stored");
    } else if found.mode() & OTHERS != 0 {
        match directory.set_permissions(Permissions::from_mode(0o700)) {
            Ok(()) => {
                tracing::info!(%path, "the directory of the store was open to other users; it is not any more");
            }
            Err(error) => {
                tracing::warn!(%path, %error, "the directory of the store is open to other users");
            }
        }
    }
}

/// Moves what an older version wrote; the store is locked.
fn bring_up_to_date(layout: &Layout) -> Result<(), OpenError> {
    old_layout::take_over(layout).map_err(OpenError::at(&layout.old_records()))?;
    match read(&layout.version()) {
        Ok(version) if version == VERSION => Ok(()),
        _ => write_version(layout),
    }
}

fn write_version(layout: &Layout) -> Result<(), OpenError> {
    let path = layout.version();
    write(&path, VERSION).map_err(OpenError::at(&path))
}

/// Whether the machine was not restarted since the store was last used. After a restart, what was not made durable may
/// be there with its length and without its bytes, and parts of it would be served without a check.
pub(crate) fn is_same_boot(layout: &Layout) -> bool {
    let known = read(&layout.boot()).ok();
    known.is_some() && known == boot()
}

/// Writes down the present boot of the machine.
pub(crate) fn note_boot(layout: &Layout) {
    let Some(boot) = boot() else { return };
    if let Err(error) = write(&layout.boot(), &boot) {
        tracing::debug!(%error, "cannot note the boot: partial transfers will be dropped at the next start");
    }
}

/// What Linux calls the present boot of the machine (random(4)).
fn boot() -> Option<Vec<u8>> {
    fs::read("/proc/sys/kernel/random/boot_id").ok()
}
