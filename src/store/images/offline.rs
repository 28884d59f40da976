//! A store that no mirror is running on.
//!
//! Held by its lock, so that none can start meanwhile. Nothing is counted, evicted or cleaned up: a command
//! must not shrink a store because it was not told the size that the mirror is configured with.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::oci::image::Image;
use crate::store::OpenError;
use crate::store::check::hash as check;
use crate::store::check::verify;
use crate::store::disk::layout::{self, Layout};
use crate::store::images::pins::{self, Line};

/// A store at rest.
pub struct Offline {
    layout: Layout,
    _lock: File,
}

impl Offline {
    /// Opens a store that is there; creates nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] when a mirror is running on it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let layout = Layout::new(path.to_path_buf());
        let io = |path: &Path, source| OpenError::Io {
            path: path.to_path_buf(),
            source,
        };
        let version = layout.version();
        let found = fs::read_to_string(&version).map_err(|error| io(&version, error))?;
        if found != layout::VERSION {
            return Err(OpenError::Version {
                path: path.to_path_buf(),
                found,
            });
        }
        // Reading is enough to hold a lock, and all that another user may do.
        let lock = File::open(layout.lock()).map_err(|error| io(&layout.lock(), error))?;
        crate::store::hold(lock, &layout).map(|lock| Self {
            layout,
            _lock: lock,
        })
    }

    /// Checks everything, removing what is damaged if `repair`.
    pub fn verify(&self, repair: bool, observer: verify::Observer<'_>) {
        let drop = |key: &layout::Key, file: &File, _: &check::Damage| {
            let path = self.layout.path(key);
            check::is_at(file, &path) && fs::remove_file(path).is_ok()
        };
        // A check that broke off has told so by not telling its end.
        let _ = verify::run(&self.layout, repair.then_some(&drop), observer);
    }

    /// What is pinned, sorted.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read.
    pub fn pins(&self) -> io::Result<Vec<Image>> {
        let mut images: Vec<_> = self.lines()?.into_iter().map(|line| line.image).collect();
        images.sort();
        Ok(images)
    }

    /// Pins an image from the next start on; false if it was pinned already.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read or written; nothing has changed then.
    pub fn pin(&self, image: Image) -> io::Result<bool> {
        let mut lines = self.lines()?;
        if lines.iter().any(|line| line.image == image) {
            return Ok(false);
        }
        lines.push(Line { image, last: None });
        self.write(&lines).map(|()| true)
    }

    /// Lets go of an image; false if it was not pinned.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read or written; nothing has changed then.
    pub fn unpin(&self, image: &Image) -> io::Result<bool> {
        let mut lines = self.lines()?;
        let before = lines.len();
        lines.retain(|line| line.image != *image);
        if lines.len() == before {
            return Ok(false);
        }
        self.write(&lines).map(|()| true)
    }

    fn lines(&self) -> io::Result<Vec<Line>> {
        pins::read(&self.layout)
    }

    fn write(&self, lines: &[Line]) -> io::Result<()> {
        // A name that no ingest has; the next start removes it if this ends half-way.
        let temporary = self.layout.ingests().join("pins");
        let lines: Vec<_> = lines.iter().map(Line::to_string).collect();
        pins::write(&self.layout, &temporary, &lines).map(|_| ())
    }
}
