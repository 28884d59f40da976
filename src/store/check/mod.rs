//! Whether what is stored is still what it was.
//!
//! It reads files and drops what is damaged; that a dropped blob is fetched again is not its concern. Reading order:
//! `hash` (one file), `scrub` (all blobs, slowly, behind the requests), [`verify`] (everything, on demand).

mod hash;
pub(crate) mod pace;
mod scrub;
pub(crate) mod verify;

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::damage::{Damage, FoundBy};

use pace::Rate;
use verify::{Observer, ReadPace};

/// The checks of a store in use.
pub(crate) struct Checks {
    room: Arc<Room>,
    /// Dropped with the store, which ends the scrub.
    _alive: scrub::Alive,
}

impl Checks {
    /// Starts the scrub, which reads `rate` bytes a second and checks each blob once in `every`.
    pub(crate) fn start(room: &Arc<Room>, rate: u64, every: Duration) -> io::Result<Self> {
        Ok(Self {
            room: Arc::clone(room),
            _alive: scrub::start(room, Rate::new(rate), every)?,
        })
    }

    /// Checks everything at `rate`, or as fast as the disk is, dropping what is damaged if `repair`. For blocking threads.
    pub(crate) fn verify(&self, repair: bool, rate: Option<Rate>, observer: Observer<'_>) {
        let drop = |key: &StoreKey, file: &File, damage: &Damage| {
            self.room.drop_if_still(key, file, damage, FoundBy::Verify)
        };
        let layout = self.room.disk().layout();
        let busy = || self.room.index().usage().reserved.bytes > 0;
        let pace = ReadPace::new(rate, &busy);
        verify::run(layout, repair.then_some(&drop), pace, observer);
    }
}
