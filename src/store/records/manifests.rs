//! Manifests: their exact bytes, checked against their digest whenever they are read from disk.

use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::manifest::{self, Manifest};
use crate::oci::name::QualifiedName;
use crate::store::key::StoreKey;

use super::document::{Document, split_header, with_header};
use super::unix_millis;

/// A manifest of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The Content-Type it is answered with.
    pub media_type: String,
    /// Exactly what upstream sent.
    pub bytes: Bytes,
    /// When upstream sent it.
    pub fetched_at: SystemTime,
}

#[derive(Serialize, Deserialize)]
struct ManifestHeader {
    media_type: String,
    #[serde(with = "unix_millis")]
    fetched_at: SystemTime,
    /// By which rules it was taken in. 0, in files of earlier versions: the type may be one that the bytes do not say.
    #[serde(default)]
    rules: u32,
}

/// What [`ManifestHeader::rules`] is today.
const RULES: u32 = 1;

impl ManifestHeader {
    /// Whether the type may be kept. Of an old file only the bytes can tell.
    fn is_believed(&self, bytes: &[u8]) -> bool {
        self.rules >= RULES
            || Manifest::parse(Some(&self.media_type), bytes).is_ok_and(|manifest| {
                manifest.self_described
                    && manifest.media_type.eq_ignore_ascii_case(&self.media_type)
            })
    }
}

impl Document for StoredManifest {
    type Id = (QualifiedName, Digest);

    /// Bytes of manifests and of their bookkeeping.
    const MEMORY: u64 = 16 * 1024 * 1024;

    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len() + 512).unwrap_or(u32::MAX)
    }

    fn key((name, digest): &Self::Id) -> StoreKey {
        StoreKey::manifest(name, digest)
    }

    fn to_file(&self) -> Vec<u8> {
        let header = ManifestHeader {
            media_type: self.media_type.clone(),
            fetched_at: self.fetched_at,
            rules: RULES,
        };
        with_header(&header, &self.bytes)
    }

    fn from_file((_, digest): &Self::Id, file: Bytes) -> Option<Self> {
        let (header, bytes) = split_header::<ManifestHeader>(&file)?;
        let is_sound = manifest::is_digest_of(digest, &header.media_type, &bytes)
            && header.is_believed(&bytes);
        is_sound.then(|| Self {
            digest: digest.clone(),
            media_type: header.media_type,
            bytes,
            fetched_at: header.fetched_at,
        })
    }

    fn time(&self) -> SystemTime {
        self.fetched_at
    }

    /// A manifest is only fetched where it is not stored, so it is always written.
    fn repeats(&self, _before: &Self) -> bool {
        false
    }
}
