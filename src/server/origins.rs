//! Web pages that may read the registry API, such as registry UIs (Fetch standard, "CORS protocol").
//!
//! A browser lets a page of another site read an answer only if the answer says so. All others stay turned away. No
//! credentials of a browser are asked for: nothing here depends on who the person is.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Request};

/// What a page may read of an answer besides its body. Without it, a script sees the type and the length alone.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Docker-Content-Digest, Docker-Distribution-Api-Version, Link, WWW-Authenticate, Accept-Ranges, Age, \
     Cache-Status, Content-Length, Content-Range, ETag, OCI-Filters-Applied, OCI-Namespace, Retry-After, Warning",
);

/// How long a browser need not ask again before it asks; Chromium takes no more than this.
const PREFLIGHT_SECONDS: u32 = 7200;

/// Asked and said where a page of the internet reads from a private address (W3C, Private Network Access).
const REQUEST_PRIVATE: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// The origins that may read, as browsers write them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins(Arc<[String]>);

impl Origins {
    pub(crate) fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    /// The origin of the page that sent the request, if it may read.
    pub(super) fn welcome<'h>(&self, headers: &'h HeaderMap) -> Option<&'h HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let mut given = headers.get_all(ORIGIN).iter();
        let (origin, None) = (given.next()?, given.next()) else {
            return None;
        };
        let text = origin.to_str().ok()?;
        let known = self.0.iter().any(|known| known.eq_ignore_ascii_case(text));
        known.then_some(origin)
    }

    /// Says in an answer who may read it.
    pub(super) fn mark<B>(&self, request: &Request<B>, answer: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        // To a cache in front, one answer is not another's.
        let vary = match answer.contains_key(VARY) {
            true => HeaderValue::from_static("Accept, Origin"),
            false => HeaderValue::from_static("Origin"),
        };
        answer.insert(VARY, vary);
        let asked = request.headers();
        let Some(origin) = self.welcome(asked) else {
            return;
        };
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if *request.method() == Method::OPTIONS && asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
            answer.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS.into());
            // Any: none of them changes anything here.
            if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
            }
            if asked.contains_key(REQUEST_PRIVATE) {
                answer.insert(ALLOW_PRIVATE, HeaderValue::from_static("true"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn origins() -> Origins {
        Origins::new(&[
            "https://ui.example".to_owned(),
            "http://localhost:8080".to_owned(),
        ])
    }

    fn asked_by(origin: &str) -> Request<()> {
        Request::get("/v2/")
            .header(ORIGIN, origin)
            .body(())
            .unwrap()
    }

    proptest! {
        #[test]
        fn no_origin_but_those_written_is_welcome(
            origin in prop::sample::select(vec![
                "https://ui.example", "http://localhost:8080", "null", "*", "",
                "http://ui.example", "https://ui.example.evil.example", "https://evil.example/https://ui.example",
                "https://ui.example:8443", "http://localhost", "https://a.ui.example", "https://ui.example/",
            ]),
            upper in any::<bool>(),
        ) {
            let listed = ["https://ui.example", "http://localhost:8080"].contains(&origin);
            let origin = if upper { origin.to_ascii_uppercase() } else { origin.to_owned() };
            let request = asked_by(&origin);
            prop_assert_eq!(origins().welcome(request.headers()).is_some(), listed);
            let mut answer = HeaderMap::new();
            origins().mark(&request, &mut answer);
            prop_assert_eq!(answer.get(ACCESS_CONTROL_ALLOW_ORIGIN).is_some(), listed);
            prop_assert_eq!(answer.get(VARY).unwrap(), "Origin");
            let mut answer = HeaderMap::new();
            Origins::default().mark(&request, &mut answer);
            prop_assert!(answer.is_empty());
        }
    }

    #[test]
    fn two_origins_are_none() {
        let mut request = asked_by("https://ui.example");
        let twice = HeaderValue::from_static("https://ui.example");
        request.headers_mut().append(ORIGIN, twice);
        assert_eq!(origins().welcome(request.headers()), None);
    }
}
