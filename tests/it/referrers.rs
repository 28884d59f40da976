//! What is signed must never look unsigned because upstream is away or old: an empty list is upstream's word, and no
//! answer of upstream's is a reason to answer 404.

use http::StatusCode;
use serde_json::{Value, json};

use crate::support::disk::files;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, client, image, until};

const STALE: &str = "pierglass; hit; detail=stale";

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry).impatient()
}

/// Pushes a manifest of that kind whose subject is the image; its digest.
fn refer(registry: &FakeRegistry, kind: &str) -> String {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json"},
        "subject": descriptor(OCI_MANIFEST, &image(1).manifest),
    });
    registry.put_manifest(REPO, None, OCI_MANIFEST, manifest.to_string())
}

/// A registry with an image and referrers of these kinds.
async fn registry_with(kinds: &[&str]) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1"), &image(1));
    for kind in kinds {
        refer(&registry, kind);
    }
    registry
}

fn url(mirror: &Mirror, query: &str) -> String {
    let digest = image(1).digest;
    format!("{}/v2/{REPO}/referrers/{digest}{query}", mirror.url())
}

async fn list(mirror: &Mirror, query: &str) -> client::Response {
    client::get(&url(mirror, query), &[]).await.unwrap()
}

/// Asserts a valid index, and returns the kinds it names.
#[track_caller]
fn kinds(answer: &client::Response) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
    let index = answer.json();
    assert_eq!(index["schemaVersion"], 2);
    assert_eq!(index["mediaType"], OCI_INDEX);
    let kind = |item: &Value| item["artifactType"].as_str().unwrap_or("?").to_owned();
    let mut kinds: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(kind)
        .collect();
    kinds.sort();
    kinds
}

fn fallback_tag() -> String {
    image(1).digest.replace(':', "-")
}

#[tokio::test]
async fn upstreams_list_is_passed_on_and_kept() {
    let registry = registry_with(&["a/sig", "b/sbom"]).await;
    let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    for _ in 0..3 {
        let answer = list(&mirror, "").await;
        assert_eq!(kinds(&answer), ["a/sig", "b/sbom"]);
        assert_eq!(answer.header("oci-filters-applied"), None);
    }
    let head = client::head(&url(&mirror, ""), &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(head.header("content-type"), Some(OCI_INDEX));
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test]
async fn a_filter_is_applied_and_said_to_be() {
    let registry = registry_with(&["a/sig", "b/sbom", "c/vex"]).await;
    let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    for (query, expected) in [
        ("?artifactType=b%2Fsbom", vec!["b/sbom"]),
        (
            "?artifactType=a/sig&artifactType=c/vex",
            vec!["a/sig", "c/vex"],
        ),
        ("?artifactType=none/such", vec![]),
    ] {
        let answer = list(&mirror, query).await;
        assert_eq!(kinds(&answer), expected, "{query}");
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    }
    assert_eq!(registry.counts().referrers, 1, "the whole list is kept");
}

#[tokio::test]
async fn upstreams_pages_are_one_list() {
    let registry = registry_with(&["a/1", "a/2", "a/3", "a/4", "a/5"]).await;
    registry.set_page(2);
    let mirror = Mirror::start(config(&registry));
    let all = ["a/1", "a/2", "a/3", "a/4", "a/5"];
    let answer = list(&mirror, "").await;
    assert_eq!(kinds(&answer), all);
    assert_eq!(answer.header("link"), None);
    assert_eq!(registry.counts().referrers, 3);
}

#[tokio::test]
async fn nothing_that_refers_is_an_empty_index_and_never_404() {
    let registry = registry_with(&[]).await;
    let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    assert!(kinds(&list(&mirror, "").await).is_empty());
    let zeros = format!("sha256:{}", "0".repeat(64));
    for repo in [REPO, "no/such"] {
        let url = format!("{}/v2/{repo}/referrers/{zeros}", mirror.url());
        assert!(kinds(&client::get(&url, &[]).await.unwrap()).is_empty());
    }
    for digest in ["sha256:123", "md5:00", "latest"] {
        let url = format!("{}/v2/{REPO}/referrers/{digest}", mirror.url());
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{digest}");
        assert_eq!(answer.json()["errors"][0]["code"], "DIGEST_INVALID");
    }
}

#[tokio::test]
async fn registries_without_the_api_are_read_by_their_fallback_tag() {
    for fault in [
        Fault::status(404),
        Fault::status(400),
        Fault::status(406),
        Fault::Html(200),
    ] {
        let registry = registry_with(&[]).await;
        registry.fault(On::referrers().forever(), fault.clone());
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
            {"mediaType": OCI_MANIFEST, "digest": refer(&registry, "a/sig"), "size": 1, "artifactType": "a/sig"},
            {"mediaType": OCI_MANIFEST, "digest": refer(&registry, "b/sbom"), "size": 1, "artifactType": "b/sbom"},
        ]});
        registry.put_manifest(REPO, Some(&fallback_tag()), OCI_INDEX, index.to_string());
        let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
        let all = list(&mirror, "").await;
        assert_eq!(kinds(&all), ["a/sig", "b/sbom"], "{fault:?}");
        let one = list(&mirror, "?artifactType=a/sig").await;
        assert_eq!(kinds(&one), ["a/sig"]);
        // The tag is an ordinary one, and stored by now.
        let tag = mirror.manifest_url(REPO, &fallback_tag());
        let tag = client::get(&tag, &[]).await.unwrap();
        assert_eq!(tag.json(), index);
        let counts = registry.counts();
        assert_eq!((counts.referrers, counts.manifest_gets), (1, 1));
        assert_eq!(counts.requests(), 2);
    }
}

/// Simple registries, and storage behind them, have no label for what they send.
#[tokio::test]
async fn a_list_was_not_taken_for_one_because_of_its_label() {
    let descriptor = |kind: &str| json!({"mediaType": OCI_MANIFEST, "digest": image(2).digest, "size": 1, "artifactType": kind});
    let typed =
        json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [descriptor("a/sig")]});
    let bare = json!({"schemaVersion": 2, "manifests": [descriptor("a/sig")]});
    let list_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let docker =
        json!({"schemaVersion": 2, "mediaType": list_type, "manifests": [descriptor("a/sig")]});
    let none = json!({"message": "no such page"});
    for (label, body, taken) in [
        (Some("application/json"), &typed, true),
        (Some("application/json; charset=utf-8"), &bare, true),
        (Some("text/plain"), &typed, true),
        (Some("application/octet-stream"), &bare, true),
        (None, &typed, true),
        (Some(list_type), &docker, true),
        (Some("text/html"), &typed, false),
        (Some("application/json"), &none, false),
        (None, &none, false),
    ] {
        let registry = registry_with(&[]).await;
        let mut headers = Vec::new();
        headers.extend(label.map(|label| ("Content-Type".to_owned(), label.to_owned())));
        let answer = Fault::Status(200, body.to_string(), headers);
        registry.fault(On::referrers().forever(), answer);
        let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
        let found = kinds(&list(&mirror, "").await);
        let expected: &[&str] = if taken { &["a/sig"] } else { &[] };
        assert_eq!(found, expected, "{label:?}: {body}");
        let counts = registry.counts();
        let asked = (counts.referrers, counts.requests());
        assert_eq!(asked.0, 1, "{label:?}: {body}");
        assert_eq!(
            asked.1 == 1,
            taken,
            "the tag is asked for: {label:?}: {body}"
        );
    }
}

/// Its first page was there: the rest of it is a part of the same list, which is not gone.
#[tokio::test]
async fn a_second_page_that_is_not_there_took_the_stored_list_away() {
    for fault in [Fault::status(404), Fault::status(403), Fault::Html(200)] {
        let registry = registry_with(&["a/1", "a/2", "a/3"]).await;
        registry.set_page(2);
        let mirror = Mirror::start(config(&registry).asking_each_time());
        assert_eq!(kinds(&list(&mirror, "").await), ["a/1", "a/2", "a/3"]);
        let second = On::referrers().containing("next_page=").forever();
        registry.fault(second, fault.clone());
        for _ in 0..2 {
            let answer = list(&mirror, "").await;
            assert_eq!(kinds(&answer), ["a/1", "a/2", "a/3"], "{fault:?}");
            assert_eq!(answer.header("cache-status"), Some(STALE), "{fault:?}");
        }
    }
}

#[tokio::test]
async fn a_fallback_tag_that_is_no_index_refers_to_nothing() {
    let registry = registry_with(&[]).await;
    registry.forget_referrers_api();
    registry.tag(REPO, &fallback_tag(), &image(1).digest);
    let mirror = Mirror::start(config(&registry));
    assert!(kinds(&list(&mirror, "").await).is_empty());
}

#[tokio::test]
async fn what_stands_under_a_stale_tag_is_called_stale() {
    let registry = registry_with(&[]).await;
    registry.forget_referrers_api();
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": image(1).digest, "size": 1, "artifactType": "a/sig"},
    ]});
    registry.put_manifest(REPO, Some(&fallback_tag()), OCI_INDEX, index.to_string());
    let mirror = Mirror::start(config(&registry).tag_ttl("0s"));
    // A client that knows nothing of the API pulled the tag.
    let tag = mirror.manifest_url(REPO, &fallback_tag());
    client::get(&tag, &[]).await.unwrap();
    registry.fault(On::manifest().forever(), Fault::status(500));
    for _ in 0..2 {
        let answer = list(&mirror, "").await;
        assert_eq!(kinds(&answer), ["a/sig"]);
        assert_eq!(answer.header("cache-status"), Some(STALE));
    }
    registry.clear_faults();
    let answer = list(&mirror, "").await;
    let revalidated = Some("pierglass; hit; detail=revalidated");
    assert_eq!(answer.header("cache-status"), revalidated);
}

#[tokio::test]
async fn an_outage_is_no_empty_list() {
    let registry = registry_with(&["a/sig"]).await;
    let mirror = Mirror::start(config(&registry).negative_ttl("0s"));
    registry.down();
    assert_eq!(
        list(&mirror, "").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    registry.up();
    // The API is not there, and the tag cannot be asked for.
    registry.forget_referrers_api();
    for (fault, status) in [
        (Fault::status(500), 503),
        (Fault::Hang, 504),
        // The last, because it is remembered.
        (Fault::status(429), 429),
    ] {
        registry.fault(On::manifest().forever(), fault.clone());
        let answer = list(&mirror, "").await;
        assert_eq!(answer.status.as_u16(), status, "{fault:?}");
        registry.clear_faults();
    }
    // As soon as the limit is over, it is empty by upstream's own word.
    let mut answer = None;
    until("an answer", async || {
        let list = list(&mirror, "").await;
        answer = (list.status == StatusCode::OK).then_some(list);
        answer.is_some()
    })
    .await;
    assert!(kinds(&answer.unwrap()).is_empty());
}

#[tokio::test]
async fn a_stored_list_outlives_outages_and_restarts() {
    let registry = registry_with(&["a/sig"]).await;
    let mut mirror = Mirror::start(config(&registry).tag_ttl("0s"));
    assert_eq!(kinds(&list(&mirror, "").await), ["a/sig"]);
    for fault in [Fault::status(503), Fault::status(429), Fault::Hang] {
        registry.fault(On::any().forever(), fault.clone());
        let answer = list(&mirror, "").await;
        assert_eq!(kinds(&answer), ["a/sig"], "{fault:?}");
        assert_eq!(answer.header("cache-status"), Some(STALE));
        registry.clear_faults();
    }
    registry.down();
    mirror.restart();
    assert_eq!(kinds(&list(&mirror, "").await), ["a/sig"]);
    registry.up();
    refer(&registry, "b/sbom");
    until("the new one is listed", async || {
        kinds(&list(&mirror, "").await) == ["a/sig", "b/sbom"]
    })
    .await;
}

/// cosign signs after the push: a client that looked too early must not be told for long that nothing is signed.
#[tokio::test]
async fn a_signature_is_found_soon_after_it_is_pushed() {
    let registry = registry_with(&[]).await;
    registry.forget_referrers_api();
    let config = config(&registry).tag_ttl("0s").negative_ttl("300ms");
    let mirror = Mirror::start(config);
    let tag = format!("{}.sig", fallback_tag());
    let tag = mirror.manifest_url(REPO, &tag);
    let before = client::get(&tag, &[]).await.unwrap();
    assert_eq!(before.status, StatusCode::NOT_FOUND);
    assert!(kinds(&list(&mirror, "").await).is_empty());
    let digest = refer(&registry, "a/sig");
    registry.tag(REPO, &format!("{}.sig", fallback_tag()), &digest);
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [
        {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1, "artifactType": "a/sig"},
    ]});
    registry.put_manifest(REPO, Some(&fallback_tag()), OCI_INDEX, index.to_string());
    until("the signature is found", async || {
        let signed = client::get(&tag, &[]).await.unwrap().status == StatusCode::OK;
        signed && kinds(&list(&mirror, "").await) == ["a/sig"]
    })
    .await;
}

/// A stranger asks for the lists of what does not exist, in names of as many parts as he likes.
#[tokio::test]
async fn questions_about_what_does_not_exist_filled_the_store() {
    let registry = registry_with(&[]).await;
    registry.put_image(REPO, Some("1"), &image(1));
    let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    mirror.pull(REPO, "1", &image(1)).await;
    mirror.wait_until_stored(&image(1).blobs());
    let before = (files(&mirror.store_path()).len(), mirror.du());
    let unknown = |number: usize| format!("sha256:{number:064x}");
    for number in 0..20 {
        for repo in [format!("{}x{number}", "a/".repeat(100)), REPO.to_owned()] {
            let url = format!("{}/v2/{repo}/referrers/{}", mirror.url(), unknown(number));
            for _ in 0..2 {
                assert!(kinds(&client::get(&url, &[]).await.unwrap()).is_empty());
            }
        }
    }
    assert_eq!(registry.counts().referrers, 40, "each was asked once");
    // Without the API, and so by a tag that is not there.
    registry.forget_referrers_api();
    for number in 20..40 {
        let url = format!(
            "{}/v2/a/{number}/referrers/{}",
            mirror.url(),
            unknown(number)
        );
        assert!(kinds(&client::get(&url, &[]).await.unwrap()).is_empty());
    }
    // Repositories whose list of tags is empty.
    let empty = Fault::Status(
        200,
        json!({"name": "x", "tags": []}).to_string(),
        vec![("Content-Type".into(), "application/json".into())],
    );
    registry.fault(On::tags().forever(), empty);
    for number in 0..20 {
        let path = format!("/v2/{}x{number}/tags/list", "b/".repeat(100));
        let listed = mirror.get(&path).await;
        assert_eq!(listed.json()["tags"], json!([]));
    }
    assert_eq!((files(&mirror.store_path()).len(), mirror.du()), before);
}

/// That an image is not signed is worth keeping: it is pulled while upstream is away, too.
#[tokio::test]
async fn an_empty_list_of_what_is_stored_outlives_a_restart() {
    let registry = registry_with(&[]).await;
    let mut mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    mirror.pull(REPO, "1", &image(1)).await;
    assert!(kinds(&list(&mirror, "").await).is_empty());
    registry.down();
    mirror.restart();
    assert!(kinds(&list(&mirror, "").await).is_empty());
}
