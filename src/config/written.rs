//! The configuration as written: values with their places, from every source.
//!
//! Nothing here is believed yet, and nothing is a default.

use std::collections::BTreeMap;

use super::keys::Key;
use super::mistake::Place;
use super::value::Value;

/// A value and where it was written.
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) place: Place,
}

/// All that was written, from whatever source.
#[derive(Default)]
pub(super) struct Written {
    /// The keys that exist once.
    pub(super) plain: Section,
    /// The upstreams in the order of the file.
    pub(super) upstreams: Vec<Section>,
}

/// Written values by key.
#[derive(Default)]
pub(super) struct Section {
    /// The namespace as written; empty for the plain keys.
    pub(super) name: String,
    /// Where the section begins, if it was written at all.
    pub(super) place: Option<Place>,
    /// By [`Key::path`]; the last entry is the one that counts, but all of them are checked.
    entries: BTreeMap<&'static str, Vec<Entry>>,
    /// An upstream's further identities, in the order of the file.
    pub(super) more_credentials: Vec<Section>,
}

impl Section {
    /// A section without values.
    pub(super) fn named(name: &str, place: Option<Place>) -> Self {
        Self {
            name: name.to_owned(),
            place,
            entries: BTreeMap::new(),
            more_credentials: Vec::new(),
        }
    }

    /// Adds a value that counts more than those before it.
    pub(super) fn push(&mut self, key: &Key, value: Value, place: Place) {
        self.entries
            .entry(key.path)
            .or_default()
            .push(Entry { value, place });
    }

    /// All that was written for a key, what counts last.
    pub(super) fn entries(&self, key: &Key) -> &[Entry] {
        self.entries.get(key.path).map_or(&[], Vec::as_slice)
    }

    /// Where the value that counts was written.
    pub(super) fn place(&self, key: &Key) -> Option<Place> {
        self.entries(key).last().map(|entry| entry.place.clone())
    }

    /// The path of a key as the user has it: `upstream."docker.io".url`.
    pub(super) fn path(&self, key: &Key) -> String {
        if self.name.is_empty() {
            key.path.to_owned()
        } else {
            key.path.replacen('*', &format!("{:?}", self.name), 1)
        }
    }
}
