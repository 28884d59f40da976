//! What is damaged on disk must never be served where it can be noticed, and never cost more than a fetch.

use std::fs::{File, OpenOptions};
use std::time::Duration;

use crate::support::disk::{blob_file, blobs, eventually, manifest_file, record_file};
use crate::support::{Image, Mirror, REPO, TAG, client, digest_of, plain, scene};

const PATIENCE: Duration = Duration::from_secs(20);

async fn pull_by_tag_and_digest(mirror: &Mirror, image: &Image) {
    let answer = mirror.manifest(REPO, &image.digest).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body),
        (200, &image.manifest)
    );
    mirror.pull(REPO, TAG, image).await;
}

/// Waits until no fill is at work on a file any more: readers that join one read the file that it has open.
async fn settled(mirror: &Mirror) {
    let fills = "pierglass_fills_in_flight";
    let deadline = std::time::Instant::now() + PATIENCE;
    while mirror.metric(fills, &[]).await != Some(0.0) {
        assert!(std::time::Instant::now() < deadline, "a fill without end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn truncate(path: &std::path::Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_blob_is_fetched_again_within_the_request() {
    let (registry, mirror, image) = scene::stored_image(plain).await;
    let digest = &image.blobs()[1];
    let file = blob_file(&mirror.store_path(), digest);
    for length in [0, 1, 2_999_999] {
        settled(&mirror).await;
        truncate(&file, length);
        registry.reset_counts();
        mirror.pull_blob(REPO, digest).await;
        assert_eq!(registry.counts().blob_gets, 1, "cut to {length}");
        let store = mirror.store_path();
        eventually("the commit", || {
            file.metadata().is_ok_and(|file| file.len() == 3_000_000) && blobs(&store).len() == 3
        });
    }
    pull_by_tag_and_digest(&mirror, &image).await;
    assert_eq!(registry.counts().blob_gets, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_blob_is_fetched_again_within_the_request() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    let digest = &image.blobs()[1];
    let file = blob_file(&mirror.store_path(), digest);
    for restart in [false, true] {
        std::fs::remove_file(&file).unwrap();
        if restart {
            mirror.restart();
        }
        registry.reset_counts();
        pull_by_tag_and_digest(&mirror, &image).await;
        assert_eq!(registry.counts().blob_gets, 1);
        eventually("the commit", || file.exists());
    }
    assert_eq!(mirror.metric("pierglass_store_blobs", &[]).await, Some(3.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_is_never_served() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    let file = manifest_file(&mirror.store_path(), REPO, &image.digest);
    let right = std::fs::read(&file).unwrap();
    let mut flipped = right.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let damages = [
        flipped,
        right[..right.len() - 10].to_vec(),
        Vec::new(),
        b"{}\nnot a manifest".to_vec(),
        vec![0xff; 4096],
    ];
    for damage in damages {
        std::fs::write(&file, &damage).unwrap();
        // From memory it is still right; after a restart the disk is all there is.
        pull_by_tag_and_digest(&mirror, &image).await;
        std::fs::write(&file, &damage).unwrap();
        mirror.restart();
        registry.reset_counts();
        pull_by_tag_and_digest(&mirror, &image).await;
        assert_eq!(registry.counts().manifest_gets, 1);
        assert_eq!(std::fs::read(&file).unwrap().last(), right.last());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_tag_is_asked_for_again() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    let file = record_file(&mirror.store_path(), "a/b", "tag-1.0");
    let right = std::fs::read(&file).unwrap();
    for damage in [&b""[..], &right[..right.len() / 2], b"{}", &[0xff; 100]] {
        std::fs::write(&file, damage).unwrap();
        mirror.restart();
        registry.reset_counts();
        pull_by_tag_and_digest(&mirror, &image).await;
        let counts = registry.counts();
        assert_eq!(counts.manifest_gets + counts.manifest_heads, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_deleted_under_the_mirror_costs_no_pull() {
    let (registry, mirror, image) = scene::stored_image(plain).await;
    mirror.wait_until_at_rest().await;
    std::fs::remove_dir_all(mirror.store_path()).unwrap();
    for _ in 0..2 {
        pull_by_tag_and_digest(&mirror, &image).await;
    }
    let other = Image::random(2, &[100_000]);
    registry.put_image(REPO, Some("2"), &other);
    let answer = client::get(&mirror.manifest_url(REPO, "2"), &[]).await;
    assert_eq!(digest_of(&answer.unwrap().body), other.digest);
    for digest in other.blobs() {
        mirror.pull_blob(REPO, &digest).await;
    }
    assert!(!mirror.output().contains("panicked"), "{}", mirror.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_became_a_file_costs_no_pull() {
    let (_registry, mirror, image) = scene::stored_image(plain).await;
    mirror.wait_until_at_rest().await;
    let store = mirror.store_path();
    std::fs::remove_dir_all(&store).unwrap();
    File::create(&store).unwrap();
    pull_by_tag_and_digest(&mirror, &image).await;
    assert!(!mirror.output().contains("panicked"), "{}", mirror.output());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_list_of_blobs_loses_no_blob_that_is_named_after() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    let store = mirror.store_path();
    let list = record_file(&store, "a/b", "blobs");
    let right = std::fs::read(&list).unwrap();
    for (number, torn) in [&b"sha256:0123"[..], b"\xff\xfe\0\0"].iter().enumerate() {
        mirror.kill9();
        std::fs::write(&list, [&right[..], torn].concat()).unwrap();
        mirror.restart();
        let digest = registry.put_blob(REPO, format!("after {number}"));
        mirror.store_blob(REPO, &digest).await;
        registry.down();
        mirror.restart();
        mirror.pull_blob(REPO, &digest).await;
        pull_by_tag_and_digest(&mirror, &image).await;
        registry.up();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_truncated_while_the_mirror_was_down_was_served_as_whole() {
    let (registry, mut mirror, image) = scene::stored_image(plain).await;
    let digest = &image.blobs()[1];
    let file = blob_file(&mirror.store_path(), digest);
    for length in [1000, 2_999_999] {
        mirror.kill9();
        truncate(&file, length);
        mirror.restart();
        registry.reset_counts();
        mirror.pull_blob(REPO, digest).await;
        assert_eq!(registry.counts().blob_gets, 1, "cut to {length}");
        let store = mirror.store_path();
        eventually("the commit", || {
            file.metadata().is_ok_and(|file| file.len() == 3_000_000) && blobs(&store).len() == 3
        });
    }
}
