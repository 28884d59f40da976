//! Manifests and indexes: the little of them that a mirror reads.
//!
//! A manifest is bytes with a digest. They are stored and served exactly as they came; what is read
//! here only says which blobs, manifests and subject they name. Hence the leniency: what cannot be
//! understood is passed over, never refused, because the client may understand it.

mod media_type;
mod schema1;

use std::fmt;

use serde_json::{Map, Value};

use super::digest::Digest;
pub use media_type::*;

/// A reference to content: OCI image-spec, descriptor.md.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// The content's digest.
    pub digest: Digest,
    /// The content's length in bytes, or 0 where the manifest does not say (Docker's schema 1 never
    /// does).
    pub size: u64,
    /// Whether it has `urls` and so need not be in the registry that has the manifest.
    pub elsewhere: bool,
}

/// What a manifest or an index names: OCI image-spec, manifest.md and image-index.md, and their
/// Docker ancestors.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// `config`, `layers`, schema 1's `fsLayers` and the withdrawn OCI artifact's `blobs`, in that
    /// order, repetitions included.
    pub blobs: Vec<Descriptor>,
    /// An index's `manifests`.
    pub manifests: Vec<Descriptor>,
}

/// Why bytes are not a manifest.
#[derive(Debug)]
pub enum ManifestError {
    /// They are not JSON, or there is something after it.
    Json(serde_json::Error),
    /// They are JSON, but not an object.
    NotAnObject,
}

/// Whether `digest` is that of a manifest with these bytes.
///
/// It is the digest of the bytes, except for signed schema 1 manifests, where registries also mean that of the
/// payload without its signatures.
pub fn is_digest_of(digest: &Digest, bytes: &[u8]) -> bool {
    let of = |bytes: &[u8]| {
        let mut hasher = digest.hasher();
        hasher.update(bytes);
        hasher.finish()
    };
    of(bytes) == *digest || schema1::payload(bytes).is_some_and(|payload| of(&payload) == *digest)
}

impl Manifest {
    /// Reads a manifest of any kind. Unknown fields, fields of the wrong type, and descriptors
    /// whose digest cannot be verified are passed over.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let object = object(bytes)?;
        let mut blobs: Vec<_> = object
            .get("config")
            .and_then(descriptor)
            .into_iter()
            .collect();
        blobs.extend(items(&object, "layers").filter_map(descriptor));
        blobs.extend(items(&object, "fsLayers").filter_map(schema1_layer));
        blobs.extend(items(&object, "blobs").filter_map(descriptor));
        Ok(Self {
            blobs,
            manifests: items(&object, "manifests").filter_map(descriptor).collect(),
        })
    }
}

/// Through `Value` and not a derived struct, which would refuse a repeated field.
fn object(bytes: &[u8]) -> Result<Map<String, Value>, ManifestError> {
    match serde_json::from_slice(bytes).map_err(ManifestError::Json)? {
        Value::Object(object) => Ok(object),
        _ => Err(ManifestError::NotAnObject),
    }
}

fn items<'a>(object: &'a Map<String, Value>, field: &str) -> impl Iterator<Item = &'a Value> {
    object
        .get(field)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn digest(value: Option<&Value>) -> Option<Digest> {
    value?.as_str()?.parse().ok()
}

fn descriptor(value: &Value) -> Option<Descriptor> {
    Some(Descriptor {
        digest: digest(value.get("digest"))?,
        size: value.get("size").and_then(Value::as_u64).unwrap_or(0),
        elsewhere: value.get("urls").is_some(),
    })
}

/// docker/distribution, manifest-v2-1.md: `{"blobSum": "sha256:..."}` and no size.
fn schema1_layer(value: &Value) -> Option<Descriptor> {
    Some(Descriptor {
        digest: digest(value.get("blobSum"))?,
        size: 0,
        elsewhere: false,
    })
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(error) => write!(f, "the manifest is not JSON: {error}"),
            Self::NotAnObject => f.write_str("the manifest is JSON but not an object"),
        }
    }
}

impl std::error::Error for ManifestError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Json(error) => Some(error),
            Self::NotAnObject => None,
        }
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(value: &Value) -> Manifest {
        Manifest::parse(value.to_string().as_bytes()).unwrap()
    }

    fn digests(descriptors: &[Descriptor]) -> Vec<&Digest> {
        descriptors
            .iter()
            .map(|descriptor| &descriptor.digest)
            .collect()
    }

    #[test]
    fn an_image_names_its_config_and_layers() {
        let [config, layer, subject] = [b"c", b"l", b"s"].map(|bytes| Digest::of(bytes));
        let manifest = parse(&json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/b", "annotations": { "x": "y" },
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 7 },
            "layers": [{ "digest": layer, "size": 9, "urls": [] }, { "digest": "blake3:00", "size": 1 }, "nonsense"],
            "subject": { "digest": subject, "size": 3 },
        }));
        assert_eq!(digests(&manifest.blobs), [&config, &layer]);
        assert!(manifest.manifests.is_empty());
    }

    #[test]
    fn an_index_names_manifests_and_old_forms_name_blobs() {
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let index = parse(
            &json!({ "manifests": [{ "digest": one, "size": 1 }, { "digest": two, "size": 2 }] }),
        );
        assert_eq!(digests(&index.manifests), [&one, &two]);

        let schema1 = parse(&json!({ "fsLayers": [{ "blobSum": one }, { "blobSum": one }] }));
        assert_eq!(digests(&schema1.blobs), [&one, &one]);

        let artifact = parse(&json!({ "blobs": [{ "digest": two, "size": 2 }] }));
        assert_eq!(digests(&artifact.blobs), [&two]);
    }

    #[test]
    fn null_and_repeated_fields_are_tolerated_and_nonsense_is_not() {
        let body =
            br#"{"layers":null,"subject":null,"mediaType":"a/b","mediaType":"c/d","config":5} "#;
        assert_eq!(Manifest::parse(body).unwrap(), Manifest::default());

        for nonsense in [
            "",
            "[]",
            "null",
            "\"x\"",
            "{} {}",
            "{}x",
            "{",
            "\u{feff}{}",
            "<html>",
        ] {
            assert!(Manifest::parse(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
        assert!(Manifest::parse("[".repeat(100_000).as_bytes()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>) {
            let _ = Manifest::parse(&bytes);
            let _ = media_type_of(None, &bytes);
        }
    }
}
