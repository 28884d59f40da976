//! Tags: what each pointed to. Written after what it points to.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Tag};
use crate::store::key::StoreKey;

use super::document::Document;
use super::unix_millis;

/// What a tag pointed to when upstream was last asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagRecord {
    /// The manifest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its length in bytes.
    pub size: u64,
    /// When upstream last confirmed this.
    #[serde(with = "unix_millis")]
    pub checked_at: SystemTime,
    /// The last manifest under this tag whose bytes were fetched, if it is another one than `digest`:
    /// a HEAD learns that a tag moved without fetching what it moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Digest>,
}

impl Document for TagRecord {
    type Id = (QualifiedName, Tag);

    /// How many of them.
    const MEMORY: u64 = 50_000;

    fn weight(&self) -> u32 {
        1
    }

    fn key((name, tag): &Self::Id) -> StoreKey {
        StoreKey::tag(name, tag)
    }

    fn to_file(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn from_file(_: &Self::Id, file: Vec<u8>) -> Option<Self> {
        serde_json::from_slice(&file).ok()
    }

    fn time(&self) -> SystemTime {
        self.checked_at
    }

    fn repeats(&self, before: &Self) -> bool {
        self.digest == before.digest && self.held == before.held
    }
}
