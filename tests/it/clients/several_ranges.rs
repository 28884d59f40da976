//! Row 10: podman and its relatives, which ask for several ranges at once.

use http::StatusCode;

use super::Blob;
use crate::support::client::Response;
use crate::support::{Fault, MIB, On, client, digest_of, scene};

/// containers-storage `pkg/chunked/storage_linux.go`: parts are told apart by nothing but their order and number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_gets_one_part_per_range_in_order() {
    let (registry, mirror) = scene::start();
    let stored = Blob::stored(&registry, &mirror, 1, 200_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 200_000);
    let slow = Blob::cold(&registry, &mirror, 3, 200_000);
    let once = On::blob().get().containing(&slow.digest);
    registry.fault(
        once,
        Fault::Slow {
            bytes_per_sec: 150_000,
        },
    );
    for blob in [&stored, &cold, &slow] {
        // Neighbours, a gap of one byte, backwards, the same again, overlapping: none of it is put together.
        let ranges = [
            (0, 9),
            (10, 19),
            (21, 29),
            (150_000, 165_999),
            (65_530, 65_550),
            (65_530, 65_550),
            (65_540, 65_560),
            (0, 0),
            (199_999, 199_999),
        ];
        let list = ranges
            .map(|(first, last)| format!("{first}-{last}"))
            .join(",");
        blob.assert_parts(&blob.range(&format!("bytes={list}")).await, &ranges);
        // Table of contents and tar-split, as the first request has it.
        blob.assert_parts(
            &blob.range("bytes=190000-195000,195001-199990").await,
            &[(190_000, 195_000), (195_001, 199_990)],
        );
    }
}

#[tokio::test]
async fn podman_leaves_the_last_range_open() {
    let (registry, mirror) = scene::start();
    let stored = Blob::stored(&registry, &mirror, 1, 200_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 200_000);
    for blob in [&cold, &stored] {
        let answer = blob.range("bytes=5-9,100000-100009,150000-").await;
        blob.assert_parts(&answer, &[(5, 9), (100_000, 100_009), (150_000, 199_999)]);
    }
}

/// containers-storage: up to 1024 ranges in one header of about 20 KiB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_may_send_a_thousand_ranges_in_one_header() {
    let (registry, mirror) = scene::start();
    let ranges: Vec<(u64, u64)> = (0..1024_u64)
        .map(|number| {
            (
                10_000_000 + number * 9_000,
                10_000_000 + number * 9_000 + number,
            )
        })
        .collect();
    let list: Vec<_> = ranges
        .iter()
        .map(|(first, last)| format!("{first}-{last}"))
        .collect();
    let header = format!("bytes={}", list.join(", "));
    assert!(header.len() > 19_000, "{}", header.len());
    let stored = Blob::stored(&registry, &mirror, 1, 20 * MIB).await;
    stored.assert_parts(&stored.range(&header).await, &ranges);
    let cold = Blob::cold(&registry, &mirror, 2, 20 * MIB);
    cold.assert_parts(&cold.range(&header).await, &ranges);
    // It halves its list upon a 400, and gives up upon anything else.
    let list = format!("{header}, 19990000-19990001");
    for blob in [&stored, &cold] {
        assert_refused(&blob.range(&list).await);
    }
}

#[tokio::test]
async fn podman_is_told_400_for_what_is_not_served() {
    let (registry, mirror) = scene::start();
    let stored = Blob::stored(&registry, &mirror, 1, 100_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 100_000);
    let again = vec!["0-99999"; 1000].join(",");
    for blob in [&stored, &cold] {
        assert_refused(&blob.range(&format!("bytes={again}")).await);
        assert_refused(&blob.range("bytes=0-,1-,2-").await);
        // Twice the blob is no attack yet.
        let answer = blob.range("bytes=0-,0-").await;
        blob.assert_parts(&answer, &[(0, 99_999), (0, 99_999)]);
    }
}

/// What has no room in the store is passed through, one range at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_is_told_400_where_nothing_can_be_stored() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("4MiB"));
    let blob = Blob::cold(&registry, &mirror, 1, 9 * MIB);
    assert_refused(&blob.range("bytes=0-1,5-6").await);
    blob.assert_part(&blob.range("bytes=5-6").await, 5, 6);
}

#[track_caller]
fn assert_refused(answer: &Response) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.json()["errors"][0]["code"].is_string());
}

#[tokio::test]
async fn podman_gets_its_parts_only_of_the_blob_it_means() {
    let (registry, mirror) = scene::start();
    let stored = Blob::stored(&registry, &mirror, 1, 10_000).await;
    let cold = Blob::cold(&registry, &mirror, 2, 10_000);
    for blob in [&stored, &cold] {
        let range = ("range", "bytes=1-2,5-6");
        let etag = format!("\"{}\"", blob.digest);
        let answer = client::get(&blob.url, &[range, ("if-range", &etag)])
            .await
            .unwrap();
        blob.assert_parts(&answer, &[(1, 2), (5, 6)]);
        let answer = client::get(&blob.url, &[range, ("if-range", "\"other\"")])
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(digest_of(&answer.body), blob.digest);
    }
}
