//! A slow check of every blob, round after round, for damage that nobody asked for yet.
//!
//! One thread reads blobs at a bounded rate, those first that were checked longest ago. When a blob was
//! last checked is kept beside its bytes in an extended attribute (the modification time is its recency),
//! so a restart goes on where the last process was. Where the file system has no such attributes each
//! start begins anew. What is damaged is dropped; the next request for it fetches it again.

use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{XattrFlags, fsetxattr, getxattr};

use crate::store::FoundBy;
use crate::store::Store;
use crate::store::check::hash::{self as check, Checked};
use crate::store::disk::layout::Key;

const NAME: &str = "user.pierglass.checked";

/// Blobs that are chosen at a time: choosing looks at every blob, and must not hold them all in memory.
const BATCH: usize = 4096;
/// Between two looks at what is due, at least and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How much slower it reads while blobs come in.
const YIELD: u32 = 4;

/// How the thread learns that the store is gone: nothing is ever sent.
pub(in crate::store) type Alive = Sender<Infallible>;

/// Notes that the content of `file` was found right just now. Leaves the modification time alone.
pub(in crate::store) fn note_checked(file: &File) {
    let seconds = unix_seconds(SystemTime::now());
    // Best effort: without it the blob is only checked earlier than it need be.
    let _ = fsetxattr(file, NAME, &seconds.to_le_bytes(), XattrFlags::empty());
}

/// When that was noted, in seconds of the Unix epoch; 0 if it never was.
fn last_checked(path: &Path) -> u64 {
    let mut bytes = [0; 8];
    match getxattr(path, NAME, &mut bytes) {
        Ok(count) if count == bytes.len() => u64::from_le_bytes(bytes),
        _ => 0,
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// What the store holds so that the thread ends with it.
pub(in crate::store) fn alive() -> (Alive, Receiver<Infallible>) {
    mpsc::channel()
}

/// Starts the thread, unless the scrub is turned off.
pub(in crate::store) fn start(store: &Arc<Store>, stop: Receiver<Infallible>) -> io::Result<()> {
    let settings = &store.settings;
    if settings.scrub_rate == 0 {
        return Ok(());
    }
    let scrub = Scrub {
        store: Arc::downgrade(store),
        rate: settings.scrub_rate,
        every: settings.scrub_every,
        stop,
    };
    thread::Builder::new()
        .name("pierglass-scrub".into())
        .spawn(move || scrub.run())?;
    Ok(())
}

struct Scrub {
    store: Weak<Store>,
    rate: u64,
    every: Duration,
    stop: Receiver<Infallible>,
}

/// What is to be done now, and when there will be more.
struct Due {
    /// Those checked longest ago first.
    blobs: Vec<Key>,
    rest: Duration,
}

impl Scrub {
    fn run(self) {
        let mut rest = REST.0;
        while self.pause(rest).is_continue() {
            let Some(due) = self.due() else { return };
            rest = due.rest;
            let mut unnoted = false;
            for key in due.blobs {
                match self.check(&key) {
                    ControlFlow::Continue(noted) => unnoted |= !noted,
                    ControlFlow::Break(()) => return,
                }
            }
            if unnoted {
                // Or they would all be due again at once.
                rest = self.every.max(REST.0);
            }
        }
    }

    /// Waits; breaks off when the store is gone.
    fn pause(&self, time: Duration) -> ControlFlow<()> {
        match self.stop.recv_timeout(time) {
            Err(RecvTimeoutError::Timeout) => ControlFlow::Continue(()),
            Err(RecvTimeoutError::Disconnected) | Ok(_) => ControlFlow::Break(()),
        }
    }

    /// Chooses the blobs that were checked longest ago; `None` when the store is gone.
    fn due(&self) -> Option<Due> {
        let now = unix_seconds(SystemTime::now());
        // Of a clock that was set back, what it noted before is as good as nothing.
        let age = |checked: u64| {
            now.checked_sub(checked)
                .map_or(self.every, Duration::from_secs)
        };
        let mut oldest = BinaryHeap::new();
        let mut rest = self.every;
        // Of the layout alone, so that the store is not held for the length of a walk.
        let layout = self.store.upgrade().map(|store| store.layout.clone())?;
        let mut visit = |key: Key, path: std::path::PathBuf| {
            if self.store.strong_count() == 0 {
                return ControlFlow::Break(());
            }
            let checked = last_checked(&path);
            let left = self.every.saturating_sub(age(checked));
            if let (true, Key::Blob(digest)) = (left.is_zero(), key) {
                oldest.push((checked, digest));
                if oldest.len() > BATCH {
                    oldest.pop();
                    rest = Duration::ZERO;
                }
            } else {
                rest = rest.min(left);
            }
            ControlFlow::Continue(())
        };
        if check::walk(&layout, &layout.blobs(), &mut visit).is_break() {
            return None;
        }
        let oldest = oldest.into_sorted_vec().into_iter();
        let blobs = oldest.map(|(_, digest)| Key::Blob(digest)).collect();
        let rest = rest.clamp(REST.0, REST.1);
        Some(Due { blobs, rest })
    }

    /// Checks one blob; says whether that could be noted.
    fn check(&self, key: &Key) -> ControlFlow<(), bool> {
        let Some(layout) = self.store.upgrade().map(|store| store.layout.clone()) else {
            return ControlFlow::Break(());
        };
        let checked = check::entry(&layout, key, |bytes| self.pace(bytes));
        let Some(store) = self.store.upgrade() else {
            return ControlFlow::Break(());
        };
        match checked {
            // Evicted meanwhile, or about to end.
            Ok(None) => {}
            Ok(Some(Checked { file, damage: None })) => {
                note_checked(&file);
                let noted = last_checked(&layout.path(key)) != 0;
                return ControlFlow::Continue(noted || !check::is_at(&file, &layout.path(key)));
            }
            Ok(Some(Checked {
                file,
                damage: Some(damage),
            })) => {
                store.drop_if_still(key, &file, &damage, FoundBy::Scrub);
            }
            Err(error) => {
                let path = layout.path(key);
                tracing::warn!(path = %path.display(), %error, "a stored blob cannot be checked");
            }
        }
        ControlFlow::Continue(true)
    }

    /// Waits as long as `bytes` may take.
    fn pace(&self, bytes: u64) -> ControlFlow<()> {
        let Some(store) = self.store.upgrade() else {
            return ControlFlow::Break(());
        };
        store.metrics.scrubbed_bytes.inc_by(bytes);
        let busy = store.usage().reserved > 0;
        drop(store);
        let time = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        self.pause(if busy { time * YIELD } else { time })
    }
}
