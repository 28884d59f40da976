//! Redirects: where they lead, and which are not followed. Whether the address there may be connected to is judged when
//! that is done.

use http::header::LOCATION;
use http::{Response, Uri};
use hyper::body::Incoming;
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use crate::upstream::error::Error;

use super::http::parse_uri;

/// What a URL has only escaped (RFC 3986 2), besides what is not ASCII. Object stores and gateways send some of it as it is.
const NO_URL: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Where a redirect leads; `None` when the response is not one.
pub(crate) fn redirect(response: &Response<Incoming>, from: &Uri) -> Result<Option<Uri>, Error> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.headers().get(LOCATION);
    let location =
        location.ok_or_else(|| Error::wrong("a redirect without Location".to_owned()))?;
    let next = resolve(from, location.as_bytes())
        .ok_or_else(|| Error::wrong("a redirect to what is not a URL".to_owned()))?;
    if from.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
        return Err(Error::wrong(
            "a redirect from https to plain http".to_owned(),
        ));
    }
    Ok(Some(next))
}

/// Resolves a Location against the URL it came from (RFC 3986 5.2.2), and escapes what a URL may not have.
fn resolve(from: &Uri, location: &[u8]) -> Option<Uri> {
    let location = percent_encode(location.trim_ascii(), NO_URL).to_string();
    let location = location.split('#').next().unwrap_or_default();
    let base = from.scheme_str()?;
    let (scheme, rest) = match location.split_once(':') {
        Some((scheme, rest)) if is_http(scheme) && rest.starts_with("//") => {
            (scheme.to_ascii_lowercase(), rest)
        }
        // Another scheme, or http without a host.
        Some((scheme, rest)) if is_http(scheme) || rest.starts_with("//") && is_scheme(scheme) => {
            return None;
        }
        _ => (base.to_owned(), location),
    };
    let (authority, rest) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len())),
        None => (from.authority()?.as_str(), rest),
    };
    let is_elsewhere = rest.len() != location.len();
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let (directory, _) = from.path().rsplit_once('/').unwrap_or_default();
    let (path, query) = match path {
        "" if is_elsewhere => ("/".to_owned(), query),
        "" => (from.path().to_owned(), query.or(from.query())),
        path if path.starts_with('/') => (without_dots(path), query),
        path => (without_dots(&format!("{directory}/{path}")), query),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    parse_uri(&format!("{scheme}://{authority}{path}{query}")).ok()
}

fn is_http(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// RFC 3986 5.2.4. `path` begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                kept.pop();
            }
            segment => {
                kept.push(segment);
                continue;
            }
        }
        if is_last {
            kept.push("");
        }
    }
    format!("/{}", kept.join("/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(location: &str) -> Option<String> {
        let from = "https://r.example/v2/a/blobs/x?y".parse().unwrap();
        resolve(&from, location.as_bytes()).map(|uri| uri.to_string())
    }

    #[test]
    fn a_location_is_absolute_or_relative_in_every_way_of_the_rfc() {
        for (location, expected) in [
            ("http://cdn.example/z?sig=1", "http://cdn.example/z?sig=1"),
            ("HTTPS://cdn.example/z", "https://cdn.example/z"),
            ("Http://cdn.example:81", "http://cdn.example:81/"),
            ("https://cdn.example?sig=1", "https://cdn.example/?sig=1"),
            ("https://cdn.example/a/../z#part", "https://cdn.example/z"),
            (
                "/artifacts-downloads/z",
                "https://r.example/artifacts-downloads/z",
            ),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("//cdn.example", "https://cdn.example/"),
            ("https://me:hunter2@cdn.example/z", "https://cdn.example/z"),
            ("//me@cdn.example/z", "https://cdn.example/z"),
            ("z", "https://r.example/v2/a/blobs/z"),
            ("./z", "https://r.example/v2/a/blobs/z"),
            ("../z", "https://r.example/v2/a/z"),
            ("../../../../../z", "https://r.example/z"),
            ("..", "https://r.example/v2/a/"),
            (".", "https://r.example/v2/a/blobs/"),
            ("?sig=1", "https://r.example/v2/a/blobs/x?sig=1"),
            ("sha256:abc", "https://r.example/v2/a/blobs/sha256:abc"),
            ("", "https://r.example/v2/a/blobs/x?y"),
            (" /z\t", "https://r.example/z"),
            (
                "/a b/ü?n={1}|\"x\"",
                "https://r.example/a%20b/%C3%BC?n=%7B1%7D%7C%22x%22",
            ),
            ("/%2Fz?sig=a%2Bb+c", "https://r.example/%2Fz?sig=a%2Bb+c"),
            ("/\\evil.example/z", "https://r.example/%5Cevil.example/z"),
        ] {
            assert_eq!(resolved(location).as_deref(), Some(expected), "{location}");
        }
        for location in [
            "ftp://cdn.example/z",
            "http:/z",
            "https:z",
            "https:///z",
            "//",
        ] {
            assert_eq!(resolved(location), None, "{location}");
        }
    }

    proptest! {
        /// What is resolved is a URL with a host, and without dots; and it is the same URL when it is resolved again.
        #[test]
        fn any_location_is_a_url_or_none(location: Vec<u8>, tail in "(\\.{1,2}/|[a-z?#:/%]){0,12}") {
            let from: Uri = "https://r.example/v2/a/blobs/x?y".parse().unwrap();
            for location in [&location[..], tail.as_bytes()] {
                let Some(uri) = resolve(&from, location) else {
                    continue;
                };
                prop_assert!(uri.host().is_some_and(|host| !host.is_empty()));
                let is_dots = |segment: &str| segment == "." || segment == "..";
                prop_assert!(!uri.path().split('/').any(is_dots) || uri.path() == from.path(), "{uri}");
                prop_assert_eq!(resolve(&from, uri.to_string().as_bytes()), Some(uri));
            }
        }
    }
}
