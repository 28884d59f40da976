//! Upstream says a length that is not true, or none: what is stored, and what a manifest says, is known better.

use http::{Method, StatusCode};

use crate::support::client::{self, download, get, head};
use crate::support::content::Content;
use crate::support::disk::{blobs, eventually, manifest_file};
use crate::support::image::OCI_MANIFEST;
use crate::support::{
    FakeRegistry, Fault, Image, KIB, Mirror, MirrorConfig, On, REPO, TAG, digest_of, image, scene,
};

/// What a HEAD of the image says, with so many bytes for its length.
fn head_of(image: &Image, length: usize) -> Fault {
    let headers = [
        ("Content-Type", OCI_MANIFEST),
        ("Docker-Content-Digest", &image.digest),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Fault::Status(200, "x".repeat(length), headers.into())
}

#[track_caller]
fn assert_length(answer: &client::Response, image: &Image) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let length = image.manifest.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length));
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
}

/// Its manifest is on disk, before the mirror is killed.
fn wait_until_kept(mirror: &Mirror, image: &Image) {
    let file = manifest_file(&mirror.store_path(), REPO, &image.digest);
    eventually("the manifest", || file.exists());
}

/// docker and containerd refuse a manifest of no bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_of_0_was_kept_for_good() {
    let (registry, mut mirror, image) = scene::cold_image(|config| config.patient());
    registry.fault(On::manifest().head().forever(), head_of(&image, 0));
    let nothing = Fault::Status(200, String::new(), Vec::new());
    registry.fault(On::blob().head().forever(), nothing);
    for reference in [TAG, &*image.digest] {
        for _ in 0..2 {
            assert_length(&mirror.head(REPO, reference).await, &image);
        }
    }
    let cold = registry.put_generated_blob("x/y", 1, 3000);
    for (repo, digest, length) in [
        (REPO, image.blobs().remove(1), "1000"),
        ("x/y", cold, "3000"),
    ] {
        let answer = head(&mirror.blob_url(repo, &digest), &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("content-length"), Some(length));
    }
    wait_until_kept(&mirror, &image);
    mirror.restart();
    assert_length(&mirror.head(REPO, TAG).await, &image);
}

/// Some length was said and believed, until the bytes came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stored_bytes_know_their_length_better_than_a_head() {
    let (registry, mut mirror, image) = scene::cold_image(|config| config.tag_ttl("1h"));
    registry.fault(On::manifest().head().forever(), head_of(&image, 7));
    let first = mirror.head(REPO, TAG).await;
    assert_eq!(first.header("content-length"), Some("7"));
    // As containerd goes on.
    mirror.manifest(REPO, &image.digest).await;
    registry.reset_counts();
    for _ in 0..2 {
        assert_length(&mirror.head(REPO, TAG).await, &image);
        assert_length(&mirror.head(REPO, &image.digest).await, &image);
        assert_length(&mirror.manifest(REPO, TAG).await, &image);
        wait_until_kept(&mirror, &image);
        mirror.restart();
    }
    assert_eq!(registry.counts().requests(), 0);
}

/// A check of a tag that did not move costs a HEAD, and no pull; also after one that moved cost a GET.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_digest_without_a_length_is_confirmed() {
    for registry in [FakeRegistry::docker_hub(), FakeRegistry::builder()] {
        let registry = registry.start().await;
        registry.put_image(REPO, Some(TAG), &image(1));
        registry.fault(On::manifest().forever(), Fault::NoContentLength);
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).patient());
        for newest in [image(1), image(2)] {
            registry.put_image(REPO, Some(TAG), &newest);
            assert_length(&mirror.manifest(REPO, TAG).await, &newest);
            registry.reset_counts();
            for _ in 0..3 {
                assert_length(&mirror.manifest(REPO, TAG).await, &newest);
            }
            let counts = registry.counts();
            assert_eq!((counts.manifest_heads, counts.manifest_gets), (3, 0));
        }
    }
}

/// Harbor sends blobs in chunks, and a proxy before it may end them early and cleanly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_no_stated_length_is_as_long_as_its_manifest_says() {
    for max_size in ["1GiB", "300KiB"] {
        for fault in [Fault::NoContentLength, Fault::ShortClose(150_000)] {
            let what = format!("{max_size} {fault:?}");
            let (registry, mirror) = scene::start_with(|config| config.max_size(max_size));
            let image = Image::random(1, &[300_000]);
            registry.put_image(REPO, Some(TAG), &image);
            mirror.manifest(REPO, TAG).await;
            let layer = digest_of(&image.layers[0]);
            registry.fault(On::blob().get().containing(&layer), fault.clone());
            registry.reset_counts();
            let got = download(&mirror.blob_url(REPO, &layer), &[]).await.unwrap();
            assert_eq!(got.header("content-length"), Some("300000"), "{what}");
            got.assert_is(&layer);
            let ranges: Vec<_> = registry
                .requests()
                .iter()
                .filter_map(|seen| seen.range().map(str::to_owned))
                .collect();
            match fault {
                Fault::NoContentLength => assert!(ranges.is_empty(), "{what}: {ranges:?}"),
                _ => {
                    let rest = ["bytes=150000-", "bytes=150000-299999"];
                    assert_eq!(ranges.len(), 1, "{what}: {ranges:?}");
                    assert!(rest.contains(&&*ranges[0]), "{what}: {ranges:?}");
                }
            }
        }
    }
}

/// An image of one layer whose manifest says another length of it.
fn mistaken(said: u64) -> (Image, String) {
    let mut image = Image::random(1, &[100_000]);
    let text = String::from_utf8(image.manifest.to_vec()).unwrap();
    let text = text.replace("\"size\":100000", &format!("\"size\":{said}"));
    image.manifest = text.into();
    image.digest = digest_of(&image.manifest);
    let layer = digest_of(&image.layers[0]);
    (image, layer)
}

/// dockerd pulls such images: it looks at digests alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_blob_was_refused_because_its_manifest_is_mistaken() {
    for said in [99_000, 200_000] {
        let (image, layer) = mistaken(said);
        let (registry, mirror) = scene::start();
        registry.put_image(REPO, Some(TAG), &image);
        mirror.manifest(REPO, TAG).await;
        mirror.store_blob(REPO, &layer).await;
        let stored = head(&mirror.blob_url(REPO, &layer), &[]).await.unwrap();
        assert_eq!(stored.header("content-length"), Some("100000"));
    }
}

/// The digest decides, but not before all came: the first client was told the wrong length.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistaken_manifest_does_not_keep_a_blob_away_for_good() {
    for said in [99_000, 200_000] {
        let (image, layer) = mistaken(said);
        let (registry, mirror) = scene::start();
        registry.put_image(REPO, Some(TAG), &image);
        registry.fault(On::blob().get().forever(), Fault::NoContentLength);
        mirror.manifest(REPO, TAG).await;
        let url = mirror.blob_url(REPO, &layer);
        let first = download(&url, &[]).await.unwrap();
        assert!(first.error.is_some(), "{said}: it came whole");
        crate::support::until("the blob", async || {
            let again = download(&url, &[]).await.unwrap();
            again.error.is_none() && again.digest == layer
        })
        .await;
        let store = mirror.store_path();
        eventually("the commit", || blobs(&store).contains(&layer));
    }
}

/// Of a wrong blob no client gets all, whatever its length, and nothing of it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_blob_of_another_length_than_the_manifest_says_is_never_whole() {
    for size in [50 * KIB, 900 * KIB] {
        let (registry, mirror) = scene::start();
        let image = Image::random(1, &[100_000]);
        registry.put_image(REPO, Some(TAG), &image);
        let layer = digest_of(&image.layers[0]);
        registry.insert_blob(REPO, &layer, Content::generated(5, size));
        mirror.manifest(REPO, TAG).await;
        let url = mirror.blob_url(REPO, &layer);
        let got = download(&url, &[]).await.unwrap();
        assert!(got.error.is_some() && got.bytes < size, "{got:?}");
        let store = mirror.store_path();
        assert!(!blobs(&store).contains(&layer));
    }
}

/// A GET of it is refused, so a HEAD is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_and_a_get_agree_about_a_manifest_that_is_too_large() {
    let (registry, mirror) = scene::start();
    let padding = " ".repeat(4 * 1024 * 1024);
    let text = format!("{{\"schemaVersion\":2,\"manifests\":[]{padding}}}");
    let digest = registry.put_manifest(
        REPO,
        Some(TAG),
        "application/vnd.oci.image.index.v1+json",
        text,
    );
    for reference in [TAG, &*digest] {
        for method in [Method::HEAD, Method::GET] {
            let url = mirror.manifest_url(REPO, reference);
            let answer = client::request(method, &url, &[]).await.unwrap();
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{reference}");
        }
    }
    assert!(get(&mirror.url(), &[]).await.is_ok());
}

/// It says nothing then, and a GET tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_length_of_a_head_was_a_refusal_or_handed_on() {
    let (registry, mirror, image) = scene::cold_image(scene::plain);
    let absurd = Fault::WrongLength(i64::MAX);
    registry.fault(On::manifest().head().forever(), absurd.clone());
    assert_length(&mirror.head(REPO, TAG).await, &image);
    registry.put_image("x/y", None, &image);
    assert_length(&mirror.head("x/y", &image.digest).await, &image);
    let blob = registry.put_generated_blob("x/y", 1, 5000);
    registry.fault(On::blob().head().forever(), absurd);
    let answer = head(&mirror.blob_url("x/y", &blob), &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-length"), Some("5000"));
}
