//! Large bodies over plain HTTP/1.1 leave by `sendfile`, and are byte for byte what they were.
//!
//! It rests on what hyper does with the buffers of a body, which its documentation does not promise: these tests hold
//! it.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use crate::support::client::{Downloading, Ending, Raw, download};
use crate::support::content::Content;
use crate::support::disk::{blob_file, eventually};
use crate::support::mirror::log_field;
use crate::support::{FakeRegistry, KIB, MIB, Mirror, client, scene};

const PATIENCE: Duration = Duration::from_secs(20);
const SEED: u64 = 4711;
/// From here on bodies go by `sendfile`.
const LARGE: u64 = 8 * MIB;

/// A mirror that has stored generated blobs of these sizes.
async fn stored(sizes: &[u64]) -> (FakeRegistry, Mirror, Vec<String>) {
    let (registry, mirror) = scene::start();
    let put = |size: &u64| registry.put_generated_blob("a/b", SEED, *size);
    let digests: Vec<_> = sizes.iter().map(put).collect();
    for digest in &digests {
        mirror.pull_blob("a/b", digest).await;
        let file = blob_file(&mirror.store_path(), digest);
        eventually("the commit", || file.exists());
    }
    (registry, mirror, digests)
}

async fn sent(mirror: &Mirror, way: &str) -> u64 {
    let labels = [("way", way)];
    let sent = mirror.metric("pierglass_sent_bytes_total", &labels);
    sent.await.unwrap() as u64
}

/// What was sent by sendfile and copied, once it is `total`: bytes are counted after the client has them.
async fn all_sent(mirror: &Mirror, total: u64) -> (u64, u64) {
    let started = std::time::Instant::now();
    loop {
        let ways = (sent(mirror, "sendfile").await, sent(mirror, "copied").await);
        if ways.0 + ways.1 == total {
            return ways;
        }
        assert!(started.elapsed() < PATIENCE, "{ways:?} is not {total}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_size_arrives_as_it_is() {
    let sizes = [
        1,
        64 * KIB - 1,
        64 * KIB,
        64 * KIB + 1,
        128 * KIB,
        2 * MIB,
        LARGE - 1,
        LARGE,
        LARGE + 1,
        LARGE + 64 * KIB,
        LARGE + 64 * KIB + 1,
        LARGE + 2 * MIB - 1,
        9 * MIB + 12_345,
    ];
    let (_registry, mirror, digests) = stored(&sizes).await;
    let total = sizes.iter().sum::<u64>();
    let before = all_sent(&mirror, total).await;
    for digest in &digests {
        mirror.pull_blob("a/b", digest).await;
    }
    let copied = all_sent(&mirror, 2 * total).await.1 - before.1;
    // Short ones are copied, and of large ones what is left over beyond the last full slice, up to 64 KiB.
    let short: u64 = sizes.iter().filter(|size| **size < LARGE).sum();
    let large = sizes.iter().filter(|size| **size >= LARGE).count() as u64;
    assert!(copied >= short, "{copied} copied");
    assert!(copied <= short + large * 64 * KIB, "{copied} copied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_in_one_connection_arrive_as_they_are_and_in_order() {
    let size = 17 * MIB + 99;
    let (_registry, mirror, digests) = stored(&[size]).await;
    let content = Content::generated(SEED, size);
    let ranges = [
        (0, size - 1),
        (1, 100),
        (65_535, 65_535 + 3 * MIB),
        (65_535, 65_535 + 9 * MIB),
        (size - 1, size - 1),
        (MIB + 1, MIB + 64 * KIB + 1),
        (0, 8 * MIB),
    ];
    let mut requests = String::new();
    for (first, last) in ranges {
        for method in ["GET", "HEAD"] {
            let path = format!("/v2/a/b/blobs/{}", digests[0]);
            requests += &format!(
                "{method} {path} HTTP/1.1\r\nhost: m\r\nrange: bytes={first}-{last}\r\n\r\n"
            );
        }
    }
    // All at once, before any answer.
    let mut connection = Raw::connect(mirror.authority()).await;
    connection.send(requests).await;
    let (all, ending) = connection.read(Duration::from_secs(2)).await;
    assert_eq!(ending, Ending::Silent, "the connection is kept");
    let mut rest = &all[..];
    for (first, last) in ranges {
        let header = take_header(&mut rest);
        assert!(header.starts_with("HTTP/1.1 206"), "{header}");
        let length = (last - first + 1) as usize;
        let (body, after) = rest.split_at(length);
        assert!(body == content.read(first, length), "{first}-{last}");
        rest = after;
        assert!(take_header(&mut rest).starts_with("HTTP/1.1 200"));
    }
    assert!(rest.is_empty());
}

fn take_header(rest: &mut &[u8]) -> String {
    let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
    let (header, after) = rest.split_at(end.expect("a header") + 4);
    *rest = after;
    String::from_utf8_lossy(header).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_fast_readers_get_the_same() {
    let (_registry, mirror, digests) = stored(&[12 * MIB]).await;
    let url = mirror.blob_url("a/b", &digests[0]);
    let rates = [None, Some(8 * MIB), None, Some(24 * MIB)];
    let readers = rates.map(|bytes_per_sec| {
        let url = url.clone();
        async move {
            let reader = Downloading {
                bytes_per_sec,
                ..Downloading::default()
            };
            reader.run(&url, &[]).await.unwrap()
        }
    });
    for reader in futures_util::future::join_all(readers).await {
        reader.assert_is(&digests[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_page_cache_arrives_as_it_is() {
    let (_registry, mirror, digests) = stored(&[16 * MIB]).await;
    let file = File::open(blob_file(&mirror.store_path(), &digests[0])).unwrap();
    for kept in [0, 5 * MIB] {
        file.sync_all().unwrap();
        // All of it, and then all but some in the middle.
        rustix::fs::fadvise(&file, kept, None, rustix::fs::Advice::DontNeed).unwrap();
        mirror.pull_blob("a/b", &digests[0]).await;
    }
    assert!(sent(&mirror, "sendfile").await >= 24 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_still_coming_in_leaves_the_same_way() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob("a/b", SEED, 12 * MIB);
    registry.set_rate(8 * MIB);
    let url = mirror.blob_url("a/b", &digest);
    // The first goes with the fill, in small pieces; those after it find much that is there.
    let clients = (0..8).map(async |client| {
        tokio::time::sleep(Duration::from_millis(100 * client)).await;
        download(&url, &[]).await.unwrap().assert_is(&digest);
    });
    futures_util::future::join_all(clients).await;
    assert!(sent(&mirror, "sendfile").await > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_cut_off_under_a_client_ends_its_connection_and_nothing_else() {
    let size = 24 * MIB;
    let (_registry, mirror, digests) = stored(&[size]).await;
    let path = blob_file(&mirror.store_path(), &digests[0]);
    let slow = Downloading {
        bytes_per_sec: Some(8 * MIB),
        ..Downloading::default()
    };
    let url = mirror.blob_url("a/b", &digests[0]);
    let cutting = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(5 * MIB + 17).unwrap();
    };
    let (torn, ()) = tokio::join!(slow.run(&url, &[]), cutting);
    let torn = torn.unwrap();
    // What is not there any more may be had elsewhere; what may not be is a body that looks whole and is not.
    assert!(
        torn.error.is_some() || torn.digest == digests[0],
        "{torn:?}"
    );
    download(&url, &[]).await.unwrap().assert_is(&digests[0]);
    assert!(!mirror.output().contains("panicked"), "{}", mirror.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_what_left_and_not_what_was_queued() {
    let size = 24 * MIB;
    let (_registry, mirror, digests) = stored(&[size]).await;
    all_sent(&mirror, size).await;
    let mut connection = Raw::connect(mirror.authority()).await;
    let request = format!(
        "GET /v2/a/b/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
        digests[0]
    );
    connection.send(request).await;
    // Its first bytes are there; it reads no more and leaves.
    connection.stream().readable().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(connection);
    let is_it = |line: &serde_json::Value| {
        let bytes = log_field(line, "bytes").and_then(serde_json::Value::as_u64);
        let message = log_field(line, "message").and_then(serde_json::Value::as_str);
        message == Some("request") && bytes.is_some_and(|bytes| bytes < size)
    };
    let line = mirror.wait_for_log(PATIENCE, is_it);
    let logged = log_field(&line, "bytes").and_then(serde_json::Value::as_u64);
    all_sent(&mirror, size + logged.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_0_gets_the_same_and_its_end() {
    let size = 13 * MIB + 5;
    let (_registry, mirror, digests) = stored(&[size]).await;
    let request = format!(
        "GET /v2/a/b/blobs/{} HTTP/1.0\r\nhost: m\r\n\r\n",
        digests[0]
    );
    let (all, ending) = client::raw(mirror.authority(), request, PATIENCE).await;
    assert_eq!(ending, Ending::Closed);
    let mut rest = &all[..];
    assert!(take_header(&mut rest).starts_with("HTTP/1.0 200"));
    assert!(rest == Content::generated(SEED, size).read(0, size as usize));
}
