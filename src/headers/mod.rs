//! HTTP header values that need more than a string comparison, as types: one header to a file, each after its RFC.
//!
//! Nothing here does I/O, and nothing here may know of registries, digests, the store, upstreams or policy: a header
//! means the same for every sender.
//!
//! Reading order: [`range`] (parts of a body, asked for and stated), `multipart` (several of them), `etag`,
//! [`challenge`] (`WWW-Authenticate`), `accept`, `link` (the next page of a list), `cache_status` (where an answer came
//! from), `warning` (what a registry tells people).

pub(crate) mod accept;
pub(crate) mod cache_status;
pub mod challenge;
pub(crate) mod etag;
pub mod link;
pub(crate) mod multipart;
pub mod range;
pub(crate) mod warning;

use http::HeaderValue;

/// A header value from text made of constants, digits and checked characters.
fn visible(text: &str) -> HeaderValue {
    #[expect(
        clippy::expect_used,
        reason = "the callers print only visible ASCII, which a property test holds them to"
    )]
    HeaderValue::from_str(text).expect("visible ASCII is a valid header value")
}
