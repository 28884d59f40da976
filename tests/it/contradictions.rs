//! Upstream says that it does not have what a manifest of it names, or has as a blob what is a manifest.

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::client::{self, head};
use crate::support::content::Content;
use crate::support::disk::{eventually, manifest_file};
use crate::support::fault::Kind;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::{
    FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, REPO, TAG, digest_of, image, scene,
};

/// What upstream was asked for, in order.
fn asked(registry: &FakeRegistry) -> Vec<(Kind, String)> {
    let seen = registry.requests().into_iter();
    let asked = seen.map(|seen| (seen.kind, seen.method)).collect();
    registry.reset_counts();
    asked
}

fn got(kind: Kind) -> (Kind, String) {
    (kind, "GET".to_owned())
}

/// ECR's pull-through cache: an image that it has dropped has its blobs again once its manifest is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_gives_blobs_only_after_the_manifest() {
    let (registry, mut mirror, image) = scene::cold_image(|config| config.tag_ttl("1h"));
    mirror.manifest(REPO, TAG).await;
    // Also by a mirror that has only read of it.
    let file = manifest_file(&mirror.store_path(), REPO, &image.digest);
    eventually("the manifest", || file.exists());
    mirror.term_and_wait();
    mirror.restart();
    registry.reset_counts();
    let layer = image.blobs().remove(1);
    registry.fault(On::blob().containing(&layer), Fault::status(404));
    mirror.store_blob(REPO, &layer).await;
    let blob = got(Kind::Blob);
    let seen = registry.requests();
    assert!(seen[1].target.ends_with(&image.digest), "{:?}", seen[1]);
    assert_eq!(
        asked(&registry),
        [blob.clone(), got(Kind::Manifest), blob.clone()]
    );
    // What is not there after that is not there.
    let config = image.blobs().remove(0);
    registry.delete_blob(REPO, &config);
    let url = mirror.blob_url(REPO, &config);
    for _ in 0..3 {
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    assert_eq!(asked(&registry), [blob.clone(), got(Kind::Manifest), blob]);
}

/// The manifest that names it may be one of an index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manifest_that_names_a_blob_is_asked_for_and_no_other() {
    let (registry, mirror, index) = scene::cold_index();
    mirror.manifest(REPO, TAG).await;
    for child in &index.images {
        mirror.manifest(REPO, &child.digest).await;
    }
    let child = &index.images[1];
    registry.reset_counts();
    let layer = digest_of(&child.layers[0]);
    registry.fault(On::blob().containing(&layer), Fault::status(404));
    mirror.pull_blob(REPO, &layer).await;
    let seen = registry.requests();
    assert!(seen[1].target.ends_with(&child.digest), "{:?}", seen[1]);
    // Nothing names this one, and nothing is asked for it.
    registry.reset_counts();
    let unknown = mirror.blob_url(REPO, &digest_of(b"unknown"));
    let answer = client::get(&unknown, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(asked(&registry), [got(Kind::Blob)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pull_is_spent_on_a_blob_that_is_gone() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some(TAG), &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    mirror.manifest(REPO, TAG).await;
    let layer = image(1).blobs().remove(1);
    registry.delete_blob(REPO, &layer);
    let answer = client::get(&mirror.blob_url(REPO, &layer), &[]).await;
    assert_eq!(answer.unwrap().status, StatusCode::NOT_FOUND);
    assert_eq!(registry.quota_left(), Some(99));
}

/// containerd asks so when it was refused a manifest, and believes the type that it is told then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_was_to_be_had_as_a_blob() {
    let (registry, mirror, index) = scene::cold_index();
    mirror.manifest(REPO, TAG).await;
    mirror.manifest(REPO, &index.images[0].digest).await;
    let (stored, named) = (&index.images[0], &index.images[1]);
    // Registries such as CNCF's keep both in one place.
    for (digest, bytes) in [
        (&index.digest, &index.bytes),
        (&stored.digest, &stored.manifest),
        (&named.digest, &named.manifest),
    ] {
        let content = Content::Stored(bytes.clone());
        registry.insert_blob(REPO, digest, content.clone());
        registry.insert_blob("x/y", digest, content);
        registry.reset_counts();
        for method in [Method::HEAD, Method::GET] {
            let url = mirror.blob_url(REPO, digest);
            let answer = client::request(method.clone(), &url, &[]).await.unwrap();
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {digest}");
            if method == Method::GET {
                assert_eq!(answer.json()["errors"][0]["code"], "BLOB_UNKNOWN");
            }
        }
        assert_eq!(registry.counts().requests(), 0, "{digest}");
        // Of a repository of which nothing is known upstream is believed.
        mirror.pull_blob("x/y", digest).await;
    }
}

/// BuildKit's caches list their layers as `manifests`, with the types of layers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_index_lists_is_a_blob_if_its_type_says_so() {
    let (registry, mirror) = scene::start();
    let layer = registry.put_generated_blob(REPO, 1, 5000);
    let child = json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": 5000,
    });
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child]});
    registry.put_manifest(REPO, Some(TAG), OCI_INDEX, index.to_string());
    mirror.manifest(REPO, TAG).await;
    mirror.pull_blob(REPO, &layer).await;
}

/// An artifact may carry a manifest, an attestation about it for instance.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_manifest_names_as_a_blob_is_one() {
    let (registry, mirror, inner) = scene::cold_image(scene::plain);
    mirror.manifest(REPO, TAG).await;
    let carrier = Image::of_layers("amd64", vec![inner.manifest.clone()], &[]);
    registry.put_image(REPO, Some("carrier"), &carrier);
    mirror.pull(REPO, "carrier", &carrier).await;
    let answer = mirror.manifest(REPO, &inner.digest).await;
    assert_eq!(answer.body, inner.manifest);
}

/// The answer to a HEAD of a tag whose manifest does not exist anywhere.
fn naming(ghost: &str) -> Fault {
    let headers = [
        ("Content-Type", OCI_MANIFEST),
        ("Docker-Content-Digest", ghost),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Fault::Status(200, "x".repeat(500), headers.into())
}

/// containerd: HEAD of the tag, then GET of the digest that it names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_named_a_manifest_that_is_not_there_until_the_tag_expired() {
    let (registry, mirror, real) = scene::cold_image(|config| config.tag_ttl("1h"));
    let ghost = image(7).digest;
    registry.fault(On::manifest().head().forever(), naming(&ghost));
    let first = mirror.head(REPO, TAG).await;
    assert_eq!(first.header("docker-content-digest"), Some(&*ghost));
    let missing = mirror.manifest(REPO, &ghost).await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    registry.reset_counts();
    let second = mirror.head(REPO, TAG).await;
    assert_eq!(second.header("docker-content-digest"), Some(&*real.digest));
    mirror.pull(REPO, &real.digest, &real).await;
    assert_eq!(registry.counts().manifest_gets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_named_a_manifest_that_is_not_there_though_an_older_one_is_held() {
    for tag_is_served in [true, false] {
        let (registry, mirror, old) = scene::cold_image(|config| config.patient());
        mirror.pull(REPO, TAG, &old).await;
        let ghost = image(7).digest;
        registry.fault(On::manifest().head().forever(), naming(&ghost));
        if !tag_is_served {
            registry.fault(
                On::manifest().get().containing(TAG).forever(),
                Fault::status(503),
            );
        }
        let first = mirror.head(REPO, TAG).await;
        assert_eq!(first.header("docker-content-digest"), Some(&*ghost));
        let missing = head(&mirror.manifest_url(REPO, &ghost), &[]).await;
        assert_eq!(
            missing.unwrap().status,
            StatusCode::OK,
            "a HEAD says so again"
        );
        let missing = mirror.manifest(REPO, &ghost).await;
        assert_eq!(missing.status, StatusCode::NOT_FOUND);
        let second = mirror.head(REPO, TAG).await;
        assert_eq!(second.header("docker-content-digest"), Some(&*old.digest));
        mirror.pull(REPO, TAG, &old).await;
    }
}

/// A HEAD names a digest that a GET is refused, or that a page stands for; the tag itself can be had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_could_not_move_because_what_a_head_named_was_refused() {
    for refusal in [Fault::status(403), Fault::status(451), Fault::Html(200)] {
        let (registry, mirror, old) = scene::cold_image(|config| config.patient());
        mirror.pull(REPO, TAG, &old).await;
        let (ghost, new) = (image(7).digest, image(8));
        registry.fault(On::manifest().head().forever(), naming(&ghost));
        registry.fault(
            On::manifest().get().containing(&ghost).forever(),
            refusal.clone(),
        );
        registry.put_image(REPO, Some(TAG), &new);
        mirror.pull(REPO, TAG, &new).await;
        let named = mirror.head(REPO, TAG).await;
        let digest = named.header("docker-content-digest");
        assert_eq!(digest, Some(&*new.digest), "{refusal:?}");
    }
}

/// Also of a manifest that only a HEAD has named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_a_head_named_was_to_be_had_as_a_blob() {
    for by_tag in [true, false] {
        let (registry, mirror, image) = scene::cold_image(scene::plain);
        let content = Content::Stored(image.manifest.clone());
        registry.insert_blob(REPO, &image.digest, content);
        let reference = if by_tag { TAG } else { &*image.digest };
        let answer = mirror.head(REPO, reference).await;
        assert_eq!(answer.status, StatusCode::OK);
        let url = mirror.blob_url(REPO, &image.digest);
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{reference}");
        assert_eq!(registry.counts().requests(), 1, "the HEAD alone");
    }
}
