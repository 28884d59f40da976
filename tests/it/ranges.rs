//! A part of a blob must never be other bytes than asked for, and must never be answered with all of it.

use std::time::Duration;

use http::StatusCode;

use crate::support::client::download;
use crate::support::content::Content;
use crate::support::image::OCI_MANIFEST;
use crate::support::{
    Client, FakeRegistry, Fault, Image, KIB, MIB, Mirror, On, REPO, client, digest_of, plain,
    scene, until,
};

const SIZE: u64 = 300_000;

fn part(from: u64, to: u64) -> Vec<u8> {
    Content::generated(1, SIZE).read(from, usize::try_from(to - from).unwrap())
}

fn cold() -> (FakeRegistry, Mirror, String) {
    let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
    let url = mirror.blob_url(REPO, &digest);
    (registry, mirror, url)
}

async fn stored() -> (FakeRegistry, Mirror, String) {
    let (registry, mirror, url) = cold();
    client::get(&url, &[]).await.unwrap();
    until("stored", async || {
        let head = client::head(&url, &[]).await.unwrap();
        head.header("cache-status") == Some("pierglass; hit")
    })
    .await;
    registry.down();
    (registry, mirror, url)
}

#[tokio::test]
async fn every_form_of_one_range_gets_exactly_its_bytes() {
    let (_registry, _mirror, url) = stored().await;
    let digest = url.rsplit('/').next().unwrap();
    let client = Client::new();
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-1", 0, 2),
        ("bytes=0-", 0, SIZE),
        ("bytes=10-19", 10, 20),
        ("bytes=65530-65545", 65_530, 65_546),
        ("bytes=299990-", 299_990, SIZE),
        ("bytes=299999-299999", 299_999, SIZE),
        ("bytes=-5", SIZE - 5, SIZE),
        ("bytes=-300000", 0, SIZE),
        ("bytes=-999999999", 0, SIZE),
        ("bytes=70000-999999999", 70_000, SIZE),
        ("BYTES=70000-99999999999999999999999999", 70_000, SIZE),
        ("bytes=5-9,", 5, 10),
    ] {
        let answer = client.get(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert!(answer.body == part(from, to), "{range}");
        let (last, length) = (to - 1, to - from);
        for (name, value) in [
            ("content-range", format!("bytes {from}-{last}/{SIZE}")),
            ("content-length", length.to_string()),
            ("content-type", "application/octet-stream".to_owned()),
            ("accept-ranges", "bytes".to_owned()),
            ("docker-content-digest", digest.to_owned()),
            ("etag", format!("\"{digest}\"")),
            ("cache-status", "pierglass; hit".to_owned()),
            ("docker-distribution-api-version", "registry/2.0".to_owned()),
        ] {
            assert_eq!(answer.header(name), Some(&*value), "{name} for {range}");
        }
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_refused_with_the_length() {
    let (_registry, _mirror, url) = stored().await;
    for range in ["bytes=300000-", "bytes=300000-300001", "bytes=-0"] {
        let answer = client::get(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(answer.header("content-range"), Some("bytes */300000"));
        assert!(answer.body.is_empty());
    }
}

#[tokio::test]
async fn what_is_no_range_is_as_if_it_were_not_there() {
    let (_registry, _mirror, url) = stored().await;
    for range in ["bytes", "bytes=", "bytes=a-b", "bytes=9-5", "lines=1-2"] {
        let answer = client::get(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{range}");
        assert_eq!(answer.body.len() as u64, SIZE);
    }
}

#[tokio::test]
async fn several_ranges_are_never_answered_with_the_first_alone() {
    let (_registry, _mirror, url) = stored().await;
    let answer = client::get(&url, &[("range", "bytes=0-1,5-6")])
        .await
        .unwrap();
    let multipart = answer
        .header("content-type")
        .is_some_and(|kind| kind.starts_with("multipart/byteranges"));
    assert!(
        answer.status == StatusCode::BAD_REQUEST
            || answer.status == StatusCode::PARTIAL_CONTENT && multipart,
        "{}",
        answer.status
    );
}

#[tokio::test]
async fn the_first_of_two_lines_of_ranges_was_served_alone() {
    let (_registry, _mirror, url) = stored().await;
    let lines = [("range", "bytes=1-2"), ("range", "bytes=5-6")];
    let answer = client::get(&url, &lines).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body == part(0, SIZE));
}

#[tokio::test]
async fn if_range_decides_between_a_part_and_all() {
    let (_registry, _mirror, url) = stored().await;
    let etag = format!("\"{}\"", url.rsplit('/').next().unwrap());
    let range = ("range", "bytes=10-19");
    let answer = client::get(&url, &[range, ("if-range", &etag)]).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert!(answer.body == part(10, 20));
    for other in [
        "\"sha256:0\"",
        &format!("W/{etag}"),
        "Wed, 21 Oct 2015 07:28:00 GMT",
    ] {
        let answer = client::get(&url, &[range, ("if-range", other)]).await;
        let answer = answer.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{other}");
        assert!(answer.body == part(0, SIZE));
        assert_eq!(answer.header("content-range"), None);
    }
}

#[tokio::test]
async fn a_head_ignores_ranges() {
    let (_registry, _mirror, url) = stored().await;
    for range in ["bytes=0-9", "bytes=300000-"] {
        let answer = client::head(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{range}");
        assert_eq!(answer.header("content-length"), Some("300000"));
        assert_eq!(answer.header("content-range"), None);
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
}

/// containerd and soci take a 200 for "this mirror knows no ranges" and download everything.
#[tokio::test]
async fn ranges_of_a_cold_blob_are_parts_and_one_transfer() {
    let (registry, _mirror, url) = cold();
    registry.set_rate(1_000_000);
    let ranges = [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=200000-200099", 200_000, 200_100),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=0-99", 0, 100),
    ];
    let askers = ranges.map(|(range, from, to)| {
        let url = url.clone();
        tokio::spawn(async move {
            let answer = client::get(&url, &[("range", range)]).await.unwrap();
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
            let expected = format!("bytes {from}-{}/{SIZE}", to - 1);
            assert_eq!(answer.header("content-range"), Some(&*expected));
            assert!(answer.body == part(from, to), "{range}");
        })
    });
    for asker in askers {
        asker.await.unwrap();
    }
    let whole = download(&url, &[]).await.unwrap();
    whole.assert_is(url.rsplit('/').next().unwrap());
    let whole_gets = registry
        .requests()
        .iter()
        .filter(|seen| seen.method == "GET" && seen.range().is_none())
        .count();
    assert_eq!(whole_gets, 1, "one transfer");
    assert!(
        registry.counts().bytes_sent <= 2 * SIZE,
        "a part may be fetched on its own, the tail not by everybody"
    );
}

#[tokio::test]
async fn a_range_of_a_cold_blob_of_unknown_length_has_a_numeric_total() {
    let (registry, _mirror, url) = cold();
    registry.fault(On::blob().get(), Fault::NoContentLength);
    let answer = client::get(&url, &[("range", "bytes=10-19")])
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.header("content-range"), Some("bytes 10-19/300000"));
    assert!(answer.body == part(10, 20));
}

/// containerd's parallel fetch asks for `bytes=0-` of manifests as well.
#[tokio::test]
async fn a_range_does_no_harm_to_a_manifest() {
    let (registry, mirror) = scene::start();
    let image = Image::random(1, &[100]);
    registry.put_image(REPO, Some("1.0"), &image);
    for reference in ["1.0", &image.digest] {
        for range in ["bytes=0-", "bytes=0-9", "bytes=99999-"] {
            let url = mirror.manifest_url(REPO, reference);
            let answer = client::get(&url, &[("range", range)]).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{range}");
            assert_eq!(digest_of(&answer.body), image.digest);
            assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
        }
    }
}

/// The header waited for the last byte of the whole blob.
#[tokio::test]
async fn a_range_of_a_cold_blob_of_unknown_length_waited_for_all_of_it() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(REPO, 2, 16 * 1024 * 1024);
    registry.fault(On::blob().get(), Fault::NoContentLength);
    registry.set_rate(1024 * 1024);
    let url = mirror.blob_url(REPO, &digest);
    let asked = client::get(&url, &[("range", "bytes=0-1")]);
    let answer = tokio::time::timeout(Duration::from_secs(6), asked).await;
    let answer = answer.expect("long before the blob is whole").unwrap();
    assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(answer.header("content-range"), Some("bytes 0-1/16777216"));
}

#[tokio::test]
async fn an_upstream_that_knows_no_head_costs_no_pull() {
    let (registry, mirror, blob) = cold();
    let image = Image::random(1, &[100]);
    registry.put_image(REPO, Some("1.0"), &image);
    let (on, fault) = (On::any, Fault::status);
    registry.fault(on().head().forever(), fault(405));
    let tag = mirror.head(REPO, "1.0").await;
    assert_eq!(
        tag.header("docker-content-digest"),
        Some(image.digest.as_str())
    );
    let length = client::head(&blob, &[]).await.unwrap();
    assert_eq!(length.status, StatusCode::OK);
    assert_eq!(length.header("content-length"), Some("300000"));
}

/// As many parts of a byte, so far apart, from `first` on.
fn bytes_apart(first: u64, count: u64, apart: u64) -> String {
    let parts = (0..count).map(|number| {
        let place = first + number * apart;
        format!("{place}-{place}")
    });
    format!("bytes={}", parts.collect::<Vec<_>>().join(","))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_ranges_were_a_thousand_requests() {
    const SIZE: u64 = 400 * MIB;
    for (count, apart, most) in [(1000, 390 * KIB, 16), (1000, 10 * KIB, 6)] {
        let (registry, mirror) = scene::start();
        // Parts of a blob are not verified, and its fill gets nowhere.
        let digest = digest_of(b"never whole");
        registry.insert_blob(REPO, &digest, Content::generated(1, SIZE));
        let slow = Fault::Slow { bytes_per_sec: 10 };
        registry.fault(On::blob().get().whole(), slow);
        let url = mirror.blob_url(REPO, &digest);
        let ranges = bytes_apart(4 * MIB, count, apart);
        let asking = tokio::spawn(async move {
            let headers = [("range", &*ranges)];
            let answer = tokio::time::timeout(Duration::from_secs(5), download(&url, &headers));
            answer.await.map(Result::unwrap)
        });
        let answer = asking.await.unwrap();
        let asked = registry.counts().blob_gets - 1;
        assert!(asked <= most, "{asked} requests for {count} ranges");
        assert!(asked > 0);
        if most < 16 {
            let answer = answer.expect("the windows have all of it");
            assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT);
            assert_eq!(answer.error, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_transfers_of_their_client() {
    let (registry, mirror, digest) =
        scene::cold_blob(64 * MIB, |config| config.top("max_fills_per_client", "3"));
    registry.fault(
        On::blob().get().forever(),
        Fault::Stall(10, Duration::from_secs(20)),
    );
    let url = mirror.blob_url(REPO, &digest);
    let askers: Vec<_> = (1..10)
        .map(|number| {
            let url = url.clone();
            let first = number * 5 * MIB;
            let range = format!("bytes={first}-{}", first + 100_000);
            tokio::spawn(async move { download(&url, &[("range", &*range)]).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(registry.counts().blob_gets, 3);
    askers.iter().for_each(tokio::task::JoinHandle::abort);
}
