//! A request must never reach a registry that is not configured, nor another one than it names.

use http::{Method, StatusCode};

use crate::support::client::Response;
use crate::support::{FakeRegistry, Mirror, MirrorConfig, client, image};

/// Docker Hub (the default) and two others, one of them with a port in its name.
struct Scene {
    hub: FakeRegistry,
    quay: FakeRegistry,
    local: FakeRegistry,
    mirror: Mirror,
}

async fn scene() -> Scene {
    let hub = FakeRegistry::start().await;
    let quay = FakeRegistry::start().await;
    let local = FakeRegistry::start().await;
    hub.put_image("library/nginx", Some("1"), &image(1));
    hub.put_image("acme/app", Some("1"), &image(2));
    hub.put_image("a.b/c", Some("1"), &image(5));
    quay.put_image("acme/app", Some("1"), &image(3));
    quay.put_image("single", Some("1"), &image(6));
    local.put_image("acme/app", Some("1"), &image(4));
    let config = MirrorConfig::for_upstream(&hub)
        .upstream("quay.io", &quay)
        .upstream("localhost:5000", &local);
    let mirror = Mirror::start(config);
    Scene {
        hub,
        quay,
        local,
        mirror,
    }
}

impl Scene {
    fn upstream_requests(&self) -> u64 {
        [&self.hub, &self.quay, &self.local]
            .map(|registry| registry.counts().requests())
            .iter()
            .sum()
    }
}

#[track_caller]
fn assert_error(answer: &Response, status: u16, code: &str, path: &str) {
    assert_eq!(answer.status.as_u16(), status, "{path}: {}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let error = &answer.json()["errors"][0];
    assert_eq!(error["code"], code, "{path}");
    assert!(error["message"].as_str().is_some_and(|it| !it.is_empty()));
    assert_eq!(answer.header("www-authenticate"), None);
}

#[tokio::test]
async fn every_way_to_name_a_registry_leads_there() {
    let scene = scene().await;
    for (path, seed) in [
        // The default, and the names of Docker Hub.
        ("/v2/library/nginx/manifests/1", 1),
        ("/v2/nginx/manifests/1", 1),
        ("/v2/nginx/manifests/1?ns=docker.io", 1),
        ("/v2/library/nginx/manifests/1?ns=registry-1.docker.io", 1),
        ("/v2/nginx/manifests/1?ns=index.docker.io", 1),
        ("/v2/nginx/manifests/1?ns=DOCKER.IO", 1),
        ("/v2/nginx/manifests/1?ns=", 1),
        ("/v2/docker.io/nginx/manifests/1", 1),
        ("/docker.io/v2/nginx/manifests/1", 1),
        ("/v2/registry-1.docker.io/library/nginx/manifests/1", 1),
        ("/v2/acme/app/manifests/1", 2),
        // containerd: ns.
        ("/v2/acme/app/manifests/1?ns=quay.io", 3),
        ("/v2/acme/app/manifests/1?foo=bar&ns=quay.io&n=1", 3),
        // BuildKit and podman: the prefix after /v2/.
        ("/v2/quay.io/acme/app/manifests/1", 3),
        ("/v2/quay.io/acme/app/manifests/1?ns=quay.io", 3),
        // dockerd and containerd: the prefix before.
        ("/quay.io/v2/acme/app/manifests/1", 3),
        ("/quay.io/v2/acme/app/manifests/1?ns=quay.io", 3),
        // containerd with override_path: no v2 at all.
        ("/quay.io/acme/app/manifests/1", 3),
        ("/acme/app/manifests/1", 2),
        ("/acme/app/manifests/1?ns=quay.io", 3),
        // A port, plain and encoded.
        ("/v2/acme/app/manifests/1?ns=localhost:5000", 4),
        ("/v2/acme/app/manifests/1?ns=localhost%3A5000", 4),
        ("/v2/localhost:5000/acme/app/manifests/1", 4),
        ("/v2/localhost%3a5000/acme/app/manifests/1", 4),
        ("/localhost%3A5000/v2/acme/app/manifests/1", 4),
        // Exactly one prefix is taken off; a dot in a repository is no registry when ns names another.
        ("/v2/a.b/c/manifests/1?ns=docker.io", 5),
        ("/docker.io/v2/a.b/c/manifests/1", 5),
        // One name as one component: Azure's SDKs.
        ("/v2/library%2Fnginx/manifests/1", 1),
        ("/v2/docker.io%2Flibrary%2Fnginx/manifests/1", 1),
        ("/v2/acme%2fapp/manifests/1?ns=quay.io", 3),
        ("/v2/quay.io/acme%2Fapp/manifests/1", 3),
        ("/v2/quay.io%2Facme%2Fapp/manifests/1", 3),
        ("/quay.io/v2/acme%2Fapp/manifests/1", 3),
        ("/quay.io%2Facme%2Fapp/manifests/1", 3),
        ("/v2/localhost%3A5000%2facme%2Fapp/manifests/1", 4),
        // URLs that were joined by hand.
        ("//v2/nginx/manifests/1", 1),
        ("/v2//nginx/manifests/1/", 1),
        ("//quay.io//v2//acme//app/./manifests/1//", 3),
        // library/ is Docker Hub's alone.
        ("/v2/single/manifests/1?ns=quay.io", 6),
    ] {
        let answer = scene.mirror.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
        assert_eq!(answer.body, image(seed).manifest, "{path}");
    }
}

#[tokio::test]
async fn ns_is_echoed_and_only_ns() {
    let scene = scene().await;
    for ns in ["quay.io", "docker.io"] {
        let answer = scene
            .mirror
            .get(&format!("/v2/acme/app/manifests/1?ns={ns}"))
            .await;
        assert_eq!(answer.header("oci-namespace"), Some(ns));
    }
    for path in [
        "/v2/acme/app/manifests/1",
        "/v2/quay.io/acme/app/manifests/1",
    ] {
        assert_eq!(scene.mirror.get(path).await.header("oci-namespace"), None);
    }
}

#[tokio::test]
async fn an_unknown_registry_is_refused_and_never_dialled() {
    let scene = scene().await;
    // A registry that listens, to see whether it is dialled.
    let stranger = FakeRegistry::start().await;
    stranger.put_image("acme/app", Some("1"), &image(9));
    let host = stranger.authority();
    let encoded = host.replace(':', "%3A");
    for path in [
        format!("/v2/acme/app/manifests/1?ns={host}"),
        format!("/v2/acme/app/manifests/1?ns={encoded}"),
        format!("/v2/{host}/acme/app/manifests/1"),
        format!("/{host}/v2/acme/app/manifests/1"),
        format!("/{encoded}/acme/app/manifests/1"),
        format!("/{host}/v2/"),
        format!("/v2/?ns={host}"),
        "/v2/acme/app/manifests/1?ns=169.254.169.254".to_owned(),
        "/v2/acme/app/manifests/1?ns=quay.io:443".to_owned(),
        "/v2/acme/app/manifests/1?ns=quay.io.evil.example".to_owned(),
        "/v2/acme/app/manifests/1?ns=localhost".to_owned(),
    ] {
        assert_error(&scene.mirror.get(&path).await, 404, "NAME_UNKNOWN", &path);
    }
    assert_eq!(stranger.counts().requests(), 0);
    assert_eq!(stranger.connections(), 0);
    assert_eq!(scene.upstream_requests(), 0);
}

#[tokio::test]
async fn the_base_is_open_under_every_prefix() {
    let scene = scene().await;
    for path in [
        "/v2/",
        "/v2",
        "/v2/?ns=quay.io",
        "/quay.io/v2/",
        "/docker.io/v2/",
        "/localhost:5000/v2/",
    ] {
        let answer = scene.mirror.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.text(), "{}", "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let version = answer.header("docker-distribution-api-version");
        assert_eq!(version, Some("registry/2.0"), "{path}");
    }
    assert_eq!(scene.upstream_requests(), 0, "upstream is not asked for it");
}

#[tokio::test]
async fn writes_are_refused_with_what_is_allowed() {
    let scene = scene().await;
    let digest = image(2).digest;
    let by_digest = format!("/v2/acme/app/manifests/{digest}");
    let blob = format!("/v2/acme/app/blobs/{digest}");
    for (method, path) in [
        (Method::PUT, "/v2/acme/app/manifests/1"),
        (Method::POST, "/v2/acme/app/blobs/uploads/"),
        (Method::POST, "/v2/acme/app/blobs/uploads/?ns=quay.io"),
        (Method::PATCH, "/v2/acme/app/blobs/uploads/some-id"),
        (Method::PUT, "/v2/acme/app/blobs/uploads/some-id?digest=x"),
        (Method::GET, "/v2/acme/app/blobs/uploads/some-id"),
        (Method::DELETE, &*by_digest),
        (Method::DELETE, &*blob),
        (Method::POST, "/v2/"),
        (Method::DELETE, "/quay.io/v2/acme/app/manifests/1"),
    ] {
        let url = format!("{}{path}", scene.mirror.url());
        let answer = client::send(method.clone(), &url, &[], "some content".into())
            .await
            .unwrap();
        assert_error(&answer, 405, "UNSUPPORTED", &format!("{method} {path}"));
        assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
    }
    assert_eq!(scene.upstream_requests(), 0);
}

#[tokio::test]
async fn what_is_no_name_is_refused_before_an_upstream_is_asked() {
    let scene = scene().await;
    let zeros = "0".repeat(64);
    let long = "a".repeat(300);
    for (path, status, code) in [
        ("/v2/Acme/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme/-app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme%2f%2fapp/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme/../app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme/%2e%2e/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme%2f..%2fapp/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme%252fapp/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme%00/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/acme/app%0a/manifests/1", 400, "NAME_INVALID"),
        ("/v2/%ff/app/manifests/1", 400, "NAME_INVALID"),
        ("/v2/_tags/app/manifests/1", 400, "NAME_INVALID"),
        (&*format!("/v2/{long}/manifests/1"), 400, "NAME_INVALID"),
        ("/v2/acme/app/manifests/1?ns=../..", 400, "NAME_INVALID"),
        ("/v2/acme/app/manifests/1?ns=a%2fb.c", 400, "NAME_INVALID"),
        ("/v2/acme/app/manifests/1?ns=a@b.c", 400, "NAME_INVALID"),
        ("/v2/acme/app/manifests/.invalid", 404, "MANIFEST_UNKNOWN"),
        (
            &*format!("/v2/acme/app/manifests/{long}"),
            404,
            "MANIFEST_UNKNOWN",
        ),
        ("/v2/acme/app/blobs/sha256:00", 400, "DIGEST_INVALID"),
        (
            &*format!("/v2/acme/app/blobs/md5:{zeros}"),
            400,
            "DIGEST_INVALID",
        ),
        (
            &*format!("/v2/acme/app/blobs/sha256:{}", zeros.replace('0', "A")),
            400,
            "DIGEST_INVALID",
        ),
        (
            &*format!("/v2/acme/app/manifests/sha256:{}", &zeros[1..]),
            400,
            "DIGEST_INVALID",
        ),
        ("/v2/acme/app/manifests/", 404, "NAME_UNKNOWN"),
        ("/v2/acme/app", 404, "NAME_UNKNOWN"),
        ("/v3/", 404, "NAME_UNKNOWN"),
        ("/favicon.ico", 404, "NAME_UNKNOWN"),
        ("/metrics", 404, "NAME_UNKNOWN"),
    ] {
        assert_error(&scene.mirror.get(path).await, status, code, path);
    }
    assert_eq!(scene.upstream_requests(), 0);
}

/// azure-containerregistry and @azure/container-registry write every name as one component of the path.
#[tokio::test]
async fn a_name_with_an_encoded_slash_was_refused() {
    let scene = scene().await;
    let image = image(3);
    let (blob, digest) = (&image.blobs()[0], &image.digest);
    let encoded = |digest: &str| digest.replace(':', "%3A");
    for name in ["quay.io/acme%2Fapp", "quay.io%2Facme%2fapp"] {
        for path in [
            format!("/v2/{name}/manifests/1"),
            format!("/v2/{name}/manifests/{}", encoded(digest)),
            format!("/v2/{name}/blobs/{}", encoded(blob)),
            format!("/v2/{name}/tags/list"),
            format!("/v2/{name}/referrers/{}", encoded(digest)),
        ] {
            let url = format!("{}{path}", scene.mirror.url());
            for method in [Method::HEAD, Method::GET] {
                let answer = client::request(method, &url, &[]).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK, "{path}");
            }
        }
        let path = format!("/v2/{name}/blobs/uploads/");
        let url = format!("{}{path}", scene.mirror.url());
        let pushed = client::request(Method::POST, &url, &[]).await.unwrap();
        assert_error(&pushed, 405, "UNSUPPORTED", &path);
    }
    for seen in scene.quay.requests() {
        assert!(seen.target.starts_with("/v2/acme/app/"), "{}", seen.target);
    }
}

/// As a link, `//quay.io/..` leads to that host, past the mirror.
#[tokio::test]
async fn no_answer_to_a_path_with_two_slashes_leads_elsewhere() {
    let scene = scene().await;
    scene.quay.put_image("acme/app", Some("2"), &image(3));
    let answer = scene
        .mirror
        .get("//quay.io/v2/acme/app/tags/list?n=1")
        .await;
    assert_eq!(answer.json()["tags"], serde_json::json!(["1"]));
    let next = "</quay.io/v2/acme/app/tags/list?last=1&n=1>; rel=\"next\"";
    assert_eq!(answer.header("link"), Some(next));
    for path in [
        "//evil.example",
        "//evil.example/v2/",
        "///evil.example/%2e%2e",
    ] {
        let answer = scene.mirror.get(path).await;
        assert!(answer.status.is_client_error(), "{path}");
        assert_eq!(answer.header("location"), None, "{path}");
    }
    assert_eq!(scene.upstream_requests(), 1);
}

#[tokio::test]
async fn docker_search_gets_no_page_it_could_mistake_for_results() {
    let scene = scene().await;
    for path in ["/v1/_ping", "/v1/search?q=nginx&n=25"] {
        let url = format!("{}{path}", scene.mirror.url());
        // What dockerd sends when no user is logged in.
        let headers = [("authorization", "Basic Og==")];
        let answer = client::get(&url, &headers).await.unwrap();
        let json = answer.header("content-type") == Some("application/json");
        assert!(answer.status == StatusCode::NOT_FOUND || json, "{path}");
    }
}
