//! Manifests and indexes: the little of them that a mirror reads.
//!
//! A manifest is bytes with a digest. They are stored and served exactly as they came; what is read here only says which
//! type they are, and which blobs and manifests they name. What cannot be understood is passed over, because the client
//! may understand it. But only what every reader understands in the same way is believed: see `opaque` in [`fields`].

mod error;
mod fields;
mod media_type;
mod platform;
mod schema1;

use super::digest::Digest;
pub use error::ManifestError;
pub use fields::{Descriptor, Looks};
use fields::{Field, Fields};
pub(crate) use media_type::{ACCEPT, OCI_INDEX, is_generic, is_known, stated};
use media_type::{ManifestShape, OwnType};
pub(crate) use platform::usual_image;

/// What a manifest or an index names: OCI image-spec, manifest.md and image-index.md, and their
/// Docker ancestors.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    /// What it is, as `Content-Type` and the bytes say in agreement.
    pub media_type: String,
    /// Whether the bytes alone say that type, so that it does not matter who said it.
    pub self_described: bool,
    /// Whether the bytes alone show that they are a manifest.
    pub looks: Looks,
    /// The blobs it names in the fields that its type defines: registries check no other ones. Repetitions included.
    pub blobs: Vec<Descriptor>,
    /// An index's `manifests`.
    pub manifests: Vec<Descriptor>,
}

/// Whether `digest` is that of a manifest of this type with these bytes.
///
/// It is the digest of the bytes, except for signed schema 1 manifests, where registries also mean that of the
/// payload without its signatures.
pub fn is_digest_of(digest: &Digest, media_type: &str, bytes: &[u8]) -> bool {
    let of = |bytes: &[u8]| {
        let mut hasher = digest.hasher();
        hasher.update(bytes);
        hasher.finish()
    };
    let signed = || schema1::payload(bytes).is_some_and(|payload| of(&payload) == *digest);
    of(bytes) == *digest
        || ManifestShape::of(media_type) == ManifestShape::SignedSchema1 && signed()
}

/// Whether this is the type of an index, which names manifests and no blobs.
pub(crate) fn is_index(media_type: &str) -> bool {
    ManifestShape::of(media_type) == ManifestShape::Index
}

/// Whether this is the type of a manifest of one image.
pub(crate) fn is_of_one_image(media_type: &str) -> bool {
    use ManifestShape::{Image, Schema1, SignedSchema1};
    matches!(
        ManifestShape::of(media_type),
        Image | Schema1 | SignedSchema1
    )
}

impl Manifest {
    /// Reads a manifest of any kind that came with this `Content-Type`. Unknown fields, fields of the wrong type, and
    /// descriptors whose digest cannot be verified are passed over.
    pub fn parse(content_type: Option<&str>, bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut fields: Fields = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
        let own = fields.own_type();
        let media_type = media_type::resolve(content_type, own.as_ref())?;
        let agrees = |own: &OwnType| own.name().eq_ignore_ascii_case(&media_type);
        let mut named = |field| fields.take(field);
        let (blobs, manifests) = match ManifestShape::of(&media_type) {
            ManifestShape::Image => {
                let mut blobs = named(Field::Config);
                blobs.extend(named(Field::Layers));
                (blobs, Vec::new())
            }
            ManifestShape::Index => (Vec::new(), named(Field::Manifests)),
            ManifestShape::Artifact => (named(Field::Blobs), Vec::new()),
            ManifestShape::Schema1 | ManifestShape::SignedSchema1 => {
                (named(Field::FsLayers), Vec::new())
            }
            ManifestShape::Other => Default::default(),
        };
        Ok(Self {
            self_described: own.as_ref().is_some_and(agrees),
            looks: fields.looks(),
            media_type,
            blobs,
            manifests,
        })
    }
}

#[cfg(test)]
mod tests;
