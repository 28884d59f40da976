//! Counting what is on disk, behind the first requests.
//!
//! One thread walks `blobs/`, `records/` and `partial/`, newest files first in importance, and removes what a
//! crash left in `ingest/` and `trash/` and cannot be gone on with. It reads no file: names, lengths and times are enough. What is found is
//! added in batches, so that requests never wait long for the index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Instant, UNIX_EPOCH};

use crate::store::Store;
use crate::store::disk::layout::{Found, Key, Layout};
use crate::store::room::index::DIRECTORY;

const BATCH: usize = 1024;

/// Starts the scan of `store` in a thread of its own; it ends early when the store is dropped.
pub(in crate::store) fn start(store: &Arc<Store>) -> io::Result<()> {
    let leftovers = leftovers(store)?;
    let leftovers = if store.is_same_boot() {
        store.keep_unfinished(leftovers)
    } else {
        store.drop_partials();
        leftovers
    };
    store.note_boot();
    count(store, leftovers)
}

fn count(store: &Arc<Store>, leftovers: Vec<PathBuf>) -> io::Result<()> {
    let weak = Arc::downgrade(store);
    thread::Builder::new()
        .name("pierglass-scan".into())
        .spawn(move || run(&weak, &leftovers))?;
    Ok(())
}

impl Store {
    /// Counts again from the beginning: somebody else has changed what is there.
    pub(in crate::store) fn count_anew(self: &Arc<Self>) -> io::Result<()> {
        self.index.clear();
        count(self, Vec::new())
    }
}

/// Lists what an earlier process left half-done, before this one writes anything of its own there.
fn leftovers(store: &Store) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for dir in [store.layout.ingests(), store.layout.all_trash()] {
        for entry in fs::read_dir(dir)? {
            paths.push(entry?.path());
        }
    }
    // New names start above the old ones, so that removing an old file can never hit a new one.
    let highest = paths
        .iter()
        .filter_map(|path| Layout::read_leftover(path).0)
        .max();
    store.serial.store(
        highest.map_or(0, |serial| serial + 1),
        std::sync::atomic::Ordering::Relaxed,
    );
    Ok(paths)
}

fn run(store: &Weak<Store>, leftovers: &[PathBuf]) {
    let started = Instant::now();
    let mut walk = Walk::default();
    for dir in store
        .upgrade()
        .map(|store| {
            let layout = &store.layout;
            [layout.blobs(), layout.records(), layout.partials()]
        })
        .into_iter()
        .flatten()
    {
        walk.directory(store, &dir);
    }
    // Newest first; each is put behind the ones before it.
    walk.found
        .sort_unstable_by_key(|(_, _, modified)| std::cmp::Reverse(*modified));
    let count = walk.found.len();
    let mut found = walk.found.into_iter().peekable();
    while found.peek().is_some() {
        let Some(store) = store.upgrade() else { return };
        store.index.insert_scanned(found.by_ref().take(BATCH));
    }
    for path in leftovers {
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove what a crash left");
        }
    }
    let Some(store) = store.upgrade() else { return };
    store.index.add_overhead(walk.overhead);
    store.follow_all_pins(); // Before anything can be evicted.
    store.index.finish_scan();
    store.shrink();
    let bytes = store.usage().total();
    tracing::info!(
        files = count,
        bytes,
        leftovers = leftovers.len(),
        foreign = walk.foreign,
        ms = started.elapsed().as_millis() as u64,
        "store counted"
    );
}

#[derive(Default)]
struct Walk {
    found: Vec<(Key, u64, u32)>,
    overhead: u64,
    foreign: u64,
}

impl Walk {
    fn directory(&mut self, store: &Weak<Store>, dir: &Path) {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(path = %dir.display(), %error, "cannot read a directory of the store");
                }
                return;
            }
        };
        for entry in entries.filter_map(Result::ok) {
            // The store is held for one directory entry at a time, so that it can be dropped meanwhile.
            let Some(held) = store.upgrade() else { return };
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                self.overhead += DIRECTORY;
                drop(held);
                self.directory(store, &entry.path());
                continue;
            }
            let path = entry.path();
            match held.layout.read(&path) {
                Found::Entry(key) if metadata.is_file() => {
                    let modified = metadata
                        .modified()
                        .ok()
                        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
                    let seconds =
                        u32::try_from(modified.unwrap_or_default().as_secs()).unwrap_or(u32::MAX);
                    self.found.push((key, metadata.len(), seconds));
                }
                Found::Vouched => self.overhead += crate::store::room::index::cost(metadata.len()),
                Found::Entry(_) | Found::Foreign => {
                    self.foreign += 1;
                    self.overhead += crate::store::room::index::cost(metadata.len());
                    tracing::warn!(path = %path.display(), "not a file of the store; left alone");
                }
            }
        }
    }
}
