//! What upstream says it did to a body (`Content-Encoding`), although nothing of the kind was asked for.

use http::StatusCode;

use crate::support::client;
use crate::support::{
    FakeRegistry, Fault, Index, MIB, Mirror, MirrorConfig, On, REPO, TAG, digest_of, image, scene,
};

/// The right bytes, said to be encoded so.
fn labelled(coding: &str) -> Fault {
    Fault::With(vec![("Content-Encoding".to_owned(), coding.to_owned())])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_on_a_blob_whose_bytes_are_right_was_refused() {
    for label in [
        "gzip",
        "aws-chunked",
        "",
        "br",
        "binary",
        "gzip, aws-chunked",
    ] {
        let (registry, mirror, image) = scene::cold_image(|config| config);
        let struck = registry.fault(On::blob().forever(), labelled(label));
        let digest = &image.blobs()[0];
        let head = client::head(&mirror.blob_url(REPO, digest), &[])
            .await
            .unwrap();
        assert_eq!(head.status, StatusCode::OK, "{label}");
        assert_eq!(head.header("content-encoding"), None, "{label}");
        mirror.pull_blob(REPO, digest).await;
        mirror.wait_until_stored(&[digest]);
        assert_eq!(registry.struck(struck), 2, "{label}");
        let stored = client::get(&mirror.blob_url(REPO, digest), &[])
            .await
            .unwrap();
        assert_eq!(stored.header("content-encoding"), None, "{label}");
        assert_eq!(digest_of(&stored.body), *digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_that_was_compressed_on_the_way_was_refused() {
    for fault in [
        Fault::Compressed("gzip"),
        Fault::Compressed("deflate"),
        // The label alone.
        labelled("gzip"),
        labelled("aws-chunked"),
    ] {
        let registry = FakeRegistry::builder().bearer(None).start().await;
        let index = Index::of(&[image(1), image(2)]);
        registry.put_index(REPO, Some(TAG), &index);
        registry.set_search(&["acme/app"]);
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        let tokens = registry.fault(On::token().forever(), fault.clone());
        for on in [On::manifest(), On::tags(), On::referrers(), On::search()] {
            registry.fault(on.forever(), fault.clone());
        }
        for path in [
            format!("/v2/{REPO}/manifests/{TAG}"),
            format!("/v2/{REPO}/manifests/{}", image(1).digest),
            format!("/v2/{REPO}/tags/list"),
            format!("/v2/{REPO}/referrers/{}", image(1).digest),
            "/v1/search?q=acme".to_owned(),
        ] {
            let answer = mirror.get(&path).await;
            let words = answer.text();
            assert_eq!(answer.status, StatusCode::OK, "{fault:?} {path}: {words}");
            assert_eq!(answer.header("content-encoding"), None);
            assert!(words.starts_with('{'), "{fault:?} {path}: {words}");
        }
        let manifest = mirror.manifest(REPO, TAG).await;
        assert_eq!(manifest.body, index.bytes);
        let head = mirror.head(REPO, TAG).await;
        let length = index.bytes.len().to_string();
        assert_eq!(head.header("content-length"), Some(&*length));
        assert!(registry.struck(tokens) > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coding_that_is_not_known_is_said_by_its_name() {
    let (registry, mirror, _) = scene::cold_image(|config| config);
    registry.fault(On::manifest(), labelled("br"));
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let log = mirror.log_of_failure("encodes the body");
    assert!(log.contains("br"), "{log}");
    assert_eq!(mirror.manifest(REPO, TAG).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_a_few_kilobytes_that_becomes_megabytes_is_refused() {
    let (registry, mirror, _) = scene::cold_image(|config| config);
    let spaces = " ".repeat((6 * MIB) as usize);
    let bomb = registry.put_manifest(REPO, Some("bomb"), "application/json", spaces);
    registry.fault(On::manifest().forever(), Fault::Compressed("gzip"));
    for reference in ["bomb", &bomb] {
        let answer = mirror.manifest(REPO, reference).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{reference}");
    }
    assert_eq!(mirror.manifest(REPO, TAG).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_with_more_than_a_hundred_headers() {
    let (registry, mirror, image) = scene::cold_image(|config| config);
    let many = (0..300).map(|number| (format!("X-Edge-{number}"), "x".to_owned()));
    registry.fault(On::any().forever(), Fault::With(many.collect()));
    mirror.pull(REPO, TAG, &image).await;
}
