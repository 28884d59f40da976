//! A store that no mirror is running on, opened by a command.
//!
//! The command holds its lock, so that no mirror can start meanwhile. Nothing is counted, evicted or cleaned up: a
//! command must not shrink a store because it was not told the size that the mirror is configured with.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::store::check::pace::Rate;
use crate::store::check::verify::{self, ReadPace};
use crate::store::disk::files::is_at;
use crate::store::disk::layout::Layout;
use crate::store::disk::lock::{Lock, OpenError};
use crate::store::key::StoreKey;
use crate::store::room::damage::Damage;

use super::pin_file::{self, PinLine};
use crate::oci::image::Image;

/// A store at rest.
pub(crate) struct Offline {
    layout: Layout,
    _lock: Lock,
}

impl Offline {
    /// Opens a store that exists; creates nothing.
    ///
    /// # Errors
    ///
    /// [`OpenError::Locked`] when a mirror is running on it.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let layout = Layout::new(path.to_path_buf());
        let lock = Lock::claim_existing(&layout)?;
        Ok(Self {
            layout,
            _lock: lock,
        })
    }

    /// Checks everything at `rate`, or as fast as the disk is, removing what is damaged if `repair`.
    pub(crate) fn verify(&self, repair: bool, rate: Option<Rate>, observer: verify::Observer<'_>) {
        let drop = |key: &StoreKey, file: &File, _: &Damage| {
            let path = self.layout.path(key);
            is_at(file, &path) && fs::remove_file(path).is_ok()
        };
        // No mirror is running.
        let pace = ReadPace::new(rate, &|| false);
        verify::run(&self.layout, repair.then_some(&drop), pace, observer);
    }

    /// What is pinned, sorted.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read.
    pub(crate) fn pins(&self) -> io::Result<Vec<Image>> {
        let mut images: Vec<_> = self.lines()?.into_iter().map(|line| line.image).collect();
        images.sort();
        Ok(images)
    }

    /// Pins an image from the next start on; false if it was pinned already.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read or written; nothing has changed then.
    pub(crate) fn pin(&self, image: Image) -> io::Result<bool> {
        let mut lines = self.lines()?;
        if lines.iter().any(|line| line.image == image) {
            return Ok(false);
        }
        lines.push(PinLine { image, last: None });
        self.write(&lines).map(|()| true)
    }

    /// Lets an image be evicted again; false if it was not pinned.
    ///
    /// # Errors
    ///
    /// The file of pins cannot be read or written; nothing has changed then.
    pub(crate) fn unpin(&self, image: &Image) -> io::Result<bool> {
        let mut lines = self.lines()?;
        let before = lines.len();
        lines.retain(|line| line.image != *image);
        if lines.len() == before {
            return Ok(false);
        }
        self.write(&lines).map(|()| true)
    }

    fn lines(&self) -> io::Result<Vec<PinLine>> {
        pin_file::read(&self.layout)
    }

    fn write(&self, lines: &[PinLine]) -> io::Result<()> {
        // A name that no ingest has; the next start removes it if this ends half-way.
        let temporary = self.layout.ingests().join("pins");
        pin_file::write(&self.layout, &temporary, lines).map(|_| ())
    }
}
