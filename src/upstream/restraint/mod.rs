//! When an upstream is not asked: because it fails, because it limits requests, because a quota is spent.
//!
//! Nothing here sends a request. The way of a 429: `asking/refusal.rs` reads it, `throttle` notes it, and `backoff`
//! says for how long not to ask. What a client is told is the server's to say (`server/registry/problem.rs`).
//!
//! What one question shows counts for what it asked about, a repository. For the whole origin counts only what a probe
//! shows that is about no repository: a client may have chosen the questions, and a registry may have a broken corner.
//!
//! Reading order: `throttle` (the limits of one registry), [`quota`] (the pull quota of one account), `holds` (what is
//! limited; pure), `backoff` (how long a limit lasts; pure), `breaker` (circuits with their metrics and log lines),
//! `circuit` (what keeps failing; pure), `jitter`.

pub(super) mod backoff;
pub(super) mod breaker;
pub(super) mod circuit;
pub(super) mod holds;
pub(super) mod jitter;
pub(super) mod quota;
pub(super) mod throttle;
