//! Waiting for what must come to pass, without sleeping longer than it takes.

use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until the answer is yes; panics with `what` when it never is.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "in {PATIENCE:?} not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
