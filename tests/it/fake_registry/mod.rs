//! A fault that does not happen must never let a test pass: each one is proved here against a client that hides
//! nothing.

mod access;
mod content;
mod faults;
mod network;

use crate::support::content::Content;
use crate::support::{FakeRegistry, client, digest_of};

const SIZE: u64 = 300_000;

/// An open registry with one generated blob in `a/b`, the blob's URL and digest.
async fn with_blob() -> (FakeRegistry, String, String) {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob("a/b", 1, SIZE);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    (registry, url, digest)
}

fn part(seed: u64, from: u64, len: usize) -> String {
    digest_of(&Content::generated(seed, SIZE).read(from, len))
}

async fn token(
    registry: &FakeRegistry,
    scope: &str,
    headers: client::Headers<'_>,
) -> client::Response {
    let url = format!("{}?service=fake&scope={scope}", registry.token_url());
    client::get(&url, headers).await.unwrap()
}

fn bearer(answer: &client::Response) -> String {
    format!("Bearer {}", answer.json()["token"].as_str().unwrap())
}
