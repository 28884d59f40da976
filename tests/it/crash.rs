//! Killed at any instant, the mirror must never lose what it had committed, nor serve anything wrong after.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use serde_json::Value;

use crate::support::client::download;
use crate::support::disk::{blob_file, blobs, directories, files, record_file};
use crate::support::mirror::log_field;
use crate::support::{Image, MIB, Mirror, MirrorConfig, client, generated_digest, plain, scene};

const PATIENCE: Duration = Duration::from_secs(20);

/// Pseudo-random numbers, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

fn counted(line: &Value) -> bool {
    log_field(line, "message").and_then(Value::as_str) == Some("store counted")
}

/// The figures in the metrics against what lies on disk, at rest.
async fn assert_figures(mirror: &Mirror, moment: &str) {
    let store = mirror.store_path();
    let figure = async |name| mirror.metric(name, &[]).await.unwrap() as u64;
    let (bytes, count) = (
        figure("pierglass_store_bytes").await,
        figure("pierglass_store_blobs").await,
    );
    let du = mirror.du();
    let margin = files(&store).len() as u64 * 512 + directories(&store) * 4096 + 64 * 1024;
    assert!(bytes >= du, "{moment}: {bytes} counted, {du} on disk");
    assert!(
        bytes <= du + margin,
        "{moment}: {bytes} counted, {du} on disk"
    );
    assert_eq!(count, blobs(&store).len() as u64, "{moment}");
}

fn leftovers(store: &Path) -> usize {
    files(&store.join("ingest")).len() + files(&store.join("trash")).len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_a_fill_it_serves_all_that_was_committed_and_nothing_wrong() {
    let seed = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    #[expect(clippy::print_stdout, reason = "the way to have a failure again")]
    {
        println!("seed {seed}");
    }
    let mut dice = Dice(seed);
    let (registry, mut mirror) = scene::start_with(|config| config.tag_ttl("1h"));
    let mut all: Vec<String> = Vec::new();
    let (mut torn, mut kept) = (0, 0);
    for round in 0..20_u64 {
        let image = Image::random(1_000_000 + round, &[2000]);
        let tag = format!("r{round}");
        registry.put_image("a/b", Some(&tag), &image);
        let asked: Vec<_> = (0..3)
            .map(|n| registry.put_generated_blob("a/b", round * 10 + n, (n + 1) * MIB))
            .collect();
        registry.set_rate(24 * MIB);
        let manifest = mirror.manifest_url("a/b", &tag);
        assert_eq!(
            client::get(&manifest, &[]).await.unwrap().body,
            image.manifest
        );
        for digest in &asked {
            let url = mirror.blob_url("a/b", digest);
            tokio::spawn(async move { download(&url, &[]).await });
        }
        tokio::time::sleep(Duration::from_millis(dice.below(400))).await;
        mirror.kill9();
        let store = mirror.store_path();
        let committed = blobs(&store);
        for digest in &all {
            assert!(committed.contains(digest), "round {round} lost {digest}");
        }
        torn += leftovers(&store);
        registry.down();
        mirror.restart();
        for digest in &asked {
            let answer = download(&mirror.blob_url("a/b", digest), &[])
                .await
                .unwrap();
            if committed.contains(digest) {
                kept += 1;
                answer.assert_is(digest);
            } else {
                assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{digest}");
            }
        }
        let again = client::get(&mirror.manifest_url("a/b", &tag), &[]).await;
        assert_eq!(again.unwrap().body, image.manifest, "round {round}");
        mirror.wait_for_log(PATIENCE, counted);
        assert_eq!(leftovers(&store), 0, "round {round}");
        assert_figures(&mirror, &format!("seed {seed}, round {round}")).await;
        all.extend(
            asked
                .into_iter()
                .filter(|digest| committed.contains(digest)),
        );
        registry.up();
    }
    registry.down();
    for digest in &all {
        mirror.pull_blob("a/b", digest).await;
    }
    // Both must have happened, or the moments were not random.
    assert!(torn > 0 && kept > 0, "{torn} torn, {kept} kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_does_not_wait_until_a_large_store_is_counted() {
    let (registry, mut mirror) = scene::start();
    let digest = registry.put_generated_blob("a/b", 1, MIB);
    mirror.store_blob("a/b", &digest).await;
    let store = mirror.store_path();
    mirror.kill9();
    registry.down();
    for number in 0..5000 {
        let file = blob_file(&store, &generated_digest(number, 8));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, number.to_le_bytes()).unwrap();
    }
    mirror.restart();
    let started = Instant::now();
    let answer = download(&mirror.blob_url("a/b", &digest), &[])
        .await
        .unwrap();
    answer.assert_is(&digest);
    assert_eq!(answer.header("cache-status"), Some("pierglass; hit"));
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    mirror.wait_for_log(PATIENCE, counted);
    assert_figures(&mirror, "5001 blobs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_others_in_the_store_are_left_alone() {
    let (registry, mut mirror, digest) = scene::cold_blob(MIB, plain);
    mirror.store_blob("a/b", &digest).await;
    let store = mirror.store_path();
    mirror.kill9();
    let shard = blob_file(&store, &digest);
    let foreign = [
        store.join("notes.txt"),
        shard.with_file_name("notes.txt"),
        store.join("repositories/docker.io/README"),
        store.join("records/docker.io/README"),
        record_file(&store, "a/b", "tag-.hidden~"),
    ];
    for path in &foreign {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "mine").unwrap();
    }
    mirror.restart();
    mirror.wait_for_log(PATIENCE, counted);
    for path in &foreign {
        assert_eq!(std::fs::read_to_string(path).unwrap(), "mine");
    }
    assert_eq!(mirror.metric("pierglass_store_blobs", &[]).await, Some(1.0));
    registry.down();
    mirror.pull_blob("a/b", &digest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_on_the_same_store_is_refused() {
    let (registry, mut mirror) = scene::start();
    let store = mirror.store_path();
    let second = MirrorConfig::for_upstream(&registry).store_path(&store);
    let (status, output) = Mirror::fail_to_start(&second);
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("in use by another pierglass"), "{output}");
    assert!(output.contains(store.to_str().unwrap()), "{output}");
    // The first one is none the worse, and a store left behind by a kill is free again.
    let digest = registry.put_generated_blob("a/b", 1, MIB);
    mirror.pull_blob("a/b", &digest).await;
    mirror.kill9();
    drop(Mirror::start(second));
}
