//! Checking everything that is stored, on demand.
//!
//! Findings are told at once: each is an event, and so is how far the check is. They are the same whether a running
//! mirror checks its store or the command does it by itself.

use std::fs::File;
use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::disk::files::is_at;
use crate::store::disk::layout::{Layout, Visited};
use crate::store::disk::xattrs::note_checked;
use crate::store::key::{EntryKind, StoreKey};
use crate::store::room::damage::Damage;

use super::hash::{self, Checked};
use super::pace::Rate;

/// How far the check is, is told this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// So much is to be read.
    Begin { files: u64, bytes: u64 },
    /// So much was read.
    Progress { files: u64, bytes: u64 },
    /// This is damaged.
    Damaged {
        /// `blob`, `manifest`, `tag` or `list`.
        kind: String,
        /// A blob's digest; the repository and more for a record.
        name: String,
        detail: String,
        /// Whether it was dropped, and so is fetched again when asked for.
        dropped: bool,
    },
    /// This could not be looked at.
    Unchecked {
        kind: String,
        name: String,
        detail: String,
    },
    /// Everything was checked. Without this the check broke off.
    End(Summary),
}

/// The result of a whole check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Files that were read.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Files that are damaged.
    pub(crate) damaged: u64,
    /// How many of those were dropped.
    pub(crate) dropped: u64,
    /// Files that could not be looked at.
    pub(crate) unchecked: u64,
}

/// Receives the events; breaks the check off when it wants no more.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// When the next piece may be read.
pub(crate) struct ReadPace<'a> {
    rate: Option<Rate>,
    /// Whether blobs come in.
    busy: &'a dyn Fn() -> bool,
    due: Instant,
}

impl<'a> ReadPace<'a> {
    pub(crate) fn new(rate: Option<Rate>, busy: &'a dyn Fn() -> bool) -> Self {
        Self {
            rate,
            busy,
            due: Instant::now(),
        }
    }

    /// Notes that so much was read.
    fn read(&mut self, bytes: u64) {
        if let Some(rate) = self.rate {
            // The time that reading took counts; what a slow disk took too long is not made up for.
            self.due = (self.due + rate.time(bytes, (self.busy)())).max(Instant::now());
        }
    }

    /// How long to wait.
    fn left(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }
}

/// Drops a damaged file; says whether it did.
pub(crate) type Repair<'a> = &'a dyn Fn(&StoreKey, &File, &Damage) -> bool;

/// Checks everything below the root, and repairs it if there is a way to.
pub(crate) fn run(
    layout: &Layout,
    repair: Option<Repair<'_>>,
    pace: ReadPace<'_>,
    observer: Observer<'_>,
) {
    // A check that broke off does not tell its end.
    let _ = run_to_end(layout, repair, pace, observer);
}

fn run_to_end(
    layout: &Layout,
    repair: Option<Repair<'_>>,
    pace: ReadPace<'_>,
    observer: Observer<'_>,
) -> ControlFlow<()> {
    let (mut files, mut bytes) = (0, 0);
    each(layout, &mut |key| {
        files += 1;
        let metadata = layout.path(&key).metadata();
        bytes += metadata.map_or(0, |metadata| metadata.len());
        // Counting a large store takes a while, and the observer may have gone.
        if files % 1024 == 0 {
            observer(Event::Progress { files: 0, bytes: 0 })?;
        }
        ControlFlow::Continue(())
    })?;
    observer(Event::Begin { files, bytes })?;
    let mut verification = Verification {
        layout,
        repair,
        pace,
        observer,
        summary: Summary::default(),
        told: Instant::now(),
    };
    each(layout, &mut |key| verification.entry(&key))?;
    let summary = verification.summary;
    observer(Event::End(summary))
}

fn each(layout: &Layout, visit: &mut impl FnMut(StoreKey) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut step = |step: Visited<'_>| match step {
        // Of a list of blobs nothing can be checked.
        Visited::File(_, Some(key)) if key.share() != EntryKind::Vouched => visit(key),
        // A file that vanishes meanwhile was evicted. What cannot be listed was logged by the scan at the start.
        _ => ControlFlow::Continue(()),
    };
    layout.walk(&layout.blobs(), &mut step)?;
    layout.walk(&layout.repositories(), &mut step)
}

struct Verification<'a, 'o> {
    layout: &'a Layout,
    repair: Option<Repair<'a>>,
    pace: ReadPace<'a>,
    observer: &'a mut (dyn FnMut(Event) -> ControlFlow<()> + 'o),
    summary: Summary,
    told: Instant,
}

impl Verification<'_, '_> {
    fn entry(&mut self, key: &StoreKey) -> ControlFlow<()> {
        let mut heard = ControlFlow::Continue(());
        let checked = hash::entry(self.layout, key, |count| {
            heard = self.read(count);
            heard
        });
        heard?;
        match checked {
            // Evicted since it was listed.
            Ok(None) => return ControlFlow::Continue(()),
            Ok(Some(Checked { file, damage: None })) => {
                if matches!(key, StoreKey::Blob(_)) {
                    note_checked(&file);
                }
            }
            Ok(Some(Checked {
                file,
                damage: Some(damage),
            })) => {
                // Replaced or evicted meanwhile: what was read is not what is stored.
                if !is_at(&file, &self.layout.path(key)) {
                    return ControlFlow::Continue(());
                }
                let dropped = self
                    .repair
                    .is_some_and(|repair| repair(key, &file, &damage));
                self.summary.damaged += 1;
                self.summary.dropped += u64::from(dropped);
                let (kind, name) = describe(key);
                (self.observer)(Event::Damaged {
                    kind,
                    name,
                    detail: damage.to_string(),
                    dropped,
                })?;
            }
            Err(error) => {
                self.summary.unchecked += 1;
                let (kind, name) = describe(key);
                let detail = error.to_string();
                (self.observer)(Event::Unchecked { kind, name, detail })?;
            }
        }
        self.summary.files += 1;
        ControlFlow::Continue(())
    }

    fn read(&mut self, count: u64) -> ControlFlow<()> {
        self.summary.bytes += count;
        self.pace.read(count);
        loop {
            if self.told.elapsed() >= TELL_EVERY {
                self.told = Instant::now();
                let Summary { files, bytes, .. } = self.summary;
                // Also while it waits, so that it ends soon after the observer has gone.
                (self.observer)(Event::Progress { files, bytes })?;
            }
            match self.pace.left() {
                Duration::ZERO => return ControlFlow::Continue(()),
                left => thread::sleep(left.min(TELL_EVERY)),
            }
        }
    }
}

fn describe(key: &StoreKey) -> (String, String) {
    let (kind, name) = match key {
        StoreKey::Blob(digest) => ("blob", digest.to_string()),
        StoreKey::Manifest(id) => ("manifest", format!("{}@{}", id.0, id.1)),
        StoreKey::Tag(id) => ("tag", format!("{}:{}", id.0, id.1)),
        StoreKey::Listing(id) => ("list", format!("{}: {}", id.0, id.1)),
        StoreKey::Vouched(name) => ("blobs of", name.to_string()),
        StoreKey::Given(namespace) => ("blobs of", namespace.to_string()),
        StoreKey::Partial(id) => ("partial", format!("{}: {}", id.0, id.1)),
    };
    (kind.to_owned(), name)
}
