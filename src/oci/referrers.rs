//! Referrers: the manifests whose `subject` is a given one (OCI distribution-spec, "Listing Referrers"),
//! told as an index of their descriptors.

use bytes::Bytes;
use serde_json::{Value, json};

use super::digest::Digest;
use super::manifest::OCI_INDEX;
use super::name::Tag;

/// The longest parts of a fallback tag (OCI distribution-spec, "Referrers Tag Schema").
const MAX_ALGORITHM: usize = 32;
const MAX_ENCODED: usize = 64;

/// Descriptors of referrers. Their fields are upstream's and are passed on, known or not.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Referrers {
    descriptors: Vec<Value>,
}

impl Referrers {
    /// Reads an index; `None` if it is not one.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let mut index: Value = serde_json::from_slice(bytes).ok()?;
        match index.get_mut("manifests").map(Value::take) {
            Some(Value::Array(descriptors)) => Some(Self { descriptors }),
            // Go writes an empty list so.
            Some(Value::Null) => Some(Self::default()),
            _ => None,
        }
    }

    /// Adds those of another page.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.descriptors.append(&mut other.descriptors);
    }

    /// Keeps those of one of these artifact types.
    pub(crate) fn retain(&mut self, artifact_types: &[String]) {
        let wanted = |descriptor: &Value| {
            let own = descriptor.get("artifactType").and_then(Value::as_str);
            own.is_some_and(|own| artifact_types.iter().any(|wanted| wanted == own))
        };
        self.descriptors.retain(wanted);
    }

    /// The index that clients are answered with: valid also when it is empty.
    pub(crate) fn to_bytes(&self) -> Bytes {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": self.descriptors,
        });
        index.to_string().into()
    }
}

/// The tag under which referrers are listed in registries that have no API for it: `sha256-<hex>`.
pub(crate) fn fallback_tag(digest: &Digest) -> Option<Tag> {
    let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
    let algorithm = algorithm.get(..MAX_ALGORITHM).unwrap_or(algorithm);
    let hex = hex.get(..MAX_ENCODED).unwrap_or(&hex);
    format!("{algorithm}-{hex}").parse().ok()
}

/// Whether a tag is one of those: `sha256-<hex>`, or what cosign makes of it (`sha256-<hex>.sig`, `.att`, `.sbom`).
pub(crate) fn is_fallback_tag(tag: &Tag) -> bool {
    let Some((algorithm, rest)) = tag.as_str().split_once('-') else {
        return false;
    };
    let hex = rest.split(['.', '-']).next().unwrap_or(rest);
    ["sha256", "sha512"].contains(&algorithm)
        && hex.len() == MAX_ENCODED
        && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest::Algorithm;

    #[test]
    fn a_list_is_filtered_by_any_of_the_types_and_stays_an_index() {
        let page = |kind| json!({"manifests": [{"artifactType": kind, "size": 1, "x": "kept"}]});
        let parse = |page: Value| Referrers::parse(page.to_string().as_bytes()).unwrap();
        let mut all = parse(page("a/b"));
        all.append(parse(page("c/d")));
        all.append(parse(json!({"manifests": [{"size": 2}]})));
        let mut some = all.clone();
        some.retain(&["c/d".to_owned(), "e/f".to_owned()]);
        let index: Value = serde_json::from_slice(&some.to_bytes()).unwrap();
        let expected = json!([{"artifactType": "c/d", "size": 1, "x": "kept"}]);
        assert_eq!(index["manifests"], expected);
        some.retain(&["none/such".to_owned()]);
        let index: Value = serde_json::from_slice(&some.to_bytes()).unwrap();
        let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
        assert_eq!(index, empty);
    }

    #[test]
    fn what_is_no_index_is_refused() {
        assert_eq!(
            Referrers::parse(br#"{"manifests":null}"#),
            Some(Referrers::default())
        );
        for text in ["", "[]", "{}", r#"{"manifests":{}}"#, r#"{"layers":[]}"#] {
            assert_eq!(Referrers::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_fallback_tag_is_cut_to_what_a_tag_may_hold() {
        let sha256 = Digest::of(b"x");
        let tag = fallback_tag(&sha256).unwrap();
        assert_eq!(tag.as_str(), format!("sha256-{}", sha256.hex()));
        let mut hasher = crate::oci::digest::Hasher::new(Algorithm::Sha512);
        hasher.update(b"x");
        let tag = fallback_tag(&hasher.finish()).unwrap();
        assert_eq!(tag.as_str().len(), "sha512-".len() + 64);
        assert!(is_fallback_tag(&tag));
    }

    #[test]
    fn tags_made_of_a_digest_are_known_with_any_ending() {
        let hex = Digest::of(b"x").hex();
        for ending in ["", ".sig", ".att", ".sbom", ".cosign.bundle", "-extra"] {
            let tag: Tag = format!("sha256-{hex}{ending}").parse().unwrap();
            assert!(is_fallback_tag(&tag), "{tag}");
        }
        for text in [
            "1.0",
            "sha256-abc",
            "sha256",
            &format!("md5-{hex}"),
            &format!("sha256-{hex}0"),
        ] {
            assert!(!is_fallback_tag(&text.parse().unwrap()), "{text}");
        }
    }
}
