//! The catalog must never name what cannot be pulled from here by that name, nor what is not stored.

use http::StatusCode;
use serde_json::json;

use crate::support::{FakeRegistry, Mirror, MirrorConfig, image, scene, until};

/// Three repositories of Docker Hub and one of Quay, all pulled; one more of each, not pulled.
async fn pulled() -> (FakeRegistry, FakeRegistry, Mirror) {
    let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for repo in ["library/nginx", "acme/app", "a.b/c", "not/pulled"] {
        hub.put_image(repo, Some("1"), &image(1));
    }
    quay.put_image("org/tool", Some("1"), &image(2));
    quay.put_image("not/pulled", Some("1"), &image(2));
    let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
    let mirror = Mirror::start(config.tag_ttl("1h"));
    for path in [
        "/v2/nginx/manifests/1",
        "/v2/acme/app/manifests/1",
        "/v2/docker.io/a.b/c/manifests/1",
        "/v2/quay.io/org/tool/manifests/1",
        // Lists are no content.
        "/v2/not/pulled/tags/list",
    ] {
        assert_eq!(mirror.get(path).await.status, StatusCode::OK, "{path}");
    }
    (hub, quay, mirror)
}

#[tokio::test]
async fn every_name_in_it_can_be_pulled_as_it_is_printed() {
    let (hub, quay, mirror) = pulled().await;
    hub.down();
    quay.down();
    let answer = mirror.get("/v2/_catalog").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let names = [
        "acme/app",
        "docker.io/a.b/c",
        "library/nginx",
        "quay.io/org/tool",
    ];
    assert_eq!(answer.json(), json!({"repositories": names}));
    for name in names {
        let manifest = mirror.get(&format!("/v2/{name}/manifests/1")).await;
        assert_eq!(manifest.status, StatusCode::OK, "{name}");
    }
}

#[tokio::test]
async fn one_upstreams_catalog_has_its_own_names() {
    let (_hub, _quay, mirror) = pulled().await;
    for path in [
        "/v2/_catalog?ns=quay.io",
        "/v2/quay.io/_catalog",
        "/quay.io/v2/_catalog",
    ] {
        let answer = mirror.get(path).await;
        assert_eq!(
            answer.json(),
            json!({"repositories": ["org/tool"]}),
            "{path}"
        );
    }
    let hub = mirror.get("/v2/_catalog?ns=docker.io").await;
    assert_eq!(hub.header("oci-namespace"), Some("docker.io"));
    let names = ["a.b/c", "acme/app", "library/nginx"];
    assert_eq!(hub.json(), json!({"repositories": names}));
    let unknown = mirror.get("/v2/_catalog?ns=ghcr.io").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert_eq!(unknown.json()["errors"][0]["code"], "NAME_UNKNOWN");
}

#[tokio::test]
async fn it_comes_in_pages_as_tags_do() {
    let (_hub, _quay, mirror) = pulled().await;
    let first = mirror.get("/v2/_catalog?n=3").await;
    assert_eq!(first.json()["repositories"].as_array().unwrap().len(), 3);
    let link = "</v2/_catalog?last=library%2Fnginx&n=3>; rel=\"next\"";
    assert_eq!(first.header("link"), Some(link));
    let second = mirror.get("/v2/_catalog?last=library%2Fnginx&n=3").await;
    assert_eq!(second.json(), json!({"repositories": ["quay.io/org/tool"]}));
    assert_eq!(second.header("link"), None);
    let answer = mirror.get("/v2/_catalog?n=-3").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn it_follows_what_is_stored_and_asks_no_upstream() {
    let (registry, mirror) = scene::start();
    registry.put_image("acme/app", Some("1"), &image(1));
    let empty = mirror.get("/v2/_catalog").await;
    assert_eq!(empty.json(), json!({"repositories": []}));
    assert_eq!(registry.counts().requests(), 0);
    mirror.get("/v2/acme/app/manifests/1").await;
    until("the repository is listed", async || {
        mirror.get("/v2/_catalog").await.json() == json!({"repositories": ["acme/app"]})
    })
    .await;
    assert_eq!(registry.counts().requests(), 1);
}
