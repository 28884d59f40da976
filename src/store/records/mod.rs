//! What is remembered of repositories: manifests, tags, what upstream listed, and which blobs are theirs.
//!
//! It knows the files of records and their keys. It does not know what a manifest names, nor when a tag is fresh. Who
//! puts a record says how durable it must be ([`Durability`]): what upstream still has is made durable after the
//! answer; what exists nowhere else would be made durable before it.
//!
//! Reading order: this file, [`document`] (one kind of record: memory, file, durability), then the kinds:
//! [`manifests`], [`tags`], [`listings`], with `unix_millis` (times in their files); `vouched` (which blobs belong to a
//! repository) and `vouch` (one entry of that), `catalog` (which repositories are here).

mod catalog;
pub(crate) mod document;
mod listings;
mod manifests;
mod tags;
mod unix_millis;
mod vouch;
mod vouched;

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::memory::Memory;
use crate::oci::digest::Digest;
use crate::oci::name::{Namespace, QualifiedName, Tag};
use crate::store::disk::blocking::run;
use crate::store::hook::Hook;
pub(crate) use crate::store::key::Listing;
use crate::store::key::StoreKey;
use crate::store::room::Room;

use document::{Document, Documents};
pub use document::{Durability, Put};
pub(crate) use listings::StoredListing;
pub use manifests::StoredManifest;
pub use tags::TagRecord;
pub(crate) use vouch::Vouch;
use vouched::Vouched;

/// The records of a store.
pub struct Records {
    room: Arc<Room>,
    manifests: Arc<Documents<StoredManifest>>,
    tags: Arc<Documents<TagRecord>>,
    listings: Arc<Documents<StoredListing>>,
    vouched: Arc<Vouched<QualifiedName>>,
    given: Arc<Vouched<Namespace>>,
    /// The repositories with a pinned image: all that most requests need to know of pins.
    watched: RwLock<HashSet<QualifiedName>>,
    /// Called in a blocking thread when a manifest or tag of a watched repository was written.
    pub(crate) written: Hook<QualifiedName>,
}

impl Records {
    pub(crate) fn new(room: &Arc<Room>, memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::clone(room),
            manifests: Documents::new(room, memory),
            tags: Documents::new(room, memory),
            listings: Documents::new(room, memory),
            vouched: Vouched::new(room),
            given: Vouched::new(room),
            watched: RwLock::default(),
            written: Hook::default(),
        })
    }

    /// Whether there is a manifest of that digest, in memory or on disk, without reading it.
    pub(crate) fn has_manifest(&self, name: &QualifiedName, digest: &Digest) -> bool {
        // One in memory may be on its way to the disk still, or find no room there.
        self.manifests.remembers(&(name.clone(), digest.clone()))
            || self.room.has(&StoreKey::manifest(name, digest))
    }

    /// The manifest of that digest, if this repository has it.
    pub async fn manifest(
        &self,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Option<Arc<StoredManifest>> {
        self.manifests.get((name.clone(), digest.clone())).await
    }

    /// The same for blocking threads.
    pub(crate) fn manifest_blocking(
        &self,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Option<Arc<StoredManifest>> {
        let id = (name.clone(), digest.clone());
        self.manifests.get_blocking(id)
    }

    /// Keeps a manifest of a repository.
    pub async fn put_manifest(
        self: &Arc<Self>,
        name: &QualifiedName,
        manifest: StoredManifest,
        durability: Durability,
    ) -> Put<StoredManifest> {
        let id = (name.clone(), manifest.digest.clone());
        let put = self.manifests.put(id, manifest, durability).await;
        self.tell_watchers(name).await;
        put
    }

    /// What is remembered of a tag.
    pub async fn tag(&self, name: &QualifiedName, tag: &Tag) -> Option<Arc<TagRecord>> {
        self.tags.get((name.clone(), tag.clone())).await
    }

    /// The same for blocking threads.
    pub(crate) fn tag_blocking(&self, name: &QualifiedName, tag: &Tag) -> Option<Arc<TagRecord>> {
        self.tags.get_blocking((name.clone(), tag.clone()))
    }

    /// Remembers what a tag points to.
    pub async fn put_tag(
        self: &Arc<Self>,
        name: &QualifiedName,
        tag: &Tag,
        record: TagRecord,
        durability: Durability,
    ) -> Put<TagRecord> {
        let id = (name.clone(), tag.clone());
        let put = self.tags.put(id, record, durability).await;
        if put.changed {
            self.tell_watchers(name).await;
        }
        put
    }

    /// Forgets a tag that upstream does not have any more.
    pub(crate) async fn drop_tag(&self, name: &QualifiedName, tag: &Tag) {
        self.tags.remove(&(name.clone(), tag.clone())).await;
    }

    /// What upstream last listed.
    pub(crate) async fn listing(
        &self,
        name: &QualifiedName,
        listing: &Listing,
    ) -> Option<Arc<StoredListing>> {
        self.listings.get((name.clone(), listing.clone())).await
    }

    /// Remembers what upstream listed.
    pub(crate) async fn put_listing(
        &self,
        name: &QualifiedName,
        listing: &Listing,
        value: StoredListing,
        durability: Durability,
    ) -> Put<StoredListing> {
        let id = (name.clone(), listing.clone());
        self.listings.put(id, value, durability).await
    }

    /// Forgets a listing that upstream does not have any more.
    pub(crate) async fn drop_listing(&self, name: &QualifiedName, listing: &Listing) {
        self.listings.remove(&(name.clone(), listing.clone())).await;
    }

    /// Whether the repository vouches for the blob, and since when.
    pub(crate) async fn vouched(&self, name: &QualifiedName, digest: &Digest) -> Option<Vouch> {
        self.vouched.get(name, digest).await
    }

    /// Adds blobs to those the repository vouches for.
    pub(crate) async fn vouch(&self, name: &QualifiedName, blobs: Vec<(Digest, Vouch)>) {
        self.vouched.add(name, blobs).await;
    }

    /// The repository does not vouch for the blob any more.
    pub(crate) async fn disown(&self, name: &QualifiedName, digest: &Digest) {
        self.vouched.remove(name, digest).await;
    }

    /// Whether the upstream has given the bytes of the blob, under any of its repositories.
    pub(crate) async fn was_given(&self, by: &Namespace, digest: &Digest) -> bool {
        self.given.get(by, digest).await.is_some()
    }

    /// Notes that the upstream has given the bytes of the blob.
    pub(crate) async fn note_given(&self, by: &Namespace, digest: &Digest) {
        let entry = (digest.clone(), Vouch::proven());
        self.given.add(by, vec![entry]).await;
    }

    /// The repositories of which a manifest is stored, in no order.
    pub(crate) async fn repositories(&self) -> Vec<QualifiedName> {
        let layout = self.room.disk().layout().clone();
        let found = run(move || catalog::repositories(&layout)).await;
        found.unwrap_or_default()
    }

    /// A stored manifest of the repository of which `test` is true, among so many that are looked at.
    pub(crate) async fn find_manifest(
        self: &Arc<Self>,
        name: &QualifiedName,
        most: usize,
        test: impl Fn(&StoredManifest) -> bool + Send + 'static,
    ) -> Option<Arc<StoredManifest>> {
        let (records, name) = (Arc::clone(self), name.clone());
        let find = move || {
            let layout = records.room.disk().layout();
            let digests = catalog::manifests(layout, &name, most);
            let mut stored = digests
                .iter()
                .filter_map(|digest| records.manifest_blocking(&name, digest));
            stored.find(|manifest| test(manifest))
        };
        run(find).await.flatten()
    }

    /// Forgets what memory has of a record whose file is gone.
    pub(crate) fn forget(&self, key: &StoreKey) {
        match key {
            StoreKey::Manifest(id) => self.manifests.forget(id),
            StoreKey::Tag(id) => self.tags.forget(id),
            StoreKey::Listing(id) => self.listings.forget(id),
            StoreKey::Vouched(name) => self.vouched.forget(name),
            StoreKey::Given(namespace) => self.given.forget(namespace),
            StoreKey::Blob(_) | StoreKey::Partial(_) => {}
        }
    }

    /// From now on `written` is called for these repositories and for no others.
    pub(crate) fn watch(&self, names: HashSet<QualifiedName>) {
        *self.watched.write().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn is_watched(&self, name: &QualifiedName) -> bool {
        let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
        watched.contains(name)
    }

    async fn tell_watchers(self: &Arc<Self>, name: &QualifiedName) {
        if !self.is_watched(name) {
            return;
        }
        let (records, name) = (Arc::clone(self), name.clone());
        run(move || records.written.call(&name)).await;
    }
}

/// Whether a file holds what it was written with, as far as the file itself can tell.
pub(crate) fn is_intact(key: &StoreKey, file: Vec<u8>) -> bool {
    match key {
        StoreKey::Manifest(id) => StoredManifest::from_file(id, file.into()).is_some(),
        StoreKey::Tag(id) => TagRecord::from_file(id, file.into()).is_some(),
        StoreKey::Listing(id) => StoredListing::from_file(id, file.into()).is_some(),
        StoreKey::Blob(digest) => Digest::of(&file) == *digest,
        // Nothing is known of a part, and a line that is torn is skipped.
        StoreKey::Partial(_) | StoreKey::Vouched(_) | StoreKey::Given(_) => true,
    }
}
