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

    /// Cuts the page out of a sorted list, and says where the next one is.
    pub(super) fn cut<'n, T: AsRef<str>>(&self, names: &'n [T]) -> (&'n [T], Option<HeaderValue>) {
        let last = self.last.as_deref().unwrap_or_default();
        let first = names.partition_point(|name| name.as_ref() <= last);
        let names = names.get(first..).unwrap_or_default();
        match self.n.and_then(|n| names.split_at_checked(n)) {
            Some((page, rest)) if !rest.is_empty() => {
                let last = page.last();
                (page, last.and_then(|last| self.next(last.as_ref())))
            }
            _ => (names, None),
        }
    }

    /// The request's own path and namespace, or the next page would be of another list.
    fn next(&self, last: &str) -> Option<HeaderValue> {
        let mut query = Serializer::new(String::new());
        query.append_pair("last", last);
        if let Some(n) = self.n {
            query.append_pair("n", &n.to_string());
        }
        if let Some(ns) = query_value(self.uri.query().unwrap_or_default(), "ns") {
            query.append_pair("ns", &ns);
        }
        link::next(self.uri.path(), &query.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["a", "b", "c"];

    fn cut(uri: &'static str) -> (Vec<&'static str>, Option<String>) {
        let uri = Uri::from_static(uri);
        let (page, link) = Page::parse(&uri).unwrap().cut(&NAMES);
        let link = link.map(|link| link.to_str().unwrap().to_owned());
        (page.to_vec(), link)
    }

    #[test]
    fn pages_follow_each_other_without_gap_or_repetition() {
        let next = |query| Some(format!("</v2/r/tags/list?{query}>; rel=\"next\""));
        assert_eq!(cut("/v2/r/tags/list"), (NAMES.to_vec(), None));
        let first = cut("/v2/r/tags/list?n=1");
        assert_eq!(first, (vec!["a"], next("last=a&n=1")));
        let second = cut("/v2/r/tags/list?last=a&n=1&ns=localhost%3A5000");
        let ns = next("last=b&n=1&ns=localhost%3A5000");
        assert_eq!(second, (vec!["b"], ns));
        assert_eq!(cut("/v2/r/tags/list?last=b&n=1"), (vec!["c"], None));
        assert_eq!(cut("/v2/r/tags/list?last=c&n=1"), (vec![], None));
    }

    #[test]
    fn odd_pages_are_pages() {
        assert_eq!(cut("/l?n=0"), (vec![], None));
        assert_eq!(cut("/l?n=3"), (NAMES.to_vec(), None));
        assert_eq!(cut("/l?n=4000000000&last="), (NAMES.to_vec(), None));
        assert_eq!(cut("/l?last=aa"), (vec!["b", "c"], None));
        for n in ["-1", "x", "1.5", "99999999999999999999999"] {
            let uri: Uri = format!("/l?n={n}").parse().unwrap();
            assert!(Page::parse(&uri).is_err(), "{n}");
        }
    }
}
