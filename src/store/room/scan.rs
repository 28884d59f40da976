//! Counting what is on disk, behind the first requests.
//!
//! One thread walks `blobs/`, `records/` and `partial/`, and removes what a crash left in `ingest/` and `trash/` and
//! cannot be used. It reads no file: names, lengths and times are enough. What is found is added in batches, so that
//! requests never wait long for the index.

use std::fs::{self, DirEntry};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Instant, UNIX_EPOCH};

use crate::store::disk::layout::{Found, Layout, Step};
use crate::store::key::StoreKey;

use super::Room;
use super::index::{DIRECTORY, cost};

/// Entries that are added to the index under one lock.
const BATCH: usize = 1024;

/// Counts what is stored, in a thread of its own, and removes `leftovers`. Ends early when the store is dropped.
pub(crate) fn start(room: &Arc<Room>, leftovers: Vec<PathBuf>) -> io::Result<()> {
    let weak = Arc::downgrade(room);
    let layout = room.disk.layout().clone();
    thread::Builder::new()
        .name("pierglass-scan".into())
        .spawn(move || run(&weak, &layout, &leftovers))?;
    Ok(())
}

/// Counts again from the beginning, because the directories of the store were removed.
pub(crate) fn restart(room: &Arc<Room>) {
    room.forget_count();
    if let Err(error) = start(room, Vec::new()) {
        tracing::error!(%error, "no thread to count the store; restart when there can be one");
    }
}

fn run(room: &Weak<Room>, layout: &Layout, leftovers: &[PathBuf]) {
    let started = Instant::now();
    let mut count = Count::default();
    for directory in [layout.blobs(), layout.records(), layout.partials()] {
        let step = &mut |step: Step<'_>| {
            count.step(step);
            // Not held for the length of the walk, so that the store can be dropped meanwhile.
            match room.strong_count() {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        };
        if layout.walk(&directory, step).is_break() {
            return;
        }
    }
    // Newest first; each is put behind the ones before it.
    count
        .found
        .sort_unstable_by_key(|(_, _, modified)| std::cmp::Reverse(*modified));
    let files = count.found.len();
    let mut found = count.found.into_iter().peekable();
    while found.peek().is_some() {
        let Some(room) = room.upgrade() else { return };
        room.index.insert_scanned(found.by_ref().take(BATCH));
    }
    for path in leftovers {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a crash left");
        }
    }
    let Some(room) = room.upgrade() else { return };
    room.finish_count(count.overhead);
    let bytes = room.index.usage().total();
    tracing::info!(
        files,
        bytes,
        leftovers = leftovers.len(),
        foreign = count.foreign,
        ms = started.elapsed().as_millis() as u64,
        "store counted"
    );
}

#[derive(Default)]
struct Count {
    found: Vec<(StoreKey, u64, u32)>,
    overhead: u64,
    foreign: u64,
}

impl Count {
    fn step(&mut self, step: Step<'_>) {
        match step {
            Step::Directory => self.overhead += DIRECTORY,
            Step::File(entry, found) => self.file(entry, found),
            Step::Unreadable(path, error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot read a directory of the store");
            }
            Step::Unreadable(..) => {}
        }
    }

    fn file(&mut self, entry: &DirEntry, found: Found) {
        let Ok(metadata) = entry.metadata() else {
            return;
        };
        match found {
            Found::Entry(key) => {
                let modified = metadata
                    .modified()
                    .ok()
                    .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                let seconds = modified.unwrap_or_default().as_secs();
                let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
                self.found.push((key, metadata.len(), seconds));
            }
            Found::Vouched => self.overhead += cost(metadata.len()),
            Found::Foreign => {
                self.foreign += 1;
                self.overhead += cost(metadata.len());
                tracing::warn!(path = %entry.path().display(), "not a file of the store; left alone");
            }
        }
    }
}
