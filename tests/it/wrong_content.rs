//! What does not match its digest must never reach a client as a complete body, and must never be kept.

use std::path::PathBuf;

use http::StatusCode;

use crate::support::client::Download;
use crate::support::disk::files;
use crate::support::image::OCI_MANIFEST;
use crate::support::mirror::sum_of;
use crate::support::{
    Fault, Image, Mirror, MirrorConfig, On, REPO, TAG, client, plain, scene, until,
};

const SIZE: u64 = 1_000_000;

async fn failures(mirror: &Mirror) -> f64 {
    let name = "pierglass_store_ingest_failures_total";
    mirror.metric(name, &[]).await.unwrap_or(0.0)
}

/// Complete: all that Content-Length announced, or a clean end without it.
#[track_caller]
fn assert_not_wrong(download: &Download, digest: &str, fault: &Fault) {
    let complete = download.status.is_success() && download.error.is_none();
    assert!(
        !complete || download.digest == digest,
        "a complete wrong body of {} bytes: {fault:?}",
        download.bytes
    );
}

async fn assert_nothing_wrong_kept(mirror: &Mirror, fault: &Fault) {
    assert_eq!(
        files(&mirror.store_path().join("blobs")),
        <Vec<PathBuf>>::new(),
        "{fault:?}"
    );
    let ingests = mirror.store_path().join("ingest");
    until("what was begun is removed", async || {
        files(&ingests).is_empty()
    })
    .await;
}

/// What came; nothing at all if the body failed before its header was on its way.
async fn downloaded(url: &str) -> Option<Download> {
    match client::download(url, &[]).await {
        Ok(download) => Some(download),
        Err(error) => {
            let cut = ["closed before message completed", "reset"];
            assert!(cut.iter().any(|cut| error.contains(cut)), "{error}");
            None
        }
    }
}

#[tokio::test]
async fn a_wrong_blob_is_never_delivered_whole_nor_kept() {
    let (registry, mirror) = scene::start();
    // Never right, however often it is asked for.
    let hopeless = [
        Fault::WrongBytes,
        Fault::ShortClose(500_000),
        Fault::ShortClose(0),
        Fault::WrongLength(1),
        Fault::WrongLength(-1),
        Fault::WrongLength(-500_000),
        Fault::WrongLength(500_000),
    ];
    for (seed, fault) in (1..).zip(hopeless) {
        // Another blob each time: one that was wrong again and again is not asked for at once.
        let digest = registry.put_generated_blob(REPO, seed, SIZE);
        let url = mirror.blob_url(REPO, &digest);
        let before = failures(&mirror).await;
        let id = registry.fault(On::blob().get().forever(), fault.clone());
        let download = downloaded(&url).await;
        assert!(registry.struck(id) > 0);
        if let Some(download) = download {
            assert_not_wrong(&download, &digest, &fault);
            assert!(
                download.error.is_some() || !download.status.is_success(),
                "{fault:?}"
            );
        }
        until("the failure is counted", async || {
            failures(&mirror).await > before
        })
        .await;
        assert_nothing_wrong_kept(&mirror, &fault).await;
        registry.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_wrong_upstream_was_transferred_for_every_request() {
    for room in ["50MiB", "500KiB"] {
        let (registry, mirror) = scene::start_with(|config| config.max_size(room));
        let digest = registry.put_generated_blob(REPO, 1, SIZE);
        let other = "of/another";
        registry.put_generated_blob(other, 1, SIZE);
        let wrong = On::blob().get().repo(REPO).forever();
        registry.fault(wrong, Fault::WrongBytes);
        let url = mirror.blob_url(REPO, &digest);
        for _ in 0..6 {
            if let Some(download) = downloaded(&url).await {
                assert_not_wrong(&download, &digest, &Fault::WrongBytes);
            }
        }
        assert_eq!(registry.counts().blob_gets, 2, "{room}");
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        let pause: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=5).contains(&pause), "{pause}");
        // It is no fault of those who have it right.
        mirror.pull_blob(other, &digest).await;
        registry.clear_faults();
        until("it is asked for again", async || {
            let again = client::download(&url, &[]).await.unwrap();
            again.status == StatusCode::OK && again.digest == digest
        })
        .await;
    }
}

#[tokio::test]
async fn a_blob_that_breaks_off_is_never_taken_for_a_whole_one() {
    for fault in [
        Fault::CutAfter(0),
        Fault::CutAfter(500_000),
        Fault::CutAfter(SIZE - 1),
        Fault::CutChunked(500_000),
        Fault::CutChunked(SIZE),
    ] {
        let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
        let url = mirror.blob_url(REPO, &digest);
        let id = registry.fault(On::blob().get().forever(), fault.clone());
        let download = downloaded(&url).await;
        assert!(registry.struck(id) > 0);
        if let Some(download) = &download {
            assert_not_wrong(download, &digest, &fault);
        }
        if download.is_none_or(|download| download.digest != digest) {
            until("the failure is counted", async || {
                failures(&mirror).await > 0.0
            })
            .await;
            assert_nothing_wrong_kept(&mirror, &fault).await;
        }
        registry.clear_faults();
        client::download(&url, &[])
            .await
            .unwrap()
            .assert_is(&digest);
    }
}

#[tokio::test]
async fn a_small_wrong_blob_sends_not_one_wrong_byte() {
    let (registry, mirror, digest) = scene::cold_blob(10_000, plain);
    registry.fault(On::blob().get().forever(), Fault::WrongBytes);
    if let Some(download) = downloaded(&mirror.blob_url(REPO, &digest)).await {
        assert_eq!(download.bytes, 0);
        assert!(download.error.is_some());
    }
}

#[tokio::test]
async fn a_chunked_blob_of_unknown_length_is_checked_as_well() {
    let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
    let url = mirror.blob_url(REPO, &digest);
    registry.fault(On::blob().get(), Fault::NoContentLength);
    let download = client::download(&url, &[]).await.unwrap();
    assert_eq!(
        download.header("content-length"),
        None,
        "the length was not known"
    );
    download.assert_is(&digest);
    registry.reset_counts();
    let again = client::download(&url, &[]).await.unwrap();
    again.assert_is(&digest);
    assert_eq!(again.header("content-length"), Some(&*SIZE.to_string()));
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_read_along_fail_alike() {
    let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
    let url = mirror.blob_url(REPO, &digest);
    let wrong = registry.fault(On::blob().get().times(1), Fault::WrongBytes);
    // Slow enough for all to join the transfer before it goes wrong.
    registry.set_rate(SIZE / 20);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { client::download(&url, &[]).await.unwrap() })
        })
        .collect();
    until("all are connected", async || {
        mirror.metric("pierglass_requests_total", &[]).await == Some(8.0)
    })
    .await;
    registry.set_rate(0);
    for client in clients {
        let download = client.await.unwrap();
        assert_eq!(download.status, StatusCode::OK);
        assert!(download.error.is_some(), "{} bytes", download.bytes);
        assert!(download.bytes < SIZE);
    }
    assert_eq!(registry.struck(wrong), 1);
    assert_eq!(registry.counts().blob_gets, 1);
    let page = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    let failed = sum_of(
        &page.unwrap().text(),
        "pierglass_store_ingest_failures_total",
        &[("reason", "digest")],
    );
    assert_eq!(failed, Some(1.0));
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
}

/// A registry with an image, and other images that are not what was asked for.
fn instead(status: u16, media_type: &str, body: &[u8]) -> Fault {
    let body = String::from_utf8(body.to_vec()).unwrap();
    Fault::Status(
        status,
        body,
        vec![("Content-Type".into(), media_type.into())],
    )
}

#[tokio::test]
async fn a_wrong_manifest_is_refused_and_not_kept() {
    let (right, other) = (Image::random(1, &[100]), Image::random(2, &[100]));
    let faults = [
        Fault::WrongBytes,
        instead(200, OCI_MANIFEST, &other.manifest),
        Fault::Html(200),
        Fault::ShortClose(100),
        Fault::CutAfter(100),
        Fault::CutChunked(100),
        Fault::WrongLength(-1),
        Fault::WrongLength(1),
    ];
    let (registry, mirror) = scene::start();
    registry.put_image(REPO, Some("1.0"), &right);
    for fault in faults {
        let id = registry.fault(On::manifest().get().forever(), fault.clone());
        let url = mirror.manifest_url(REPO, &right.digest);
        let answer = client::get(&url, &[]).await.unwrap();
        assert!(
            answer.status.is_server_error(),
            "{fault:?}: {}",
            answer.status
        );
        let json = answer.json();
        assert!(json["errors"][0]["code"].is_string(), "{fault:?}");
        assert!(registry.struck(id) > 0, "{fault:?}");
        registry.clear_faults();
    }
    let url = mirror.manifest_url(REPO, &right.digest);
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.body, right.manifest);
}

#[tokio::test]
async fn a_page_of_html_is_no_manifest_of_a_tag() {
    let right = Image::random(1, &[100]);
    let (registry, mirror) = scene::start();
    registry.put_image(REPO, Some("1.0"), &right);
    let url = mirror.manifest_url(REPO, "1.0");
    for fault in [
        Fault::Html(200),
        Fault::LyingDigestHeader,
        Fault::CutAfter(100),
    ] {
        registry.fault(On::manifest().get(), fault.clone());
        let answer = client::get(&url, &[]).await.unwrap();
        assert!(answer.status.is_server_error(), "{fault:?}");
        assert!(!answer.text().contains("<html>"), "{fault:?}");
    }
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.body, right.manifest);
}

#[tokio::test]
async fn a_digest_that_upstream_lied_about_is_not_stuck() {
    let right = Image::random(1, &[100]);
    let (registry, mirror) = scene::start();
    registry.put_image(REPO, Some("1.0"), &right);
    // By digest the lie is seen at once, and a GET tells what is true.
    let lie = registry.fault(On::manifest().head(), Fault::LyingDigestHeader);
    let by_digest = mirror.manifest_url(REPO, &right.digest);
    let answer = client::head(&by_digest, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    let digest = answer.header("docker-content-digest");
    assert_eq!(digest, Some(&*right.digest));
    assert_eq!(registry.struck(lie), 1);
    // By tag it is seen when the bytes are asked for; they come nevertheless, and right. A mirror that has not found out
    // yet what the HEADs are worth:
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    registry.fault(On::manifest().head(), Fault::LyingDigestHeader);
    let by_tag = mirror.manifest_url(REPO, "1.0");
    let lie = client::head(&by_tag, &[]).await.unwrap();
    assert_ne!(lie.header("docker-content-digest"), Some(&*right.digest));
    let answer = client::get(&by_tag, &[]).await.unwrap();
    assert_eq!(answer.body, right.manifest);
    assert_eq!(answer.header("docker-content-digest"), Some(&*right.digest));
    let head = client::head(&by_tag, &[]).await.unwrap();
    assert_eq!(head.header("docker-content-digest"), Some(&*right.digest));
}

/// An error that a gateway answers with 200, with its own digest and the type of a manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_with_a_digest_and_a_type_was_a_manifest() {
    let (registry, mirror, image) = scene::cold_image(|config| config.patient());
    mirror.pull(REPO, TAG, &image).await;
    let error = r#"{"errors":[{"code":"UNAVAILABLE","message":"maintenance"}]}"#;
    let digest = registry.put_manifest(REPO, Some(TAG), OCI_MANIFEST, error);
    for _ in 0..2 {
        let answer = mirror.manifest(REPO, TAG).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body, image.manifest);
    }
    let answer = mirror.manifest(REPO, &digest).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let answer = mirror.head(REPO, TAG).await;
    let named = answer.header("docker-content-digest");
    assert_eq!(named, Some(&*image.digest), "no HEAD names it any more");
}

/// The digest that was asked for is proof enough.
#[tokio::test]
async fn a_right_manifest_was_refused_for_what_a_header_calls_it() {
    let right = Image::random(1, &[100]);
    let (registry, mirror) = scene::start();
    registry.put_image(REPO, None, &right);
    registry.fault(On::manifest().forever(), Fault::LyingDigestHeader);
    let answer = mirror.manifest(REPO, &right.digest).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.body, right.manifest);
    assert_eq!(answer.header("docker-content-digest"), Some(&*right.digest));
}

/// A gateway in trouble, and storage that says so with 200.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_place_of_a_blob_was_handed_on_with_its_own_length() {
    for page in [
        Fault::Html(200),
        instead(200, "Application/XML; charset=utf-8", b"<Error/>"),
    ] {
        let (registry, mirror, digest) = scene::cold_blob(5000, plain);
        registry.fault(On::blob().get().times(2), page);
        mirror.pull_blob(REPO, &digest).await;
        assert_eq!(registry.counts().blob_gets, 3);
    }
    let (registry, mirror, digest) = scene::cold_blob(5000, plain);
    registry.fault(On::blob().get().forever(), Fault::Html(200));
    let answer = client::get(&mirror.blob_url(REPO, &digest), &[]).await;
    assert_eq!(answer.unwrap().status, StatusCode::BAD_GATEWAY);
}

/// Storage that guesses types by what it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_called_a_page_is_the_blob_if_it_is_as_long() {
    let (registry, mirror, image) = scene::cold_image(plain);
    mirror.manifest(REPO, TAG).await;
    let digest = &image.blobs()[0];
    let bytes = &image.config;
    registry.fault(On::blob().get().forever(), instead(200, "text/html", bytes));
    mirror.pull_blob(REPO, digest).await;
    assert_eq!(registry.counts().blob_gets, 1);
}

/// The length that its manifest says is another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_that_calls_itself_a_blob_once_is_not_the_blob() {
    let (registry, mirror, image) = scene::cold_image(plain);
    mirror.manifest(REPO, TAG).await;
    let layer = image.blobs().remove(1);
    let error = instead(200, "application/octet-stream", b"in trouble");
    registry.fault(On::blob().get().containing(&layer), error);
    mirror.pull_blob(REPO, &layer).await;
    assert_eq!(registry.counts().blob_gets, 2);
}
