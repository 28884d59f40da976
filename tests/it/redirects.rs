//! What is behind a redirect: storage whose refusals are about its URLs, or another registry, and how a Location is read.

use http::StatusCode;

use crate::support::client::{self, Response, download};
use crate::support::registry::Builder;
use crate::support::{
    FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, Redirect, TAG, image, scene,
};

/// Refusals of storage: of a URL that is too old, signed for something else, gone, or one of too many.
const REFUSALS: [u16; 14] = [
    400, 401, 403, 404, 408, 410, 412, 421, 429, 451, 500, 503, 520, 524,
];

fn redirect(location: &str) -> Fault {
    let header = ("Location".to_owned(), location.to_owned());
    Fault::Status(307, String::new(), vec![header])
}

fn with_storage(to: Redirect) -> (FakeRegistry, Mirror, String) {
    let builder = FakeRegistry::builder().redirect_blobs(to);
    let registry = scene::registry_with(builder, &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let url = mirror.blob_url(REPO, &image(1).blobs()[0]);
    (registry, mirror, url)
}

#[track_caller]
fn assert_unavailable(answer: &Response, what: &str) {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(answer.status, status, "{what}: {}", answer.text());
    assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE", "{what}");
    assert!(answer.header("retry-after").is_some(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_refused_a_url_once_was_believed_like_the_registry() {
    for to in [Redirect::Absolute307, Redirect::Relative] {
        for status in REFUSALS {
            let (registry, _mirror, url) = with_storage(to);
            let struck = registry.fault(On::blob(), Fault::status(status));
            let got = download(&url, &[]).await.unwrap();
            got.assert_is(&image(1).blobs()[0]);
            assert_eq!(registry.struck(struck), 1, "{status}");
            let asked = registry.counts();
            let of_registry = match to {
                Redirect::Absolute307 => asked.blob_gets,
                // The redirect's target is at the registry as well.
                Redirect::Relative => asked.blob_gets / 2,
            };
            assert_eq!(of_registry, 2, "{status}: it names another URL");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_storage_always_refuses_is_an_outage_and_not_remembered() {
    for status in [401, 403, 404, 410, 429] {
        let (registry, _mirror, url) = with_storage(Redirect::Absolute307);
        let struck = registry.fault(On::blob().forever(), Fault::status(status));
        let answer = client::get(&url, &[]).await.unwrap();
        assert_unavailable(&answer, &status.to_string());
        assert_eq!(registry.struck(struck), 3, "{status}: each URL once");
        assert_eq!(registry.counts().blob_gets, 3, "{status}");
        registry.clear_faults();
        let got = download(&url, &[]).await.unwrap();
        got.assert_is(&image(1).blobs()[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_storage_is_waited_for_as_long_as_it_says() {
    let (registry, _mirror, url) = with_storage(Redirect::Absolute307);
    let header = ("Retry-After".to_owned(), "2".to_owned());
    let limited = Fault::Status(429, String::new(), vec![header]);
    registry.fault(On::blob(), limited);
    let got = download(&url, &[]).await.unwrap();
    got.assert_is(&image(1).blobs()[0]);
    let at: Vec<_> = registry.requests().iter().map(|seen| seen.at).collect();
    assert_eq!(at.len(), 4);
    assert!((at[2] - at[1]).as_secs_f64() >= 1.9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_and_lists_are_kept_in_storage_as_well() {
    let (registry, mirror, _) = with_storage(Redirect::Absolute307);
    let elsewhere = format!("{}/bucket/acme?sig=1", registry.blob_host_url());
    let tags = format!("/v2/{REPO}/tags/list");
    for (on, path) in [
        (On::manifest(), format!("/v2/{REPO}/manifests/{TAG}")),
        (On::tags(), tags.clone()),
    ] {
        // The blob host says 403 to what it did not sign.
        registry.fault(on.clone().times(2), redirect(&elsewhere));
        let answer = mirror.get(&path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.text());
    }
    let other = format!("/v2/{REPO}/manifests/2.0");
    registry.fault(On::manifest().forever(), redirect(&elsewhere));
    assert_unavailable(&mirror.get(&other).await, &other);
    registry.clear_faults();
    let answer = mirror.get(&other).await;
    assert_eq!(
        answer.status,
        StatusCode::NOT_FOUND,
        "now the registry spoke"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_gone_is_one_of_storage_and_the_next_url_names_another() {
    let (registry, _mirror, url) = with_storage(Redirect::Absolute307);
    let gone = FakeRegistry::start().await;
    gone.down();
    registry.fault(On::redirect(), redirect(&format!("{}/x", gone.url())));
    let got = download(&url, &[]).await.unwrap();
    got.assert_is(&image(1).blobs()[0]);
}

/// A registry that redirects everything to another one, as lscr.io does.
async fn in_front_of(builder: Builder) -> (FakeRegistry, FakeRegistry, Mirror) {
    let behind = scene::registry_with(builder, &image(1));
    let front = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&front));
    (front, behind, mirror)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_word_of_another_registry_is_the_answer() {
    let (front, behind, mirror) = in_front_of(FakeRegistry::builder()).await;
    let there = |path: &str| redirect(&format!("{}/v2/another/name{path}", behind.url()));
    behind.put_image("another/name", Some(TAG), &image(1));
    front.fault(
        On::manifest().containing(TAG).forever(),
        there("/manifests/1.0"),
    );
    front.fault(
        On::manifest().containing("none").forever(),
        there("/manifests/none"),
    );
    front.fault(
        On::manifest().containing("secret").forever(),
        there("/manifests/secret"),
    );
    let denied = behind.fault(
        On::manifest().containing("secret").forever(),
        Fault::status(403),
    );

    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.body, image(1).manifest);
    let none = mirror.manifest(REPO, "none").await;
    assert_eq!(none.status, StatusCode::NOT_FOUND);
    assert_eq!(none.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    for _ in 0..2 {
        let secret = mirror.manifest(REPO, "secret").await;
        assert_eq!(secret.status, StatusCode::FORBIDDEN);
    }
    assert_eq!(behind.struck(denied), 1, "a refusal is remembered");
}

/// The path of a URL that this registry has signed.
fn signed_path(registry: &FakeRegistry) -> String {
    let mut requests = registry.requests().into_iter();
    let signed = requests.find(|seen| seen.target.starts_with("/signed/"));
    signed.unwrap().target
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locations_as_registries_write_them() {
    let (registry, _mirror, url) = with_storage(Redirect::Absolute307);
    download(&url, &[]).await.unwrap();
    let path = signed_path(&registry);
    let host = registry.blob_host_url().strip_prefix("http://").unwrap();
    for location in [
        format!("HTTP://{host}{path}"),
        format!("//{host}{path}#part"),
        format!("http://{host}/x/../.{path}"),
        format!("http://{host}{path}&name={{a b}}|\"é\"#x"),
        format!(" http://{host}{path}\t"),
    ] {
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        let struck = registry.fault(On::redirect(), redirect(&location));
        let url = mirror.blob_url(REPO, &image(1).blobs()[0]);
        let got = download(&url, &[]).await.unwrap();
        assert_eq!(got.status, StatusCode::OK, "{location}");
        got.assert_is(&image(1).blobs()[0]);
        assert_eq!(registry.struck(struck), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_location_below_or_beside_the_question() {
    let (registry, _mirror, url) = with_storage(Redirect::Relative);
    download(&url, &[]).await.unwrap();
    let path = signed_path(&registry);
    // From /v2/a/b/blobs/.
    for up in ["../../../..", "./../../../../../.."] {
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        registry.fault(On::redirect(), redirect(&format!("{up}{path}")));
        registry.reset_counts();
        mirror.pull_blob(REPO, &image(1).blobs()[0]).await;
        assert_eq!(registry.counts().requests(), 2, "{up}");
    }
}
