//! A repository is believed to have a blob only if that cost what the one who has it can pay, and not for ever.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::StatusCode;

use crate::support::client::{download, get, head};
use crate::support::content::Content;
use crate::support::disk::files;
use crate::support::{
    FakeRegistry, Fault, Image, MIB, Mirror, MirrorConfig, On, REPO, digest_of, scene,
};

const PRIVATE: &str = "acme/private";
const PUBLIC: &str = "acme/public";
const DAY: u64 = 24 * 3600;

/// Two upstreams, and a blob of the first that the mirror has stored.
async fn private_blob(size: u64) -> (FakeRegistry, FakeRegistry, Mirror, String) {
    let (owner, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let config = MirrorConfig::for_upstream(&owner).upstream("other.example", &other);
    let mirror = Mirror::start(config.negative_ttl("0s"));
    let digest = owner.put_generated_blob(PRIVATE, 1, size);
    mirror.store_blob(PRIVATE, &digest).await;
    owner.reset_counts();
    (owner, other, mirror, digest)
}

fn elsewhere(mirror: &Mirror, repo: &str, digest: &str) -> String {
    mirror.blob_url(&format!("other.example/{repo}"), digest)
}

/// Asks in every way; no byte of the blob may come.
async fn assert_withheld(url: &str) {
    for headers in [&[][..], &[("range", "bytes=0-9")]] {
        let answer = get(url, headers).await.unwrap();
        assert!(
            !answer.status.is_success(),
            "{}: {headers:?}",
            answer.status
        );
        assert!(answer.body.len() < 1000);
    }
    let answer = head(url, &[]).await.unwrap();
    assert!(!answer.status.is_success(), "HEAD: {}", answer.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_for_every_path_opened_every_blob() {
    let (_owner, other, mirror, digest) = private_blob(100_000).await;
    other.fault(On::blob().forever(), Fault::Html(200));
    assert_withheld(&elsewhere(&mirror, "any/thing", &digest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_only_says_that_it_has_a_blob_does_not_get_it() {
    for size in [100, 100_000] {
        let (_owner, other, mirror, digest) = private_blob(size).await;
        // The right length, and other bytes.
        other.insert_blob("any/thing", &digest, Content::generated(2, size));
        assert_withheld(&elsewhere(&mirror, "any/thing", &digest)).await;
        // It could not even learn the bytes by asking for them.
        assert!(other.counts().blob_gets > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_another_registry_that_names_a_blob_proves_nothing() {
    let (_owner, other, mirror, digest) = private_blob(100_000).await;
    let image = Image::random(1, &[100]);
    let layer = digest_of(&image.layers[0]);
    let forged = String::from_utf8(image.manifest.to_vec()).unwrap();
    let forged = forged
        .replace(&layer, &digest)
        .replace("\"size\":100,", "\"size\":100000,")
        .replace("\"size\":100}", "\"size\":100000}");
    other.put_manifest(
        "x/y",
        Some("1"),
        "application/vnd.oci.image.manifest.v1+json",
        forged.clone().into_bytes(),
    );
    let answer = mirror.manifest("other.example/x/y", "1").await;
    assert_eq!(answer.text(), forged);
    assert_withheld(&elsewhere(&mirror, "x/y", &digest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_registry_shows_a_piece_of_a_blob_once() {
    let (owner, other, mirror, digest) = private_blob(8 * MIB).await;
    other.put_generated_blob("x/y", 1, 8 * MIB);
    let url = elsewhere(&mirror, "x/y", &digest);
    for _ in 0..3 {
        download(&url, &[]).await.unwrap().assert_is(&digest);
    }
    let counts = other.counts();
    assert_eq!((counts.blob_gets, counts.requests()), (1, 1));
    assert!(counts.bytes_sent <= 4096, "{}", counts.bytes_sent);
    // From now on it is a blob of that upstream as well: another repository there needs no more than its word.
    other.put_generated_blob("x/z", 1, 8 * MIB);
    let url = elsewhere(&mirror, "x/z", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
    assert_eq!(
        (other.counts().blob_heads, other.counts().blob_gets),
        (1, 1)
    );
    assert_eq!(owner.counts().requests(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_without_ranges_shows_a_piece_too() {
    let (_owner, other, mirror, digest) = private_blob(MIB).await;
    other.put_generated_blob("x/y", 1, MIB);
    other.fault(On::blob().get().forever(), Fault::IgnoreRange);
    let url = elsewhere(&mirror, "x/y", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_failed_vouches_for_nothing() {
    let (registry, mirror) = scene::start_with(|config| config.negative_ttl("0s"));
    let digest = registry.put_generated_blob(PRIVATE, 1, MIB);
    registry.insert_blob(PUBLIC, &digest, Content::generated(2, MIB));
    let torn = download(&mirror.blob_url(PUBLIC, &digest), &[]).await;
    assert!(torn.unwrap().error.is_some());
    registry.delete_blob(PUBLIC, &digest);
    mirror.store_blob(PRIVATE, &digest).await;
    assert_withheld(&mirror.blob_url(PUBLIC, &digest)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_could_say_that_a_repository_has_a_blob() {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let endpoints = format!("endpoints = [\"{}\"]\nnegative_ttl = \"0s\"", near.url());
    let mirror = Mirror::start(MirrorConfig::for_upstream(&home).toml(&endpoints));
    let digest = home.put_generated_blob(PRIVATE, 1, MIB);
    mirror.store_blob(PRIVATE, &digest).await;
    near.put_generated_blob(PUBLIC, 1, MIB);
    assert_withheld(&mirror.blob_url(PUBLIC, &digest)).await;
}

/// The lists of vouched blobs of a mirror that is not running.
fn lists(mirror: &Mirror) -> Vec<PathBuf> {
    let mut all = files(&mirror.store_path().join("repositories"));
    all.retain(|path| path.to_string_lossy().ends_with("blobs"));
    assert!(!all.is_empty());
    all
}

/// Restarts the mirror with all that repositories vouch for so many seconds older.
fn grow_older(mirror: &mut Mirror, seconds: u64) {
    mirror.term_and_wait();
    for path in lists(mirror) {
        let text = std::fs::read_to_string(&path).unwrap();
        let older = text.lines().map(|line| {
            let mut words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            if let Ok(at) = words[1].parse::<u64>() {
                words[1] = (at - seconds).to_string();
            }
            words.join(" ") + "\n"
        });
        std::fs::write(&path, older.collect::<String>()).unwrap();
    }
    mirror.restart();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_upstream_took_back_was_served_for_ever() {
    let (registry, mut mirror, image) =
        scene::stored_image(|config| config.negative_ttl("0s")).await;
    let layer = digest_of(&image.layers[0]);
    grow_older(&mut mirror, DAY / 2);
    mirror.pull_blobs(REPO, &image).await;
    assert_eq!(registry.counts().requests(), 0, "asked within the day");
    grow_older(&mut mirror, DAY);
    mirror.pull_blob(REPO, &layer).await;
    mirror.pull_blob(REPO, &layer).await;
    let counts = registry.counts();
    assert_eq!((counts.blob_heads, counts.requests()), (1, 1));
    for refusal in [404, 403, 401] {
        grow_older(&mut mirror, 2 * DAY);
        registry.fault(On::any().forever(), Fault::status(refusal));
        let url = mirror.blob_url(REPO, &layer);
        assert_withheld(&url).await;
        // It is not forgotten that it was taken back.
        registry.clear_faults();
        registry.down();
        assert_withheld(&url).await;
        registry.up();
        mirror.pull_blob(REPO, &layer).await;
    }
}

/// It says no more than the manifest does, which is served without a question as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_a_blob_is_needs_no_question_until_max_stale() {
    let (registry, mut mirror, image) = scene::cold_image(|config| config.max_stale("10d"));
    mirror.manifest(REPO, scene::TAG).await;
    let url = mirror.blob_url(REPO, &digest_of(&image.layers[0]));
    grow_older(&mut mirror, 9 * DAY);
    registry.down();
    let answer = head(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("content-length"), Some("1000"));
    grow_older(&mut mirror, 2 * DAY);
    let answer = head(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

/// A registry that is a cache has the blobs of an image only after it was asked for the manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cache_had_dropped_was_taken_back() {
    let (registry, mut mirror, image) = scene::stored_image(scene::plain).await;
    let layer = digest_of(&image.layers[0]);
    grow_older(&mut mirror, 2 * DAY);
    let on = || On::blob().containing(&layer);
    let dropped = [
        registry.fault(on().head(), Fault::status(404)),
        registry.fault(on().get(), Fault::status(404)),
    ];
    mirror.pull_blob(REPO, &layer).await;
    assert!(dropped.iter().all(|fault| registry.struck(*fault) == 1));
    assert_eq!(registry.counts().manifest_gets, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_takes_nothing_away_before_max_stale() {
    let (registry, mut mirror, image) = scene::stored_image(|config| config.max_stale("10d")).await;
    registry.down();
    grow_older(&mut mirror, 9 * DAY);
    mirror.pull_blobs(REPO, &image).await;
    registry.up();
    registry.fault(On::any().forever(), Fault::Hang);
    mirror.pull_blobs(REPO, &image).await;
    registry.clear_faults();
    registry.down();
    grow_older(&mut mirror, 2 * DAY);
    let layer = digest_of(&image.layers[0]);
    let answer = get(&mirror.blob_url(REPO, &layer), &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lists_of_the_version_before_are_as_old_as_their_files() {
    let (registry, mut mirror, image) = scene::stored_image(scene::plain).await;
    for (age, heads) in [(DAY / 2, false), (2 * DAY, true)] {
        mirror.term_and_wait();
        for path in lists(&mirror) {
            let text = std::fs::read_to_string(&path).unwrap();
            let old = text.lines().filter_map(|line| line.split(' ').next());
            let old: String = old.map(|digest| format!("{digest}\n")).collect();
            std::fs::write(&path, old).unwrap();
            let written = UNIX_EPOCH + Duration::from_secs(seconds_now() - age);
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
        }
        mirror.restart();
        mirror.pull_blobs(REPO, &image).await;
        let asked = registry.counts().requests();
        assert_eq!(asked > 0, heads, "{asked} requests after {age} seconds");
    }
}

fn seconds_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}
