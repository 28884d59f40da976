//! Media types: those of manifests, and finding out which one a body has.

use super::error::ManifestError;

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Withdrawn before version 1.1 of the image-spec, but some registries have them.
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's image manifest, version 2, schema 1, with its signatures.
pub(super) const DOCKER_SCHEMA1_SIGNED: &str =
    "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The same without signatures.
pub(super) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// What a registry says that knows nothing better.
const JSON: &str = "application/json";

/// What to `Accept` from upstream.
///
/// Everything, so that one stored answer serves every client; in an order of preference, because
/// docker/distribution converts to schema 1, and other registries answer 404, when the stored type
/// is not in the list.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5, \
     */*;q=0.1";

/// What a manifest is, and so which of its fields name something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ManifestShape {
    Image,
    Index,
    Artifact,
    Schema1,
    SignedSchema1,
    /// A kind that came after this program, or that is of no interest to it.
    Other,
}

impl ManifestShape {
    pub(super) fn of(media_type: &str) -> Self {
        let kinds = [
            (OCI_MANIFEST, Self::Image),
            (DOCKER_MANIFEST, Self::Image),
            (OCI_INDEX, Self::Index),
            (DOCKER_LIST, Self::Index),
            (OCI_ARTIFACT, Self::Artifact),
            (DOCKER_SCHEMA1, Self::Schema1),
            (DOCKER_SCHEMA1_SIGNED, Self::SignedSchema1),
        ];
        let found = kinds
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(media_type));
        found.map_or(Self::Other, |(_, kind)| kind)
    }
}

/// The type that the bytes of a manifest say.
pub(super) enum OwnType {
    /// Its `mediaType`, which older manifests lack.
    Written(String),
    /// What the fields it has say.
    Shape(&'static str),
}

impl OwnType {
    pub(super) fn written(text: &str) -> Option<Self> {
        specific(text).map(|name| Self::Written(name.to_owned()))
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Self::Written(name) => name,
            Self::Shape(name) => name,
        }
    }
}

/// The media type of a manifest: what upstream's `Content-Type` says (OCI distribution-spec, "Pulling manifests"),
/// unless that is what a file server says of any file, or what no manifest can be; then what the bytes say. Where both
/// name one, they must agree (image-spec, manifest.md, `mediaType`). What is not JSON is no manifest.
///
/// In lower case: types are the same in any case (RFC 9110 8.3.1), and not every client knows that.
pub(super) fn resolve(
    content_type: Option<&str>,
    own: Option<&OwnType>,
) -> Result<String, ManifestError> {
    // A label that no manifest can have says nothing.
    let said = content_type.and_then(stated);
    if let (Some(said), Some(OwnType::Written(own))) = (&said, own)
        && !said.eq_ignore_ascii_case(own)
    {
        return Err(ManifestError::TwoTypes {
            said: said.clone(),
            own: own.clone(),
        });
    }
    let bare = content_type.and_then(bare);
    let name = said
        .as_deref()
        .or(own.map(OwnType::name))
        .or(bare)
        .unwrap_or("nothing");
    match is_manifest(name) {
        true => Ok(name.to_ascii_lowercase()),
        false => Err(ManifestError::NoType(name.to_owned())),
    }
}

/// The type of a manifest that a `Content-Type` states without its bytes, in lower case.
pub(crate) fn stated(content_type: &str) -> Option<String> {
    let name = specific(content_type).filter(|name| is_manifest(name));
    name.map(str::to_ascii_lowercase)
}

/// Whether manifests of this type are known here.
pub(crate) fn is_known(media_type: &str) -> bool {
    ManifestShape::of(media_type) != ManifestShape::Other
}

/// Whether the type of a manifest says no more than that it is JSON.
pub(crate) fn is_generic(media_type: &str) -> bool {
    media_type == JSON
}

/// Whether a manifest can be of this type. All that exist are JSON, those to come as well; which they will be, a mirror
/// need not know. A browser shows none of them as a page.
fn is_manifest(name: &str) -> bool {
    let Some((kind, subtype)) = name.split_once('/') else {
        return false;
    };
    let suffix = subtype.rsplit_once('+').map(|(_, suffix)| suffix);
    let json = |suffix: &str| {
        ["json", "prettyjws"]
            .iter()
            .any(|it| it.eq_ignore_ascii_case(suffix))
    };
    name.eq_ignore_ascii_case(JSON)
        || kind.eq_ignore_ascii_case("application") && suffix.is_some_and(json)
}

/// Whether a descriptor with this media type is of a blob: it says something, and none of the types of manifests. Clients
/// go by the same types; the one that a new kind of manifest has, they fetch as a blob until they know it.
pub(super) fn is_of_no_manifest(media_type: &str) -> bool {
    bare(media_type).is_some_and(|name| ManifestShape::of(name) == ManifestShape::Other)
}

/// A media type that says more than "a file", without its parameters.
fn specific(value: &str) -> Option<&str> {
    let generic = [
        "text/plain",
        JSON,
        "application/octet-stream",
        "binary/octet-stream",
    ];
    bare(value).filter(|name| !generic.iter().any(|kind| name.eq_ignore_ascii_case(kind)))
}

/// A media type without its parameters.
fn bare(value: &str) -> Option<&str> {
    let name = value.split(';').next().unwrap_or(value).trim();
    is_media_type(name).then_some(name)
}

/// RFC 9110 8.3.1: two tokens around a slash. Checked, because a body's `mediaType` becomes a
/// header.
fn is_media_type(name: &str) -> bool {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    name.len() <= 255
        && name
            .split_once('/')
            .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_prefers_oci_and_lists_what_there_is() {
        let offered: Vec<_> = ACCEPT.split(", ").collect();
        let schema1 = format!("{DOCKER_SCHEMA1_SIGNED};q=0.5");
        assert_eq!(
            offered,
            [
                OCI_INDEX,
                OCI_MANIFEST,
                DOCKER_LIST,
                DOCKER_MANIFEST,
                &schema1,
                "*/*;q=0.1"
            ]
        );
    }

    #[test]
    fn what_an_index_lists_is_a_blob_if_its_type_is_no_manifests() {
        for name in [
            "application/vnd.buildkit.cacheconfig.v0",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.oci.image.config.v1+json",
            "application/json",
        ] {
            assert!(is_of_no_manifest(name), "{name}");
        }
        for name in [
            OCI_MANIFEST,
            OCI_ARTIFACT,
            DOCKER_LIST,
            DOCKER_SCHEMA1,
            "Application/VND.oci.image.index.v1+JSON; charset=utf-8",
            "",
            "manifest",
            "<html>",
        ] {
            assert!(!is_of_no_manifest(name), "{name}");
        }
    }

    #[test]
    fn what_no_manifest_can_be_is_no_type_of_one() {
        for name in [
            OCI_MANIFEST,
            DOCKER_SCHEMA1_SIGNED,
            "application/vnd.wasm.manifest.v0+json",
            "Application/Vnd.X+JSON",
        ] {
            let written = format!("{name}; charset=utf-8");
            assert_eq!(stated(&written), Some(name.to_ascii_lowercase()));
        }
        for name in [
            "text/html",
            "text/x+json",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/javascript",
            "application/+json; x\r\n",
            "json",
            "",
        ] {
            assert!(!is_manifest(name) || stated(name).is_none(), "{name}");
        }
    }
}
