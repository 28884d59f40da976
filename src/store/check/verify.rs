//! Checking everything that is stored, because somebody asked for it.
//!
//! What is found is told while it is found: each finding is an event, and so is how far the check is. They
//! are the same whether a running mirror checks its store or the command does it by itself.

use std::fs::File;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::store::FoundBy;
use crate::store::Store;
use crate::store::check::hash::{self as check, Checked, Damage};
use crate::store::check::scrub;
use crate::store::disk::layout::{Key, Layout};

/// How far the check is, is told this often.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// So much is to be read.
    Begin {
        /// Files.
        files: u64,
        /// Bytes.
        bytes: u64,
    },
    /// So much was read.
    Progress {
        /// Files.
        files: u64,
        /// Bytes.
        bytes: u64,
    },
    /// This is damaged.
    Damaged {
        /// `blob`, `manifest`, `tag` or `list`.
        kind: String,
        /// A blob's digest; the repository and more for a record.
        name: String,
        /// What is wrong.
        detail: String,
        /// Whether it was dropped, and so is fetched again when asked for.
        dropped: bool,
    },
    /// This could not be looked at.
    Unchecked {
        /// As in `Damaged`.
        kind: String,
        /// As in `Damaged`.
        name: String,
        /// Why.
        detail: String,
    },
    /// Everything was checked. Without this the check broke off.
    End(Summary),
}

/// What a whole check came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Files that were read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are damaged.
    pub damaged: u64,
    /// How many of those were dropped.
    pub dropped: u64,
    /// Files that could not be looked at.
    pub unchecked: u64,
}

/// Who is told; breaks the check off when nobody listens any more.
pub type Observer<'a> = &'a mut dyn FnMut(Event) -> ControlFlow<()>;

/// How damaged files are dropped, if they are to be; says whether it did.
type Drop<'a> = Option<&'a dyn Fn(&Key, &File, &Damage) -> bool>;

impl Store {
    /// Checks everything, dropping what is damaged if `repair`. For blocking threads.
    pub fn verify(&self, repair: bool, observer: Observer<'_>) {
        let drop = |key: &Key, file: &File, damage: &Damage| {
            self.drop_if_still(key, file, damage, FoundBy::Verify)
        };
        // A check that broke off has told so by not telling its end.
        let _ = run(&self.layout, repair.then_some(&drop), observer);
    }
}

/// Checks everything below the root.
pub(in crate::store) fn run(
    layout: &Layout,
    drop: Drop<'_>,
    observer: Observer<'_>,
) -> ControlFlow<()> {
    let (mut files, mut bytes) = (0, 0);
    each(layout, &mut |key| {
        files += 1;
        let metadata = layout.path(&key).metadata();
        bytes += metadata.map_or(0, |metadata| metadata.len());
        // Counting a large store takes a while: is anybody still there?
        if files % 1024 == 0 {
            observer(Event::Progress { files: 0, bytes: 0 })?;
        }
        ControlFlow::Continue(())
    })?;
    observer(Event::Begin { files, bytes })?;
    let mut check = Check {
        layout,
        drop,
        observer,
        summary: Summary::default(),
        told: Instant::now(),
    };
    each(layout, &mut |key| check.entry(&key))?;
    let summary = check.summary;
    observer(Event::End(summary))
}

fn each(layout: &Layout, visit: &mut impl FnMut(Key) -> ControlFlow<()>) -> ControlFlow<()> {
    for directory in [layout.blobs(), layout.records()] {
        check::walk(layout, &directory, &mut |key, _| visit(key))?;
    }
    ControlFlow::Continue(())
}

struct Check<'a, 'o> {
    layout: &'a Layout,
    drop: Drop<'a>,
    observer: &'a mut (dyn FnMut(Event) -> ControlFlow<()> + 'o),
    summary: Summary,
    told: Instant,
}

impl Check<'_, '_> {
    fn entry(&mut self, key: &Key) -> ControlFlow<()> {
        let mut heard = ControlFlow::Continue(());
        let checked = check::entry(self.layout, key, |count| {
            heard = self.read(count);
            heard
        });
        heard?;
        match checked {
            // Evicted since it was listed.
            Ok(None) => return ControlFlow::Continue(()),
            Ok(Some(Checked { file, damage: None })) => {
                if matches!(key, Key::Blob(_)) {
                    scrub::note_checked(&file);
                }
            }
            Ok(Some(Checked {
                file,
                damage: Some(damage),
            })) => {
                // Replaced or evicted meanwhile: what was read is not what is stored.
                if !check::is_at(&file, &self.layout.path(key)) {
                    return ControlFlow::Continue(());
                }
                let dropped = self.drop.is_some_and(|drop| drop(key, &file, &damage));
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
        if self.told.elapsed() < TELL_EVERY {
            return ControlFlow::Continue(());
        }
        self.told = Instant::now();
        let Summary { files, bytes, .. } = self.summary;
        (self.observer)(Event::Progress { files, bytes })
    }
}

fn describe(key: &Key) -> (String, String) {
    let (kind, name) = match key {
        Key::Blob(digest) => ("blob", digest.to_string()),
        Key::Manifest(id) => ("manifest", format!("{}@{}", id.0, id.1)),
        Key::Tag(id) => ("tag", format!("{}:{}", id.0, id.1)),
        Key::Listing(id) => ("list", format!("{}: {}", id.0, id.1)),
        Key::Partial(id) => ("partial", format!("{}: {}", id.0, id.1)),
    };
    (kind.to_owned(), name)
}
