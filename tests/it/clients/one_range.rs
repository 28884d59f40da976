//! Rows 7 to 9: lazy pullers and clients that resume, which ask for one range at a time and want its header at once.

use std::time::Duration;

use http::StatusCode;

use super::Blob;
use crate::support::client::Downloading;
use crate::support::multipart::content_range;
use crate::support::{Fault, MIB, On, client, digest_of, scene};

/// soci `fs/remote/resolver.go`, `fs/artifact_fetcher.go`: three seconds for the header, and `Accept-Ranges` in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soci_gets_headers_within_three_seconds_on_a_cold_blob() {
    let (registry, mirror) = scene::start();
    // All of them together would take half a minute.
    registry.set_rate(200_000);
    let asks = [
        None,
        Some("bytes=0-1"),
        Some("bytes=1500000-"),
        Some("bytes=-100"),
        Some("bytes=5-6,9-9"),
    ];
    let asks = asks.into_iter().enumerate().map(|(seed, range)| {
        let blob = Blob::cold(&registry, &mirror, seed as u64, 3 * MIB / 2 + 1);
        async move {
            let range = range.map(|range| ("range", range));
            let begin = Downloading {
                abort_after: Some(1),
                ..Downloading::default()
            };
            let answer = begin.run(&blob.url, range.as_slice()).await.unwrap();
            assert!(
                answer.headers_after < Duration::from_secs(3),
                "{range:?}: {:?}",
                answer.headers_after
            );
            assert_eq!(answer.header("accept-ranges"), Some("bytes"), "{range:?}");
            let expected = if range.is_some() { 206 } else { 200 };
            assert_eq!(answer.status.as_u16(), expected, "{range:?}");
            assert!(answer.header("content-length").is_some(), "{range:?}");
        }
    });
    futures_util::future::join_all(asks).await;
}

/// stargz `fs/remote/resolver.go`: two bytes to see whether it can be read, HEAD for the size, then chunks as they are
/// needed, several at a time; none redirected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stargz_reads_a_cold_layer_by_its_footer_first() {
    let (registry, mirror) = scene::start();
    registry.set_rate(2_000_000);
    let blob = Blob::cold(&registry, &mirror, 1, 4 * MIB);
    let size = 4 * MIB;
    blob.assert_part(&blob.range("bytes=0-1").await, 0, 1);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), Some(&*size.to_string()));
    let footer = size - 51;
    let answer = blob.range(&format!("bytes={footer}-{}", size - 1)).await;
    blob.assert_part(&answer, footer, size - 1);
    let chunks = [
        (3_000_000, 3_049_999),
        (50_000, 99_999),
        (2_000_000, 2_049_999),
    ];
    let list = chunks
        .map(|(first, last)| format!("{first}-{last}"))
        .join(",");
    let headers = [
        ("range", &*format!("bytes={list}")),
        ("accept-encoding", "identity"),
    ];
    let answer = client::get(&blob.url, &headers).await.unwrap();
    blob.assert_parts(&answer, &chunks);
    // It looks again after a minute of silence.
    blob.assert_part(&blob.range("bytes=0-1").await, 0, 1);
}

/// overlaybd `registryfs_v2.cpp`: one byte for the size, then all of it to see whether it is redirected, and hangs up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlaybd_hangs_up_on_the_whole_and_reads_parts() {
    let (registry, mirror) = scene::start();
    registry.set_rate(4_000_000);
    let blob = Blob::cold(&registry, &mirror, 1, 4 * MIB);
    blob.assert_part(&blob.range("bytes=0-0").await, 0, 0);
    let probe = Downloading {
        abort_after: Some(1),
        ..Downloading::default()
    };
    let probe = probe.run(&blob.url, &[]).await.unwrap();
    assert_eq!(probe.status, StatusCode::OK);
    for (first, last) in [(4_000_000, 4_000_511), (0, 511), (1_000_000, 1_262_143)] {
        let answer = blob.range(&format!("bytes={first}-{last}")).await;
        blob.assert_part(&answer, first, last);
    }
}

/// containerd `core/remotes/docker/fetcher.go`, parallel: `bytes=0-`, then open ends from everywhere, each left after
/// its chunk, and no look at the status. One 200 among them makes a broken layer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containerd_is_never_given_a_200_to_a_range() {
    const CHUNK: u64 = MIB;
    let (registry, mirror) = scene::start();
    registry.set_rate(4_000_000);
    let cold = Blob::cold(&registry, &mirror, 1, 6 * MIB);
    for round in ["cold", "again"] {
        let chunks = (0..6).map(|number| {
            let (blob, offset) = (&cold, number * CHUNK);
            async move {
                let range = format!("bytes={offset}-");
                let chunk = Downloading {
                    abort_after: Some(CHUNK),
                    ..Downloading::default()
                };
                let answer = chunk.run(&blob.url, &[("range", &range)]).await.unwrap();
                assert_eq!(
                    answer.status,
                    StatusCode::PARTIAL_CONTENT,
                    "{round} {range}"
                );
                let told = content_range(answer.header("content-range").unwrap());
                assert_eq!(told, (offset, 6 * MIB - 1, 6 * MIB), "{round}");
                assert_eq!(answer.error, None, "{round} {range}");
                assert!(answer.bytes >= CHUNK, "{round} {range}: {}", answer.bytes);
                let expected = blob.bytes(offset, offset + answer.bytes - 1);
                assert_eq!(answer.digest, digest_of(&expected), "{round} {range}");
            }
        });
        futures_util::future::join_all(chunks).await;
    }
    client::download(&cold.url, &[])
        .await
        .unwrap()
        .assert_is(&cold.digest);
}

/// regclient `scheme/reg/blob.go`, `internal/reghttp`: `bytes=<current>-<Content-Length>`, whose last byte does not
/// exist.
#[tokio::test]
async fn regclient_may_ask_one_byte_past_the_end() {
    let (registry, mirror) = scene::start();
    let cold = Blob::cold(&registry, &mirror, 1, 100_000);
    blob_to_the_end(&cold, "bytes=60000-100000").await;
    let stored = Blob::stored(&registry, &mirror, 2, 100_000).await;
    blob_to_the_end(&stored, "bytes=60000-100000").await;
}

/// moby `transport/http_reader.go` wants the last byte that there is; containers/image `body_reader.go` wants it as
/// well, and one `Content-Range` only.
#[tokio::test]
async fn dockerd_resumes_to_the_last_byte() {
    let (registry, mirror) = scene::start();
    let cold = Blob::cold(&registry, &mirror, 1, 100_000);
    blob_to_the_end(&cold, "bytes=60000-").await;
    let stored = Blob::stored(&registry, &mirror, 2, 100_000).await;
    blob_to_the_end(&stored, "bytes=60000-").await;
}

async fn blob_to_the_end(blob: &Blob, range: &str) {
    let answer = blob.range(range).await;
    blob.assert_part(&answer, 60_000, 99_999);
    assert_eq!(answer.headers.get_all("content-range").iter().count(), 1);
}

/// nydus `storage/src/backend/registry.rs` and overlaybd take whatever is below 400 for the bytes they asked for.
#[tokio::test]
async fn nydus_gets_its_bytes_or_an_error() {
    let (registry, mirror) = scene::start();
    for (seed, fault) in [
        Fault::status(500),
        Fault::status(404),
        Fault::Reset,
        Fault::Html(200),
        Fault::status(403),
    ]
    .into_iter()
    .enumerate()
    {
        let blob = Blob::cold(&registry, &mirror, seed as u64, 100_000);
        let id = registry.fault(On::blob().containing(&blob.digest).forever(), fault.clone());
        match client::get(&blob.url, &[("range", "bytes=500-999")]).await {
            Ok(answer) => assert!(
                answer.status.as_u16() >= 400,
                "{fault:?}: {}",
                answer.status
            ),
            Err(broken) => assert!(!broken.is_empty()),
        }
        assert!(registry.struck(id) > 0, "{fault:?}");
    }
    // It cannot do without a length.
    let blob = Blob::cold(&registry, &mirror, 9, 100_000);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.header("content-length"), Some("100000"));
}
