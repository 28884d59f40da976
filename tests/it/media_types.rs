//! What a registry can hold must never be refused, renamed or rewritten, whatever kind of thing it is.
//!
//! A mirror that knows a list of media types breaks for whatever is invented next. Each kind here was a reason for a
//! bug report against some proxy.

use http::{Method, StatusCode};

use crate::support::client::Response;
use crate::support::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST};
use crate::support::{Fault, On, client, digest_of, scene};

const REPO: &str = "acme/things";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// Name, media type and bytes.
type Specimen = (&'static str, &'static str, String);

/// One of everything. No two are written alike: spaces, line breaks, the order of keys and
/// escapes are the author's, and the digest is over them.
fn zoo() -> Vec<Specimen> {
    [images(), artifacts()].concat()
}

fn images() -> Vec<Specimen> {
    let some = format!("sha256:{}", "a".repeat(64));
    let other = format!("sha256:{}", "b".repeat(64));
    vec![
        (
            "index-with-attestations",
            OCI_INDEX,
            format!(
                r#"{{
   "manifests": [
      {{"size": 482, "digest": "{some}", "mediaType": "{OCI_MANIFEST}", "platform": {{"os": "linux", "architecture": "arm64", "variant": "v8"}}}},
      {{"mediaType": "{OCI_MANIFEST}", "digest": "{other}", "size": 839,
        "platform": {{"architecture": "unknown", "os": "unknown"}},
        "annotations": {{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": "{some}"}}}}
   ],
   "schemaVersion": 2, "mediaType": "{OCI_INDEX}" }}
"#
            ),
        ),
        (
            "index-without-media-type",
            OCI_INDEX,
            r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
        ),
        (
            "docker-list",
            DOCKER_LIST,
            format!(
                "{{\"mediaType\":\"{DOCKER_LIST}\",\t\"schemaVersion\":2,\"manifests\":[]}}\r\n\r\n"
            ),
        ),
        (
            "docker-manifest-with-foreign-layers",
            DOCKER_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":1,"digest":"{some}"}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","size":2,"digest":"{other}","urls":["https://mcr.example/x"]}}]}}"#
            ),
        ),
        (
            "zstd-layers",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"{OCI_CONFIG}","digest":"{some}","size":3}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar+zstd","digest":"{other}","size":4,"annotations":{{"io.github.containers.zstd-chunked.manifest-position":"1:2:3:1"}}}}]}}"#
            ),
        ),
        (
            "attestation-manifest",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"application/vnd.docker.attestation.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{some}","size":2,"data":"e30="}},"layers":[{{"mediaType":"application/vnd.in-toto+json","digest":"{other}","size":5,"annotations":{{"in-toto.io/predicate-type":"https://slsa.dev/provenance/v1"}}}}]}}"#
            ),
        ),
    ]
}

fn artifacts() -> Vec<Specimen> {
    let some = format!("sha256:{}", "a".repeat(64));
    let other = format!("sha256:{}", "b".repeat(64));
    vec![
        (
            "helm-chart",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{some}","size":117}},"layers":[{{"mediaType":"application/vnd.cncf.helm.chart.content.v1.tar+gzip","digest":"{other}","size":3500}}],"annotations":{{"org.opencontainers.image.title":"n\u00e9e \ud83d\ude80 ünï\/cödé"}}}}"#
            ),
        ),
        (
            "artifact-with-a-subject-and-no-layers",
            OCI_MANIFEST,
            format!(
                r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","artifactType":"application/vnd.dev.sigstore.bundle.v0.3+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{some}","size":2}},"layers":[],"subject":{{"mediaType":"{OCI_MANIFEST}","digest":"{other}","size":6}}}}"#
            ),
        ),
        (
            "withdrawn-oci-artifact",
            OCI_ARTIFACT,
            format!(
                r#"{{"mediaType":"{OCI_ARTIFACT}","artifactType":"application/x.sbom","blobs":[{{"mediaType":"text/spdx","digest":"{some}","size":7}}]}}"#
            ),
        ),
        (
            "schema1",
            SCHEMA1,
            format!(
                "{{\n   \"schemaVersion\": 1,\n   \"name\": \"{REPO}\",\n   \"tag\": \"1\",\n   \"fsLayers\": [{{\"blobSum\": \"{some}\"}}],\n   \"history\": []\n}}"
            ),
        ),
        (
            "schema1-signed",
            SCHEMA1_SIGNED,
            format!(
                "{{\n   \"schemaVersion\": 1,\n   \"name\": \"{REPO}\",\n   \"fsLayers\": [],\n   \"signatures\": [\n      {{\"header\": {{\"alg\": \"ES256\"}}, \"signature\": \"x\", \"protected\": \"e30\"}}\n   ]\n}}"
            ),
        ),
        (
            "unknown-type",
            "application/vnd.example.thing.v7+json",
            r#"{"thing": {"b": 1, "a": [1.0, 1e300, 0.10, -0]}, "thing": "twice"}"#.to_owned(),
        ),
        (
            "wasm",
            "application/vnd.wasm.manifest.v0+json",
            " {\"schemaVersion\" :2}\n\n".to_owned(),
        ),
        ("empty-object", "application/x.y+json", "{}".to_owned()),
    ]
}

#[track_caller]
fn assert_is(answer: &Response, media_type: &str, bytes: &[u8], method: &Method, name: &str) {
    assert_eq!(answer.status, StatusCode::OK, "{name}: {}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some(media_type),
        "{method} {name}"
    );
    let digest = digest_of(bytes);
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*digest),
        "{name}"
    );
    let length = bytes.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length), "{name}");
    if method == Method::GET {
        assert!(answer.body == bytes, "{name}: {}", answer.text());
    }
}

const METHODS: [Method; 4] = [Method::HEAD, Method::GET, Method::HEAD, Method::GET];

#[tokio::test]
async fn every_kind_of_manifest_passes_byte_by_byte() {
    let (registry, mirror) = scene::start();
    for (name, media_type, text) in zoo() {
        let digest = registry.put_manifest(REPO, Some(name), media_type, text.clone());
        // Once first by tag and once first by digest, since whatever comes first is what is stored.
        let other = registry.put_manifest("acme/more", Some(name), media_type, text.clone());
        for (repo, reference) in [
            (REPO, name),
            (REPO, &*digest),
            ("acme/more", &*other),
            ("acme/more", name),
        ] {
            let url = mirror.manifest_url(repo, reference);
            for method in METHODS {
                for accept in ["*/*", OCI_INDEX] {
                    let headers = [("accept", accept)];
                    let answer = client::request(method.clone(), &url, &headers)
                        .await
                        .unwrap();
                    assert_is(&answer, media_type, text.as_bytes(), &method, name);
                }
            }
        }
    }
}

#[tokio::test]
async fn every_kind_of_manifest_survives_a_restart_and_an_outage() {
    let (registry, mut mirror) = scene::start();
    for (name, media_type, text) in zoo() {
        registry.put_manifest(REPO, Some(name), media_type, text);
        let url = mirror.manifest_url(REPO, name);
        client::get(&url, &[]).await.unwrap();
    }
    assert!(mirror.term_and_wait().success());
    mirror.restart();
    registry.down();
    for (name, media_type, text) in zoo() {
        for reference in [name, &*digest_of(text.as_bytes())] {
            for method in [Method::HEAD, Method::GET] {
                let url = mirror.manifest_url(REPO, reference);
                let answer = client::request(method.clone(), &url, &[]).await.unwrap();
                assert_is(&answer, media_type, text.as_bytes(), &method, name);
            }
        }
    }
}

/// Files behind a plain web server, and registries that were written in an afternoon. The type that HEAD says is the
/// one that containerd takes the following GET for.
#[tokio::test]
async fn a_head_said_another_type_than_the_get_where_upstream_says_only_json() {
    let (registry, mirror) = scene::start();
    for (number, content_type) in [
        "application/json",
        "text/plain; charset=utf-8",
        "application/octet-stream",
    ]
    .into_iter()
    .enumerate()
    {
        for (name, text, expected) in [
            (
                "typed",
                format!(r#"{{"mediaType":"{OCI_INDEX}","manifests":[],"n":{number}}}"#),
                OCI_INDEX,
            ),
            (
                "shaped",
                format!(r#"{{"config":{{}},"layers":[],"n":{number}}}"#),
                OCI_MANIFEST,
            ),
        ] {
            let tag = format!("{name}-{number}");
            let digest = registry.put_manifest(REPO, Some(&tag), content_type, text.clone());
            let other = registry.put_manifest("acme/more", Some(&tag), content_type, text.clone());
            for (repo, reference) in [(REPO, &tag), (REPO, &digest), ("acme/more", &other)] {
                for method in METHODS {
                    let url = mirror.manifest_url(repo, reference);
                    let answer = client::request(method.clone(), &url, &[]).await.unwrap();
                    assert_is(&answer, expected, text.as_bytes(), &method, content_type);
                }
            }
        }
    }
}

/// By digest only: what a tag points to must look like a manifest, or have a manifest's type (see `words`).
#[tokio::test]
async fn json_of_no_known_kind_lost_the_type_upstream_gave_it() {
    let (registry, mirror) = scene::start();
    let text = r#"{"some": "thing"}"#;
    let digest = registry.put_manifest(REPO, Some("1"), "application/json; charset=utf-8", text);
    for method in METHODS {
        let url = mirror.manifest_url(REPO, &digest);
        let answer = client::request(method.clone(), &url, &[]).await.unwrap();
        assert_is(
            &answer,
            "application/json",
            text.as_bytes(),
            &method,
            "json",
        );
    }
}

/// They are the same in any case; a client that compares them with what it knows does not find them otherwise.
#[tokio::test]
async fn a_type_in_capital_letters_was_handed_on_as_it_was() {
    let (registry, mirror) = scene::start();
    let upper = "Application/VND.OCI.Image.Index.V1+JSON";
    for (number, own) in [
        "",
        ",\"mediaType\":\"Application/Vnd.OCI.image.index.v1+json\"",
    ]
    .into_iter()
    .enumerate()
    {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"n":{number}{own}}}"#);
        let tag = number.to_string();
        let digest = registry.put_manifest(REPO, Some(&tag), upper, text.clone());
        for reference in [&digest, &tag] {
            for method in METHODS {
                let url = mirror.manifest_url(REPO, reference);
                let answer = client::request(method.clone(), &url, &[]).await.unwrap();
                assert_is(&answer, OCI_INDEX, text.as_bytes(), &method, own);
            }
        }
    }
}

/// The bytes say what they are, and a digest says that they are right: what a file server calls them does not matter.
#[tokio::test]
async fn a_manifest_was_refused_for_its_label() {
    let (registry, mirror) = scene::start();
    for (number, label) in ["text/html", "image/png", "application/javascript", "x"]
        .into_iter()
        .enumerate()
    {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"n":{number}}}"#);
        let tag = number.to_string();
        let digest = registry.put_manifest(REPO, Some(&tag), label, text.clone());
        for reference in [&digest, &tag] {
            for method in METHODS {
                let url = mirror.manifest_url(REPO, reference);
                let answer = client::request(method.clone(), &url, &[]).await.unwrap();
                assert_is(&answer, OCI_INDEX, text.as_bytes(), &method, label);
            }
        }
    }
}

#[tokio::test]
async fn parameters_of_a_media_type_are_left_out() {
    let (registry, mirror) = scene::start();
    let text = r#"{"schemaVersion":2,"manifests":[]}"#;
    registry.put_manifest(
        REPO,
        Some("1"),
        &format!("{OCI_INDEX}; charset=utf-8"),
        text,
    );
    for method in METHODS {
        let url = mirror.manifest_url(REPO, "1");
        let answer = client::request(method.clone(), &url, &[]).await.unwrap();
        assert_is(&answer, OCI_INDEX, text.as_bytes(), &method, "index");
    }
}

/// Upstream that compresses without being asked: what is stored would not be what the digest is of.
#[tokio::test]
async fn an_encoded_manifest_is_not_taken_for_the_manifest() {
    let (registry, mirror) = scene::start();
    let text = r#"{"schemaVersion":2,"manifests":[]}"#;
    registry.put_manifest(REPO, Some("1"), OCI_INDEX, text);
    let encoded = Fault::Status(
        200,
        "{\"looks\":\"like json\"}".to_owned(),
        vec![
            ("Content-Type".into(), OCI_INDEX.into()),
            ("Content-Encoding".into(), "gzip".into()),
        ],
    );
    registry.fault(On::manifest().get(), encoded);
    let url = mirror.manifest_url(REPO, "1");
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let answer = client::get(&url, &[]).await.unwrap();
    assert_is(&answer, OCI_INDEX, text.as_bytes(), &Method::GET, "index");
}

/// A blob is bytes: a chart, a database, a model, a page of HTML, nothing at all.
#[tokio::test]
async fn a_blob_may_be_anything() {
    let (registry, mirror) = scene::start();
    let zstd = b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51".to_vec();
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00"
        .to_vec();
    for bytes in [
        zstd,
        gzip,
        b"{}".to_vec(),
        b"<html><body>not found</body></html>".to_vec(),
        b"\0asm\x01\0\0\0".to_vec(),
        b"SQLite format 3\0".to_vec(),
        b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec(),
        vec![0; 100_000],
        Vec::new(),
    ] {
        let digest = registry.put_blob(REPO, bytes.clone());
        let url = mirror.blob_url(REPO, &digest);
        for method in METHODS {
            let headers = [("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
            let answer = client::request(method.clone(), &url, &headers)
                .await
                .unwrap();
            assert_is(
                &answer,
                "application/octet-stream",
                &bytes,
                &method,
                &digest,
            );
            assert_eq!(answer.header("content-encoding"), None);
        }
    }
}

/// The bytes say it better than a HEAD that names a type which no manifest is known to have.
#[tokio::test]
async fn a_head_said_a_type_that_no_manifest_has() {
    let (registry, mirror) = scene::start();
    let text = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    let digest = registry.put_manifest(REPO, Some("1"), OCI_MANIFEST, text);
    let headers = [
        ("Content-Type", OCI_CONFIG),
        ("Docker-Content-Digest", &digest),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fault = Fault::Status(200, text.to_owned(), headers.into());
    registry.fault(On::manifest().head().forever(), fault);
    for reference in ["1", &digest] {
        let answer = client::head(&mirror.manifest_url(REPO, reference), &[]).await;
        let answer = answer.unwrap();
        assert_is(
            &answer,
            OCI_MANIFEST,
            text.as_bytes(),
            &Method::HEAD,
            reference,
        );
    }
}
