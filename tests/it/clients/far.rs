//! Programs that few have heard of, as they ask on the wire; those that can be installed are in tests/e2e.

use std::time::Duration;

use http::{Method, StatusCode};

use super::Blob;
use crate::support::client::{Ending, Raw};
use crate::support::image::{DOCKER_MANIFEST, OCI_MANIFEST};
use crate::support::{FakeRegistry, Mirror, MirrorConfig, REPO, client, digest_of, scene};

const TAG: &str = "1.0";

/// @devcontainers/cli 0.89.0 and dockerd without a login: a user and a password that are both empty.
#[tokio::test]
async fn devcontainers_logs_in_with_an_empty_user_and_password() {
    let (registry, mirror, image) = scene::cold_image(scene::plain);
    let headers = [("authorization", "Basic Og=="), ("accept", OCI_MANIFEST)];
    for url in [
        format!("{}/v2/", mirror.url()),
        mirror.manifest_url(REPO, TAG),
        mirror.blob_url(REPO, &image.blobs()[0]),
        format!("{}/v2/{REPO}/tags/list", mirror.url()),
    ] {
        let answer = client::get(&url, &headers).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{url}");
        assert_eq!(answer.header("www-authenticate"), None);
    }
    let seen = registry.requests();
    assert_eq!(seen.len(), 3);
    assert!(
        seen.iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

/// ramalama 0.25.0 (its transport for ollama): the name of the header in its value, each tag twice, ranges without an end.
#[tokio::test]
async fn ramalama_repeats_the_name_of_a_header_and_asks_for_all_as_a_range() {
    let (registry, mirror, image) = scene::cold_image(scene::plain);
    let accept = format!("Accept: {DOCKER_MANIFEST}");
    let url = mirror.manifest_url(REPO, TAG);
    for _ in 0..2 {
        let answer = client::get(&url, &[("accept", &accept)]).await.unwrap();
        assert_eq!(answer.body, image.manifest);
    }
    assert_eq!(registry.counts().manifest_gets, 1);
    let blob = Blob::cold(&registry, &mirror, 1, 300_000);
    for _ in ["cold", "stored"] {
        blob.assert_part(&blob.range("bytes=0-").await, 0, 299_999);
    }
}

/// @sigstore/oci 0.6.0 asks where to push before it reads a digest, and wants to be challenged: it cannot work here.
#[tokio::test]
async fn sigstore_wants_to_push_first() {
    let (registry, mirror) = scene::start();
    let url = format!("{}/v2/{REPO}/blobs/uploads/", mirror.url());
    let answer = client::request(Method::POST, &url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(answer.json()["errors"][0]["code"], "UNSUPPORTED");
    assert_eq!(registry.requests().len(), 0);
}

/// wkg 0.16.1 and others look for what some registries have: JSON and 404, and nothing asked upstream.
#[tokio::test]
async fn wkg_and_rattler_look_for_what_a_mirror_has_not() {
    let (registry, mirror) = scene::start();
    for path in [
        "/.well-known/wasm-pkg/registry.json",
        "/token?service=ghcr.io&scope=repository:conda-forge/linux-64:pull",
        "/acr/v1/_catalog",
        "/v2/token",
        "/api/version",
    ] {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["errors"][0]["code"], "NAME_UNKNOWN", "{path}");
    }
    assert_eq!(registry.requests().len(), 0);
}

/// Java 17's HttpClient: a length with each GET, and an offer of HTTP/2 that need not be taken (RFC 9110 7.8).
#[tokio::test]
async fn java_sends_a_length_and_offers_another_protocol() {
    let (registry, mirror) = scene::start();
    let blob = Blob::cold(&registry, &mirror, 1, 1000);
    let path = blob.url.strip_prefix(&mirror.url()).unwrap();
    let mut connection = Raw::connect(mirror.authority()).await;
    for (method, close) in [("HEAD", ""), ("GET", ""), ("GET", ", close")] {
        connection
            .send(format!(
                "{method} {path} HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings{close}\r\nContent-Length: 0\r\n\
                 Host: m\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUpgrade: h2c\r\n\r\n"
            ))
            .await;
    }
    let (answers, ending) = connection.read(Duration::from_secs(20)).await;
    assert_eq!(ending, Ending::Closed);
    let text = String::from_utf8_lossy(&answers);
    assert_eq!(text.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{text}");
    assert!(answers.ends_with(&blob.bytes(0, 999)));
}

/// docker-registry-util 1.0.3 walks through the catalog and asks HEAD of each tag.
#[tokio::test]
async fn docker_registry_util_pulls_by_the_names_of_the_catalog() {
    let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&hub, &quay] {
        registry.put_image(REPO, Some(TAG), &scene::image(1));
    }
    let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
    let mirror = Mirror::start(config);
    mirror.pull(REPO, TAG, &scene::image(1)).await;
    let other = format!("quay.io/{REPO}");
    mirror.pull(&other, TAG, &scene::image(1)).await;
    let catalog = mirror.get("/v2/_catalog").await.json();
    assert_eq!(catalog["repositories"], serde_json::json!([REPO, other]));
    for name in [REPO, &other] {
        let tags = mirror.get(&format!("/v2/{name}/tags/list")).await.json();
        assert_eq!(tags["tags"], serde_json::json!([TAG]), "{name}");
        let head = mirror.head(name, TAG).await;
        let digest = head.header("docker-content-digest");
        assert_eq!(digest, Some(&*scene::image(1).digest), "{name}");
    }
}

/// docker-registry 2.8.2 as a cache in front: `/v2/` before each request, and each blob twice at the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_registry_as_a_cache_asks_for_each_blob_twice_at_once() {
    let (registry, mirror) = scene::start();
    let blob = Blob::cold(&registry, &mirror, 1, 3_000_000);
    let base = format!("{}/v2/", mirror.url());
    let ask = async || {
        let ping = client::get(&base, &[]).await.unwrap();
        assert_eq!(ping.status, StatusCode::OK);
        let head = client::head(&blob.url, &[]).await.unwrap();
        assert_eq!(head.header("content-length"), Some("3000000"));
        let answer = client::get(&blob.url, &[]).await.unwrap();
        assert_eq!(digest_of(&answer.body), blob.digest);
    };
    tokio::join!(ask(), ask());
    assert_eq!(registry.counts().blob_gets, 1);
}
