//! The store must never grow past its limit, and a blob it has no room for must never become an error.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::support::client::{Downloading, Response, download};
use crate::support::content::Content;
use crate::support::disk::{Watch, blob_file, blobs};
use crate::support::image::{OCI_MANIFEST, descriptor};
use crate::support::{
    FakeRegistry, Fault, KIB, MIB, Mirror, MirrorConfig, On, client, digest_of, scene,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A manifest over generated blobs of these sizes, tagged; returns its bytes and the blobs.
fn put_large_image(
    registry: &FakeRegistry,
    tag: &str,
    seed: u64,
    sizes: &[u64],
) -> (Vec<u8>, Vec<String>) {
    let config = format!("{{\"seed\": {seed}}}");
    registry.put_blob("a/b", config.clone());
    let blobs: Vec<_> = sizes
        .iter()
        .zip(seed * 100..)
        .map(|(size, seed)| registry.put_generated_blob("a/b", seed, *size))
        .collect();
    let layers: Vec<_> = blobs
        .iter()
        .zip(sizes)
        .map(|(digest, size)| {
            serde_json::json!({"mediaType": "application/octet-stream", "digest": digest, "size": size})
        })
        .collect();
    let config = descriptor(
        "application/vnd.oci.image.config.v1+json",
        config.as_bytes(),
    );
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers
    });
    let manifest = manifest.to_string().into_bytes();
    registry.put_manifest("a/b", Some(tag), OCI_MANIFEST, manifest.clone());
    (manifest, blobs)
}

fn cache_status(answer: &Response) -> &str {
    answer.header("cache-status").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_times_the_limit_passes_through_without_ever_exceeding_it() {
    let limit = 100 * MIB;
    let registry = Arc::new(FakeRegistry::start().await);
    let mirror = Arc::new(Mirror::start(
        MirrorConfig::for_upstream(&registry).max_size("100MiB"),
    ));
    let watch = Watch::start(&mirror.store_path(), limit);
    let pullers = (0..4_u64).map(|puller| {
        let (registry, mirror) = (registry.clone(), mirror.clone());
        tokio::spawn(async move {
            for round in 0..8 {
                let seed = puller * 8 + round;
                let sizes = [64 * KIB, MIB, 3 * MIB, 8 * MIB, 20 * MIB];
                let tag = format!("t{seed}");
                let (manifest, blobs) = put_large_image(&registry, &tag, seed, &sizes);
                let answer = client::get(&mirror.manifest_url("a/b", &tag), &[]).await;
                assert_eq!(answer.unwrap().body, manifest);
                for digest in blobs {
                    mirror.pull_blob("a/b", &digest).await;
                }
            }
        })
    });
    for puller in pullers.collect::<Vec<_>>() {
        puller.await.unwrap();
    }
    let most = watch.most();
    assert!(most <= limit, "{most} bytes on disk");
    // A mirror that stores nothing would pass all of the above.
    assert!(most > limit / 2, "only {most} bytes on disk");
    let evicted = mirror.metric("pierglass_store_evicted_bytes_total", &[]);
    assert!(evicted.await.unwrap() > 500.0 * MIB as f64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_used_longest_ago_goes_first() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("20MiB"));
    let store = mirror.store_path();
    let pull = async |seed: u64| {
        let digest = registry.put_generated_blob("a/b", seed, 2 * MIB);
        mirror.store_blob("a/b", &digest).await;
        digest
    };
    let mut digests = Vec::new();
    for seed in 0..9 {
        digests.push(pull(seed).await);
    }
    assert_eq!(blobs(&store).len(), 9);
    for old in [0, 2] {
        mirror.pull_blob("a/b", &digests[old]).await;
    }
    for seed in 9..12 {
        digests.push(pull(seed).await);
    }
    let kept: Vec<_> = (0..12)
        .filter(|n| blob_file(&store, &digests[*n]).exists())
        .collect();
    assert_eq!(kept, [0, 2, 5, 6, 7, 8, 9, 10, 11]);
    // And the mirror knows: what is gone is fetched again, what is kept is a hit.
    let gone = client::head(&mirror.blob_url("a/b", &digests[1]), &[]).await;
    assert_eq!(cache_status(&gone.unwrap()), "pierglass; fwd=uri-miss");
    let kept = client::head(&mirror.blob_url("a/b", &digests[0]), &[]).await;
    assert_eq!(cache_status(&kept.unwrap()), "pierglass; hit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_larger_than_the_store_passes_through() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("4MiB"));
    let watch = Watch::start(&mirror.store_path(), 4 * MIB);
    let digest = registry.put_generated_blob("a/b", 1, 9 * MIB);
    let url = mirror.blob_url("a/b", &digest);
    let answers = futures_util::future::join_all((0..4).map(|_| download(&url, &[]))).await;
    for answer in answers {
        let answer = answer.unwrap();
        answer.assert_is(&digest);
        assert_eq!(answer.header("cache-status"), Some("pierglass; fwd=bypass"));
        assert_eq!(
            answer.header("content-length"),
            Some(&*(9 * MIB).to_string())
        );
    }
    let (start, end) = (5 * MIB + 3, 5 * MIB + 70_000);
    let range = format!("bytes={start}-{}", end - 1);
    let part = client::get(&url, &[("range", &range)]).await.unwrap();
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(
        part.header("content-range"),
        Some(&*format!("bytes {start}-{}/{}", end - 1, 9 * MIB))
    );
    let expected = Content::generated(1, 9 * MIB).read(start, (end - start) as usize);
    assert_eq!(digest_of(&part.body), digest_of(&expected));
    // Upstream that does not know ranges sends all of it; the part is still the part.
    let ignored = registry.fault(On::blob().get().times(2), Fault::IgnoreRange);
    let part = client::get(&url, &[("range", &range)]).await.unwrap();
    assert_eq!(digest_of(&part.body), digest_of(&expected));
    assert!(registry.struck(ignored) > 0);
    assert!(watch.most() <= 4 * MIB);
    assert!(blobs(&mirror.store_path()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_that_pass_through_never_arrive_complete() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("4MiB"));
    let faults = [
        Fault::WrongBytes,
        Fault::CutAfter(5 * MIB),
        Fault::CutChunked(5 * MIB),
        Fault::ShortClose(5 * MIB),
        Fault::WrongLength(-10),
        Fault::WrongLength(10),
    ];
    for (seed, fault) in (1..).zip(faults) {
        // Another blob each time: one that was wrong twice is left alone for a while.
        let digest = registry.put_generated_blob("a/b", seed, 9 * MIB);
        let url = mirror.blob_url("a/b", &digest);
        let spoilt = registry.fault(On::blob().get().forever(), fault.clone());
        // A body that is only cut is resumed.
        let right_in_the_end = matches!(fault, Fault::CutAfter(_) | Fault::CutChunked(_));
        match download(&url, &[]).await {
            Ok(answer) if right_in_the_end => answer.assert_is(&digest),
            Ok(answer) => {
                // What is short and says no length outgrows the store in the middle, is asked for to its end, and is
                // right then.
                if answer.status == StatusCode::OK && answer.error.is_none() {
                    assert!(matches!(fault, Fault::ShortClose(_)), "{fault:?}");
                    answer.assert_is(&digest);
                }
            }
            Err(error) => assert!(!right_in_the_end, "{fault:?}: {error}"),
        }
        assert!(registry.struck(spoilt) > 0, "{fault:?}");
        registry.clear_faults();
        download(&url, &[]).await.unwrap().assert_is(&digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_too_full_to_store_anything_still_serves() {
    let registry = FakeRegistry::start().await;
    let config = MirrorConfig::for_upstream(&registry).store("min_free", "\"900TiB\"");
    let mirror = Mirror::start(config);
    let (manifest, blobs) = put_large_image(&registry, "1", 1, &[3, MIB, 3 * MIB]);
    for _ in 0..2 {
        let answer = client::get(&mirror.manifest_url("a/b", "1"), &[]).await;
        assert_eq!(answer.unwrap().body, manifest);
        for digest in &blobs {
            let answer = download(&mirror.blob_url("a/b", digest), &[])
                .await
                .unwrap();
            answer.assert_is(digest);
            assert_eq!(answer.header("cache-status"), Some("pierglass; fwd=bypass"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_unknown_length_is_stored() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("100MiB"));
    let digest = registry.put_generated_blob("a/b", 1, 20 * MIB);
    let chunked = registry.fault(On::blob().get(), Fault::NoContentLength);
    let url = mirror.blob_url("a/b", &digest);
    let (first, second) = tokio::join!(download(&url, &[]), download(&url, &[]));
    first.unwrap().assert_is(&digest);
    second.unwrap().assert_is(&digest);
    assert_eq!(registry.struck(chunked), 1);
    mirror.wait_until_stored(&[&digest]);
    registry.down();
    let answer = download(&url, &[]).await.unwrap();
    answer.assert_is(&digest);
    assert_eq!(
        answer.header("content-length"),
        Some(&*(20 * MIB).to_string())
    );
    let bytes = mirror.metric("pierglass_store_bytes", &[]).await.unwrap() as u64;
    assert!(
        bytes < 21 * MIB,
        "{bytes}: the reservation was not given back"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_what_is_evicted_meanwhile_gets_all_of_it() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("24MiB"));
    let store = mirror.store_path();
    let digest = registry.put_generated_blob("a/b", 1, 16 * MIB);
    let url = mirror.blob_url("a/b", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
    mirror.wait_until_stored(&[&digest]);
    let slow = Downloading {
        bytes_per_sec: Some(6 * MIB),
        ..Downloading::default()
    };
    let reading = tokio::spawn(async move { slow.run(&url, &[]).await });
    // The file is open once a byte was counted as sent.
    let hits = [("outcome", "hit")];
    let deadline = std::time::Instant::now() + PATIENCE;
    while mirror
        .metric("pierglass_response_bytes_total", &hits)
        .await
        .is_none_or(|bytes| bytes == 0.0)
    {
        assert!(std::time::Instant::now() < deadline);
    }
    let other = registry.put_generated_blob("a/b", 2, 16 * MIB);
    let other_url = mirror.blob_url("a/b", &other);
    download(&other_url, &[]).await.unwrap().assert_is(&other);
    assert!(!blob_file(&store, &digest).exists(), "it was not evicted");
    assert!(!reading.is_finished(), "it was read before it was evicted");
    reading.await.unwrap().unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_unknown_length_that_outgrows_the_store_passes_through() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("20MiB"));
    let digest = registry.put_generated_blob("a/b", 1, 40 * MIB);
    registry.fault(On::blob().get().forever(), Fault::NoContentLength);
    let url = mirror.blob_url("a/b", &digest);
    // Its readers have begun when it shows; what is missing comes from upstream.
    let readers = (0..3).map(|_| download(&url, &[]));
    for first in futures_util::future::join_all(readers).await {
        first.unwrap().assert_is(&digest);
    }
    for _ in 0..2 {
        let again = download(&url, &[]).await.unwrap();
        again.assert_is(&digest);
        assert_eq!(again.header("cache-status"), Some("pierglass; fwd=bypass"));
    }
    // A blob that upstream announces the length of is judged by that.
    let small = registry.put_generated_blob("a/b", 2, MIB);
    mirror.pull_blob("a/b", &small).await;
}
