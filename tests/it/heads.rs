//! A HEAD is answered otherwise than a GET: what a GET says counts, and costs no pull where pulls are counted.

use http::{Method, StatusCode};

use crate::support::client::{self, Response};
use crate::support::content::Content;
use crate::support::image::OCI_MANIFEST;
use crate::support::ledger::Counts;
use crate::support::wire::Reply;
use crate::support::{
    FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, REPO, Scripted, TAG, digest_of, image,
    scene,
};

const STALE: &str = "pierglass; hit; detail=stale";

/// Statuses that front ends say to a HEAD of what they give to a GET.
const REFUSALS: [u16; 17] = [
    300, 400, 401, 403, 404, 405, 406, 409, 410, 412, 415, 418, 421, 451, 500, 501, 599,
];

/// What may also stand in the place of an answer to a HEAD.
fn odd_answers() -> Vec<Fault> {
    let to = |place: &str| vec![("Location".to_owned(), place.to_owned())];
    let mut odd: Vec<_> = REFUSALS.map(Fault::status).into();
    odd.extend([
        Fault::Html(404),
        Fault::Html(200),
        Fault::Status(202, String::new(), Vec::new()),
        Fault::Status(204, String::new(), Vec::new()),
        Fault::Status(307, String::new(), Vec::new()),
        Fault::Status(302, String::new(), to("/login")),
        Fault::RedirectLoop,
    ]);
    odd
}

/// A registry that answers so to each HEAD, and a mirror that asks about the tag each time.
fn refusing(on: On, fault: Fault) -> (FakeRegistry, Mirror, Image) {
    let (registry, mirror, image) = scene::cold_image(|config| config.patient());
    registry.fault(on.head().forever(), fault);
    (registry, mirror, image)
}

#[track_caller]
fn assert_is(answer: &Response, image: &Image, what: &str) {
    assert_eq!(answer.status, StatusCode::OK, "{what}: {}", answer.text());
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image.digest),
        "{what}"
    );
    let length = image.manifest.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length), "{what}");
}

/// Manifest HEADs, manifest GETs.
fn manifests(registry: &FakeRegistry) -> (u64, u64) {
    let counts = registry.counts();
    registry.reset_counts();
    (counts.manifest_heads, counts.manifest_gets)
}

/// Nexus, GitLab, Harbor and others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_was_404_because_its_head_was_refused() {
    for fault in odd_answers() {
        let (registry, mirror, old) = refusing(On::manifest(), fault.clone());
        let what = format!("{fault:?}");
        assert_is(&mirror.head(REPO, TAG).await, &old, &what);
        assert_is(&mirror.manifest(REPO, TAG).await, &old, &what);
        assert_is(&mirror.head(REPO, &old.digest).await, &old, &what);
        let new = image(2);
        registry.put_image(REPO, Some(TAG), &new);
        for _ in 0..2 {
            let seen = mirror.head(REPO, TAG).await;
            assert_ne!(seen.header("cache-status"), Some(STALE), "{what}");
            assert_is(&seen, &new, &what);
            assert_is(&mirror.manifest(REPO, TAG).await, &new, &what);
        }
        // By digest, and nothing is stored.
        let other = image(3);
        registry.put_image("x/y", None, &other);
        assert_is(&mirror.head("x/y", &other.digest).await, &other, &what);
        assert_is(&mirror.manifest("x/y", &other.digest).await, &other, &what);
        // And what is really gone is gone.
        registry.untag(REPO, TAG);
        for answer in [
            mirror.manifest(REPO, TAG).await,
            mirror.head(REPO, TAG).await,
        ] {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_price_of_a_head_that_is_refused_is_paid_once() {
    let (registry, mirror, image) = refusing(On::manifest(), Fault::status(404));
    assert_is(&mirror.manifest(REPO, TAG).await, &image, "cold");
    assert_eq!(manifests(&registry), (0, 1));
    assert_is(&mirror.manifest(REPO, TAG).await, &image, "first check");
    assert_eq!(manifests(&registry), (1, 1));
    for _ in 0..3 {
        let answer = mirror.manifest(REPO, TAG).await;
        assert_is(&answer, &image, "later checks");
        let status = answer.header("cache-status");
        assert_eq!(status, Some("pierglass; hit; detail=revalidated"));
        let asked = registry.requests().pop().unwrap();
        let etag = format!("\"{}\"", image.digest);
        assert_eq!(asked.header("if-none-match"), Some(&*etag));
        assert_eq!(manifests(&registry), (0, 1));
    }
    // Another repository, and a client that asks with HEAD.
    registry.put_image("x/y", Some("1"), &image);
    assert_is(&mirror.head("x/y", "1").await, &image, "elsewhere");
    assert_eq!(manifests(&registry), (0, 1));
}

/// Which manifest it is, a HEAD without `Docker-Content-Digest` does not say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_names_no_digest_was_followed_by_a_get_each_time() {
    let headers = vec![("Content-Type".to_owned(), OCI_MANIFEST.to_owned())];
    let nameless = Fault::Status(200, "x".repeat(500), headers);
    let (registry, mirror, image) = refusing(On::manifest(), nameless);
    for asked in [(0, 1), (1, 1), (0, 1), (0, 1)] {
        assert_is(&mirror.manifest(REPO, TAG).await, &image, "each");
        assert_eq!(manifests(&registry), asked);
    }
}

/// Behind a firewall, with a mirror of one's own before the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_refuses_head_is_asked_with_get_while_the_registry_is_away() {
    for refusal in [404, 403] {
        let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
        near.put_image(REPO, Some(TAG), &image(1));
        near.fault(On::manifest().head().forever(), Fault::status(refusal));
        home.down();
        let endpoints = format!("endpoints = [\"{}\"]", near.url());
        let config = MirrorConfig::for_upstream(&home).toml(&endpoints);
        let mirror = Mirror::start(config.patient());
        assert_is(&mirror.head(REPO, TAG).await, &image(1), "cold");
        near.put_image(REPO, Some(TAG), &image(2));
        assert_is(&mirror.manifest(REPO, TAG).await, &image(2), "moved");
    }
}

/// A registry that is well is asked with HEAD, as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_gone_is_no_reason_to_ask_otherwise() {
    let (registry, mirror, image) = scene::cold_image(|config| config.patient());
    assert_eq!(
        mirror.head(REPO, "typo").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(manifests(&registry), (1, 1));
    assert_is(&mirror.head(REPO, TAG).await, &image, "head");
    assert_eq!(manifests(&registry), (1, 0));
}

/// What is signed for GET is refused to HEAD.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_was_sent_on_to_a_url_that_is_for_get_alone() {
    for on in [On::manifest(), On::blob()] {
        let (registry, mirror, old) = scene::cold_image(|config| config.patient());
        let place = format!("{}/signed/for/get", registry.blob_host_url());
        let away = Fault::Status(307, String::new(), vec![("Location".into(), place)]);
        registry.fault(on.head().forever(), away);
        mirror.manifest(REPO, TAG).await;
        let new = image(2);
        registry.put_image(REPO, Some(TAG), &new);
        for _ in 0..2 {
            assert_is(&mirror.manifest(REPO, TAG).await, &new, "moved");
        }
        let layer = old.blobs().remove(1);
        let head = client::head(&mirror.blob_url(REPO, &layer), &[]).await;
        let head = head.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("content-length"), Some("1000"));
        mirror.pull_blob(REPO, &layer).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_could_not_be_had_because_its_head_was_refused() {
    for fault in odd_answers() {
        let what = format!("{fault:?}");
        let (registry, mirror, digest) = scene::cold_blob(5000, scene::plain);
        registry.fault(On::blob().head().forever(), fault);
        let url = mirror.blob_url(REPO, &digest);
        for _ in 0..2 {
            let head = client::head(&url, &[]).await.unwrap();
            assert_eq!(head.status, StatusCode::OK, "{what}");
            assert_eq!(head.header("content-length"), Some("5000"), "{what}");
        }
        let counts = registry.counts();
        // One byte for the second, and no HEAD any more.
        assert_eq!(counts.blob_gets, 2, "{what}");
        assert!(counts.bytes_sent <= 2, "{what}");
        mirror.store_blob(REPO, &digest).await;
        // Of another repository, which has to prove that it has the blob as well.
        registry.put_generated_blob("x/y", 1, 5000);
        mirror.pull_blob("x/y", &digest).await;
        let missing = client::head(&mirror.blob_url("x/z", &digest), &[]).await;
        assert_eq!(missing.unwrap().status, StatusCode::NOT_FOUND, "{what}");
    }
}

/// A manifest says how long its blobs are: lazy pullers and some copiers ask for nothing else before they pull.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_a_stored_manifest_names_needs_no_question() {
    let (registry, mirror, image) = refusing(On::blob(), Fault::status(404));
    mirror.manifest(REPO, TAG).await;
    registry.reset_counts();
    let layer = image.blobs().remove(1);
    for repo in [REPO, REPO] {
        let head = client::head(&mirror.blob_url(repo, &layer), &[]).await;
        let head = head.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("content-length"), Some("1000"));
        assert_eq!(head.header("docker-content-digest"), Some(&*layer));
    }
    assert_eq!(registry.counts(), Counts::default());
    mirror.pull_blob(REPO, &layer).await;
    assert_eq!(registry.counts().blob_heads, 0);
    // A repository that has no such manifest is asked about.
    let other = client::head(&mirror.blob_url("x/y", &layer), &[]).await;
    assert_eq!(other.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_is_spent_on_a_head_where_pulls_are_counted() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some(TAG), &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).tag_ttl("0s"));
    mirror.manifest(REPO, TAG).await;
    assert_eq!(registry.quota_left(), Some(99));
    for status in [400, 401, 403, 404, 500] {
        let tag = format!("other{status}");
        registry.put_image(REPO, Some(&tag), &image(1));
        let fault = Fault::status(status);
        let fault = registry.fault(On::manifest().head().containing(&tag).forever(), fault);
        assert!(!mirror.head(REPO, &tag).await.status.is_success());
        assert!(registry.struck(fault) > 0, "{status}");
        assert_eq!(registry.quota_left(), Some(99), "{status}");
        // A GET does not hear of it.
        assert_is(&mirror.manifest(REPO, &tag).await, &image(1), &tag);
        assert_eq!(registry.quota_left(), Some(98), "{status}");
        registry.clear_faults();
        registry.set_rate_limit(100, 99);
    }
    // But the tag that is stored is not given up for it.
    registry.fault(On::manifest().head().forever(), Fault::status(404));
    let answer = mirror.manifest(REPO, TAG).await;
    assert_is(&answer, &image(1), "stored");
    assert_eq!(registry.quota_left(), Some(98));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_no_refusal_of_head() {
    for fault in [502, 503, 504].map(Fault::status) {
        let what = format!("{fault:?}");
        let (registry, mirror, image) = scene::cold_image(|config| config.patient());
        mirror.manifest(REPO, TAG).await;
        registry.reset_counts();
        registry.fault(On::manifest().head().forever(), fault);
        for request in [Method::GET, Method::HEAD] {
            let url = mirror.manifest_url(REPO, TAG);
            let answer = client::request(request, &url, &[]).await.unwrap();
            assert_is(&answer, &image, &what);
            assert_eq!(answer.header("cache-status"), Some(STALE), "{what}");
        }
        assert_eq!(registry.counts().manifest_gets, 0, "{what}");
    }
}

/// A page where a blob should be, or another length than the manifest says, is no yes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_site_had_every_blob() {
    let (registry, mirror, digest) = scene::cold_blob(5000, scene::plain);
    registry.fault(On::blob().forever(), Fault::Html(200));
    let url = mirror.blob_url(REPO, &digest);
    for _ in 0..2 {
        let head = client::head(&url, &[]).await.unwrap();
        assert_eq!(head.status, StatusCode::BAD_GATEWAY);
    }
    registry.clear_faults();
    mirror.pull_blob(REPO, &digest).await;
    // The empty blob is the one that may be empty.
    let empty = registry.put_blob(REPO, Vec::new());
    let head = client::head(&mirror.blob_url(REPO, &empty), &[]).await;
    let head = head.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), Some("0"));
    registry.insert_blob(REPO, &digest_of(b"x"), Content::from(String::new()));
    let head = client::head(&mirror.blob_url(REPO, &digest_of(b"x")), &[]).await;
    assert_eq!(head.unwrap().status, StatusCode::BAD_GATEWAY);
}

/// A mirror of a registry that has one image, and calls its digest so.
fn calling(image: &Image, digest: &str) -> (Scripted, Mirror) {
    let (image, digest) = (image.clone(), digest.to_owned());
    let registry = Scripted::start(move |_, _| {
        Reply::manifest(&image).with("Docker-Content-Digest", digest.as_str())
    });
    let mirror = Mirror::start(MirrorConfig::for_url(&registry.url()));
    (registry, mirror)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_was_refused_because_its_digest_was_written_otherwise() {
    let image = image(1);
    let (digest, hex) = (&*image.digest, image.digest.trim_start_matches("sha256:"));
    let other = digest_of(b"other");
    // As it is written, and whether it can be told what is meant.
    for (written, is_told) in [
        (String::new(), false),
        ("none".to_owned(), false),
        (format!("{digest}, {other}"), false),
        (format!("\"{digest}\""), true),
        (digest.to_ascii_uppercase(), true),
        (hex.to_owned(), true),
        (format!("{digest}, {digest}"), true),
    ] {
        for reference in [TAG, digest] {
            let (registry, mirror) = calling(&image, &written);
            assert_is(&mirror.head(REPO, reference).await, &image, &written);
            let asked = registry.requests().into_iter().map(|asked| asked.method);
            let expected = if is_told {
                &["HEAD"][..]
            } else {
                &["HEAD", "GET"]
            };
            assert_eq!(asked.collect::<Vec<_>>(), expected, "{written}");
            assert_is(&mirror.manifest(REPO, reference).await, &image, &written);
        }
        let (_registry, mirror) = calling(&image, &written);
        assert_is(&mirror.manifest(REPO, TAG).await, &image, &written);
    }
}
