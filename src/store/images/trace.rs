//! What an image consists of, as far as the stored records say: the tag, an index, those manifests of the index that
//! are stored, their blobs, and blobs that the index itself lists.

use std::collections::{HashMap, HashSet};

use crate::oci::digest::Digest;
use crate::oci::manifest::Manifest;
use crate::oci::name::{QualifiedName, Reference};
use crate::store::key::StoreKey;
use crate::store::records::Records;

use crate::oci::image::Image;

/// Indexes of indexes are followed this deep: more than exist.
const DEPTH: u32 = 4;

/// Of an index this many manifests are followed: each is looked for before an answer that brings a record of its
/// repository.
const MOST_CHILDREN: usize = 2000;

/// The files of an image, stored or not.
#[derive(Default)]
pub(super) struct Trace {
    files: HashMap<StoreKey, TracedFile>,
    /// The manifests that were read for it.
    read: HashSet<Digest>,
    /// The manifest that was last here.
    last: Option<Digest>,
}

/// A file that an image names.
#[derive(Clone, Copy)]
struct TracedFile {
    size: u64,
    /// Whether the image is incomplete without it. Other platforms of an index are not needed.
    needed: bool,
}

impl Trace {
    /// An image of which nothing is known but the manifest that was last here.
    pub(super) fn untraced(last: Option<Digest>) -> Self {
        Self {
            last,
            ..Self::default()
        }
    }

    /// Traces an image. For blocking threads.
    ///
    /// The newest manifest comes first. Where it is not stored, an older one stands in for it, and is part of the trace
    /// too.
    pub(super) fn of(image: &Image, records: &Records, before: &Self) -> Self {
        let name = &image.name;
        let mut trace = Self::default();
        // Without it none of the blobs would be served while upstream is away.
        trace.add(StoreKey::vouched(name), 0, false);
        let candidates = match &image.reference {
            Reference::Digest(digest) => vec![digest.clone()],
            Reference::Tag(tag) => {
                trace.add(StoreKey::tag(name, tag), 0, false);
                let record = records.tag_blocking(name, tag);
                let known = record.map(|record| (record.digest.clone(), record.held.clone()));
                let (digest, held) =
                    known.map_or((None, None), |(digest, held)| (Some(digest), held));
                [digest, held, before.last.clone()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        };
        let here = candidates
            .iter()
            .find(|digest| trace.add_manifest(records, name, digest, true, DEPTH));
        trace.last = here.cloned().or_else(|| before.last.clone());
        trace.keep_unknown(name, before);
        trace
    }

    /// The manifest that was last here.
    pub(super) fn last(&self) -> Option<&Digest> {
        self.last.as_ref()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &StoreKey> {
        self.files.keys()
    }

    pub(super) fn contains(&self, key: &StoreKey) -> bool {
        self.files.contains_key(key)
    }

    /// The files without which the image is incomplete, and their sizes as far as they are known.
    pub(super) fn needed(&self) -> impl Iterator<Item = (&StoreKey, u64)> {
        let needed = self.files.iter().filter(|(_, file)| file.needed);
        needed.map(|(key, file)| (key, file.size))
    }

    fn add(&mut self, key: StoreKey, size: u64, needed: bool) {
        self.files.insert(key, TracedFile { size, needed });
    }

    /// Adds a manifest and what it names; says whether it is stored.
    fn add_manifest(
        &mut self,
        records: &Records,
        name: &QualifiedName,
        digest: &Digest,
        needed: bool,
        depth: u32,
    ) -> bool {
        if self.read.contains(digest) {
            return true;
        }
        let key = StoreKey::manifest(name, digest);
        // Of an index most children are not stored; to learn that from the disk costs more than to ask the index.
        let stored = records
            .has_manifest(name, digest)
            .then(|| records.manifest_blocking(name, digest));
        let Some(stored) = stored.flatten() else {
            self.add(key, 0, needed);
            return false;
        };
        self.add(key, stored.bytes.len() as u64, true);
        self.read.insert(digest.clone());
        let manifest = Manifest::parse(Some(&stored.media_type), &stored.bytes).unwrap_or_default();
        for blob in manifest.blobs {
            self.add(StoreKey::Blob(blob.digest), blob.size, !blob.elsewhere);
        }
        let children = manifest.manifests.iter().take(MOST_CHILDREN);
        for child in children.filter(|_| depth > 0) {
            // A kind of manifest that came after this program looks like a blob, but is stored as what it is.
            if child.is_blob && !records.has_manifest(name, &child.digest) {
                self.add(
                    StoreKey::Blob(child.digest.clone()),
                    child.size,
                    !child.elsewhere,
                );
            } else {
                self.add_manifest(records, name, &child.digest, false, depth - 1);
            }
        }
        true
    }

    /// A manifest that was read before and cannot be now is damaged or gone, and will be fetched again: until
    /// then what it named is kept.
    fn keep_unknown(&mut self, name: &QualifiedName, before: &Self) {
        let lost = before.read.iter().any(|digest| {
            !self.read.contains(digest) && self.contains(&StoreKey::manifest(name, digest))
        });
        if lost {
            for (key, file) in &before.files {
                self.files.entry(key.clone()).or_insert(*file);
            }
            self.read.extend(before.read.iter().cloned());
        }
    }
}
