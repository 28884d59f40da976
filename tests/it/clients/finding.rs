//! Rows 2 to 6: what clients look for before they ask for bytes. The base, the challenge, the digest, the length, the
//! type.

use http::{Method, StatusCode};

use super::Blob;
use crate::support::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig, REPO, client, digest_of, scene};

/// `scheme/reg`: `ns` is the host that would be asked otherwise, `registry-1.docker.io` for Docker Hub.
#[tokio::test]
async fn regclient_names_the_host_and_not_the_registry() {
    let (registry, mirror, index) = scene::cold_index();
    for ns in ["registry-1.docker.io", "docker.io", "index.docker.io"] {
        let url = format!("{}?ns={ns}", mirror.manifest_url(REPO, "1.0"));
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.body, index.bytes, "{ns}");
    }
    assert_eq!(registry.counts().manifest_gets, 1, "one registry, one tag");
}

/// go-containerregistry `transport/ping.go`: 200 or 401, anything else is not a registry.
#[tokio::test]
async fn crane_is_let_in_without_a_challenge() {
    let registry = FakeRegistry::builder().bearer(None).start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    for method in [Method::GET, Method::HEAD] {
        let url = format!("{}/v2/", mirror.url());
        let answer = client::request(method, &url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("www-authenticate"), None);
        assert_eq!(answer.header("x-registry-supports-signatures"), None);
        assert_eq!(answer.header("location"), None);
    }
}

/// moby `registry/auth.go`: a server that challenges is sent the user's password for Docker Hub.
#[tokio::test]
async fn dockerd_is_never_challenged() {
    let registry = FakeRegistry::builder()
        .basic("somebody", "else")
        .start()
        .await;
    let image = Image::random(1, &[100]);
    registry.put_image(REPO, Some("1.0"), &image);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    for url in [
        format!("{}/v2/", mirror.url()),
        mirror.manifest_url(REPO, "1.0"),
        mirror.manifest_url(REPO, &image.digest),
        mirror.blob_url(REPO, &image.blobs()[0]),
    ] {
        for method in [Method::HEAD, Method::GET] {
            let answer = client::request(method, &url, &[]).await.unwrap();
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{url}");
            assert_eq!(answer.header("www-authenticate"), None, "{url}");
        }
    }
}

/// moby `vendor/github.com/docker/distribution/registry/client/repository.go`, `descriptorFromResponse`: all three, or
/// the mirror is passed over; then a GET by that digest. The media types come one a line, in the order of a Go map.
#[tokio::test]
async fn dockerd_finds_the_digest_length_and_type_on_head() {
    let (registry, mirror, index) = scene::cold_index();
    let mut accepts = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];
    for turn in 0..4 {
        accepts.rotate_left(turn);
        let lines = accepts.map(|accept| ("accept", accept));
        let url = mirror.manifest_url(REPO, "1.0");
        let head = client::head(&url, &lines).await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        let length = index.bytes.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        assert_eq!(head.header("content-type"), Some(OCI_INDEX));
        let digest = head.header("docker-content-digest").unwrap();
        assert_eq!(digest, index.digest);
        let got = client::get(&mirror.manifest_url(REPO, digest), &lines)
            .await
            .unwrap();
        assert_eq!(got.header("content-type"), Some(OCI_INDEX));
        assert_eq!(got.body, index.bytes);
        let child = mirror.manifest_url(REPO, &index.images[0].digest);
        let got = client::get(&child, &lines).await.unwrap();
        assert_eq!(got.body, index.images[0].manifest);
    }
    let counts = registry.counts();
    assert_eq!(
        (counts.manifest_heads, counts.manifest_gets),
        (1, 2),
        "the order is no key"
    );
}

/// containerd `core/remotes/docker/resolver.go`: the type on HEAD is the descriptor's, and with it the following GET.
#[tokio::test]
async fn containerd_gets_what_head_described() {
    let (_registry, mirror, index) = scene::cold_index();
    let accept = format!("{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*");
    for reference in ["1.0", &index.digest, &index.images[1].digest] {
        let url = format!("{}?ns=docker.io", mirror.manifest_url(REPO, reference));
        let head = client::head(&url, &[("accept", &accept)]).await.unwrap();
        let kind = head.header("content-type").unwrap();
        let digest = head.header("docker-content-digest").unwrap();
        let url = format!("{}?ns=docker.io", mirror.manifest_url(REPO, digest));
        let headers = [
            ("accept", &*format!("{kind}, */*")),
            ("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"),
            // With `concurrent_layer_fetch_buffer`, of everything.
            ("range", "bytes=0-"),
        ];
        let got = client::get(&url, &headers).await.unwrap();
        assert_eq!(got.header("content-type"), Some(kind));
        assert_eq!(got.header("content-encoding"), None);
        assert_eq!(digest_of(&got.body), digest);
        assert_eq!(got.header("content-length"), head.header("content-length"));
    }
}

/// containerd `resolver.go`: by digest it asks for a manifest, and then for a blob, of whatever it was given.
#[tokio::test]
async fn containerd_finds_a_blob_by_head_where_there_is_no_manifest() {
    let (registry, mirror) = scene::start();
    let blob = Blob::cold(&registry, &mirror, 1, 1000);
    let manifest = mirror.head(REPO, &blob.digest).await;
    assert_eq!(manifest.status, StatusCode::NOT_FOUND);
    let head = client::head(&blob.url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(head.header("docker-content-digest"), Some(&*blob.digest));
}

/// watchtower (old): accepts Docker's types alone, and only wants the digest.
#[tokio::test]
async fn watchtower_is_told_the_digest_of_a_type_it_does_not_accept() {
    let (registry, mirror, index) = scene::cold_index();
    let lines = [
        ("accept", DOCKER_MANIFEST),
        ("accept", DOCKER_LIST),
        (
            "accept",
            "application/vnd.docker.distribution.manifest.v1+json",
        ),
    ];
    let url = mirror.manifest_url(REPO, "1.0");
    for _ in 0..2 {
        let head = client::head(&url, &lines).await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        assert_eq!(head.header("docker-content-digest"), Some(&*index.digest));
    }
    assert_eq!(registry.counts().requests(), 1);
}

/// renovate `datasource/docker`: compares the type for equality.
#[tokio::test]
async fn renovate_gets_a_type_without_parameters() {
    let (registry, mirror) = scene::start();
    let image = Image::random(1, &[100]);
    let type_with_more = format!("{OCI_MANIFEST}; charset=utf-8");
    registry.put_manifest(REPO, Some("1.0"), &type_with_more, image.manifest.clone());
    let accept = [DOCKER_LIST, DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX].join(", ");
    for method in [Method::HEAD, Method::GET] {
        let url = mirror.manifest_url(REPO, "1.0");
        let answer = client::request(method, &url, &[("accept", &accept)])
            .await
            .unwrap();
        assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    }
}

/// oras-go `registry/remote/repository.go`: digest, length and type must be those of the descriptor, on blobs as well.
#[tokio::test]
async fn oras_gets_the_digest_it_asked_for() {
    let (registry, mirror, index) = scene::cold_index();
    let image = &index.images[0];
    let url = mirror.manifest_url(REPO, &image.digest);
    let manifest = client::get(&url, &[("accept", OCI_MANIFEST)])
        .await
        .unwrap();
    assert_eq!(manifest.header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(
        manifest.header("docker-content-digest"),
        Some(&*image.digest)
    );
    let blob = Blob::cold(&registry, &mirror, 1, 70_000);
    for _ in 0..2 {
        let answer = client::get(&blob.url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("docker-content-digest"), Some(&*blob.digest));
        assert_eq!(answer.header("content-length"), Some("70000"));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"), "it can seek");
    }
}
