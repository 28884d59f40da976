//! Who answers where a redirect led.

use http::Uri;
use percent_encoding::percent_decode_str;

use crate::oci::endpoint::Endpoint;

/// What signed URLs have in their query.
const SIGNATURES: [&str; 5] = [
    "X-Amz-Signature",
    "X-Goog-Signature",
    "Signature",
    "sig",
    "Expires",
];

/// Whether what answers at `at` is a registry, so that what it says of the question is its word: the path is that of the
/// API, with the same end. `lscr.io` redirects to `ghcr.io` so. Any other URL is one of storage, and so is one that is
/// signed, as storage alone wants it.
pub(super) fn is_registrys(endpoint: &Endpoint, at: &Uri) -> bool {
    if is_signed(at) {
        return false;
    }
    let asked = endpoint.path();
    let path = percent_decode_str(at.path()).decode_utf8_lossy();
    let Some(repository) = endpoint.repository() else {
        return path
            .trim_end_matches('/')
            .ends_with(asked.trim_end_matches('/'));
    };
    // `/v2/`, a name which may be another one there, and the rest.
    let name = "/v2/".len() + repository.as_str().len();
    let before = asked
        .get(name..)
        .and_then(|rest| path.strip_suffix(rest))
        .and_then(|before| before.split_once("/v2/"));
    before.is_some_and(|(_, name)| !name.is_empty())
}

/// Whether the query has a signature: of S3, CloudFront, Google, Azure and those who do as they do.
fn is_signed(at: &Uri) -> bool {
    let query = at.query().unwrap_or_default();
    form_urlencoded::parse(query.as_bytes()).any(|(name, _)| {
        let mut signatures = SIGNATURES.iter();
        signatures.any(|signature| name.eq_ignore_ascii_case(signature))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_told_from_storage_by_the_path() {
        let repository = "linuxserver/x".parse().unwrap();
        let digest = format!("sha256:{}", "a1".repeat(32));
        let blob = Endpoint::Blob {
            repository,
            digest: digest.parse().unwrap(),
        };
        let is = |endpoint: &Endpoint, at: &str| is_registrys(endpoint, &at.parse().unwrap());
        for registry in [
            "https://lscr.io/v2/linuxserver/x/blobs/DIGEST",
            "https://ghcr.io/v2/another/name/blobs/DIGEST",
            "https://r.example/artifactory/api/docker/hub/v2/x/blobs/DIGEST?ns=lscr.io",
            "https://r.example/v2/x/blobs/DIGEST?signed=sig",
        ] {
            assert!(
                is(&blob, &registry.replace("DIGEST", &digest)),
                "{registry}"
            );
            let encoded = digest.replace(':', "%3A");
            assert!(
                is(&blob, &registry.replace("DIGEST", &encoded)),
                "{registry}"
            );
        }
        for storage in [
            "https://pkg-containers.githubusercontent.com/ghcr1/blobs/DIGEST?sig=x",
            "https://s3.example/containers/images/DIGEST",
            "https://s3.example/docker/registry/v2/blobs/sha256/a1/a1a1/data?X-Amz-Signature=x",
            "https://europe-docker.pkg.dev/artifacts-downloads/namespaces/x/downloads/y",
            "https://s3.example/v2/blobs/DIGEST",
            "https://s3.example/v2/x/blobs/DIGEST?X-Amz-Date=1&X-Amz-Signature=x",
            "https://s3.example/v2/x/blobs/DIGEST?x-goog-signature=x",
            "https://s3.example/v2/x/blobs/DIGEST?Expires=1&Key-Pair-Id=k&Signature=x",
            "https://s3.example/v2/x/blobs/DIGEST?sv=2024&SIG=x",
            "https://ghcr.io/v2/linuxserver/x/manifests/DIGEST",
        ] {
            assert!(!is(&blob, &storage.replace("DIGEST", &digest)), "{storage}");
        }
        assert!(is(&Endpoint::Base, "https://r.example/v2"));
        assert!(!is(&Endpoint::Base, "https://r.example/login"));
    }
}
