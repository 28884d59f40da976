//! Damage must be found before a client asks for what is damaged, and nothing else be touched.

use std::time::{Duration, SystemTime};

use crate::support::disk::{blob_file, blobs, eventually, flip_a_bit};
use crate::support::{MirrorConfig, REPO, scene, until};

const DAMAGED: &str = "pierglass_store_damaged_total";
const SCRUBBED: &str = "pierglass_store_scrubbed_bytes_total";

fn eager(config: MirrorConfig) -> MirrorConfig {
    config
        .store("scrub_rate", "\"1GiB\"")
        .store("scrub_every", "\"1s\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_and_the_blob_fetched_again_when_asked_for() {
    let (registry, mirror, image) = scene::stored_image(eager).await;
    let store = mirror.store_path();
    for (round, digest) in (1..).zip(image.blobs()) {
        let file = blob_file(&store, &digest);
        flip_a_bit(&file);
        eventually("the damage found", || !file.exists());
        until("the damage counted", async || {
            let found = mirror.metric(DAMAGED, &[("found_by", "scrub")]).await;
            found == Some(f64::from(round))
        })
        .await;
        registry.reset_counts();
        mirror.pull_blob(REPO, &digest).await;
        assert_eq!(registry.counts().blob_gets, 1);
        eventually("the commit", || file.exists());
    }
    assert_eq!(blobs(&store).len(), 3, "what is right stays");
    let hex = image.blobs()[0].replace("sha256:", "");
    assert!(mirror.output().contains(&hex), "the log names the blob");
    assert_eq!(mirror.metric("pierglass_store_blobs", &[]).await, Some(3.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_right_keeps_its_recency_however_often_it_is_read() {
    let (registry, mirror, image) = scene::stored_image(eager).await;
    let store = mirror.store_path();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    let files: Vec<_> = image
        .blobs()
        .iter()
        .map(|digest| blob_file(&store, digest))
        .collect();
    for file in &files {
        std::fs::File::open(file)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
    }
    let total: u64 = files
        .iter()
        .map(|file| file.metadata().unwrap().len())
        .sum();
    let before = mirror.metric(SCRUBBED, &[]).await.unwrap();
    until("everything read again", async || {
        mirror.metric(SCRUBBED, &[]).await.unwrap() > before + 2.0 * total as f64
    })
    .await;
    for file in &files {
        assert_eq!(file.metadata().unwrap().modified().unwrap(), long_ago);
    }
    assert_eq!(mirror.metric(DAMAGED, &[]).await, Some(0.0));
    assert_eq!(registry.counts().blob_gets, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_does_not_read_again_what_was_read_before_it() {
    let patient = |config: MirrorConfig| {
        config
            .store("scrub_rate", "\"1GiB\"")
            .store("scrub_every", "\"1h\"")
    };
    let (_registry, mut mirror, image) = scene::stored_image(patient).await;
    let file = blob_file(&mirror.store_path(), &image.blobs()[2]);
    // As if it had come before there was a scrub.
    rustix::fs::removexattr(&file, "user.pierglass.checked").unwrap();
    mirror.restart();
    let length = file.metadata().unwrap().len() as f64;
    until("the one that is due", async || {
        mirror.metric(SCRUBBED, &[]).await.unwrap() >= length
    })
    .await;
    let mut noted = [0; 8];
    eventually("the note", || {
        rustix::fs::getxattr(&file, "user.pierglass.checked", &mut [0; 8]) == Ok(8)
    });
    rustix::fs::getxattr(&file, "user.pierglass.checked", &mut noted).unwrap();
    let age = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() - u64::from_le_bytes(noted);
    assert!(age < 3600, "{age}");
    assert_eq!(mirror.metric(SCRUBBED, &[]).await, Some(length));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_scrub_delays_no_end_and_none_runs_once_turned_off() {
    let (_registry, mut mirror, _image) = scene::stored_image(|config| {
        config
            .store("scrub_rate", "1")
            .store("scrub_every", "\"1ms\"")
            .top("drain_timeout", "\"1s\"")
    })
    .await;
    // A byte a second: it is in the middle of a piece for days.
    until("the scrub under way", async || {
        mirror.metric(SCRUBBED, &[]).await.unwrap() > 0.0
    })
    .await;
    assert!(mirror.term_and_wait().success());
    let (_registry, mirror, image) = scene::stored_image(|config| {
        config
            .store("scrub_rate", "0")
            .store("scrub_every", "\"1ms\"")
    })
    .await;
    flip_a_bit(&blob_file(&mirror.store_path(), &image.blobs()[0]));
    let threads = format!("/proc/{}/task", mirror.pid());
    let names = std::fs::read_dir(threads)
        .unwrap()
        .flatten()
        .map(|thread| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default());
    let names: Vec<_> = names.collect();
    assert!(
        !names.iter().any(|name| name.starts_with("pierglass-scrub")),
        "{names:?}"
    );
}
