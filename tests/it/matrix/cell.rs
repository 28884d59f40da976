//! What a cell of the matrix is, and what must be true of its answers.

use serde_json::json;

use crate::support::content::digest_of;
use crate::support::image::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Thing {
    Tag,
    Digest,
    Blob,
    List,
    Referrers,
}

/// Who refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Registry,
    /// The storage that the registry's redirect leads to.
    Storage,
    /// Another registry, to which the first one redirects.
    Another,
    Realm,
}

/// Which of upstream's methods fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failing {
    Head,
    All,
}

pub const THINGS: [Thing; 5] = [
    Thing::Tag,
    Thing::Digest,
    Thing::Blob,
    Thing::List,
    Thing::Referrers,
];

pub const PLACES: [Place; 4] = [
    Place::Registry,
    Place::Storage,
    Place::Another,
    Place::Realm,
];

/// Stands for an upstream that accepts the request and says nothing.
pub const SILENCE: u16 = 0;

/// One combination, which is a repository of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    pub thing: Thing,
    pub place: Place,
    pub failing: Failing,
    pub status: u16,
    pub stored: bool,
}

/// What a repository holds.
pub struct Contents {
    pub manifest: String,
    pub digest: String,
    pub blob: String,
    pub blob_digest: String,
    pub referrers: String,
}

impl Cell {
    /// The repository: all of the cell, so that the registry needs no memory of it.
    pub fn repository(&self) -> String {
        let Cell {
            thing,
            place,
            failing,
            status,
            stored,
        } = self;
        format!("{thing:?}/{place:?}/{failing:?}/{status}/{stored}").to_lowercase()
    }

    pub fn of_repository(name: &str) -> Option<Cell> {
        let parts: Vec<_> = name.split('/').collect();
        let [thing, place, failing, status, stored] = parts.as_slice() else {
            return None;
        };
        let is =
            |value: &dyn std::fmt::Debug, text: &str| format!("{value:?}").to_lowercase() == text;
        Some(Cell {
            thing: THINGS.into_iter().find(|value| is(value, thing))?,
            place: PLACES.into_iter().find(|value| is(value, place))?,
            failing: [Failing::Head, Failing::All]
                .into_iter()
                .find(|value| is(value, failing))?,
            status: status.parse().ok()?,
            stored: stored.parse().ok()?,
        })
    }

    pub fn contents(&self) -> Contents {
        let blob = format!("{{\"of\":\"{}\"}}", self.repository());
        let blob_digest = digest_of(blob.as_bytes());
        let config = json!({"mediaType": OCI_CONFIG, "digest": blob_digest, "size": blob.len()});
        let manifest =
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []});
        let manifest = manifest.to_string();
        let signature = json!({
            "mediaType": OCI_MANIFEST, "digest": digest_of(b"a signature"), "size": 11, "artifactType": "a/signature",
        });
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [signature]});
        Contents {
            digest: digest_of(manifest.as_bytes()),
            manifest,
            blob,
            blob_digest,
            referrers: index.to_string(),
        }
    }

    /// The path after the repository.
    pub fn path(&self) -> String {
        let contents = self.contents();
        match self.thing {
            Thing::Tag => "manifests/1".to_owned(),
            Thing::Digest => format!("manifests/{}", contents.digest),
            Thing::Blob => format!("blobs/{}", contents.blob_digest),
            Thing::List => "tags/list".to_owned(),
            Thing::Referrers => format!("referrers/{}", contents.digest),
        }
    }

    /// Whether these are the right bytes.
    pub fn is_right(&self, body: &[u8]) -> bool {
        let contents = self.contents();
        let json = || serde_json::from_slice::<serde_json::Value>(body).unwrap_or_default();
        match self.thing {
            Thing::Tag | Thing::Digest => body == contents.manifest.as_bytes(),
            Thing::Blob => body == contents.blob.as_bytes(),
            Thing::List => json()["tags"] == json!(["1"]),
            Thing::Referrers => json()["manifests"]
                .as_array()
                .is_some_and(|list| list.len() == 1),
        }
    }

    /// Whether the failure may be over soon: upstream is in trouble, or wants to be left alone.
    pub fn may_pass(&self) -> bool {
        matches!(self.status, SILENCE | 408 | 421 | 425 | 429 | 500..)
    }

    /// Whether it is the registry's own word that there is no such thing.
    pub fn is_gone(&self) -> bool {
        let of_registry = matches!(self.place, Place::Registry | Place::Another);
        of_registry && self.failing == Failing::All && matches!(self.status, 404 | 410)
    }

    /// Requests to upstream that a HEAD and a GET of a client may become.
    pub fn most_requests(&self) -> usize {
        // Of referrers the API is asked, and a tag that stands for them.
        let questions = if self.thing == Thing::Referrers { 2 } else { 1 };
        questions
            * match (self.place, self.may_pass()) {
                (Place::Registry, false) => 5,
                (Place::Realm, false) => 6,
                // Each is two, at the registry and where it leads.
                (Place::Another, false) => 9,
                // The registry has another URL, which is tried three times.
                (Place::Storage, false) => 17,
                // So is what may pass.
                (Place::Registry, true) => 8,
                (Place::Realm, true) => 12,
                (Place::Storage | Place::Another, true) => 14,
            }
    }

    /// What a HEAD and then a GET may be answered while upstream fails.
    pub fn allowed(&self, method: &str, status: u16) -> bool {
        let is_manifest_by_tag = self.thing == Thing::Tag;
        if self.failing == Failing::Head {
            // Upstream's GET has it. Trouble may be told to a HEAD, but not that there is no such thing.
            return status == 200
                || (method == "HEAD"
                    && !self.stored
                    && self.may_pass()
                    && matches!(status, 429 | 502..=504));
        }
        if self.stored && !(self.is_gone() && (is_manifest_by_tag || self.thing == Thing::List)) {
            return status == 200;
        }
        if self.thing == Thing::Referrers && status == 200 {
            // An empty list: there is no such API, and no index under the tag that stands for it.
            return self.place != Place::Realm;
        }
        match (self.place, self.status) {
            (Place::Registry | Place::Another, 404 | 410) => status == 404,
            (Place::Registry | Place::Another | Place::Realm, 401 | 403) => {
                matches!(status, 401 | 403)
            }
            (Place::Registry | Place::Another | Place::Realm, 429) => matches!(status, 429 | 503),
            // It refuses this name, or does not know what was asked.
            (Place::Registry | Place::Another | Place::Realm, 400..=499) => {
                matches!(status, 400..=403 | 405..=499 | 502..=504)
            }
            (_, _) => matches!(status, 502..=504),
        }
    }
}
