//! A registry has no list of referrers, in words of its own, or says nonsense under the tag that stands for it. What is
//! signed must not look unsigned, and what is not signed must not look broken.

use serde_json::{Value, json};

use crate::support::client::Response;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Fault, Index, Mirror, MirrorConfig, On, REPO, image};

/// Statuses of what refuses, and of a page that is no list.
const REFUSALS: [u16; 12] = [400, 401, 403, 404, 405, 406, 410, 415, 424, 451, 501, 200];
/// Of what may have a list all the same.
const FAILURES: [u16; 5] = [429, 500, 502, 503, 504];

/// A registry with the image, and a mirror that asks each time.
fn start() -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::builder().start_now();
    registry.put_image(REPO, Some("1"), &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).asking_each_time());
    (registry, mirror)
}

/// A manifest of that kind whose subject is a digest; its descriptor.
fn refer(registry: &FakeRegistry, kind: &str, subject: &Value) -> Value {
    let manifest = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "subject": subject,
    });
    let manifest = manifest.to_string();
    registry.put_manifest(REPO, None, OCI_MANIFEST, manifest.clone());
    let mut told = descriptor(OCI_MANIFEST, manifest.as_bytes());
    told["artifactType"] = json!(kind);
    told
}

fn subject() -> Value {
    descriptor(OCI_MANIFEST, &image(1).manifest)
}

fn tag_of(digest: &str) -> String {
    digest.replace(':', "-")
}

/// Lists these descriptors under the image's tag.
fn list_under_tag(registry: &FakeRegistry, manifests: &[Value]) {
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
    let tag = tag_of(&image(1).digest);
    registry.put_manifest(REPO, Some(&tag), OCI_INDEX, index.to_string());
}

async fn list_of(mirror: &Mirror, digest: &str) -> Response {
    mirror.get(&format!("/v2/{REPO}/referrers/{digest}")).await
}

async fn list(mirror: &Mirror) -> Response {
    list_of(mirror, &image(1).digest).await
}

/// The kinds that a list names.
#[track_caller]
fn kinds(answer: &Response, case: &str) -> Vec<String> {
    assert_eq!(answer.status, 200, "{case}: {}", answer.text());
    let index = answer.json();
    let kind = |it: &Value| it["artifactType"].as_str().unwrap_or("?").to_owned();
    index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(kind)
        .collect()
}

fn answers(status: u16) -> Fault {
    match status {
        200 => Fault::Html(200),
        429 => Fault::Status(429, String::new(), vec![("Retry-After".into(), "1".into())]),
        status => Fault::status(status),
    }
}

/// ghcr.io sends to a web page, which says whatever it wants.
fn leads_to(location: &str) -> Fault {
    Fault::Status(
        303,
        String::new(),
        vec![("Location".into(), location.to_owned())],
    )
}

#[tokio::test]
async fn what_the_tag_lists_was_hidden_by_what_the_api_answers() {
    for status in REFUSALS.into_iter().chain(FAILURES) {
        let (registry, mirror) = start();
        list_under_tag(&registry, &[refer(&registry, "a/sig", &subject())]);
        let asked = registry.fault(On::referrers().forever(), answers(status));
        assert_eq!(
            kinds(&list(&mirror).await, &status.to_string()),
            ["a/sig"],
            "{status}"
        );
        assert_eq!(registry.struck(asked), 1, "{status}: one answer is enough");
    }
}

#[tokio::test]
async fn a_list_that_storage_has_is_followed_to() {
    let (registry, mirror) = start();
    let told = refer(&registry, "a/sig", &subject());
    let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [told]});
    let storage = FakeRegistry::start().await;
    let headers = vec![("Content-Type".into(), OCI_INDEX.into())];
    let sent = storage.fault(
        On::any().forever(),
        Fault::Status(200, index.to_string(), headers),
    );
    let location = format!("{}/bucket/list?signature=1", storage.url());
    registry.fault(On::referrers().forever(), leads_to(&location));
    assert_eq!(kinds(&list(&mirror).await, "storage"), ["a/sig"]);
    assert_eq!(storage.struck(sent), 1);
}

#[tokio::test]
async fn what_the_tag_lists_was_hidden_by_a_page_elsewhere() {
    let elsewhere = FakeRegistry::start().await;
    let pages = [
        "/orgs/x/packages",
        "/",
        "/v2/",
        "/v2/token",
        "/v2/a/b/tags/list",
        "/page",
    ];
    for (page, status) in pages.into_iter().zip([429, 403, 424, 500, 401, 200]) {
        elsewhere.clear_faults();
        elsewhere.fault(On::any().forever(), answers(status));
        let (registry, mirror) = start();
        list_under_tag(&registry, &[refer(&registry, "a/sig", &subject())]);
        let page = format!("{}{page}", elsewhere.url());
        let sent = registry.fault(On::referrers().forever(), leads_to(&page));
        assert_eq!(kinds(&list(&mirror).await, &page), ["a/sig"]);
        assert_eq!(registry.struck(sent), 1);
    }
    // Nor does it matter whether it can be reached, or is a URL at all.
    for page in [
        "http://127.0.0.1:9/",
        "https://no.such.invalid/x",
        "/login?to=x",
        "::",
    ] {
        let (registry, mirror) = start();
        list_under_tag(&registry, &[refer(&registry, "a/sig", &subject())]);
        registry.fault(On::referrers().forever(), leads_to(page));
        assert_eq!(kinds(&list(&mirror).await, page), ["a/sig"]);
    }
}

#[tokio::test]
async fn nothing_under_the_tag_is_an_empty_list_where_there_is_no_api() {
    for status in REFUSALS {
        let (registry, mirror) = start();
        registry.fault(On::referrers().forever(), answers(status));
        assert!(
            kinds(&list(&mirror).await, &status.to_string()).is_empty(),
            "{status}"
        );
        assert_eq!(
            registry.counts().manifest_gets,
            1,
            "{status}: the tag was asked for"
        );
    }
    let (registry, mirror) = start();
    registry.fault(
        On::referrers().forever(),
        leads_to("https://pages.invalid/"),
    );
    assert!(kinds(&list(&mirror).await, "a page").is_empty());
}

/// A list that cannot be had for a moment is no empty list.
#[tokio::test]
async fn nothing_under_the_tag_is_no_word_of_an_api_that_fails() {
    for (status, expected) in FAILURES.into_iter().zip([429, 503, 503, 503, 503]) {
        let (registry, mirror) = start();
        refer(&registry, "a/sig", &subject());
        // Once: the tag is not there, the API is asked again.
        registry.fault(On::referrers(), answers(status));
        assert_eq!(
            kinds(&list(&mirror).await, &status.to_string()),
            ["a/sig"],
            "{status}"
        );
        registry.fault(On::referrers().forever(), answers(status));
        // A limit is not waited for if it does not fit into this.
        let patience = if status == 429 { "2s" } else { "20s" };
        let config = MirrorConfig::for_upstream(&registry).timeouts(patience);
        let cold = Mirror::start(config);
        assert_eq!(list(&cold).await.status, expected, "{status}");
    }
}

/// What is stored is taken away by the API's own list, or by the tag under which it stands, and by nothing else.
#[tokio::test]
async fn a_stored_list_was_lost_to_a_refusal() {
    let stale = Some("pierglass; hit; detail=stale");
    let refusals = REFUSALS.into_iter().map(answers);
    for refusal in refusals.chain([leads_to("https://pages.invalid/")]) {
        let (registry, mirror) = start();
        refer(&registry, "a/sig", &subject());
        let case = format!("{refusal:?}");
        assert_eq!(kinds(&list(&mirror).await, &case), ["a/sig"]);
        let asked = registry.fault(On::referrers().forever(), refusal);
        for _ in 0..2 {
            let answer = list(&mirror).await;
            assert_eq!(kinds(&answer, &case), ["a/sig"]);
            assert_eq!(answer.header("cache-status"), stale, "{case}");
        }
        assert_eq!(registry.struck(asked), 2);
        // The same of a tag that says nothing.
        registry.tag(REPO, &tag_of(&image(1).digest), &image(1).digest);
        for _ in 0..2 {
            assert_eq!(kinds(&list(&mirror).await, &case), ["a/sig"]);
        }
    }
}

#[tokio::test]
async fn a_stored_list_is_emptied_by_the_api_or_by_its_tag() {
    let (registry, mirror) = start();
    refer(&registry, "a/sig", &subject());
    assert_eq!(kinds(&list(&mirror).await, "stored").len(), 1);
    let empty = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).to_string();
    let headers = vec![("Content-Type".into(), OCI_INDEX.into())];
    registry.fault(
        On::referrers().forever(),
        Fault::Status(200, empty, headers),
    );
    assert!(kinds(&list(&mirror).await, "by the API").is_empty());

    let (registry, mirror) = start();
    registry.forget_referrers_api();
    list_under_tag(&registry, &[refer(&registry, "a/sig", &subject())]);
    assert_eq!(kinds(&list(&mirror).await, "stored").len(), 1);
    registry.untag(REPO, &tag_of(&image(1).digest));
    assert!(kinds(&list(&mirror).await, "by its tag").is_empty());
}

#[tokio::test]
async fn what_refuses_the_tag_as_well_refuses() {
    for (status, expected) in [(401, 403), (403, 403)] {
        let (registry, mirror) = start();
        registry.fault(On::referrers().forever(), answers(status));
        registry.fault(On::manifest().forever(), answers(status));
        assert_eq!(list(&mirror).await.status, expected, "{status}");
    }
}

/// lscr.io sends to the same question at ghcr.io: that is no page.
#[tokio::test]
async fn a_list_at_another_registry_is_followed() {
    let (registry, mirror) = start();
    let other = FakeRegistry::start().await;
    other.put_image("other/name", Some("1"), &image(1));
    let signature = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/sig", "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json"}, "subject": subject(),
    });
    other.put_manifest("other/name", None, OCI_MANIFEST, signature.to_string());
    let there = format!(
        "{}/v2/other/name/referrers/{}",
        other.url(),
        image(1).digest
    );
    registry.fault(On::referrers().forever(), leads_to(&there));
    assert_eq!(kinds(&list(&mirror).await, "lscr"), ["a/sig"]);
    assert_eq!(registry.counts().manifest_gets, 0);
}

/// registry.gitlab.com resolves `sha256-<hex>` to the manifest with that digest.
#[tokio::test]
async fn the_platforms_of_an_index_came_out_as_its_referrers() {
    let (registry, mirror) = start();
    registry.forget_referrers_api();
    let index = Index::of(&[image(1), image(2)]);
    registry.put_index(REPO, Some(&tag_of(&index.digest)), &index);
    let answer = list_of(&mirror, &index.digest).await;
    assert!(kinds(&answer, "the index itself").is_empty());
    // Or to another index of that repository, as a tag that a user pushed.
    registry.put_index(REPO, Some(&tag_of(&image(3).digest)), &index);
    mirror.manifest(REPO, &image(1).digest).await;
    let answer = list_of(&mirror, &image(3).digest).await;
    let listed = answer.json()["manifests"].clone();
    assert_eq!(
        listed.as_array().unwrap().len(),
        1,
        "one is known to refer to nothing: {listed}"
    );
    assert_eq!(listed[0]["digest"], image(2).digest);
}

/// What is stored tells whether it refers to the subject; of what is not, the index is believed.
#[tokio::test]
async fn what_refers_to_something_else_is_left_out_of_the_list() {
    let (registry, mirror) = start();
    registry.forget_referrers_api();
    let of_other = descriptor(OCI_MANIFEST, &image(2).manifest);
    let manifests = [
        refer(&registry, "a/sig", &subject()),
        refer(&registry, "b/other", &of_other),
        refer(&registry, "c/unread", &of_other),
        // A manifest does not refer to itself.
        subject(),
    ];
    list_under_tag(&registry, &manifests);
    for manifest in [&manifests[0], &manifests[1], &manifests[3]] {
        let digest = manifest["digest"].as_str().unwrap();
        assert_eq!(mirror.manifest(REPO, digest).await.status, 200);
    }
    assert_eq!(kinds(&list(&mirror).await, "mixed"), ["a/sig", "c/unread"]);
}

/// Some clients push both; what is under the tag is then a part of it.
#[tokio::test]
async fn a_list_whose_second_page_fails_is_not_replaced_by_the_tag() {
    let (registry, mirror) = start();
    let signature = refer(&registry, "a/sig", &subject());
    refer(&registry, "b/sbom", &subject());
    list_under_tag(&registry, &[signature]);
    registry.set_page(1);
    registry.fault(
        On::referrers().containing("next_page=").forever(),
        Fault::status(403),
    );
    assert_eq!(list(&mirror).await.status, 502);
    registry.clear_faults();
    let cold = Mirror::start(MirrorConfig::for_upstream(&registry));
    assert_eq!(kinds(&list(&cold).await, "whole").len(), 2);
}
