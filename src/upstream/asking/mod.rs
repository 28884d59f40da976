//! One question to one upstream: which endpoint is asked, as which account, how often, and what the response means.
//!
//! It knows the URLs of the distribution API, but not what the questions are for.
//!
//! Reading order: `request` (a question and its reply), `failover` (endpoint after endpoint), `client` (one endpoint),
//! `dialogue` (one question as one account), `retry`, `refusal` (what an error status means), `transport` (one request
//! and its redirects), `redirect` (who answers there), `warnings` (what a registry tells people).

pub(super) mod client;
mod dialogue;
pub(super) mod failover;
mod redirect;
pub(super) mod refusal;
pub(super) mod request;
mod retry;
mod transport;
mod warnings;
