//! Counting what is on disk, behind the first requests.
//!
//! One thread walks `blobs/`, `repositories/` and `partial/`, and removes what a crash left in `ingest/` and `trash/`
//! and cannot be used, and directories in which nothing is. It reads no file: names, lengths, times and which upstream gave a blob are enough. What is found is added in batches, so that
//! requests never wait long for the index.

use std::fs::{self, DirEntry};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::store::disk::layout::{Layout, Visited};
use crate::store::disk::xattrs;
use crate::store::key::StoreKey;

use super::Room;
use super::entries::FoundFile;
use super::owners::Owners;
use super::usage::cost;

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
    let Some(owners) = room.upgrade().map(|room| Arc::clone(room.index.owners())) else {
        return;
    };
    let mut count = Count {
        owners,
        found: Vec::new(),
        directories: Vec::new(),
        foreign: 0,
        foreign_bytes: 0,
    };
    for directory in layout.counted() {
        let step = &mut |step: Visited<'_>| {
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
        .sort_unstable_by_key(|file| std::cmp::Reverse(file.modified));
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
    // Those inside others first.
    for directory in count.directories.iter().rev() {
        let Some(room) = room.upgrade() else { return };
        room.settle_directory(directory);
    }
    let Some(room) = room.upgrade() else { return };
    room.index.count_foreign(count.foreign_bytes);
    room.finish_count();
    // Without what an empty store takes: none in no files.
    let bytes = room.index.usage().stored().bytes;
    tracing::info!(
        files,
        bytes,
        leftovers = leftovers.len(),
        foreign = count.foreign,
        ms = started.elapsed().as_millis() as u64,
        "store counted"
    );
}

struct Count {
    owners: Arc<Owners>,
    found: Vec<FoundFile>,
    directories: Vec<PathBuf>,
    foreign: u64,
    foreign_bytes: u64,
}

impl Count {
    fn step(&mut self, step: Visited<'_>) {
        match step {
            Visited::Directory(path) => self.directories.push(path),
            Visited::File(entry, found) => self.file(entry, found),
            Visited::Unreadable(path, error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot read a directory of the store");
            }
            Visited::Unreadable(..) => {}
        }
    }

    fn file(&mut self, entry: &DirEntry, key: Option<StoreKey>) {
        let Ok(metadata) = entry.metadata() else {
            return;
        };
        let length = metadata.len();
        let Some(key) = key else {
            self.foreign += 1;
            self.foreign_bytes += cost(length);
            tracing::warn!(path = %entry.path().display(), "not a file of the store; left alone");
            return;
        };
        let owner = match &key {
            StoreKey::Blob(_) => self.owners.marked(xattrs::giver(&entry.path())),
            other => self.owners.of(other.namespace()),
        };
        self.found.push(FoundFile {
            key,
            length,
            modified: metadata.modified().map_or(0, seconds),
            created: metadata.created().ok().map(seconds),
            owner,
        });
    }
}

fn seconds(time: SystemTime) -> u32 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
