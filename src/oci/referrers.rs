//! Referrers: the manifests whose `subject` is a given one (OCI distribution-spec, "Listing Referrers"),
//! told as an index of their descriptors.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::digest::Digest;
use super::name::Tag;

/// The longest parts of a fallback tag (OCI distribution-spec, "Referrers Tag Schema").
const MAX_ALGORITHM: usize = 32;
const MAX_ENCODED: usize = 64;

/// What the index that clients are answered with begins with, and how it ends.
const START: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#;
const END: &str = "]}";

/// Descriptors of referrers, as upstream wrote them: their fields are passed on, known or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Referrers {
    /// The index, but for its end.
    text: String,
}

/// A body that is not an index.
#[derive(Debug, PartialEq, Eq)]
pub struct NoIndex;

/// All that is read of a descriptor.
#[derive(Deserialize)]
struct TypedDescriptor<'d> {
    #[serde(borrow, rename = "artifactType")]
    artifact_type: Option<Cow<'d, str>>,
}

impl Default for Referrers {
    fn default() -> Self {
        Self { text: START.into() }
    }
}

impl Referrers {
    /// Adds the descriptors of an index: those of one of these artifact types, or all, if none is named.
    pub fn add(&mut self, index: &[u8], artifact_types: &[String]) -> Result<(), NoIndex> {
        let mut json = serde_json::Deserializer::from_slice(index);
        let mut found = false;
        let read = ReferrersIndex {
            referrers: self,
            artifact_types,
            found: &mut found,
        };
        let read = read.deserialize(&mut json).and_then(|()| json.end());
        read.ok().filter(|()| found).ok_or(NoIndex)
    }

    /// Whether nothing refers.
    pub(crate) fn is_empty(&self) -> bool {
        self.text.len() == START.len()
    }

    /// The index that clients are answered with: valid also when it is empty.
    pub fn into_text(mut self) -> String {
        self.text.push_str(END);
        self.text
    }

    fn push(&mut self, descriptor: &str, artifact_types: &[String]) {
        // What is no object is no descriptor.
        if !descriptor.starts_with('{') || !is_wanted(descriptor, artifact_types) {
            return;
        }
        if !self.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(descriptor);
    }
}

fn is_wanted(descriptor: &str, artifact_types: &[String]) -> bool {
    let is = |kind: TypedDescriptor<'_>| {
        let own = kind.artifact_type;
        own.is_some_and(|own| artifact_types.iter().any(|wanted| *wanted == own))
    };
    artifact_types.is_empty() || serde_json::from_str(descriptor).is_ok_and(is)
}

/// Reads an index into referrers.
struct ReferrersIndex<'r> {
    referrers: &'r mut Referrers,
    artifact_types: &'r [String],
    /// Whether it has `manifests`.
    found: &'r mut bool,
}

impl<'de> DeserializeSeed<'de> for ReferrersIndex<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ReferrersIndex<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            if let IndexKey::Other = key {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            if *self.found {
                return Err(A::Error::duplicate_field("manifests"));
            }
            *self.found = true;
            map.next_value_seed(Descriptors {
                referrers: &mut *self.referrers,
                artifact_types: self.artifact_types,
            })?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum IndexKey {
    Manifests,
    #[serde(other)]
    Other,
}

/// The value of `manifests`. Go writes an empty list as null.
struct Descriptors<'r> {
    referrers: &'r mut Referrers,
    artifact_types: &'r [String],
}

impl<'de> DeserializeSeed<'de> for Descriptors<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Descriptors<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("descriptors")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(descriptor) = list.next_element::<&RawValue>()? {
            self.referrers.push(descriptor.get(), self.artifact_types);
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
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
    use serde_json::{Value, json};

    use super::*;
    use crate::oci::digest::Algorithm;
    use crate::oci::manifest::OCI_INDEX;

    fn of(pages: &[&str], artifact_types: &[&str]) -> Option<Value> {
        let artifact_types: Vec<_> = artifact_types.iter().map(|kind| (*kind).into()).collect();
        let mut referrers = Referrers::default();
        for page in pages {
            referrers.add(page.as_bytes(), &artifact_types).ok()?;
        }
        serde_json::from_str(&referrers.into_text()).unwrap()
    }

    #[test]
    fn a_list_is_filtered_by_any_of_the_types_and_stays_an_index() {
        let pages = [
            r#"{"manifests":[ {"artifactType": "a/b", "size": 1, "x": [ "kept" ]} , 5, null]}"#,
            r#"{"x":{},"manifests":[{"artifactType":"c\/d"},{"size":2},{"artifactType":7}]}"#,
            r#"{"manifests":null}"#,
        ];
        let index = |manifests: Value| json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let kept = json!({"artifactType": "a/b", "size": 1, "x": ["kept"]});
        let all = json!([kept, {"artifactType": "c/d"}, {"size": 2}, {"artifactType": 7}]);
        assert_eq!(of(&pages, &[]), Some(index(all)));
        let some = json!([{"artifactType": "c/d"}]);
        assert_eq!(of(&pages, &["c/d", "e/f"]), Some(index(some)));
        assert_eq!(of(&pages, &["none/such"]), Some(index(json!([]))));
        assert_eq!(of(&[], &[]), Some(index(json!([]))));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"manifests":{}}"#,
            r#"{"layers":[]}"#,
            r#"{"manifests":[]} x"#,
            r#"{"manifests":[],"manifests":[{}]}"#,
        ] {
            assert_eq!(of(&[text], &[]), None, "{text}");
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
