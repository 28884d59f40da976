//! A question to a registry, and the reply.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::oci::endpoint::Endpoint;
use crate::upstream::error::Error;
use crate::upstream::wire::http::{UpstreamBody, parse_uri};

#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) endpoint: Endpoint,
    /// Without the question mark.
    pub(crate) query: Option<String>,
    pub(crate) accept: Option<&'static str>,
    pub(crate) if_none_match: Option<String>,
    pub(crate) range: Option<String>,
    /// How long the whole blob is, as a manifest says.
    pub(crate) named: Option<u64>,
    /// Statuses besides 2xx that are a reply to this question and not a failure.
    pub(crate) answers: &'static [u16],
    /// What a redirect leads to counts only if it is found there, or is the same question at a registry; otherwise the
    /// redirect is the reply.
    pub(crate) tries_redirects: bool,
    /// Repeat it after a transient failure, and wait out short rate limits. False if something stored can be served.
    pub(crate) patient: bool,
}

impl Question {
    pub(crate) fn new(method: Method, endpoint: Endpoint) -> Self {
        Self {
            method,
            endpoint,
            query: None,
            accept: None,
            if_none_match: None,
            range: None,
            named: None,
            answers: &[],
            tries_redirects: false,
            patient: true,
        }
    }

    /// Its URL at a server whose own URL is `base`, without a slash at the end.
    pub(crate) fn uri(&self, base: &str) -> Result<Uri, Error> {
        let path = self.endpoint.path();
        match &self.query {
            Some(query) => parse_uri(&format!("{base}{path}?{query}")),
            None => parse_uri(&format!("{base}{path}")),
        }
    }

    /// Whether Docker Hub counts it as a pull.
    pub(super) fn spends_pull(&self) -> bool {
        self.method == Method::GET && matches!(self.endpoint, Endpoint::Manifest { .. })
    }

    /// Whether a whole body is something else than the blob that is asked for: it is called a page, and not as long as
    /// the blob. Of one that is as long, the digest decides, whatever it is called.
    pub(super) fn is_something_else(&self, headers: &HeaderMap) -> bool {
        self.method == Method::GET
            && matches!(self.endpoint, Endpoint::Blob { .. })
            && is_page(headers)
            && (self.named.is_none() || self.named != content_length(headers))
    }

    /// The same number for every question about the same thing.
    pub(super) fn subject(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.endpoint.path().hash(&mut hasher);
        hasher.finish()
    }

    /// Whether a response with this status is a reply.
    pub(super) fn takes(&self, status: StatusCode) -> bool {
        status.is_success()
            || status == StatusCode::NOT_MODIFIED && self.if_none_match.is_some()
            || self.answers.contains(&status.as_u16())
    }
}

/// A response that answers the question.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: UpstreamBody,
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

pub(crate) fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Whether it is called a page, or an error of storage: no blob is sent as one.
pub(crate) fn is_page(headers: &HeaderMap) -> bool {
    let kinds = [
        "text/html",
        "application/xhtml+xml",
        "application/xml",
        "text/xml",
    ];
    let name = content_type(headers).and_then(|text| text.split(';').next());
    name.is_some_and(|name| {
        kinds
            .iter()
            .any(|kind| kind.eq_ignore_ascii_case(name.trim()))
    })
}
