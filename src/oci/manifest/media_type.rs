//! Media types: those of manifests, and finding out which one a body has.

use serde_json::{Map, Value};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest, version 2, schema 1, with its signatures.
pub(crate) const DOCKER_SCHEMA1_SIGNED: &str =
    "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The same without signatures.
pub(crate) const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";

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

const UNKNOWN: &str = "application/octet-stream";

/// The media type of a manifest: what upstream's `Content-Type` says, without parameters (OCI
/// distribution-spec, "Pulling manifests"), unless that is what a file server says of any file;
/// then the body's own `mediaType`, which older manifests lack; then what its shape suggests; then
/// the `Content-Type` after all, and `application/octet-stream` if there is none.
pub fn media_type_of(content_type: Option<&str>, body: &[u8]) -> String {
    content_type
        .and_then(specific)
        .map(str::to_owned)
        .unwrap_or_else(|| {
            let object: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
            let own = object
                .get("mediaType")
                .and_then(Value::as_str)
                .and_then(specific);
            own.or_else(|| shape(&object))
                .or_else(|| content_type.and_then(bare))
                .unwrap_or(UNKNOWN)
                .to_owned()
        })
}

/// A media type that says more than "a file", without its parameters.
pub(crate) fn specific(value: &str) -> Option<&str> {
    let generic = ["text/plain", "application/json", UNKNOWN];
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
    name.split_once('/')
        .is_some_and(|(kind, subtype)| token(kind) && token(subtype))
}

/// OCI manifests may leave `mediaType` out, and are then told apart by what they hold.
fn shape(object: &Map<String, Value>) -> Option<&'static str> {
    let has = |field| object.contains_key(field);
    if has("manifests") {
        Some(OCI_INDEX)
    } else if has("config") && has("layers") {
        Some(OCI_MANIFEST)
    } else if has("fsLayers") && has("signatures") {
        Some(DOCKER_SCHEMA1_SIGNED)
    } else if has("fsLayers") {
        Some(DOCKER_SCHEMA1)
    } else {
        None
    }
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
                "application/vnd.docker.distribution.manifest.list.v2+json",
                "application/vnd.docker.distribution.manifest.v2+json",
                &schema1,
                "*/*;q=0.1"
            ]
        );
    }

    #[test]
    fn content_type_wins_unless_it_says_nothing() {
        let body = br#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
        assert_eq!(
            media_type_of(Some("application/vnd.x+json; charset=utf-8"), body),
            "application/vnd.x+json"
        );
        for empty in [
            None,
            Some(""),
            Some(" ; x"),
            Some("text/plain; charset=utf-8"),
            Some("Application/JSON"),
            Some(UNKNOWN),
        ] {
            assert_eq!(media_type_of(empty, body), OCI_INDEX, "{empty:?}");
        }
    }

    #[test]
    fn shape_decides_when_nothing_is_said() {
        for (body, expected) in [
            (r#"{"manifests":[]}"#, OCI_INDEX),
            (r#"{"config":{},"layers":[]}"#, OCI_MANIFEST),
            (r#"{"fsLayers":[],"signatures":[]}"#, DOCKER_SCHEMA1_SIGNED),
            (r#"{"fsLayers":[]}"#, DOCKER_SCHEMA1),
            (
                r#"{"mediaType":"a/b\r\nSet-Cookie: x","manifests":[]}"#,
                OCI_INDEX,
            ),
            ("{}", UNKNOWN),
            ("<html>", UNKNOWN),
        ] {
            assert_eq!(media_type_of(None, body.as_bytes()), expected, "{body}");
        }
    }

    #[test]
    fn a_type_that_says_little_was_replaced_by_one_that_says_nothing() {
        for (said, expected) in [
            ("application/json; charset=utf-8", "application/json"),
            ("text/plain", "text/plain"),
            ("not a type", UNKNOWN),
            ("a/b\r\nSet-Cookie: x", UNKNOWN),
        ] {
            assert_eq!(media_type_of(Some(said), br#"{"some":"thing"}"#), expected);
        }
    }
}
