//! Tags: what each pointed to. Written after what it points to.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Tag};
use crate::oci::referrers::is_fallback_tag;
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
    /// Whether type and length are those of its bytes. Otherwise a HEAD said them, and what is stored knows better.
    #[serde(default)]
    pub read: bool,
    /// When upstream last confirmed this.
    #[serde(with = "unix_millis")]
    pub checked_at: SystemTime,
    /// The last manifest under this tag whose bytes were fetched, if it is another one than `digest`:
    /// a HEAD learns that a tag moved without fetching what it moved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Digest>,
}

/// A record as it is written.
#[derive(Serialize, Deserialize)]
struct File<R> {
    #[serde(flatten)]
    record: R,
    /// By which rules it was taken in. 0, in files of earlier versions: any of the places that are asked before the
    /// registry may have said what refers to a manifest.
    #[serde(default)]
    rules: u32,
}

/// What [`File::rules`] is today.
const RULES: u32 = 1;

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
        let file = File {
            record: self,
            rules: RULES,
        };
        serde_json::to_vec(&file).unwrap_or_default()
    }

    fn from_file((_, tag): &Self::Id, file: Bytes) -> Option<Self> {
        let file: File<Self> = serde_json::from_slice(&file).ok()?;
        let mut record = file.record;
        if file.rules < RULES && is_fallback_tag(tag) {
            // So old that the registry is asked before it is served.
            record.checked_at = UNIX_EPOCH;
        }
        Some(record)
    }

    fn time(&self) -> SystemTime {
        self.checked_at
    }

    fn repeats(&self, before: &Self) -> bool {
        (&self.digest, self.size, self.read, &self.held)
            == (&before.digest, before.size, before.read, &before.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any of the places that are asked before the registry may have said it.
    #[test]
    fn what_an_earlier_version_knew_of_a_signature_is_asked_again() {
        let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
        let digest = Digest::of(b"x");
        let old = format!(
            r#"{{"digest":"{digest}","media_type":"a/b","size":1,"checked_at":1735689600000}}"#
        );
        for (tag, is_kept) in [
            (format!("sha256-{}", digest.hex()), false),
            (format!("sha256-{}.sig", digest.hex()), false),
            ("1.0".to_owned(), true),
        ] {
            let id = (name.clone(), tag.parse().unwrap());
            let read = TagRecord::from_file(&id, old.clone().into()).unwrap();
            assert_eq!(read.checked_at != UNIX_EPOCH, is_kept, "{tag}");
            let mut now = read.clone();
            now.checked_at = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(9);
            assert_eq!(TagRecord::from_file(&id, now.to_file().into()), Some(now));
        }
    }
}
