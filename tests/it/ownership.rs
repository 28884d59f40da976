//! Bytes of one repository must never be read through the name of another that does not have them.

use http::StatusCode;

use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig, client, digest_of, scene, until};

const A: &str = "acme/private";
const B: &str = "acme/public";

/// A mirror that has stored a blob of `A`, and that blob.
async fn stored_via_a() -> (FakeRegistry, Mirror, String) {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(A, 1, 100_000);
    mirror.pull_blob(A, &digest).await;
    registry.reset_counts();
    (registry, mirror, digest)
}

#[tokio::test]
async fn a_blob_that_two_repositories_have_is_transferred_once() {
    let (registry, mirror, digest) = stored_via_a().await;
    registry.put_generated_blob(B, 1, 100_000);
    for _ in 0..3 {
        mirror.pull_blob(B, &digest).await;
    }
    let counts = registry.counts();
    assert_eq!((counts.blob_heads, counts.requests()), (1, 1));
}

#[tokio::test]
async fn a_repository_without_the_blob_does_not_serve_it() {
    let (registry, mirror, digest) = stored_via_a().await;
    let url = mirror.blob_url(B, &digest);
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.json()["errors"][0]["code"], "BLOB_UNKNOWN");
    for headers in [
        &[("range", "bytes=0-9")][..],
        &[("if-none-match", &*format!("\"{digest}\""))],
    ] {
        let answer = client::get(&url, headers).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{headers:?}");
    }
    let head = client::head(&url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::NOT_FOUND);
    // The HEAD's 404 was confirmed by a question for the first byte, once for all of them.
    let counts = registry.counts();
    assert_eq!((counts.blob_gets, counts.bytes_sent), (1, 0));
}

#[tokio::test]
async fn an_outage_opens_no_door() {
    let (registry, mirror, digest) = stored_via_a().await;
    registry.down();
    let answer = client::get(&mirror.blob_url(B, &digest), &[])
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    // Its own repository is not concerned.
    mirror.pull_blob(A, &digest).await;
}

#[tokio::test]
async fn a_running_transfer_is_not_joined_by_a_repository_without_the_blob() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(A, 1, 1_000_000);
    registry.set_rate(200_000);
    let url = mirror.blob_url(A, &digest);
    let owner = tokio::spawn(async move { client::download(&url, &[]).await.unwrap() });
    until("the transfer is under way", async || {
        mirror.metric("pierglass_fills_in_flight", &[]).await == Some(1.0)
    })
    .await;
    let answer = client::get(&mirror.blob_url(B, &digest), &[])
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    registry.set_rate(0);
    owner.await.unwrap().assert_is(&digest);
}

#[tokio::test]
async fn a_manifest_vouches_for_its_blobs_without_upstream() {
    let (registry, mirror) = scene::start_with(|config| config.tag_ttl("1h"));
    let image = Image::random(1, &[5000, 100]);
    registry.put_image(A, Some("1"), &image);
    registry.put_image(B, Some("1"), &image);
    for blob in image.blobs() {
        mirror.pull_blob(A, &blob).await;
    }
    let manifest = client::get(&mirror.manifest_url(B, "1"), &[]).await;
    assert_eq!(manifest.unwrap().body, image.manifest);
    registry.reset_counts();
    for down in [false, true] {
        if down {
            registry.down();
        }
        for blob in image.blobs() {
            mirror.pull_blob(B, &blob).await;
        }
    }
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test]
async fn the_same_name_on_two_registries_is_two_things() {
    let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let (ours, theirs) = (Image::random(1, &[100]), Image::random(2, &[100]));
    hub.put_image(A, Some("1"), &ours);
    quay.put_image(A, Some("1"), &theirs);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay));
    let url = mirror.url();
    let of_hub = [
        format!("{url}/v2/{A}/manifests/1"),
        format!("{url}/v2/{A}/manifests/1?ns=docker.io"),
        format!("{url}/v2/docker.io/{A}/manifests/1"),
        format!("{url}/docker.io/v2/{A}/manifests/1"),
    ];
    let of_quay = [
        format!("{url}/v2/{A}/manifests/1?ns=quay.io"),
        format!("{url}/v2/quay.io/{A}/manifests/1"),
        format!("{url}/quay.io/v2/{A}/manifests/1"),
    ];
    // Alternating, and twice: cold and stored.
    for _ in 0..2 {
        for (urls, image) in [(&of_hub[..], &ours), (&of_quay[..], &theirs)] {
            for url in urls {
                let answer = client::get(url, &[]).await.unwrap();
                assert_eq!(answer.body, image.manifest, "{url}");
            }
        }
    }
    assert_eq!(
        (hub.counts().requests(), quay.counts().requests()),
        (1, 1),
        "one GET each, however it was named"
    );
    // A manifest is content of its registry, too: the digest opens no door to the other one.
    for url in [
        format!("{url}/v2/{A}/manifests/{}?ns=quay.io", ours.digest),
        format!("{url}/v2/{A}/manifests/{}", theirs.digest),
    ] {
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{url}");
    }
    // And so is a blob.
    let layer = digest_of(&ours.layers[0]);
    let stored = client::download(&mirror.blob_url(A, &layer), &[]).await;
    stored.unwrap().assert_is(&layer);
    // Committed, or the other registry would be asked for all of it, in vain.
    until("the layer is stored", async || {
        let head = client::head(&mirror.blob_url(A, &layer), &[]).await;
        head.unwrap().header("cache-status") == Some("pierglass; hit")
    })
    .await;
    let elsewhere = format!("{}?ns=quay.io", mirror.blob_url(A, &layer));
    let answer = client::get(&elsewhere, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    // It was asked for a piece of it, as a proof, and has none.
    assert_eq!(quay.counts().bytes_sent, 0);
}
