//! An answer must never say less, or other, about itself than clients rely on (HEAD and GET alike), and never change
//! bytes.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::support::client::{Response, raw};
use crate::support::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::support::{Fault, On, REPO, client, digest_of, scene, until};

const PATIENCE: Duration = Duration::from_secs(20);
const HIT: &str = "pierglass; hit";
const MISS: &str = "pierglass; fwd=uri-miss; stored";

#[track_caller]
fn assert_identity(answer: &Response, digest: &str, media_type: &str, length: usize) {
    assert_eq!(answer.status, StatusCode::OK);
    for (name, value) in [
        ("docker-content-digest", digest.to_owned()),
        ("etag", format!("\"{digest}\"")),
        ("content-type", media_type.to_owned()),
        ("content-length", length.to_string()),
        ("docker-distribution-api-version", "registry/2.0".to_owned()),
    ] {
        assert_eq!(answer.header(name), Some(&*value), "{name}");
    }
    assert_eq!(answer.header("content-encoding"), None);
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_eq!(answer.header("www-authenticate"), None);
}

async fn ask(method: Method, url: &str) -> Response {
    // What Go's client sends by itself: an invitation to compress.
    let headers = [("accept-encoding", "gzip, zstd")];
    client::request(method, url, &headers).await.unwrap()
}

#[tokio::test]
async fn head_and_get_of_a_manifest_say_the_same() {
    let (_registry, mirror, index) = scene::cold_index();
    let child = &index.images[0];
    let cases = [
        ("1.0", &index.digest, OCI_INDEX, &index.bytes),
        (&*index.digest, &index.digest, OCI_INDEX, &index.bytes),
        (&*child.digest, &child.digest, OCI_MANIFEST, &child.manifest),
    ];
    for (reference, digest, media_type, bytes) in cases {
        let url = mirror.manifest_url(REPO, reference);
        // Cold, cold, stored, stored.
        for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
            let answer = ask(method.clone(), &url).await;
            assert_identity(&answer, digest, media_type, bytes.len());
            if method == Method::GET {
                assert_eq!(answer.body, *bytes);
            }
        }
    }
}

#[tokio::test]
async fn head_and_get_of_a_blob_say_the_same() {
    let (_registry, mirror, index) = scene::cold_index();
    for bytes in [&index.images[0].layers[0], &index.images[0].config] {
        let digest = digest_of(bytes);
        let url = mirror.blob_url(REPO, &digest);
        for method in [Method::HEAD, Method::GET, Method::HEAD, Method::GET] {
            let answer = ask(method.clone(), &url).await;
            assert_identity(&answer, &digest, "application/octet-stream", bytes.len());
            assert_eq!(answer.header("accept-ranges"), Some("bytes"));
            if method == Method::GET {
                assert_eq!(answer.body, *bytes);
            }
        }
    }
}

#[tokio::test]
async fn media_types_are_passed_on_whatever_the_client_accepts() {
    let (registry, mirror) = scene::start();
    for (tag, media_type) in [("manifest", DOCKER_MANIFEST), ("list", DOCKER_LIST)] {
        // Spaces and line breaks: bytes are not to be touched.
        let bytes = format!(
            "{{\n   \"schemaVersion\": 2, \"mediaType\": \"{media_type}\",\n \"manifests\": [], \"layers\": [] }}\n"
        );
        let digest = registry.put_manifest(REPO, Some(tag), media_type, bytes.clone());
        for accept in [OCI_MANIFEST, "application/json", "*/*"] {
            let url = mirror.manifest_url(REPO, tag);
            let answer = client::get(&url, &[("accept", accept)]).await.unwrap();
            assert_identity(&answer, &digest, media_type, bytes.len());
            assert_eq!(answer.text(), bytes);
        }
    }
    // What is asked upstream does not depend on the client: it is kept for all.
    let seen = registry.requests();
    let accept = seen[0].header("accept").unwrap();
    for media_type in [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST] {
        assert!(accept.contains(media_type), "{accept}");
    }
}

#[tokio::test]
async fn upstream_is_asked_for_the_bytes_as_they_are() {
    let (registry, mirror, index) = scene::cold_index();
    let layer = digest_of(&index.images[0].layers[0]);
    ask(Method::GET, &mirror.manifest_url(REPO, "1.0")).await;
    let url = format!("{}?ns=docker.io", mirror.blob_url(REPO, &layer));
    ask(Method::GET, &url).await;
    let seen = registry.requests();
    assert_eq!(seen.len(), 2);
    for seen in seen {
        assert_eq!(seen.header("accept-encoding"), Some("identity"));
        assert!(!seen.target.contains("ns="), "{}", seen.target);
        let agent = seen.header("user-agent").unwrap_or_default();
        assert!(agent.starts_with("pierglass/"), "{agent}");
    }
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let (registry, mirror, index) = scene::cold_index();
    let layer = digest_of(&index.images[0].layers[0]);
    let urls = [
        (mirror.manifest_url(REPO, "1.0"), &index.digest),
        (mirror.manifest_url(REPO, &index.digest), &index.digest),
        (mirror.blob_url(REPO, &layer), &layer),
    ];
    for (url, digest) in urls {
        for tags in [
            format!("\"{digest}\""),
            format!("W/\"{digest}\""),
            format!("\"x\", \"{digest}\""),
            "*".to_owned(),
        ] {
            for method in [Method::GET, Method::HEAD] {
                let headers = [("if-none-match", &*tags)];
                let answer = client::request(method, &url, &headers).await.unwrap();
                assert_eq!(answer.status, StatusCode::NOT_MODIFIED, "{url} {tags}");
                assert!(answer.body.is_empty());
                let etag = format!("\"{digest}\"");
                assert_eq!(answer.header("etag"), Some(&*etag));
                assert!(answer.header("cache-status").is_some());
            }
        }
        let other = [("if-none-match", "\"sha256:00\"")];
        let answer = client::get(&url, &other).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{url}");
    }
    assert_eq!(registry.counts().blob_gets, 1, "only for who had it not");
}

#[tokio::test]
async fn cache_status_tells_the_truth() {
    let (registry, mirror, index) = scene::cold_index();
    let layer = digest_of(&index.images[0].layers[0]);
    let blob = mirror.blob_url(REPO, &layer);
    let tag = mirror.manifest_url(REPO, "1.0");
    let digest = mirror.manifest_url(REPO, &index.digest);

    let status = async |url: &str| {
        let answer = ask(Method::GET, url).await;
        answer.header("cache-status").unwrap().to_owned()
    };
    assert_eq!(status(&tag).await, MISS);
    let hit = status(&tag).await;
    assert!(hit.starts_with("pierglass; hit; ttl=5"), "{hit}");
    assert_eq!(status(&digest).await, HIT);
    assert_eq!(status(&blob).await, MISS);
    until("the blob is committed", async || status(&blob).await == HIT).await;

    // Two at a time: the second joins the first.
    let cold = digest_of(&index.images[1].layers[0]);
    let slow = Fault::DelayHeaders(Duration::from_millis(300));
    registry.fault(On::blob().get(), slow);
    let cold = mirror.blob_url(REPO, &cold);
    let (one, other) = tokio::join!(status(&cold), status(&cold));
    let mut both = [one, other];
    both.sort();
    assert_eq!(both, ["pierglass; fwd=uri-miss; collapsed", MISS]);
}

#[tokio::test]
async fn age_is_what_has_passed_since_upstream_was_asked() {
    let (_registry, mirror, index) = scene::cold_index();
    let url = mirror.manifest_url(REPO, "1.0");
    let fresh = ask(Method::GET, &url).await;
    assert_eq!(fresh.header("age"), None, "straight from upstream");
    until("a second has passed", async || {
        let age = ask(Method::GET, &url)
            .await
            .header("age")
            .map(str::to_owned);
        age.as_deref() == Some("1")
    })
    .await;
    let answer = ask(Method::GET, &mirror.manifest_url(REPO, &index.digest)).await;
    assert!(answer.header("age").is_some());
}

#[tokio::test]
async fn errors_are_answers_of_a_registry_as_well() {
    let (_registry, mirror, _) = scene::cold_index();
    let missing = format!("sha256:{}", "0".repeat(64));
    for url in [
        mirror.manifest_url(REPO, "none"),
        mirror.blob_url(REPO, &missing),
        format!(
            "{}/v2/{REPO}/manifests/1.0?ns=unknown.example",
            mirror.url()
        ),
    ] {
        let get = ask(Method::GET, &url).await;
        let head = ask(Method::HEAD, &url).await;
        for answer in [&get, &head] {
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{url}");
            assert_eq!(answer.header("content-type"), Some("application/json"));
            let version = answer.header("docker-distribution-api-version");
            assert_eq!(version, Some("registry/2.0"));
            let length = get.body.len().to_string();
            assert_eq!(answer.header("content-length"), Some(&*length), "{url}");
        }
        assert!(head.body.is_empty());
        let error = &get.json()["errors"][0];
        assert!(error["code"].is_string() && error["message"].is_string());
    }
}

/// The header of an answer as it stands on the wire, without its status.
async fn wire_header(authority: &str, request: &str) -> String {
    let (answer, _) = raw(authority, request, PATIENCE).await;
    let answer = String::from_utf8_lossy(&answer);
    let (header, _) = answer.split_once("\r\n\r\n").unwrap();
    let (_, header) = header.split_once("\r\n").unwrap();
    format!("{header}\r\n")
}

/// `registry-api-v2-client` looks for these very letters, and so does `curl -sI .. | grep Docker-Content-Digest`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_headers_are_spelt_as_registries_in_go_spell_them() {
    let (registry, mirror, index) = scene::cold_index();
    // Sent with `sendfile` once it is stored.
    let large = registry.put_generated_blob(REPO, 9, 2 * scene::MIB);
    mirror.store_blob(REPO, &large).await;
    let blob = format!("/v2/{REPO}/blobs/{large}");
    let by_digest = format!("/v2/{REPO}/manifests/{}", index.digest);
    let cases = [
        (
            "GET",
            &*by_digest,
            "",
            "Docker-Content-Digest Docker-Distribution-Api-Version Etag Content-Type Content-Length",
        ),
        ("HEAD", &blob, "", "Docker-Content-Digest Accept-Ranges"),
        ("GET", &blob, "", "Docker-Content-Digest Date Connection"),
        ("GET", &blob, "Range: bytes=5-9", "Content-Range"),
        ("GET", "/v2/?ns=docker.io", "", "Oci-Namespace"),
        ("GET", "/v2/", "", "Docker-Distribution-Api-Version"),
        ("DELETE", &blob, "", "Allow"),
        ("GET", "/v2/_catalog?n=x", "", "Content-Type"),
        // hyper refuses this one by itself.
        ("GET", "/v2/", "no colon", "Content-Length"),
    ];
    for (method, path, line, names) in cases {
        let line = match line {
            "" => String::new(),
            line => format!("{line}\r\n"),
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: m\r\n{line}Connection: close\r\n\r\n");
        let header = wire_header(mirror.authority(), &request).await;
        for name in names.split(' ') {
            assert!(
                header.contains(&format!("{name}: ")),
                "{name} in {method} {path}: {header}"
            );
        }
        for name in header.lines().filter_map(|line| line.split(':').next()) {
            let titled = |part: &str| part.chars().next().is_none_or(|it| !it.is_lowercase());
            assert!(name.split('-').all(titled), "{name} in {method} {path}");
        }
    }
    let metrics = "GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n";
    let admin = mirror.admin_url();
    let header = wire_header(admin.trim_start_matches("http://"), metrics).await;
    assert!(header.contains("Content-Type: "), "{header}");
}
