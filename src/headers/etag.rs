//! Entity tags and `If-None-Match` (RFC 9110 8.8.3 and 13.1.2).

use http::HeaderValue;

/// Whether a client already has the representation tagged `etag` (with its quotes).
///
/// All lines count as one list. Tags are compared weakly, `*` alone matches anything, and a tag
/// without quotes is taken as if it had them, because docker/distribution takes it and clients have
/// come to rely on that.
pub(crate) fn if_none_match<'a>(
    values: impl IntoIterator<Item = &'a HeaderValue>,
    etag: &str,
) -> bool {
    let wanted = opaque(etag.as_bytes());
    values.into_iter().any(|value| {
        value.as_bytes().trim_ascii() == b"*"
            || OpaqueTags(value.as_bytes()).any(|tag| tag == wanted)
    })
}

/// The part of a tag that weak comparison compares.
fn opaque(tag: &[u8]) -> &[u8] {
    let tag = tag.strip_prefix(b"W/").unwrap_or(tag);
    tag.strip_prefix(b"\"")
        .and_then(|tag| tag.strip_suffix(b"\""))
        .unwrap_or(tag)
}

/// The opaque parts of the tags in a list. A quoted tag may hold commas, so splitting at commas is
/// not enough.
struct OpaqueTags<'a>(&'a [u8]);

impl<'a> Iterator for OpaqueTags<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let start = self
            .0
            .iter()
            .position(|b| !matches!(b, b',' | b' ' | b'\t'))?;
        let rest = &self.0[start..];
        let rest = rest.strip_prefix(b"W/").unwrap_or(rest);
        let (tag, end) = match rest.strip_prefix(b"\"") {
            Some(quoted) => (quoted, quoted.iter().position(|&b| b == b'"')),
            None => (
                rest,
                Some(rest.iter().position(|&b| b == b',').unwrap_or(rest.len())),
            ),
        };
        // A quote that is never closed: the rest cannot be trusted.
        let end = end?;
        self.0 = tag.get(end + 1..).unwrap_or_default();
        Some(tag[..end].trim_ascii_end())
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    const ETAG: &str = "\"sha256:ab\"";

    fn matches(lines: &[&str]) -> bool {
        let values: Vec<_> = lines
            .iter()
            .map(|line| HeaderValue::from_str(line).unwrap())
            .collect();
        if_none_match(&values, ETAG)
    }

    #[test]
    fn a_list_matches_if_one_of_it_does() {
        for line in [
            ETAG,
            "W/\"sha256:ab\"",
            " * ",
            "\"x\", \"sha256:ab\"",
            "\"x,y\",,\t\"sha256:ab\" ,",
            "sha256:ab",
            "x, sha256:ab",
        ] {
            assert!(matches(&[line]), "{line}");
        }
        assert!(matches(&["\"x\"", ETAG]));
    }

    #[test]
    fn anything_else_does_not() {
        for line in [
            "",
            ",",
            "\"sha256:a\"",
            "\"x, sha256:ab\"",
            "\"sha256:ab",
            "\"SHA256:AB\"",
            "\"*\"",
            "W/",
            "\"\"",
        ] {
            assert!(!matches(&[line]), "{line}");
        }
        assert!(!matches(&[]));
    }

    proptest! {
        #[test]
        fn a_tag_is_found_wherever_it_stands(before in "(\"[a-z,]{0,4}\",? ?){0,4}", after in "(,\"[a-z,]{0,4}\"){0,4}") {
            let line = format!("{before},{ETAG}{after}");
            prop_assert!(matches(&[&line]));
        }

        #[test]
        fn no_header_makes_it_panic(bytes in "[\"W/*, a\t]{0,20}") {
            let _ = matches(&[&bytes]);
        }
    }
}
