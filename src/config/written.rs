//! The configuration as written: values with their places, from every source.
//!
//! Nothing here has been checked, and nothing is a default.

use std::collections::BTreeMap;

use super::keys::{self, KeySpec};
use super::mistake::Location;
use super::value::Value;

/// A value and where it was written.
pub(super) struct WrittenValue {
    pub(super) value: Value,
    pub(super) location: Location,
}

/// All that was written, in any source.
#[derive(Default)]
pub(super) struct Written {
    /// The tables that exist once, by name.
    plain: BTreeMap<&'static str, Section>,
    /// The upstreams in the order of the file.
    pub(super) upstreams: Vec<Section>,
}

impl Written {
    /// The table of this name, as far as it was written.
    pub(super) fn plain(&mut self, name: &'static str) -> &mut Section {
        let section = || Section::new(String::new(), name.to_owned(), None);
        self.plain.entry(name).or_insert_with(section)
    }
}

/// The written values of one table.
pub(super) struct Section {
    /// The namespace of an upstream, as written; empty for other tables.
    namespace: String,
    /// Its path as the user has it: `store`, `upstream."docker.io"`; empty for the top of the file.
    path: String,
    /// Where it begins, if it was written itself.
    location: Option<Location>,
    /// By the key's name. The last value is the one that counts, but all of them are checked.
    values: BTreeMap<&'static str, Vec<WrittenValue>>,
    /// An upstream's further logins, in the order of the file.
    pub(super) further_logins: Vec<Section>,
}

impl Section {
    /// The table of an upstream, without values.
    pub(super) fn upstream(namespace: &str, location: Option<Location>) -> Self {
        let path = format!("upstream.{namespace:?}");
        Self::new(namespace.to_owned(), path, location)
    }

    /// The table of a further login of an upstream, without values.
    pub(super) fn more_credentials(namespace: &str, location: Location) -> Self {
        let path = format!("upstream.{namespace:?}.more_credentials");
        Self::new(namespace.to_owned(), path, Some(location))
    }

    fn new(namespace: String, path: String, location: Option<Location>) -> Self {
        Self {
            namespace,
            path,
            location,
            values: BTreeMap::new(),
            further_logins: Vec::new(),
        }
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its path as the user has it.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Adds a value that counts more than those before it.
    pub(super) fn push(&mut self, key: &KeySpec, value: Value, location: Location) {
        let values = self.values.entry(key.name).or_default();
        values.push(WrittenValue { value, location });
    }

    /// All that was written for a key, the value that counts last.
    pub(super) fn values(&self, key: &KeySpec) -> &[WrittenValue] {
        self.values.get(key.name).map_or(&[], Vec::as_slice)
    }

    /// Where to look for a key: at the value that counts, else at the table.
    pub(super) fn location(&self, key: &KeySpec) -> Location {
        let written = self.values(key).last().map(|written| &written.location);
        let location = written.or(self.location.as_ref());
        location.cloned().unwrap_or(Location::Absent)
    }

    pub(super) fn start(&self) -> Location {
        self.location.clone().unwrap_or(Location::Absent)
    }

    /// The path of a key as the user has it: `upstream."docker.io".url`.
    pub(super) fn path_of(&self, key: &KeySpec) -> String {
        keys::path(&self.path, key.name)
    }
}
