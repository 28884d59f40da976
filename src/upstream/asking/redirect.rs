//! Redirects: where they lead, and which are not followed. Whether the address there may be connected to is judged when
//! that is done.

use http::header::LOCATION;
use http::{Response, Uri};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;

use crate::oci::endpoint::Endpoint;
use crate::upstream::error::Error;
use crate::upstream::wire::http::parse_uri;

/// Where a redirect leads; `None` when the response is not one.
pub(super) fn redirect(response: &Response<Incoming>, from: &Uri) -> Result<Option<Uri>, Error> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response
        .headers()
        .get(LOCATION)
        .and_then(|value| value.to_str().ok());
    let location =
        location.ok_or_else(|| Error::wrong("a redirect without Location".to_owned()))?;
    let next = resolve(from, location)
        .ok_or_else(|| Error::wrong("a redirect to what is not a URL".to_owned()))?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(Error::wrong(
            "a redirect from https to plain http".to_owned(),
        ));
    }
    Ok(Some(next))
}

/// Whether what answers at `at` is a registry, so that what it says of the question is its word: the path is that of the
/// API, with the same end. `lscr.io` redirects to `ghcr.io` so. Any other URL is one of storage.
pub(super) fn is_registrys(endpoint: &Endpoint, at: &Uri) -> bool {
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

/// Resolves a Location against the URL it came from (RFC 3986 5.2, as far as registries use it).
fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    if location.starts_with("https://") || location.starts_with("http://") {
        return parse_uri(location).ok();
    }
    let scheme = from.scheme_str()?;
    if location.starts_with("//") {
        return parse_uri(&format!("{scheme}:{location}")).ok();
    }
    let authority = from.authority()?;
    if location.starts_with('/') {
        return parse_uri(&format!("{scheme}://{authority}{location}")).ok();
    }
    let directory = from
        .path()
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory);
    parse_uri(&format!("{scheme}://{authority}{directory}/{location}")).ok()
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
            "https://ghcr.io/v2/linuxserver/x/manifests/DIGEST",
        ] {
            assert!(!is(&blob, &storage.replace("DIGEST", &digest)), "{storage}");
        }
        assert!(is(&Endpoint::Base, "https://r.example/v2"));
        assert!(!is(&Endpoint::Base, "https://r.example/login"));
    }

    fn resolved(location: &str) -> String {
        resolve(
            &"https://r.example/v2/a/blobs/x?y".parse().unwrap(),
            location,
        )
        .unwrap()
        .to_string()
    }

    #[test]
    fn a_location_may_be_absolute_or_relative() {
        assert_eq!(
            resolved("http://cdn.example/z?sig=1"),
            "http://cdn.example/z?sig=1"
        );
        assert_eq!(
            resolved("/artifacts-downloads/z"),
            "https://r.example/artifacts-downloads/z"
        );
        assert_eq!(resolved("//cdn.example/z"), "https://cdn.example/z");
        assert_eq!(
            resolved("https://me:hunter2@cdn.example/z"),
            "https://cdn.example/z"
        );
        assert_eq!(resolved("//me@cdn.example/z"), "https://cdn.example/z");
        assert_eq!(resolved("z"), "https://r.example/v2/a/blobs/z");
    }
}
