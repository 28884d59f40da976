//! What upstreams listed: a repository's tags, and what refers to one of its manifests.
//!
//! A third kind of record, kept as a manifest's is: a header line, then bytes, which mean nothing here. The
//! header names their digest, because a list that a crash cut short would look like one that is shorter.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;

use crate::store::Store;
use crate::store::disk::layout::Key;
use crate::store::records::{Kept, PERSIST_EVERY, run, unix_millis};

/// Memory for listings, in bytes.
const MEMORY: u64 = 16 * 1024 * 1024;

/// What is listed about a repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Listing {
    /// Its tags.
    Tags,
    /// The manifests whose subject is this one.
    Referrers(Digest),
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags => f.write_str("tags"),
            Self::Referrers(digest) => write!(f, "referrers of {digest}"),
        }
    }
}

/// A list as it was when upstream was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredListing {
    /// The list, in whatever form whoever stored it chose.
    pub bytes: Bytes,
    /// When upstream said so.
    pub fetched_at: SystemTime,
}

/// The first line of a listing's file; its bytes follow.
#[derive(Serialize, Deserialize)]
struct Header {
    #[serde(with = "unix_millis")]
    fetched_at: SystemTime,
    digest: Digest,
}

type Id = (QualifiedName, Listing);

/// The listings in memory.
pub(in crate::store) struct Listings {
    kept: Cache<Id, Arc<Kept<StoredListing>>>,
}

impl Default for Listings {
    fn default() -> Self {
        let bytes = |_: &Id, kept: &Arc<Kept<StoredListing>>| {
            u32::try_from(kept.value.bytes.len() + 512).unwrap_or(u32::MAX)
        };
        Self {
            kept: Cache::builder().max_capacity(MEMORY).weigher(bytes).build(),
        }
    }
}

impl Listings {
    pub(in crate::store) fn forget(&self, id: &Id) {
        self.kept.invalidate(id);
    }
}

impl Store {
    /// What upstream last listed.
    pub async fn listing(
        self: &Arc<Self>,
        name: &QualifiedName,
        listing: &Listing,
    ) -> Option<Arc<StoredListing>> {
        let id = (name.clone(), listing.clone());
        if let Some(kept) = self.listings.kept.get(&id) {
            return Some(kept.used(self));
        }
        let store = Arc::clone(self);
        run(move || {
            let key = Key::listing(&id.0, &id.1);
            let listing = store.read_record(&key, read)?;
            let persisted_at = listing.fetched_at;
            let kept = Kept::new(listing, key, persisted_at);
            // What was put in memory meanwhile is newer than what was read.
            let kept = store.listings.kept.entry(id).or_insert(kept).into_value();
            Some(kept.used(&store))
        })
        .await?
    }

    /// Remembers a listing: in memory at once, on disk when it changed or was not written for a while.
    pub async fn put_listing(
        self: &Arc<Self>,
        name: &QualifiedName,
        listing: &Listing,
        value: StoredListing,
    ) -> Arc<StoredListing> {
        let id = (name.clone(), listing.clone());
        let key = Key::listing(name, listing);
        let now = SystemTime::now();
        let written = self.listings.kept.get(&id).filter(|kept| {
            kept.value.bytes == value.bytes
                && now
                    .duration_since(kept.persisted_at)
                    .is_ok_and(|age| age < PERSIST_EVERY)
        });
        let persisted_at = match written {
            Some(kept) => kept.persisted_at,
            None => {
                self.write_record(&key, file_of(&value)).await;
                now
            }
        };
        let kept = Kept::new(value, key, persisted_at);
        self.listings.kept.insert(id, Arc::clone(&kept));
        Arc::clone(&kept.value)
    }

    /// Forgets a listing that upstream does not have any more.
    pub async fn drop_listing(self: &Arc<Self>, name: &QualifiedName, listing: &Listing) {
        self.listings.forget(&(name.clone(), listing.clone()));
        let (store, key) = (Arc::clone(self), Key::listing(name, listing));
        run(move || store.discard(&key)).await;
    }
}

fn file_of(listing: &StoredListing) -> Vec<u8> {
    let header = Header {
        fetched_at: listing.fetched_at,
        digest: Digest::of(&listing.bytes),
    };
    let mut file = serde_json::to_vec(&header).unwrap_or_default();
    file.push(b'\n');
    file.extend_from_slice(&listing.bytes);
    file
}

/// Whether the bytes of a listing's file have the digest that it names.
pub(in crate::store) fn is_intact(file: Vec<u8>) -> bool {
    read(file).is_some()
}

fn read(mut file: Vec<u8>) -> Option<StoredListing> {
    let newline = file.iter().position(|byte| *byte == b'\n')?;
    let header: Header = serde_json::from_slice(file.get(..newline)?).ok()?;
    let bytes = Bytes::from(file.split_off(newline + 1));
    (Digest::of(&bytes) == header.digest).then_some(StoredListing {
        bytes,
        fetched_at: header.fetched_at,
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_listing_reads_back_and_a_torn_one_does_not() {
        let listing = StoredListing {
            bytes: Bytes::from_static(b"1.0\n1.1\n"),
            fetched_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        };
        let file = file_of(&listing);
        assert_eq!(read(file.clone()), Some(listing));
        for length in 0..file.len() {
            assert_eq!(read(file[..length].to_vec()), None, "cut after {length}");
        }
    }
}
