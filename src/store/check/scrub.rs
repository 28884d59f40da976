//! A slow check of every blob, round after round, for damage that no request has met yet.
//!
//! One thread reads blobs at a bounded rate, those first that were checked longest ago. When a blob was
//! last checked is kept beside its bytes in an extended attribute (the modification time is its recency),
//! so a restart continues where the last process was. Where the file system has no such attributes each
//! start begins with all of them. What is damaged is dropped; the next request for it fetches it again.

use std::collections::BinaryHeap;
use std::convert::Infallible;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::store::disk::files::is_at;
use crate::store::disk::layout::Visited;
use crate::store::disk::xattrs::{last_checked, note_checked, unix_seconds};
use crate::store::key::StoreKey;
use crate::store::room::Room;
use crate::store::room::damage::FoundBy;

use super::hash::{self, Checked};
use super::pace::Rate;

/// Blobs that are chosen at a time: choosing looks at every blob, and must not hold them all in memory.
const BATCH: usize = 4096;
/// Between two looks at what is due, at least and at most.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

/// What the store holds so that the thread ends with it: nothing is ever sent.
pub(super) type Alive = Sender<Infallible>;

/// Starts the thread; without a rate there is no scrub.
pub(super) fn start(room: &Arc<Room>, rate: Option<Rate>, every: Duration) -> io::Result<Alive> {
    let (alive, stop) = mpsc::channel();
    let Some(rate) = rate else {
        return Ok(alive);
    };
    let scrub = Scrub {
        room: Arc::downgrade(room),
        rate,
        every,
        stop,
    };
    thread::Builder::new()
        .name("pierglass-scrub".into())
        .spawn(move || scrub.run())?;
    Ok(alive)
}

struct Scrub {
    room: Weak<Room>,
    rate: Rate,
    every: Duration,
    stop: Receiver<Infallible>,
}

/// What is to be done now, and when there will be more.
struct Due {
    /// Those checked longest ago first.
    blobs: Vec<StoreKey>,
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
        let layout = self.room.upgrade()?.disk().layout().clone();
        let mut visit = |step: Visited<'_>| {
            if self.room.strong_count() == 0 {
                return ControlFlow::Break(());
            }
            // What cannot be listed, the scan at the start has complained about.
            let Visited::File(entry, Some(StoreKey::Blob(digest))) = step else {
                return ControlFlow::Continue(());
            };
            let checked = last_checked(&entry.path());
            let left = self.every.saturating_sub(age(checked));
            if !left.is_zero() {
                rest = rest.min(left);
                return ControlFlow::Continue(());
            }
            oldest.push((checked, digest));
            if oldest.len() > BATCH {
                oldest.pop();
                rest = Duration::ZERO;
            }
            ControlFlow::Continue(())
        };
        if layout.walk(&layout.blobs(), &mut visit).is_break() {
            return None;
        }
        let oldest = oldest.into_sorted_vec().into_iter();
        let blobs = oldest.map(|(_, digest)| StoreKey::Blob(digest)).collect();
        let rest = rest.clamp(REST.0, REST.1);
        Some(Due { blobs, rest })
    }

    /// Checks one blob; says whether that could be noted.
    fn check(&self, key: &StoreKey) -> ControlFlow<(), bool> {
        let Some(room) = self.room.upgrade() else {
            return ControlFlow::Break(());
        };
        let layout = room.disk().layout().clone();
        drop(room);
        let checked = hash::entry(&layout, key, |bytes| self.pace(bytes));
        let Some(room) = self.room.upgrade() else {
            return ControlFlow::Break(());
        };
        match checked {
            // Evicted meanwhile, or about to end.
            Ok(None) => {}
            Ok(Some(Checked { file, damage: None })) => {
                note_checked(&file);
                let noted = last_checked(&layout.path(key)) != 0;
                return ControlFlow::Continue(noted || !is_at(&file, &layout.path(key)));
            }
            Ok(Some(Checked {
                file,
                damage: Some(damage),
            })) => {
                room.drop_if_still(key, &file, &damage, FoundBy::Scrub);
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
        let Some(room) = self.room.upgrade() else {
            return ControlFlow::Break(());
        };
        room.disk().metrics().scrubbed_bytes.inc_by(bytes);
        let busy = room.index().usage().reserved.bytes > 0;
        drop(room);
        self.pause(self.rate.time(bytes, busy))
    }
}
