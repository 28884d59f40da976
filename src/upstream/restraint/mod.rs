//! When an upstream is not asked: because it fails, because it limits requests, because a quota is spent.
//!
//! Nothing here sends a request. The way of a 429: `asking/refusal.rs` reads it, `throttle` notes it, and `backoff`
//! says for how long not to ask. What a client is told is the server's to say (`server/registry/problem.rs`).
//!
//! Reading order: `throttle` (the limits of one registry), [`quota`] (the pull quota of one account), `backoff` (how
//! long a limit lasts; pure), `breaker` (a circuit with its metrics and log lines), `circuit` (an origin that fails;
//! pure), `jitter`.

pub(super) mod backoff;
pub(super) mod breaker;
pub(super) mod circuit;
pub(super) mod jitter;
pub(super) mod quota;
pub(super) mod throttle;
