//! Rows 14 and 17: redirects and connections.

use std::time::Duration;

use http::{Method, StatusCode};

use super::Blob;
use crate::support::client::Raw;
use crate::support::{Client, FakeRegistry, MIB, Mirror, MirrorConfig, client, digest_of, scene};

/// nydus follows no redirect to a relative place, stargz none at all on data, go-containerregistry none to an address.
#[tokio::test]
async fn nydus_is_never_redirected() {
    let registry = FakeRegistry::docker_hub().start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let blob = Blob::cold(&registry, &mirror, 1, 100_000);
    blob.assert_part(&blob.range("bytes=99000-99999").await, 99_000, 99_999);
    for method in [Method::HEAD, Method::GET] {
        let answer = client::request(method, &blob.url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("location"), None);
    }
    assert!(
        registry.counts().blob_host_gets > 0,
        "upstream did redirect"
    );
}

/// containers/image: six blobs at a time, over connections that are kept; 200 and nothing else to a GET without a
/// range.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn podman_keeps_its_connections_for_all_it_asks() {
    let (registry, mirror) = scene::start();
    let client = Client::new();
    let version = ("docker-distribution-api-version", "registry/2.0");
    let ping = client
        .get(&format!("{}/v2/", mirror.url()), &[version])
        .await
        .unwrap();
    assert_eq!(ping.status, StatusCode::OK);
    for _ in 0..2 {
        let blobs = (0..6).map(|seed| {
            let blob = Blob::cold(&registry, &mirror, seed, MIB);
            let client = client.clone();
            async move {
                let headers = [version, ("accept-encoding", "gzip")];
                let answer = client.get(&blob.url, &headers).await.unwrap();
                assert_eq!(answer.status, StatusCode::OK);
                assert_eq!(digest_of(&answer.body), blob.digest);
            }
        });
        futures_util::future::join_all(blobs).await;
    }
    assert_eq!(registry.counts().blob_gets, 6);
    let open = mirror.metric("pierglass_connections", &[]).await;
    assert!(open.is_none_or(|open| open <= 7.0), "{open:?} connections");
}

/// trivy: keep-alives are off.
#[tokio::test]
async fn trivy_opens_a_connection_for_each_request() {
    let (registry, mirror) = scene::start();
    let blob = Blob::cold(&registry, &mirror, 1, 1000);
    for _ in 0..2 {
        let path = blob.url.strip_prefix(&mirror.url()).unwrap();
        let mut connection = Raw::connect(mirror.authority()).await;
        connection
            .send(format!(
                "GET {path} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n"
            ))
            .await;
        let (answer, ending) = connection.read(Duration::from_secs(10)).await;
        assert_eq!(ending, client::Ending::Closed);
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(&blob.bytes(0, 999)));
    }
}
