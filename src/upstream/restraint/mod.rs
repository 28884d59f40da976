//! When not to ask an upstream: because it fails, because it limits, because a quota is spent.
//!
//! Nothing here sends anything. Reading order: `backoff` (limits of rate), `quota` (what is left of pulls), `circuit`
//! (an upstream that fails) and `breaker` (a circuit with its metrics and log lines), `jitter`.

pub(super) mod backoff;
pub(super) mod breaker;
pub(super) mod circuit;
pub(super) mod jitter;
pub(super) mod quota;
