//! The image that is meant by a client that knows no index.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::media_type::ManifestShape;
use crate::oci::digest::Digest;

#[derive(Deserialize)]
struct IndexFields<'a> {
    #[serde(borrow)]
    manifests: Found<'a>,
}

/// The best child so far: an index of 4 MiB costs no memory but this.
struct Found<'a>(Option<Child<'a>>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Child<'a> {
    #[serde(borrow)]
    media_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    digest: Cow<'a, str>,
    #[serde(borrow)]
    platform: Option<Platform<'a>>,
}

#[derive(Deserialize)]
struct Platform<'a> {
    #[serde(borrow)]
    os: Cow<'a, str>,
    #[serde(borrow)]
    architecture: Cow<'a, str>,
    #[serde(borrow)]
    variant: Option<Cow<'a, str>>,
}

/// The manifest for linux/amd64, which is what docker/distribution gives to such a client; of several, one that any such
/// machine can run. `None` where there is none, or where the index cannot be read without doubt.
pub(crate) fn usual_image(index: &[u8]) -> Option<Digest> {
    let index: IndexFields<'_> = serde_json::from_slice(index).ok()?;
    index.manifests.0?.digest.parse().ok()
}

impl Child<'_> {
    fn is_usual(&self) -> bool {
        let shape = self.media_type.as_deref().map(ManifestShape::of);
        let usual = |it: &Platform<'_>| it.os == "linux" && it.architecture == "amd64";
        shape != Some(ManifestShape::Index) && self.platform.as_ref().is_some_and(usual)
    }

    /// Whether it needs more than the first processors of its kind (`v3`).
    fn has_variant(&self) -> bool {
        let variant = self.platform.as_ref().and_then(|it| it.variant.as_deref());
        variant.is_some_and(|variant| !matches!(variant, "" | "v1"))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Found<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Option<Child<'de>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("descriptors")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut best: Option<Child<'de>> = None;
                while let Some(child) = list.next_element::<Child<'de>>()? {
                    let better = |best: &Child<'_>| best.has_variant() && !child.has_variant();
                    if child.is_usual() && best.as_ref().is_none_or(better) {
                        best = Some(child);
                    }
                }
                Ok(best)
            }
        }
        deserializer.deserialize_seq(List).map(Found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::{Manifest, OCI_INDEX};
    use super::*;

    fn child(text: &str, os: &str, architecture: &str) -> Value {
        let digest = Digest::of(text.as_bytes()).to_string();
        json!({"digest": digest, "size": 1, "platform": {"os": os, "architecture": architecture}})
    }

    fn with(mut child: Value, at: &str, value: &str) -> Value {
        *child.pointer_mut(at).unwrap() = value.into();
        child
    }

    fn of(manifests: &[Value]) -> Option<Digest> {
        usual_image(
            json!({"schemaVersion": 2, "manifests": manifests})
                .to_string()
                .as_bytes(),
        )
    }

    #[test]
    fn it_is_the_one_for_linux_on_amd64() {
        let amd64 = child("a", "linux", "amd64");
        let a = Some(Digest::of(b"a"));
        let others = [
            child("b", "linux", "arm64"),
            child("c", "windows", "amd64"),
            child("d", "unknown", "unknown"),
            json!({"digest": Digest::of(b"e").to_string(), "mediaType": "x/y"}),
        ];
        assert_eq!(of(&others), None);
        assert_eq!(of(&[&others[..], std::slice::from_ref(&amd64)].concat()), a);
        // The first of two that are the same, but one without a variant rather than one for newer machines.
        let variant = |name: &str| {
            let mut child = child(name, "linux", "amd64");
            child["platform"]["variant"] = name.into();
            child
        };
        assert_eq!(of(&[amd64.clone(), child("b", "linux", "amd64")]), a);
        assert_eq!(of(&[variant("v3"), amd64.clone()]), a);
        assert_eq!(of(&[variant("v3"), variant("v2")]), Some(Digest::of(b"v3")));
        // An index in an index is what such a client does not know either.
        let mut nested = amd64;
        nested["mediaType"] = OCI_INDEX.into();
        assert_eq!(of(&[nested]), None);
    }

    #[test]
    fn what_is_in_doubt_is_not_read() {
        let amd64 = child("a", "linux", "amd64");
        assert_eq!(of(&[with(amd64, "/digest", "sha256:00")]), None);
        for text in [
            "",
            "{}",
            "[]",
            r#"{"manifests": {}}"#,
            r#"{"manifests": null}"#,
            r#"{"manifests": [1]}"#,
            r#"{"manifests": [], "manifests": []}"#,
        ] {
            assert_eq!(usual_image(text.as_bytes()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_one_of_those_that_the_index_names(choices in prop::collection::vec((0..3_usize, 0..3_usize, 0..3_usize), 0..6)) {
            let children: Vec<_> = choices.iter().enumerate().map(|(at, (os, architecture, variant))| {
                let mut child = child(&at.to_string(), ["linux", "windows", "unknown"][*os], ["amd64", "arm64", ""][*architecture]);
                if *variant > 0 {
                    child["platform"]["variant"] = ["", "v2", "v3"][*variant].into();
                }
                child
            }).collect();
            let found = of(&children);
            prop_assert_eq!(found.is_some(), choices.iter().any(|(os, architecture, _)| (*os, *architecture) == (0, 0)));
            let index = json!({"schemaVersion": 2, "manifests": children}).to_string();
            let named = Manifest::parse(Some(OCI_INDEX), index.as_bytes()).unwrap().manifests;
            prop_assert!(found.is_none_or(|found| named.iter().any(|it| it.digest == found)));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = usual_image(&bytes);
        }
    }
}
