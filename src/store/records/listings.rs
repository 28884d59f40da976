//! What upstreams listed: a repository's tags, and what refers to one of its manifests.
//!
//! Kept as a manifest is: a header line, then bytes, which mean nothing here. The header names their digest, because a
//! list that a crash cut short would look like one that is shorter.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::key::{Listing, StoreKey};

use super::document::{Document, split_header, with_header};
use super::unix_millis;

/// A list as it was when upstream was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredListing {
    /// The list, in the form that the mirror chose.
    pub(crate) bytes: Bytes,
    /// When upstream sent it.
    pub(crate) fetched_at: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct ListingHeader {
    #[serde(with = "unix_millis")]
    fetched_at: SystemTime,
    digest: Digest,
    /// By which rules it was taken in. 0, in files of earlier versions: any of the places that are asked before the
    /// registry may have said what refers to a manifest.
    #[serde(default)]
    rules: u32,
}

/// What [`ListingHeader::rules`] is today.
const RULES: u32 = 1;

impl Document for StoredListing {
    type Id = (QualifiedName, Listing);

    /// Bytes of lists and of their bookkeeping.
    const MEMORY: u64 = 16 * 1024 * 1024;

    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + 512).unwrap_or(u32::MAX)
    }

    fn key((name, listing): &Self::Id) -> StoreKey {
        StoreKey::listing(name, listing)
    }

    fn to_file(&self) -> Vec<u8> {
        let header = ListingHeader {
            fetched_at: self.fetched_at,
            digest: Digest::of(&self.bytes),
            rules: RULES,
        };
        with_header(&header, &self.bytes)
    }

    fn from_file((_, which): &Self::Id, file: Bytes) -> Option<Self> {
        let (header, bytes) = split_header::<ListingHeader>(&file)?;
        let asked_again = header.rules < RULES && matches!(which, Listing::Referrers(_));
        (Digest::of(&bytes) == header.digest).then_some(Self {
            bytes,
            fetched_at: match asked_again {
                // So old that the registry is asked before it is served.
                true => UNIX_EPOCH,
                false => header.fetched_at,
            },
        })
    }

    fn time(&self) -> SystemTime {
        self.fetched_at
    }

    fn repeats(&self, before: &Self) -> bool {
        self.bytes == before.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Any of the places that are asked before the registry may have said it.
    #[test]
    fn what_an_earlier_version_knew_of_referrers_is_asked_again() {
        let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
        let digest = Digest::of(b"");
        let old = format!("{{\"fetched_at\":1735689600000,\"digest\":\"{digest}\"}}\n");
        for (which, is_kept) in [(Listing::Referrers(digest), false), (Listing::Tags, true)] {
            let read = StoredListing::from_file(&(name.clone(), which), old.clone().into());
            assert_eq!(read.unwrap().fetched_at != UNIX_EPOCH, is_kept);
        }
    }

    #[test]
    fn a_listing_reads_back_and_a_torn_one_does_not() {
        let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
        let id = (name, Listing::Tags);
        let listing = StoredListing {
            bytes: Bytes::from_static(b"1.0\n1.1\n"),
            fetched_at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
        };
        let file = listing.to_file();
        assert_eq!(
            StoredListing::from_file(&id, file.clone().into()),
            Some(listing)
        );
        for length in 0..file.len() {
            let torn = StoredListing::from_file(&id, file[..length].to_vec().into());
            assert_eq!(torn, None, "cut after {length}");
        }
    }
}
