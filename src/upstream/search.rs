//! Docker's search: an API older than repositories of two parts, which few registries have.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::oci::endpoint::Endpoint;

use super::asking::request::{Ask, Reply};
use super::{Error, Upstream, whole};

/// A hundred results, the most Docker asks for, are some 50 KiB.
const MAX_RESULTS: usize = 1024 * 1024;
/// Docker Hub's images are searched at another host than they are pulled from.
const DOCKER_HUB_REGISTRY: &str = "registry-1.docker.io";
const DOCKER_HUB_SEARCH: &str = "https://index.docker.io";

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
        let elsewhere = search_host(settings.is_docker_hub(), settings.url.host());
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

/// Where to search, if that is not the registry itself.
fn search_host(is_docker_hub: bool, host: Option<&str>) -> Option<&'static str> {
    (is_docker_hub && host == Some(DOCKER_HUB_REGISTRY)).then_some(DOCKER_HUB_SEARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_docker_hub_itself_is_searched_elsewhere() {
        let hub = Some("registry-1.docker.io");
        assert_eq!(search_host(true, hub), Some("https://index.docker.io"));
        assert_eq!(search_host(true, Some("mirror.gcr.io")), None);
        assert_eq!(search_host(false, hub), None);
    }

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
