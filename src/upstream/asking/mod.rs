//! One question to one registry: who is asked, how often, and what its answer means.
//!
//! Reading order: `request` (a question and its answer), `failover` (which endpoint is asked), `client` (one endpoint),
//! `redirect` and `refusal` (what an answer means).

pub(super) mod client;
pub(super) mod failover;
pub(super) mod redirect;
pub(super) mod refusal;
pub(super) mod request;
