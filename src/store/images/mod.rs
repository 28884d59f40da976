//! Images: what each consists of, and those that are pinned, whose files are never evicted.
//!
//! A pin names an image, by tag or by digest. The stored records say which files that image consists of. They are
//! looked at again whenever a record of its repository is written, so a file that arrives later is pinned from that
//! moment on. An image can be pinned before anything of it is stored.
//!
//! It asks no upstream. Reading order: `trace` (what an image consists of), `pin_file` (pins on disk), [`pins`] (pins
//! in memory), this file (both together, and the index), [`offline`] (a store that no mirror is running on).

pub(crate) mod offline;
mod pin_file;
pub(crate) mod pins;
mod trace;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::oci::name::QualifiedName;
use crate::store::disk::blocking::{run, try_run};
use crate::store::disk::layout::Layout;
use crate::store::records::Records;
use crate::store::room::Room;

use crate::oci::image::Image;
use pins::{Change, PinnedImages, Pins};
use trace::Trace;

/// The pinned images of a store.
pub(crate) struct Images {
    room: Arc<Room>,
    records: Arc<Records>,
    /// Held while pins, their file and the index change together; only in blocking threads.
    state: Mutex<PinState>,
}

struct PinState {
    pinned: PinnedImages,
    /// The length of the file of pins that is counted.
    counted: Option<u64>,
}

impl Images {
    /// Reads the pins; nothing is traced yet.
    pub(crate) fn load(records: &Arc<Records>, room: &Arc<Room>) -> io::Result<Arc<Self>> {
        let layout = room.disk().layout();
        let state = PinState {
            pinned: PinnedImages::of(pin_file::read(layout)?),
            counted: None,
        };
        records.watch(state.pinned.names());
        Ok(Arc::new(Self {
            room: Arc::clone(room),
            records: Arc::clone(records),
            state: Mutex::new(state),
        }))
    }

    /// Pins an image, stored or not; false if it was pinned already. Durable when this returns.
    ///
    /// # Errors
    ///
    /// The pins cannot be written; nothing is pinned then.
    pub(crate) async fn pin(self: &Arc<Self>, image: Image) -> io::Result<bool> {
        let images = Arc::clone(self);
        try_run(move || images.pin_now(&image)).await
    }

    /// Lets an image be evicted again; false if it was not pinned.
    ///
    /// # Errors
    ///
    /// The pins cannot be written; the image stays pinned then.
    pub(crate) async fn unpin(self: &Arc<Self>, image: Image) -> io::Result<bool> {
        let images = Arc::clone(self);
        try_run(move || images.unpin_now(&image)).await
    }

    /// What is pinned, and how much of it is stored.
    pub(crate) async fn pins(self: &Arc<Self>) -> Pins {
        let images = Arc::clone(self);
        let pins = run(move || images.report(&images.state())).await;
        pins.unwrap_or(Pins {
            images: Vec::new(),
            wanted: 0,
            max_size: self.room.index().max_size(),
        })
    }

    fn pin_now(&self, image: &Image) -> io::Result<bool> {
        let mut state = self.state();
        if state.pinned.contains(image) {
            return Ok(false);
        }
        state.pinned.insert(image.clone(), Trace::default());
        if let Err(error) = self.write(&mut state) {
            state.pinned.remove(image);
            return Err(error);
        }
        self.records.watch(state.pinned.names());
        self.follow_one(&mut state, image);
        Ok(true)
    }

    fn unpin_now(&self, image: &Image) -> io::Result<bool> {
        let mut state = self.state();
        let Some(trace) = state.pinned.remove(image) else {
            return Ok(false);
        };
        if let Err(error) = self.write(&mut state) {
            state.pinned.insert(image.clone(), trace);
            return Err(error);
        }
        self.records.watch(state.pinned.names());
        let change = state.pinned.exchange(&trace, &Trace::default());
        self.apply(&change);
        Ok(true)
    }

    /// Traces the pinned images of a repository again, one of whose records was written. For blocking threads.
    pub(crate) fn follow(&self, name: &QualifiedName) {
        let mut state = self.state();
        for image in state.pinned.of_name(Some(name)) {
            self.follow_one(&mut state, &image);
        }
    }

    /// Traces every pinned image, before the first eviction.
    pub(crate) fn follow_all(&self) {
        let mut state = self.state();
        if let (None, Ok(file)) = (state.counted, self.layout().pins().metadata()) {
            self.count_file(&mut state, file.len());
        }
        for image in state.pinned.of_name(None) {
            self.follow_one(&mut state, &image);
        }
        let pins = self.report(&state);
        if !pins.fit() {
            tracing::warn!(
                wanted = pins.wanted,
                max_size = pins.max_size,
                "more is pinned than the store may hold; what finds no room passes through"
            );
        }
    }

    fn follow_one(&self, state: &mut PinState, image: &Image) {
        let Some(before) = state.pinned.remove(image) else {
            return;
        };
        let after = Trace::of(image, &self.records, &before);
        let change = state.pinned.exchange(&before, &after);
        let moved = before.last() != after.last();
        state.pinned.insert(image.clone(), after);
        self.apply(&change);
        if moved && let Err(error) = self.write(state) {
            tracing::warn!(%image, %error, "cannot write what a pinned image comes to; until the next start it is kept all the same");
        }
    }

    fn apply(&self, change: &Change) {
        let index = self.room.index();
        index.repin(&change.pinned, &change.unpinned);
    }

    fn report(&self, state: &PinState) -> Pins {
        let max_size = self.room.index().max_size();
        state.pinned.report(self.layout(), max_size)
    }

    fn write(&self, state: &mut PinState) -> io::Result<()> {
        let temporary = self.room.disk().temporary();
        let length = pin_file::write(self.layout(), &temporary, &state.pinned.lines())?;
        self.count_file(state, length);
        Ok(())
    }

    fn count_file(&self, state: &mut PinState, length: u64) {
        self.room.index().count_own(state.counted, length);
        state.counted = Some(length);
    }

    fn layout(&self) -> &Layout {
        self.room.disk().layout()
    }

    fn state(&self) -> MutexGuard<'_, PinState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
