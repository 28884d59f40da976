//! One registry must not take the store from the others.

use crate::support::client::download;
use crate::support::disk::{blobs, eventually};
use crate::support::{FakeRegistry, KIB, MIB, Mirror, MirrorConfig};

const MODELS: &str = "quay.io";

/// Two registries and a store of 16 MiB, of which `MODELS` may keep a quarter when the other needs room.
fn start(share: &str) -> (FakeRegistry, FakeRegistry, Mirror) {
    let registries = [(); 2].map(|()| FakeRegistry::builder().start_now());
    let [hub, models] = registries;
    let config = MirrorConfig::for_upstream(&hub)
        .upstream(MODELS, &models)
        .toml(&format!("store_share = \"{share}\""))
        .store("min_free", "\"0\"")
        .store("scrub_rate", "\"0\"")
        .max_size("16MiB");
    (hub, models, Mirror::start(config))
}

async fn bytes_of(mirror: &Mirror, upstream: &str) -> u64 {
    let labels = [("upstream", upstream)];
    let bytes = mirror.metric("pierglass_store_upstream_bytes", &labels);
    bytes.await.unwrap() as u64
}

/// Pulls a blob that the registry has, at the place of its namespace.
async fn pull(mirror: &Mirror, namespace: &str, digest: &str) {
    let url = format!("{}?ns={namespace}", mirror.blob_url("a/b", digest));
    download(&url, &[]).await.unwrap().assert_is(digest);
    mirror.wait_until_at_rest().await;
}

async fn pull_new(
    mirror: &Mirror,
    registry: &FakeRegistry,
    namespace: &str,
    seeds: std::ops::Range<u64>,
) -> Vec<String> {
    let mut digests = Vec::new();
    for seed in seeds {
        digests.push(registry.put_generated_blob("a/b", seed, MIB));
        pull(mirror, namespace, digests.last().unwrap()).await;
        mirror.wait_until_stored(&digests[digests.len() - 1..]);
    }
    digests
}

fn assert_stored(mirror: &Mirror, digests: &[String]) {
    let stored = blobs(&mirror.store_path());
    for digest in digests {
        assert!(stored.contains(digest), "{digest} is not in {stored:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_registry_took_the_whole_store() {
    let (hub, models, mut mirror) = start("25%");
    let daily = pull_new(&mirror, &hub, "docker.io", 0..10).await;
    pull_new(&mirror, &models, MODELS, 100..130).await;
    assert_stored(&mirror, &daily);
    assert!(bytes_of(&mirror, "docker.io").await >= 10 * MIB);
    let kept = bytes_of(&mirror, MODELS).await;
    assert!((MIB..6 * MIB).contains(&kept), "{kept}");
    // Whose what is counted again after a restart.
    mirror.restart();
    eventually("the count", || mirror.output().contains("store counted"));
    // Lists are written behind the answers.
    let counted = bytes_of(&mirror, MODELS).await;
    assert!(counted.abs_diff(kept) < 64 * KIB, "{counted}, {kept}");
    assert_eq!(bytes_of(&mirror, "other").await, 0);
    pull_new(&mirror, &models, MODELS, 130..150).await;
    assert_stored(&mirror, &daily);
}

/// Room that no other needs is not left empty, and is given up when one does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_left_the_rest_of_the_store_empty() {
    let (hub, models, mirror) = start("4MiB");
    let above = pull_new(&mirror, &models, MODELS, 100..110).await;
    assert_stored(&mirror, &above);
    let first = pull_new(&mirror, &hub, "docker.io", 0..10).await;
    assert_stored(&mirror, &first);
    assert_stored(&mirror, &above[7..]);
    let kept = bytes_of(&mirror, MODELS).await;
    assert!((3 * MIB..6 * MIB).contains(&kept), "{kept}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_larger_than_its_share_takes_nothing_away() {
    let (hub, models, mirror) = start("4MiB");
    let daily = pull_new(&mirror, &hub, "docker.io", 0..10).await;
    let small = pull_new(&mirror, &models, MODELS, 100..102).await;
    let large = models.put_generated_blob("a/b", 200, 8 * MIB);
    pull(&mirror, MODELS, &large).await;
    assert_stored(&mirror, &daily);
    assert_stored(&mirror, &small);
    assert_eq!(blobs(&mirror.store_path()).len(), 12);
    let trouble = mirror.metric("pierglass_store_trouble", &[("cause", "full")]);
    assert_eq!(trouble.await, Some(0.0));
}
