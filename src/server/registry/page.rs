//! Pages of lists: `n`, `last`, and the link to the next one (OCI distribution-spec, "Listing Tags").

use form_urlencoded::Serializer;
use http::{HeaderValue, StatusCode, Uri};

use crate::headers::link;
use crate::oci::endpoint::query_value;
use crate::oci::error::ErrorCode;

use super::problem::Problem;

/// The part of a list that a client asked for.
pub(super) struct Page<'a> {
    uri: &'a Uri,
    /// At most so many.
    n: Option<usize>,
    /// Only what comes after this, which need not be in the list.
    last: Option<String>,
}

impl<'a> Page<'a> {
    /// Reads the parameters of a request.
    pub(super) fn parse(uri: &'a Uri) -> Result<Self, Problem> {
        let value = |key| {
            let value = query_value(uri.query().unwrap_or_default(), key);
            value.filter(|text| !text.is_empty())
        };
        let n = value("n").map(|text| text.parse()).transpose();
        let n = n.map_err(|_| {
            let message = "n must be a number of entries, 0 or more";
            Problem::new(
                StatusCode::BAD_REQUEST,
                ErrorCode::PaginationNumberInvalid,
                message,
            )
        })?;
        let last = value("last");
        Ok(Self { uri, n, last })
    }

    /// Cuts the page out of a sorted list, one name to a line, and says where the next one is. It costs what the page is
    /// long, not what the list is.
    pub(super) fn cut<'n>(&self, lines: &'n [u8]) -> (&'n [u8], Option<HeaderValue>) {
        let last = self.last.as_deref().unwrap_or_default();
        let (_, lines) = lines.split_at(after(lines, last.as_bytes()));
        let Some(n) = self.n else {
            return (lines, None);
        };
        let (mut end, mut before) = (0, 0);
        for _ in 0..n {
            match line_end(lines, end) {
                next if next > end => (before, end) = (end, next),
                _ => return (lines, None),
            }
        }
        let (page, rest) = lines.split_at(end);
        let last = page.get(before..).unwrap_or_default();
        let more = !rest.is_empty() && !page.is_empty();
        let next = more.then(|| self.next(&String::from_utf8_lossy(last.trim_ascii_end())));
        (page, next.flatten())
    }

    /// The request's own path and namespace, or the next page would be of another list. A path that begins with two slashes
    /// would be a host's name in a link.
    fn next(&self, last: &str) -> Option<HeaderValue> {
        let mut query = Serializer::new(String::new());
        query.append_pair("last", last);
        if let Some(n) = self.n {
            query.append_pair("n", &n.to_string());
        }
        if let Some(ns) = query_value(self.uri.query().unwrap_or_default(), "ns") {
            query.append_pair("ns", &ns);
        }
        let path = self.uri.path().trim_start_matches('/');
        link::next(&format!("/{path}"), &query.finish())
    }
}

/// Where the first line begins that comes after `last`.
fn after(lines: &[u8], last: &[u8]) -> usize {
    let (mut low, mut high) = (0, lines.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let part = lines.get(low..middle).unwrap_or_default();
        let start = part.iter().rposition(|byte| *byte == b'\n');
        let start = start.map_or(low, |newline| low + newline + 1);
        let end = line_end(lines, start);
        let line = lines.get(start..end).unwrap_or_default();
        if line.strip_suffix(b"\n").unwrap_or(line) <= last {
            low = end;
        } else {
            high = start;
        }
    }
    low
}

/// Where the line that begins at `start` ends, behind its line feed.
fn line_end(lines: &[u8], start: usize) -> usize {
    let rest = lines.get(start..).unwrap_or_default();
    let newline = rest.iter().position(|byte| *byte == b'\n');
    newline.map_or(lines.len(), |newline| start + newline + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: &str = "a\nb\nc\n";

    fn cut(uri: &str) -> (&'static str, Option<String>) {
        let uri: Uri = uri.parse().unwrap();
        let (page, link) = Page::parse(&uri).unwrap().cut(NAMES.as_bytes());
        let link = link.map(|link| link.to_str().unwrap().to_owned());
        (std::str::from_utf8(page).unwrap(), link)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let next = |query| Some(format!("</v2/r/tags/list?{query}>; rel=\"next\""));
        assert_eq!(cut("/v2/r/tags/list"), (NAMES, None));
        let first = cut("/v2/r/tags/list?n=1");
        assert_eq!(first, ("a\n", next("last=a&n=1")));
        let second = cut("/v2/r/tags/list?last=a&n=1&ns=localhost%3A5000");
        let ns = next("last=b&n=1&ns=localhost%3A5000");
        assert_eq!(second, ("b\n", ns));
        assert_eq!(cut("/v2/r/tags/list?last=b&n=1"), ("c\n", None));
        assert_eq!(cut("/v2/r/tags/list?last=c&n=1"), ("", None));
        assert_eq!(cut("//v2/r/tags/list?n=1"), first);
    }

    #[test]
    fn odd_pages_are_pages() {
        assert_eq!(cut("/l?n=0"), ("", None));
        assert_eq!(cut("/l?n=3"), (NAMES, None));
        assert_eq!(cut("/l?n=4000000000&last="), (NAMES, None));
        assert_eq!(cut("/l?last=aa"), ("b\nc\n", None));
        for n in ["-1", "x", "1.5", "99999999999999999999999"] {
            let uri: Uri = format!("/l?n={n}").parse().unwrap();
            assert!(Page::parse(&uri).is_err(), "{n}");
        }
    }

    proptest! {
        #[test]
        fn a_page_is_what_cutting_a_list_of_names_gives(
            names in proptest::collection::btree_set("[a-c]{1,4}", 0..40), n in 0..50_usize, last in "[a-d]{0,4}",
        ) {
            let lines: String = names.iter().flat_map(|name| [name, "\n"]).collect();
            let uri: Uri = format!("/l?n={n}&last={last}").parse().unwrap();
            let (page, next) = Page::parse(&uri).unwrap().cut(lines.as_bytes());
            let rest: Vec<_> = names.iter().filter(|name| **name > last).collect();
            let expected: String = rest.iter().take(n).flat_map(|name| [name.as_str(), "\n"]).collect();
            prop_assert_eq!(std::str::from_utf8(page).unwrap(), expected);
            prop_assert_eq!(next.is_some(), n > 0 && rest.len() > n);
        }
    }
}
