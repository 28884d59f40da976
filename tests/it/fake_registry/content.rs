//! What it holds is served as a registry does.

use http::StatusCode;

use super::{SIZE, part, with_blob};
use crate::support::content::Content;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::{FakeRegistry, Image, Index, client, digest_of, generated_digest};

#[tokio::test]
async fn generated_content_is_the_same_however_it_is_cut() {
    let content = Content::generated(7, SIZE);
    let whole = content.read(0, 300_000);
    assert_eq!(content.digest(), digest_of(&whole));
    assert_eq!(generated_digest(7, SIZE), digest_of(&whole));
    assert_eq!(content.read(65_530, 70_000), whole[65_530..135_530]);
    assert_ne!(generated_digest(8, SIZE), digest_of(&whole));
    // Two blocks differ, or a transposed block would go unnoticed.
    assert_ne!(whole[..65_536], whole[65_536..131_072]);
}

#[tokio::test]
async fn blobs_belong_to_their_repository_and_have_ranges() {
    let (registry, url, digest) = with_blob().await;
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
    let other = format!("{}/v2/a/c/blobs/{digest}", registry.url());
    let missing = client::get(&other, &[]).await.unwrap();
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["errors"][0]["code"], "BLOB_UNKNOWN");

    let cases = [
        ("bytes=10-19", "bytes 10-19/300000", part(1, 10, 10)),
        (
            "bytes=299990-",
            "bytes 299990-299999/300000",
            part(1, 299_990, 10),
        ),
        (
            "bytes=-5",
            "bytes 299995-299999/300000",
            part(1, 299_995, 5),
        ),
        (
            "bytes=70000-999999999",
            "bytes 70000-299999/300000",
            part(1, 70_000, 230_000),
        ),
    ];
    for (range, content_range, expected) in cases {
        let answer = client::get(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(answer.header("content-range"), Some(content_range));
        assert_eq!(digest_of(&answer.body), expected, "{range}");
    }
    let beyond = client::get(&url, &[("range", "bytes=300000-")])
        .await
        .unwrap();
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), Some("bytes */300000"));

    let counts = registry.counts();
    assert_eq!(
        (counts.blob_gets, counts.bytes_sent),
        (7, SIZE + 10 + 10 + 5 + 230_000)
    );
    assert_eq!(registry.requests()[2].range(), Some("bytes=10-19"));
    registry.delete_blob("a/b", &digest);
    assert_eq!(
        client::get(&url, &[]).await.unwrap().status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn manifests_are_served_by_tag_and_digest() {
    let registry = FakeRegistry::start().await;
    let index = Index::of(&[Image::random(1, &[1000, 2000]), Image::random(2, &[500])]);
    let digest = registry.put_index("a/b", Some("1.0"), &index);
    let url = |reference: &str| format!("{}/v2/a/b/manifests/{reference}", registry.url());
    for reference in ["1.0", &digest] {
        let got = client::get(&url(reference), &[]).await.unwrap();
        let head = client::head(&url(reference), &[]).await.unwrap();
        for answer in [&got, &head] {
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
            assert_eq!(
                answer.header("content-length"),
                Some(&*index.bytes.len().to_string())
            );
        }
        assert_eq!((got.body, head.body.len()), (index.bytes.clone(), 0));
    }
    let etag = format!("\"{digest}\"");
    let known = client::get(&url("1.0"), &[("if-none-match", &etag)])
        .await
        .unwrap();
    assert_eq!(
        (known.status, known.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    for blob in index.images.iter().flat_map(Image::blobs) {
        let url = format!("{}/v2/a/b/blobs/{blob}", registry.url());
        client::download(&url, &[]).await.unwrap().assert_is(&blob);
    }
    registry.tag("a/b", "2.0", &index.images[0].digest);
    let child = client::get(&url("2.0"), &[]).await.unwrap();
    assert_eq!(child.header("content-type"), Some(OCI_MANIFEST));
    registry.untag("a/b", "2.0");
    let gone = client::get(&url("2.0"), &[]).await.unwrap();
    assert_eq!(gone.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    let counts = registry.counts();
    assert_eq!(
        (
            counts.manifest_gets,
            counts.manifest_heads,
            counts.blob_gets
        ),
        (5, 2, 5)
    );
    registry.reset_counts();
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test]
async fn tags_and_referrers_are_listed() {
    let registry = FakeRegistry::start().await;
    let image = Image::random(1, &[10]);
    for tag in ["a", "b", "c"] {
        registry.put_image("r", Some(tag), &image);
    }
    let url = registry.url();
    let page = client::get(&format!("{url}/v2/r/tags/list?n=2"), &[])
        .await
        .unwrap();
    assert_eq!(page.json()["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(
        page.header("link"),
        Some("</v2/r/tags/list?last=b&n=2>; rel=\"next\"")
    );
    let last = client::get(&format!("{url}/v2/r/tags/list?last=b&n=2"), &[])
        .await
        .unwrap();
    assert_eq!(
        (last.json()["tags"].clone(), last.header("link")),
        (serde_json::json!(["c"]), None)
    );

    let signature = serde_json::json!({
        "schemaVersion": 2, "artifactType": "test/signature", "config": {"mediaType": "x"}, "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": image.manifest.len()},
    });
    let digest = registry.put_manifest("r", None, OCI_MANIFEST, signature.to_string());
    let referrers = format!("{url}/v2/r/referrers/{}", image.digest);
    let all = client::get(&referrers, &[]).await.unwrap();
    assert_eq!(all.json()["manifests"][0]["digest"], digest);
    let none = client::get(&format!("{referrers}?artifactType=other"), &[])
        .await
        .unwrap();
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
}
