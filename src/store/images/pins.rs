//! What is pinned: the images, what each consists of, and which files more than one of them needs.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Reference};
use crate::store::disk::layout::Layout;
use crate::store::key::StoreKey;
use crate::store::room::usage::cost;

use super::pin_file::PinLine;
use super::trace::Trace;
use crate::oci::image::Image;

/// A pinned image and what is stored of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) image: Image,
    /// The manifest that it names, if that is known.
    pub(crate) digest: Option<Digest>,
    /// Manifests and blobs that are stored.
    pub(crate) stored: usize,
    pub(crate) stored_bytes: u64,
    /// Manifests and blobs that are named and not stored.
    pub(crate) missing: usize,
    /// Their bytes, as far as they are known.
    pub(crate) missing_bytes: u64,
}

/// All pins, and whether they fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Sorted by name.
    pub(crate) images: Vec<Pinned>,
    /// What all of it takes or will take on disk.
    pub(crate) wanted: u64,
    /// What the store may hold.
    pub(crate) max_size: u64,
}

impl Pins {
    /// Whether everything that is pinned finds room.
    pub(crate) fn fit(&self) -> bool {
        self.wanted <= self.max_size
    }
}

/// The pinned images of a store in use.
#[derive(Default)]
pub(super) struct PinnedImages {
    traces: BTreeMap<Image, Trace>,
    /// How many images each key belongs to.
    shared: HashMap<StoreKey, usize>,
}

/// What is to be kept from now on, and what is not any more.
#[derive(Default)]
pub(super) struct Change {
    pub(super) pinned: Vec<StoreKey>,
    pub(super) unpinned: Vec<StoreKey>,
}

impl PinnedImages {
    /// What the file of pins says; nothing is traced yet.
    pub(super) fn of(lines: Vec<PinLine>) -> Self {
        let untraced = |line: PinLine| (line.image, Trace::untraced(line.last));
        Self {
            traces: lines.into_iter().map(untraced).collect(),
            shared: HashMap::new(),
        }
    }

    pub(super) fn contains(&self, image: &Image) -> bool {
        self.traces.contains_key(image)
    }

    /// Adds an image that is not traced yet, or gives one back that was taken out.
    pub(super) fn insert(&mut self, image: Image, trace: Trace) {
        self.traces.insert(image, trace);
    }

    pub(super) fn remove(&mut self, image: &Image) -> Option<Trace> {
        self.traces.remove(image)
    }

    pub(super) fn names(&self) -> HashSet<QualifiedName> {
        self.traces.keys().map(|image| image.name.clone()).collect()
    }

    /// The images of one repository, or all of them.
    pub(super) fn of_name(&self, name: Option<&QualifiedName>) -> Vec<Image> {
        let concerned = |image: &&Image| name.is_none_or(|name| image.name == *name);
        self.traces.keys().filter(concerned).cloned().collect()
    }

    pub(super) fn lines(&self) -> Vec<PinLine> {
        let line = |(image, trace): (&Image, &Trace)| {
            let by_tag = matches!(image.reference, Reference::Tag(_));
            PinLine {
                image: image.clone(),
                last: trace.last().filter(|_| by_tag).cloned(),
            }
        };
        self.traces.iter().map(line).collect()
    }

    /// Counts the files of one more trace, and those of another no more; either may be of the same image.
    pub(super) fn exchange(&mut self, before: &Trace, after: &Trace) -> Change {
        let mut change = Change::default();
        for key in after.keys().filter(|key| !before.contains(key)) {
            let count = self.shared.entry(key.clone()).or_default();
            *count += 1;
            if *count == 1 {
                change.pinned.push(key.clone());
            }
        }
        for key in before.keys().filter(|key| !after.contains(key)) {
            let left = self.shared.get_mut(key).map(|count| {
                *count = count.saturating_sub(1);
                *count
            });
            if left == Some(0) {
                self.shared.remove(key);
                change.unpinned.push(key.clone());
            }
        }
        change
    }

    /// What is pinned, and how much of it is stored.
    pub(super) fn report(&self, layout: &Layout, max_size: u64) -> Pins {
        let mut sizes = HashMap::new();
        for (key, size) in self.traces.values().flat_map(Trace::needed) {
            sizes.insert(key, cost(size));
        }
        let pinned = |(image, trace): (&Image, &Trace)| pinned(layout, image, trace);
        Pins {
            images: self.traces.iter().map(pinned).collect(),
            wanted: sizes.into_values().fold(0, u64::saturating_add),
            max_size,
        }
    }
}

fn pinned(layout: &Layout, image: &Image, trace: &Trace) -> Pinned {
    let mut pinned = Pinned {
        image: image.clone(),
        digest: trace.last().cloned(),
        stored: 0,
        stored_bytes: 0,
        missing: 0,
        missing_bytes: 0,
    };
    for (key, size) in trace.needed() {
        // The disk is asked: it is right also while the store is still being counted.
        if layout.path(key).exists() {
            pinned.stored += 1;
            pinned.stored_bytes = pinned.stored_bytes.saturating_add(size);
        } else {
            pinned.missing += 1;
            pinned.missing_bytes = pinned.missing_bytes.saturating_add(size);
        }
    }
    pinned
}
