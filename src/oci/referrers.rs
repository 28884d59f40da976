//! Referrers: the manifests whose `subject` is a given one (OCI distribution-spec, "Listing Referrers"),
//! told as an index of their descriptors.

use std::borrow::Cow;
use std::collections::HashSet;
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

/// Which descriptors are added.
#[derive(Clone, Copy)]
enum Filter<'f> {
    /// Those of one of these artifact types, or all, if none is named.
    Types(&'f [String]),
    /// All but those of these digests.
    Without(&'f HashSet<Digest>),
}

/// All that is read of a descriptor.
#[derive(Deserialize)]
struct TypedDescriptor<'d> {
    #[serde(borrow, rename = "artifactType")]
    artifact_type: Option<Cow<'d, str>>,
}

/// The same, for its digest.
#[derive(Deserialize)]
struct NamedDescriptor {
    digest: Digest,
}

/// What a manifest says it refers to.
#[derive(Deserialize)]
struct Referrer {
    subject: Option<NamedDescriptor>,
}

impl Default for Referrers {
    fn default() -> Self {
        Self { text: START.into() }
    }
}

impl Referrers {
    /// Adds the descriptors of an index: those of one of these artifact types, or all, if none is named.
    pub fn add(&mut self, index: &[u8], artifact_types: &[String]) -> Result<(), NoIndex> {
        self.read(index, Filter::Types(artifact_types))
    }

    /// The same, of all but those of these digests.
    pub(crate) fn add_without(
        &mut self,
        index: &[u8],
        digests: &HashSet<Digest>,
    ) -> Result<(), NoIndex> {
        self.read(index, Filter::Without(digests))
    }

    fn read(&mut self, index: &[u8], filter: Filter<'_>) -> Result<(), NoIndex> {
        let mut json = serde_json::Deserializer::from_slice(index);
        let mut found = false;
        let read = ReferrersIndex {
            referrers: self,
            filter,
            found: &mut found,
        };
        let read = read.deserialize(&mut json).and_then(|()| json.end());
        read.ok().filter(|()| found).ok_or(NoIndex)
    }

    /// How much text they are.
    pub(crate) fn length(&self) -> usize {
        self.text.len()
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

    fn push(&mut self, descriptor: &str, filter: Filter<'_>) {
        // What is no object is no descriptor.
        if !descriptor.starts_with('{') || !filter.wants(descriptor) {
            return;
        }
        if !self.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(descriptor);
    }
}

impl Filter<'_> {
    fn wants(self, descriptor: &str) -> bool {
        match self {
            Self::Types(types) => {
                let is = |kind: TypedDescriptor<'_>| {
                    let own = kind.artifact_type;
                    own.is_some_and(|own| types.iter().any(|wanted| *wanted == own))
                };
                types.is_empty() || serde_json::from_str(descriptor).is_ok_and(is)
            }
            Self::Without(digests) => {
                let is = |named: NamedDescriptor| digests.contains(&named.digest);
                digests.is_empty() || !serde_json::from_str(descriptor).is_ok_and(is)
            }
        }
    }
}

/// Whether an index that was written by [`Referrers::into_text`] lists anything.
pub(crate) fn lists_any(text: &[u8]) -> bool {
    text.len() > START.len() + END.len()
}

/// Whether a manifest refers to `subject`; `None` if that cannot be read.
pub(crate) fn refers_to(manifest: &[u8], subject: &Digest) -> Option<bool> {
    let read: Referrer = serde_json::from_slice(manifest).ok()?;
    Some(read.subject.is_some_and(|named| named.digest == *subject))
}

/// Reads an index into referrers.
struct ReferrersIndex<'r> {
    referrers: &'r mut Referrers,
    filter: Filter<'r>,
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
                filter: self.filter,
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
    filter: Filter<'r>,
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
            self.referrers.push(descriptor.get(), self.filter);
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
    fn what_refers_to_something_else_is_left_out() {
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let index = json!({"manifests": [{"digest": one}, {"digest": two, "x": [1]}, {"digest": "sha256:1"}, {}, 1]});
        let without = |digests: &[&Digest]| {
            let mut referrers = Referrers::default();
            let digests = digests.iter().copied().cloned().collect();
            referrers
                .add_without(index.to_string().as_bytes(), &digests)
                .unwrap();
            let listed: Value = serde_json::from_str(&referrers.into_text()).unwrap();
            listed["manifests"].clone()
        };
        assert_eq!(without(&[]).as_array().unwrap().len(), 4);
        assert_eq!(
            without(&[&one]),
            json!([{"digest": two, "x": [1]}, {"digest": "sha256:1"}, {}])
        );
        let refers = |text: &str| refers_to(text.as_bytes(), &one);
        let of = |digest: &Digest| json!({"layers": [], "subject": {"digest": digest}}).to_string();
        assert_eq!(
            (refers(&of(&one)), refers(&of(&two))),
            (Some(true), Some(false))
        );
        assert_eq!(
            (refers("{}"), refers(r#"{"subject":null}"#)),
            (Some(false), Some(false))
        );
        for unclear in [
            "",
            "[]x",
            r#"{"subject":1}"#,
            r#"{"subject":{"digest":"x"}}"#,
        ] {
            assert_eq!(refers(unclear), None, "{unclear}");
        }
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
