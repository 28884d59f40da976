//! A question to a registry, and its answer.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::{HeaderMap, Method, StatusCode, Uri};

use crate::oci::endpoint::Endpoint;

use crate::upstream::error::Error;
use crate::upstream::wire::http::{Body, parse_uri};

/// What to ask.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) endpoint: Endpoint,
    /// Without the question mark.
    pub(crate) query: Option<String>,
    pub(crate) accept: Option<&'static str>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) range: Option<String>,
    /// Statuses that are an answer to this and not a failure, besides success.
    pub(crate) answers: &'static [u16],
    /// Whether to repeat it after a failure that may pass, and to wait for a short hold to end: not where something
    /// else stands ready to be served.
    pub(crate) patient: bool,
}

impl Ask {
    pub(crate) fn new(method: Method, endpoint: Endpoint) -> Self {
        Self {
            method,
            endpoint,
            query: None,
            accept: None,
            if_none_match: None,
            range: None,
            answers: &[],
            patient: true,
        }
    }

    pub(crate) fn uri(&self, base: &str) -> Result<Uri, Error> {
        let path = self.endpoint.path();
        match &self.query {
            Some(query) => parse_uri(&format!("{base}{path}?{query}")),
            None => parse_uri(&format!("{base}{path}")),
        }
    }

    /// Whether Docker Hub counts it as a pull.
    pub(crate) fn spends(&self) -> bool {
        self.method == Method::GET && matches!(self.endpoint, Endpoint::Manifest { .. })
    }

    /// The same number for the same thing, whatever is asked about it.
    pub(crate) fn question(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.endpoint.path().hash(&mut hasher);
        hasher.finish()
    }
}

/// An answer: 2xx, 304 where that was invited, or what else the question takes for one.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}
