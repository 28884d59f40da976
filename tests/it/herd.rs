//! One blob must never be transferred twice because many ask for it, and no client's fate may touch another's pull.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;

use crate::support::client::{Downloading, Raw};
use crate::support::content::hex;
use crate::support::{Client, MIB, Mirror, REPO, client, plain, scene, until};

const CLIENTS: usize = 64;
/// Without optimization every byte costs a multiple, here and in the program.
const SIZE: u64 = if cfg!(debug_assertions) { 8 } else { 256 } * MIB;

/// A pull that tells when its first byte of body has come; the digest of all of them.
async fn pull_and_tell(authority: String, digest: String, first_bytes: Arc<AtomicUsize>) -> String {
    let mut raw = Raw::connect(&authority).await;
    raw.send(format!(
        "GET /v2/{REPO}/blobs/{digest} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n"
    ))
    .await;
    let stream = raw.stream();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    let mut hasher = Sha256::new();
    hasher.update([stream.read_u8().await.unwrap()]);
    first_bytes.fetch_add(1, Ordering::SeqCst);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => return format!("sha256:{}", hex(&hasher.finalize())),
            count => hasher.update(&buffer[..count]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_is_one_transfer_and_no_client_waits_for_its_end() {
    let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
    // So slow that the first tenth takes seconds: first bytes that wait for more than that are seen by count, not by
    // clock.
    registry.set_rate(SIZE / 80);
    let first_bytes = Arc::new(AtomicUsize::new(0));
    let herd: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let authority = mirror.authority().to_owned();
            tokio::spawn(pull_and_tell(
                authority,
                digest.clone(),
                first_bytes.clone(),
            ))
        })
        .collect();
    until("all have their first byte", async || {
        first_bytes.load(Ordering::SeqCst) == CLIENTS
    })
    .await;
    let sent = registry.counts().bytes_sent;
    assert!(sent < SIZE / 10, "{sent} of {SIZE} bytes were sent by then");
    registry.set_rate(0);
    for client in herd {
        assert_eq!(client.await.unwrap(), digest);
    }
    let counts = registry.counts();
    assert_eq!((counts.blob_gets, counts.requests()), (1, 1));
    assert_eq!(counts.bytes_sent, SIZE);
    let peak = mirror.rss_peak() / MIB;
    assert!(peak < 100, "the peak of memory was {peak} MiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_takes_about_as_long_as_one() {
    let size = if cfg!(debug_assertions) { 1 } else { 32 } * MIB;
    let (registry, mirror, lonely) = scene::cold_blob(size, plain);
    let shared = registry.put_generated_blob(REPO, 3, size);
    // The link is the bottleneck by far.
    registry.set_rate(size);
    let first_bytes = Arc::new(AtomicUsize::new(0));
    let authority = mirror.authority().to_owned();
    let start = Instant::now();
    pull_and_tell(authority.clone(), lonely, first_bytes.clone()).await;
    let one = start.elapsed();
    let start = Instant::now();
    let herd: Vec<_> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(pull_and_tell(
                authority.clone(),
                shared.clone(),
                first_bytes.clone(),
            ))
        })
        .collect();
    for client in herd {
        assert_eq!(client.await.unwrap(), shared);
    }
    let many = start.elapsed();
    assert_eq!(registry.counts().blob_gets, 2);
    // 1.1 on a quiet machine; a herd that is served one after another takes 64 times as long, by twos 32 times.
    assert!(many < one * 3, "{one:?} alone, {many:?} for {CLIENTS}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_asker_dies_and_the_others_notice_nothing() {
    let (registry, mirror, digest) = scene::cold_blob(4 * MIB, plain);
    let url = mirror.blob_url(REPO, &digest);
    registry.set_rate(MIB);
    let dying = Downloading {
        abort_after: Some(MIB / 2),
        ..Downloading::default()
    };
    let first = {
        let url = url.clone();
        tokio::spawn(async move { dying.run(&url, &[]).await.unwrap() })
    };
    under_way(&mirror).await;
    let others: Vec<_> = (0..5)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { client::download(&url, &[]).await.unwrap() })
        })
        .collect();
    assert!(first.await.unwrap().bytes < 4 * MIB);
    registry.set_rate(0);
    for other in others {
        let download = other.await.unwrap();
        download.assert_is(&digest);
        let status = download.header("cache-status");
        assert_eq!(status, Some("pierglass; fwd=uri-miss; collapsed"));
    }
    assert_eq!(registry.counts().blob_gets, 1);
}

async fn under_way(mirror: &Mirror) {
    until("the transfer is under way", async || {
        mirror.metric("pierglass_fills_in_flight", &[]).await == Some(1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_clients_die_and_the_blob_arrives_all_the_same() {
    let (registry, mirror, digest) = scene::cold_blob(4 * MIB, plain);
    let url = mirror.blob_url(REPO, &digest);
    registry.set_rate(MIB);
    let dying = Downloading {
        abort_after: Some(64 * 1024),
        ..Downloading::default()
    };
    let (one, other) = tokio::join!(dying.run(&url, &[]), dying.run(&url, &[]));
    assert!(one.unwrap().bytes < MIB && other.unwrap().bytes < MIB);
    registry.set_rate(0);
    until("the blob is stored", async || {
        let head = client::head(&url, &[]).await.unwrap();
        head.header("cache-status") == Some("pierglass; hit")
    })
    .await;
    assert_eq!(registry.counts().blob_gets, 1);
    registry.reset_counts();
    let download = client::download(&url, &[]).await.unwrap();
    download.assert_is(&digest);
    assert_eq!(download.header("cache-status"), Some("pierglass; hit"));
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_client_slows_no_other() {
    let (registry, mirror, digest) = scene::cold_blob(8 * MIB, plain);
    let url = mirror.blob_url(REPO, &digest);
    let slow = Downloading {
        abort_after: Some(2 * MIB),
        bytes_per_sec: Some(MIB / 2),
    };
    let slow = {
        let url = url.clone();
        tokio::spawn(async move { slow.run(&url, &[]).await.unwrap() })
    };
    until("the slow one has begun", async || {
        registry.counts().blob_gets == 1
    })
    .await;
    let start = Instant::now();
    let fast = client::download(&url, &[]).await.unwrap();
    fast.assert_is(&digest);
    assert!(!slow.is_finished(), "it takes four seconds");
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(registry.counts().blob_gets, 1);
    slow.abort();
}

/// A client that looked for a blob just before it was stored, and for its transfer just after that, found neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_came_at_the_very_end_started_a_second_transfer() {
    const BLOBS: u64 = 100;
    let (registry, mirror) = scene::start();
    let client = Client::new();
    for seed in 0..BLOBS {
        let digest = registry.put_blob(REPO, format!("small blob {seed}"));
        let url = mirror.blob_url(REPO, &digest);
        let askers: Vec<_> = (0..6)
            .map(|_| {
                let (client, url) = (client.clone(), url.clone());
                // Asking all the time until it is stored, some of them ask at the wrong moment.
                tokio::spawn(async move {
                    loop {
                        let answer = client.get(&url, &[]).await.unwrap();
                        assert_eq!(answer.status, http::StatusCode::OK);
                        if answer.header("cache-status") == Some("pierglass; hit") {
                            break;
                        }
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.unwrap();
        }
    }
    assert_eq!(registry.counts().blob_gets, BLOBS);
}
