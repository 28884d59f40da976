//! Redirects: where they lead, and which are not followed. Whether the address there may be connected to is judged when
//! that is done.

use http::header::LOCATION;
use http::{Response, Uri};
use hyper::body::Incoming;

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
