//! Pieces of one blob, fetched side by side, must never become another blob, nor several transfers of it.
//!
//! This is how containerd fetches layers since 2.1 when told to do so in parallel (`concurrent_layer_fetch_buffer`):
//! it asks for `bytes=0-`, takes the length from the answer, asks for the rest as `bytes=OFFSET-` without an end, reads
//! a piece of each answer and hangs up. It looks at no answer's `Content-Range`: a single 200 among them corrupts the
//! blob.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::probe::{self, Answer};
use crate::support::content::Content;
use crate::support::{FakeRegistry, Mirror, MirrorConfig, client, until};

const REPO: &str = "acme/app";
const MIB: u64 = 1024 * 1024;
const CHUNK: u64 = 8 * MIB;
/// `max_concurrent_downloads`
const WORKERS: usize = 3;

/// Fetches pieces as containerd does and holds each byte against what it must be.
async fn fetch(url: &str, content: &Content) {
    let first = probe::ask("GET", url, Some("bytes=0-")).await;
    assert_eq!(first.status, 206);
    let size = first.length();
    assert_eq!(size, content.len());
    let next = Arc::new(AtomicU64::new(1));
    let mut first = Some(first);
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (url, content) = (url.to_owned(), content.clone());
            let (next, first) = (next.clone(), first.take());
            tokio::spawn(async move {
                if let Some(first) = first {
                    read_chunk(first, &content, 0).await;
                }
                loop {
                    let offset = next.fetch_add(1, Ordering::SeqCst) * CHUNK;
                    if offset >= size {
                        break;
                    }
                    let answer = probe::ask("GET", &url, Some(&format!("bytes={offset}-"))).await;
                    assert_eq!(answer.status, 206);
                    let range = format!("bytes {offset}-{}/{size}", size - 1);
                    assert_eq!(answer.header("content-range"), Some(&*range));
                    assert_eq!(answer.length(), size - offset);
                    read_chunk(answer, &content, offset).await;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

/// Exactly one chunk of an answer that goes on; then the connection is closed.
async fn read_chunk(mut answer: Answer, content: &Content, offset: u64) {
    let end = (offset + CHUNK).min(content.len());
    let mut at = offset;
    while at < end {
        let piece = usize::try_from((end - at).min(MIB)).unwrap();
        let same = answer.read(piece).await == content.read(at, piece);
        assert!(same, "other bytes from {at} on");
        at += piece as u64;
    }
}

async fn fetch_cold(size: u64, rate: u64) {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob(REPO, 7, size);
    let content = Content::generated(7, size);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let url = mirror.blob_url(REPO, &digest);
    registry.set_rate(rate);
    let start = Instant::now();
    fetch(&url, &content).await;
    let took = start.elapsed();
    until("stored", async || {
        let head = client::head(&url, &[]).await.unwrap();
        head.header("cache-status") == Some("pierglass; hit")
    })
    .await;
    let counts = registry.counts();
    let times = counts.bytes_sent as f64 / size as f64;
    println!(
        "{} MiB at {} MiB/s (0: without limit): {took:.2?}, {} requests and {times:.3} times the blob upstream",
        size / MIB,
        rate as f64 / MIB as f64,
        counts.blob_gets,
    );
    assert!(times <= 1.2, "{times:.3} times the blob");

    // Stored, it is the same, and upstream is not needed.
    registry.down();
    fetch(&url, &content).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_blob_is_put_together_from_its_pieces() {
    fetch_cold(512 * MIB, 0).await;
}

/// Each piece is far ahead of a slow transfer: fetching it on its own would only make the transfer slower.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_slow_link_pieces_wait_for_the_transfer() {
    fetch_cold(64 * MIB, 10 * MIB).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_very_slow_link_pieces_wait_for_the_transfer() {
    fetch_cold(32 * MIB, 2 * MIB).await;
}
