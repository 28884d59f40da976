//! Questions to a search: an API of Docker, older than repositories of two parts, which few registries have.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::memory::Memory;
use crate::oci::endpoint::Endpoint;

use super::asking::client::Client;
use super::asking::request::Question;
use super::error::Error;

/// A hundred results, the most Docker asks for, are some 50 KiB.
const MAX_RESULTS: usize = 1024 * 1024;

/// Answers of registries without a search, or without an anonymous one: no credentials are shown here.
const NO_SEARCH: &[u16] = &[400, 401, 403, 404, 405, 406, 410, 501];

/// What makes an answer one of a search.
#[derive(Deserialize)]
struct Results {
    #[serde(rename = "results")]
    _results: Vec<IgnoredAny>,
}

/// The results as upstream wrote them; not found if it has no search. `query` is the query string; `elsewhere` is the
/// URL to ask, if it is not the registry's.
pub(super) async fn search(
    client: &Client,
    elsewhere: Option<&str>,
    query: String,
    memory: &Memory,
) -> Result<Bytes, Error> {
    let question = Question {
        query: Some(query),
        accept: Some("application/json"),
        answers: NO_SEARCH,
        ..Question::new(Method::GET, Endpoint::Search)
    };
    let base = elsewhere.unwrap_or(client.base());
    let reply = client
        .send_openly(base, &question, client.deadline())
        .await?;
    if reply.status != StatusCode::OK {
        return Err(Error::NotFound);
    }
    let body = reply.body;
    let bytes = body
        .collect(MAX_RESULTS, "the search", client.deadline(), memory)
        .await?;
    // Many servers have a page for every path, and podman takes a page for a broken registry.
    match is_search(&bytes) {
        true => Ok(bytes),
        false => Err(Error::NotFound),
    }
}

pub(crate) fn is_search(body: &[u8]) -> bool {
    serde_json::from_slice::<Results>(body).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_no_search() {
        let is = |text: &str| is_search(text.as_bytes());
        assert!(is(r#"{"query":"x","num_results":0,"results":[]}"#));
        assert!(is(
            r#"{"results":[{"name":"library/nginx","star_count":1}]}"#
        ));
        for text in ["<html>", "[]", "{}", r#"{"results":null}"#, ""] {
            assert!(!is(text), "{text}");
        }
    }
}
