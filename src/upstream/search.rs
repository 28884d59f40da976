//! Docker's search: an API older than repositories of two parts, which few registries have.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::oci::endpoint::Endpoint;
use crate::sites::hub;

use super::asking::request::{Ask, Reply};
use super::{Error, Upstream, whole};

/// A hundred results, the most Docker asks for, are some 50 KiB.
const MAX_RESULTS: usize = 1024 * 1024;

/// Answers of registries without a search, or without one for everybody: no credentials are shown here.
const NO_SEARCH: &[u16] = &[400, 401, 403, 404, 405, 406, 410, 501];

/// What makes an answer one of a search.
#[derive(Deserialize)]
struct Results {
    #[serde(rename = "results")]
    _results: Vec<IgnoredAny>,
}

impl Upstream {
    /// What upstream's search finds, in its words; not found where there is no search.
    ///
    /// `query` is the query string to ask with.
    pub(crate) async fn search(&self, query: String) -> Result<Bytes, Error> {
        let ask = Ask {
            query: Some(query),
            accept: Some("application/json"),
            answers: NO_SEARCH,
            ..Ask::new(Method::GET, Endpoint::Search)
        };
        let settings = &self.settings;
        let elsewhere = hub::search(&settings.namespace, settings.url.host());
        let base = elsewhere.unwrap_or(self.home.base());
        let Reply { status, body, .. } = self.home.send_openly(base, &ask, self.deadline()).await?;
        if status != StatusCode::OK {
            return Err(Error::NotFound);
        }
        let bytes = whole(body, MAX_RESULTS, "the search", self.deadline()).await?;
        // Many servers have a page for every path, and podman takes a page for a broken registry.
        serde_json::from_slice::<Results>(&bytes)
            .map(|_| bytes)
            .map_err(|_| Error::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_search() {
        let is = |text: &str| serde_json::from_slice::<Results>(text.as_bytes()).is_ok();
        assert!(is(r#"{"query":"x","num_results":0,"results":[]}"#));
        assert!(is(
            r#"{"results":[{"name":"library/nginx","star_count":1}]}"#
        ));
        for text in ["<html>", "[]", "{}", r#"{"results":null}"#, ""] {
            assert!(!is(text), "{text}");
        }
    }
}
