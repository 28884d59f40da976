//! Upstream, or a place that is asked before it, says of a manifest what its bytes do not prove: of its digest, its type,
//! what it names, or what refers to it. None of that may be kept, nor outlive who said it.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use serde_json::{Value, json};

use crate::support::client::{self, Response};
use crate::support::disk::manifest_file;
use crate::support::image::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, TAG, digest_of, image};

const SIGNED_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// An endpoint that is asked first, and the registry behind it; both have the same image.
async fn both() -> (FakeRegistry, FakeRegistry) {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&near, &home] {
        registry.put_image(REPO, Some(TAG), &image(1));
    }
    (near, home)
}

fn through(near: &FakeRegistry, home: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(home).toml(&format!("endpoints = [\"{}\"]", near.url()))
}

fn answer(media_type: &str, digest: &str, body: &str) -> Fault {
    let headers = [
        ("Content-Type", media_type),
        ("Docker-Content-Digest", digest),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Fault::Status(200, body.to_owned(), headers.into())
}

/// A signature of schema 1: the digest is of so many bytes of the body, and of this tail.
fn signature(length: usize, tail: &[u8]) -> Value {
    let tail = URL_SAFE_NO_PAD.encode(tail);
    let protected = json!({"formatLength": length, "formatTail": tail}).to_string();
    json!({"header": {}, "signature": "x", "protected": URL_SAFE_NO_PAD.encode(protected)})
}

#[track_caller]
fn assert_is_image(answer: &Response) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.body, image(1).manifest);
    assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image(1).digest)
    );
}

// Digests.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_passed_as_a_manifest_by_a_signature_they_brought_along() {
    let honest = image(1);
    let other = image(2).manifest;
    let mut forged: Value = serde_json::from_slice(&other).unwrap();
    forged["signatures"] = json!([signature(0, &honest.manifest)]);
    for media_type in [OCI_MANIFEST, SIGNED_SCHEMA1] {
        let (near, home) = both().await;
        let mut forged = forged.clone();
        if media_type == SIGNED_SCHEMA1 {
            forged["schemaVersion"] = json!(1);
            forged.as_object_mut().unwrap().remove("mediaType");
        }
        let lie = answer(media_type, &honest.digest, &forged.to_string());
        let lie = near.fault(On::manifest().get().forever(), lie);
        let mut mirror = Mirror::start(through(&near, &home));
        for reference in [&*honest.digest, TAG] {
            assert_is_image(&mirror.manifest(REPO, reference).await);
        }
        assert!(near.struck(lie) >= 1);
        near.down();
        home.down();
        mirror.restart();
        assert_is_image(&mirror.manifest(REPO, &honest.digest).await);
    }
}

/// Old images at Quay and in private registries: podman still pulls them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_schema_1_manifest_goes_by_the_digest_of_its_payload() {
    let registry = FakeRegistry::start().await;
    let payload =
        format!("{{\n   \"schemaVersion\": 1,\n   \"name\": \"{REPO}\",\n   \"fsLayers\": []\n}}");
    let length = payload.len() - 2;
    let signatures = json!([signature(length, &payload.as_bytes()[length..])]);
    let body = format!(
        "{},\n   \"signatures\": {signatures}\n}}",
        &payload[..length]
    );
    let digest = digest_of(payload.as_bytes());
    registry.fault(
        On::manifest().forever(),
        answer(SIGNED_SCHEMA1, &digest, &body),
    );
    let mut mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    for reference in ["1", &*digest] {
        for _ in 0..2 {
            let found = mirror.manifest(REPO, reference).await;
            assert_eq!(found.status, StatusCode::OK, "{}", found.text());
            assert_eq!(found.header("docker-content-digest"), Some(&*digest));
            assert_eq!(found.header("content-type"), Some(SIGNED_SCHEMA1));
            assert_eq!(found.text(), body);
        }
        registry.down();
        mirror.restart();
    }
    assert_eq!(mirror.command(&["verify"]).code, Some(0));
}

// Types.

/// Also where the bytes say no type: an endpoint's word alone makes none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_named_a_wrong_media_type_for_good() {
    let mut untyped: Value = serde_json::from_slice(&image(1).manifest).unwrap();
    untyped.as_object_mut().unwrap().remove("mediaType");
    let untyped = untyped.to_string();
    let typed = String::from_utf8(image(1).manifest.to_vec()).unwrap();
    for (lie, body) in [
        (OCI_INDEX, &typed),
        ("text/html", &typed),
        ("application/vnd.x+json", &typed),
        (OCI_INDEX, &untyped),
        (DOCKER_MANIFEST, &untyped),
        ("text/html", &untyped),
    ] {
        let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
        near.put_manifest(REPO, Some(TAG), lie, body.clone());
        let digest = home.put_manifest(REPO, Some(TAG), OCI_MANIFEST, body.clone());
        let mut mirror = Mirror::start(through(&near, &home));
        for restarted in [false, true] {
            // A HEAD first: its type must be right as well.
            for reference in [TAG, &*digest] {
                let head = mirror.head(REPO, reference).await;
                assert_eq!(head.header("content-type"), Some(OCI_MANIFEST), "{lie}");
                let found = mirror.manifest(REPO, reference).await;
                assert_eq!(found.header("content-type"), Some(OCI_MANIFEST), "{lie}");
                assert_eq!(&found.text(), body);
            }
            if !restarted {
                assert!(near.counts().manifest_gets > 0, "it was asked");
                near.down();
                mirror.restart();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_manifest_is_not_passed_on_as_one() {
    let own = format!(r#"{{"mediaType":"{OCI_MANIFEST}","config":{{}},"layers":[]}}"#);
    for (number, (media_type, body)) in [
        ("text/html", "{}"),
        (OCI_INDEX, &own),
        ("image/svg+xml", "{}"),
        ("application/octet-stream", r#"{"mediaType":"text/html"}"#),
        ("application/json", r#"{"mediaType":"text/html"}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let registry = FakeRegistry::start().await;
        let body = body.replacen('{', &format!("{{\"n\":{number},"), 1);
        let body = body.replace(",}", "}");
        let digest = registry.put_manifest(REPO, Some(TAG), media_type, body.clone());
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        for reference in [TAG, &*digest] {
            let found = mirror.manifest(REPO, reference).await;
            assert_eq!(found.status, StatusCode::BAD_GATEWAY, "{body}");
            assert_eq!(found.header("content-type"), Some("application/json"));
            // A HEAD has no bytes to look at, but a page is no manifest.
            let head = mirror.head(REPO, reference).await;
            let is_page = media_type != OCI_INDEX;
            assert!(!is_page || head.status == StatusCode::BAD_GATEWAY, "{body}");
        }
        assert!(!manifest_file(&mirror.store_path(), REPO, &digest).exists());
    }
}

/// What gateways, portals and registries in maintenance say to everything: JSON, and with a status of success.
fn notices() -> Vec<(u16, &'static str, String)> {
    let manifest = String::from_utf8(image(9).manifest.to_vec()).unwrap();
    let with_errors = manifest.replacen('{', r#"{"errors":[],"#, 1);
    let json = "application/json";
    vec![
        (200, json, r#"{"message":"maintenance"}"#.into()),
        (200, json, "{}".into()),
        (200, json, r#"{"errors":[{"code":"DENIED"}]}"#.into()),
        (200, json, r#"{"schemaVersion":2}"#.into()),
        (200, json, r#"{"schemaVersion":"2","layers":[]}"#.into()),
        (200, json, r#"{"schemaVersion":3,"manifests":[]}"#.into()),
        (200, json, r#"{"config":{},"message":"ready"}"#.into()),
        (200, OCI_MANIFEST, r#"{"error":"quota"}"#.into()),
        (200, OCI_MANIFEST, with_errors),
        (202, OCI_MANIFEST, manifest.clone()),
        (203, OCI_MANIFEST, manifest.clone()),
        (206, OCI_MANIFEST, manifest),
        (204, json, String::new()),
        (200, "text/html", "<html>".into()),
    ]
}

/// A good image was replaced by a notice, for as long as the mirror kept it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_json_became_the_tag() {
    for (status, content_type, body) in notices() {
        let registry = FakeRegistry::start().await;
        registry.put_image(REPO, Some(TAG), &image(1));
        let config = MirrorConfig::for_upstream(&registry).patient();
        let mut mirror = Mirror::start(config);
        assert_is_image(&mirror.manifest(REPO, TAG).await);
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        registry.fault(
            On::any().forever(),
            Fault::Status(status, body.clone(), headers),
        );
        for cold in [
            mirror.manifest(REPO, "cold").await,
            mirror.head(REPO, "cold").await,
        ] {
            assert_eq!(cold.status, StatusCode::BAD_GATEWAY, "{status} {body}");
        }
        for _ in 0..2 {
            let stale = mirror.manifest(REPO, TAG).await;
            assert_is_image(&stale);
            assert_eq!(
                stale.header("cache-status"),
                Some("pierglass; hit; detail=stale"),
                "{status} {body}"
            );
            let head = mirror.head(REPO, TAG).await;
            assert_eq!(
                head.header("docker-content-digest"),
                Some(&*image(1).digest)
            );
        }
        registry.down();
        mirror.term_and_wait();
        mirror.restart();
        assert_is_image(&mirror.manifest(REPO, TAG).await);
    }
}

/// Small registries state no digest: the bytes show what they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_without_a_stated_digest_is_known_by_its_members() {
    let schema1 = r#"{"schemaVersion":1,"name":"a/b","fsLayers":[]}"#;
    let artifact = "application/vnd.oci.artifact.manifest.v1+json";
    let typed = format!(r#"{{"mediaType":"{artifact}","blobs":[]}}"#);
    let bare = r#"{"schemaVersion":2,"manifests":[]}"#;
    for (content_type, body, expected) in [
        ("application/json", bare, OCI_INDEX),
        ("", bare, OCI_INDEX),
        (
            "application/json",
            schema1,
            "application/vnd.docker.distribution.manifest.v1+json",
        ),
        ("text/plain", &typed, artifact),
    ] {
        let registry = FakeRegistry::start().await;
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        let reply = Fault::Status(200, body.to_owned(), headers);
        registry.fault(On::manifest().forever(), reply);
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        for _ in 0..2 {
            let found = mirror.manifest(REPO, TAG).await;
            assert_eq!(found.status, StatusCode::OK, "{}", found.text());
            assert_eq!(found.text(), body);
            assert_eq!(found.header("content-type"), Some(expected));
            let head = mirror.head(REPO, TAG).await;
            assert_eq!(head.header("content-type"), Some(expected));
        }
    }
}

// What refers to a manifest.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_hid_what_was_signed() {
    let (near, home) = both().await;
    let tag = image(1).digest.replace(':', "-");
    for registry in [&near, &home] {
        registry.forget_referrers_api();
    }
    let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []});
    let mut signed = empty.clone();
    signed["manifests"] = json!([descriptor(OCI_MANIFEST, b"a signature")]);
    let other = home.put_image(REPO, None, &image(2));
    for ending in ["", ".sig", ".att", ".sbom"] {
        let tag = format!("{tag}{ending}");
        near.put_manifest(REPO, Some(&tag), OCI_INDEX, empty.to_string());
        match ending {
            "" => drop(home.put_manifest(REPO, Some(&tag), OCI_INDEX, signed.to_string())),
            _ => home.tag(REPO, &tag, &other),
        }
    }
    let mirror = Mirror::start(through(&near, &home));
    let path = format!("/v2/{REPO}/referrers/{}", image(1).digest);
    let listed = mirror.get(&path).await;
    assert_eq!(listed.json()["manifests"].as_array().unwrap().len(), 1);
    for ending in [".sig", ".att", ".sbom"] {
        let found = mirror.manifest(REPO, &format!("{tag}{ending}")).await;
        assert_eq!(found.body, image(2).manifest, "{ending}");
    }
    assert_eq!(near.counts().requests(), 0);
}

// What a manifest names.

/// Registries check the fields of a manifest's own type, and Go takes the last of two keys that differ in case.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_opened_a_private_blob_by_fields_that_no_registry_checks() {
    let registry = FakeRegistry::start().await;
    let secret = image(7);
    registry.put_image("private/app", Some(TAG), &secret);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    mirror.pull("private/app", TAG, &secret).await;
    let blob = secret.blobs().remove(1);
    let named = json!([{"digest": blob, "blobSum": blob, "size": 1000}]).to_string();
    let own = json!({"mediaType": OCI_MANIFEST, "config": {}, "layers": []}).to_string();
    for (number, fields) in [
        format!(r#""blobs":{named}"#),
        format!(r#""fsLayers":{named}"#),
        format!(r#""manifests":{named}"#),
        format!(r#""layers":{named},"LAYERS":[]"#),
        format!(r#""layers":{named},"layer\u017f":[]"#),
        format!(r#""layers":{named},"layers":[]"#),
    ]
    .into_iter()
    .enumerate()
    {
        let own = match fields.starts_with("\"layers") {
            true => own
                .replace(",\"layers\":[]", "")
                .replace("\"layers\":[],", ""),
            false => own.clone(),
        };
        let repo = format!("public/x{number}");
        let body = own.replacen('{', &format!("{{{fields},"), 1);
        registry.put_manifest(&repo, Some(TAG), OCI_MANIFEST, body.clone());
        let manifest = mirror.manifest(&repo, TAG).await;
        assert_eq!(manifest.status, StatusCode::OK, "{}", manifest.text());
        let url = mirror.blob_url(&repo, &blob);
        for headers in [&[][..], &[("range", "bytes=0-9")]] {
            let found = client::get(&url, headers).await.unwrap();
            assert_eq!(found.status, StatusCode::NOT_FOUND, "{body}");
        }
    }
}

// What an earlier version kept.

/// The file of a manifest, as an earlier version wrote it.
fn write_old(mirror: &Mirror, digest: &str, media_type: &str, body: &str) {
    let file = manifest_file(&mirror.store_path(), REPO, digest);
    let header = json!({"media_type": media_type, "fetched_at": 1_735_689_600_000_u64});
    std::fs::write(file, format!("{header}\n{body}")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_believed_is_checked_again() {
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some(TAG), &image(1));
    let mut mirror = Mirror::start(MirrorConfig::for_upstream(&registry).tag_ttl("1h"));
    let (honest, text) = (
        image(1),
        String::from_utf8(image(1).manifest.to_vec()).unwrap(),
    );
    mirror.pull(REPO, TAG, &honest).await;
    let mut forged: Value = serde_json::from_slice(&image(2).manifest).unwrap();
    forged["signatures"] = json!([signature(0, &honest.manifest)]);
    for (media_type, body) in [
        (OCI_INDEX, text.clone()),
        ("text/html", text.clone()),
        (OCI_MANIFEST, forged.to_string()),
    ] {
        mirror.kill9();
        write_old(&mirror, &honest.digest, media_type, &body);
        let verified = mirror.command_without_admin(&["verify"]);
        assert_eq!(verified.code, Some(1), "{verified:?}");
        mirror.restart();
        registry.reset_counts();
        assert_is_image(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.counts().manifest_gets, 1, "{media_type}");
    }
    // What is right in it is not asked for again.
    mirror.kill9();
    write_old(&mirror, &honest.digest, OCI_MANIFEST, &text);
    mirror.restart();
    registry.down();
    assert_is_image(&mirror.manifest(REPO, TAG).await);
}
