//! Manifests that an index of a repository, or a HEAD, names: under `blobs/` they are not to be had, whatever upstream says.
//!
//! Some registries give a manifest's bytes there as well, of no type. containerd asks so when it was refused the manifest,
//! and believes that type for good.

use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::manifest::Descriptor;
use crate::oci::name::QualifiedName;

/// How many are remembered, of all indexes and of one. What is forgotten is asked upstream.
const MOST: u64 = 20_000;
const MOST_OF_ONE: usize = 1000;

/// All clones are the same one.
#[derive(Clone)]
pub(super) struct Children(Cache<(QualifiedName, Digest), ()>);

impl Default for Children {
    fn default() -> Self {
        Self(Cache::new(MOST))
    }
}

impl Children {
    /// Remembers what an index names, but for what it says to be no manifest.
    pub(super) fn note(&self, name: &QualifiedName, named: &[Descriptor]) {
        let manifests = named.iter().filter(|child| !child.is_blob);
        for child in manifests.take(MOST_OF_ONE) {
            self.note_one(name, &child.digest);
        }
    }

    /// Remembers a manifest that upstream names.
    pub(super) fn note_one(&self, name: &QualifiedName, digest: &Digest) {
        self.0.insert((name.clone(), digest.clone()), ());
    }

    pub(super) fn has(&self, name: &QualifiedName, digest: &Digest) -> bool {
        self.0.contains_key(&(name.clone(), digest.clone()))
    }
}
