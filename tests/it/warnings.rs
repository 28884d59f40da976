//! What a registry tells people in `Warning` headers (distribution-spec, "Warnings").

use http::StatusCode;

use crate::support::client;
use crate::support::{Fault, On, REPO, TAG, scene};

fn warning(text: &str) -> Fault {
    Fault::With(vec![("Warning".to_owned(), text.to_owned())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_registry_warned_of_was_kept_from_its_clients() {
    let (registry, mirror, image) = scene::cold_image(|config| config);
    let text = r#"299 - "this repository moves to \"b/c\" in May""#;
    registry.fault(On::any().forever(), warning(text));
    let layer = format!("/v2/{REPO}/blobs/{}", image.blobs()[0]);
    let paths = [
        format!("/v2/{REPO}/manifests/{TAG}"),
        layer.clone(),
        format!("/v2/{REPO}/tags/list"),
        format!("/v2/{REPO}/referrers/{}", image.digest),
    ];
    for path in &paths {
        let answer = mirror.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}");
        assert_eq!(answer.header("warning"), Some(text), "{path}");
    }
    mirror.wait_until_stored(&[&image.blobs()[0]]);
    // What is stored is served without asking, and says nothing.
    for path in [&paths[0], &layer] {
        let answer = mirror.get(path).await;
        let status = answer.header("cache-status").unwrap();
        assert!(status.starts_with("pierglass; hit"), "{status}");
        assert!(!status.contains("detail"), "{status}");
        assert_eq!(answer.header("warning"), None, "{path}");
    }
    let other = mirror.head(REPO, "none").await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    assert_eq!(other.header("warning"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_is_heard_each_time_upstream_is_asked_and_as_long_as_it_is_said() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient());
    let text = r#"299 - "slow down""#;
    let said = registry.fault(On::manifest().times(3), warning(text));
    let url = mirror.manifest_url(REPO, TAG);
    for _ in 0..3 {
        let answer = client::head(&url, &[]).await.unwrap();
        assert_eq!(answer.header("warning"), Some(text));
    }
    assert_eq!(registry.struck(said), 3);
    let answer = client::head(&url, &[]).await.unwrap();
    assert_eq!(answer.header("warning"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warning_without_end_or_in_no_characters_goes_no_further() {
    for (said, heard) in [
        (format!("299 - \"{}\"", "x".repeat(5000)), None),
        ("110 - \"Response is Stale\"".to_owned(), None),
        ("299 - x".to_owned(), None),
        (
            "299 - \"grüß\tGott\"".to_owned(),
            Some(r#"299 - "gr???Gott""#),
        ),
    ] {
        let (registry, mirror, _) = scene::cold_image(|config| config);
        registry.fault(On::manifest().forever(), warning(&said));
        let answer = mirror.manifest(REPO, TAG).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("warning"), heard, "{said}");
    }
}
