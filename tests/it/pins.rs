//! What is pinned must survive every eviction, and what is not must make room as before.

use std::path::Path;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::client::download;
use crate::support::disk::{Watch, blob_file, blobs, eventually, manifest_file};
use crate::support::image::{OCI_GZIP_LAYER, OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::mirror::Ran;
use crate::support::{FakeRegistry, Image, Index, MIB, Mirror, MirrorConfig, client};

const SIZE: usize = 1024 * 1024;

fn config(registry: &FakeRegistry, max_size: &str) -> MirrorConfig {
    MirrorConfig::for_upstream(registry)
        .tag_ttl("1h")
        .max_size(max_size)
}

fn start(max_size: &str) -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::builder().start_now();
    let mirror = Mirror::start(config(&registry, max_size));
    (registry, mirror)
}

fn is_stored(store: &Path, image: &Image) -> bool {
    image
        .blobs()
        .iter()
        .all(|digest| blob_file(store, digest).exists())
}

/// Pulls that many mebibytes of what is not pinned, and waits until they are stored.
async fn storm(registry: &FakeRegistry, mirror: &Mirror, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let digest = registry.put_generated_blob("x/storm", 10_000 + seed, MIB);
        mirror.store_blob("x/storm", &digest).await;
    }
}

#[track_caller]
fn assert_said(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    for word in words {
        let said = ran.out.contains(word) || ran.err.contains(word);
        assert!(said, "{word}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_image_survives_a_storm_and_others_make_room() {
    let (registry, mirror) = start("20MiB");
    let store = mirror.store_path();
    let watch = Watch::start(&store, 20 * MIB);
    let (kept, other) = (
        Image::random(1, &[4 * SIZE, SIZE]),
        Image::random(2, &[4 * SIZE, SIZE]),
    );
    registry.put_image("library/kept", Some("1"), &kept);
    registry.put_image("library/other", Some("1"), &other);
    for (repo, image) in [("library/kept", &kept), ("library/other", &other)] {
        mirror.pull(repo, "1", image).await;
        eventually("the commits", || is_stored(&store, image));
    }
    // Docker's names: the default registry, and its library.
    let pinned = mirror.command(&["pin", "kept:1"]);
    assert_said(
        &pinned,
        0,
        &["pinned docker.io/library/kept:1", "5 MiB stored"],
    );
    let again = mirror.command(&["pin", "docker.io/library/kept:1"]);
    assert_said(&again, 0, &["is pinned already"]);

    storm(&registry, &mirror, 0..40).await;
    assert!(is_stored(&store, &kept));
    assert!(!is_stored(&store, &other), "nothing was evicted");
    let stored = blobs(&store).len();
    assert!(stored > 10, "{stored}: the rest of the room is used");

    // By tag and by digest, from the store alone.
    registry.down();
    mirror.pull("library/kept", "1", &kept).await;
    mirror.pull("library/kept", &kept.digest, &kept).await;
    registry.up();
    let most = watch.most();
    assert!(most <= 20 * MIB, "{most} bytes on disk");
    let bytes = mirror
        .metric("pierglass_store_pinned_bytes", &[])
        .await
        .unwrap();
    assert!(
        bytes >= 5.0 * MIB as f64 && bytes < 5.1 * MIB as f64,
        "{bytes}"
    );

    let gone = mirror.command(&["unpin", "kept:1"]);
    assert_said(&gone, 0, &["unpinned docker.io/library/kept:1"]);
    assert_said(
        &mirror.command(&["unpin", "kept:1"]),
        0,
        &["was not pinned"],
    );
    storm(&registry, &mirror, 40..80).await;
    assert!(
        !is_stored(&store, &kept),
        "what is let go is evicted in its turn"
    );
    assert_eq!(
        mirror.metric("pierglass_store_pinned_bytes", &[]).await,
        Some(0.0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_survive_a_kill_and_count_from_the_first_eviction_on() {
    let (registry, mut mirror) = start("20MiB");
    let store = mirror.store_path();
    let image = Image::random(1, &[4 * SIZE, SIZE]);
    registry.put_image("a/b", Some("1"), &image);
    mirror.pull("a/b", "1", &image).await;
    eventually("the commits", || is_stored(&store, &image));
    let by_digest = format!("a/b@{}", image.digest);
    assert_said(&mirror.command(&["pin", &by_digest]), 0, &["pinned"]);
    storm(&registry, &mirror, 0..8).await;
    mirror.kill9();
    // Smaller than what is stored: the scan at the start evicts, and must know what it may not.
    mirror.reconfigure(config(&registry, "8MiB"));
    mirror.restart();
    eventually("the shrinking", || mirror.du() <= 8 * MIB);
    storm(&registry, &mirror, 8..20).await;
    registry.down();
    mirror.pull("a/b", &image.digest, &image).await;
    assert!(mirror.du() <= 8 * MIB);
    assert_said(&mirror.command(&["pin"]), 0, &[&by_digest, "5 MiB stored"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pin_follows_its_tag() {
    let registry = FakeRegistry::start().await;
    let config = MirrorConfig::for_upstream(&registry).tag_ttl("0s");
    let mirror = Mirror::start(config.max_size("20MiB"));
    let store = mirror.store_path();
    let (old, new) = (Image::random(1, &[3 * SIZE]), Image::random(2, &[3 * SIZE]));
    // Before it is there: it counts from the moment it arrives.
    let early = mirror.command(&["pin", "a/b:1"]);
    assert_said(&early, 0, &["pinned docker.io/a/b:1", "not stored yet"]);
    registry.put_image("a/b", Some("1"), &old);
    mirror.pull("a/b", "1", &old).await;
    eventually("the commits", || is_stored(&store, &old));
    storm(&registry, &mirror, 0..30).await;
    assert!(is_stored(&store, &old));

    registry.put_image("a/b", Some("1"), &new);
    // A HEAD alone learns that it moved: what there is of it stays until there is something else.
    mirror.head("a/b", "1").await;
    storm(&registry, &mirror, 30..60).await;
    assert!(is_stored(&store, &old), "the new one was never fetched");

    mirror.pull("a/b", "1", &new).await;
    eventually("the commits", || is_stored(&store, &new));
    storm(&registry, &mirror, 60..90).await;
    assert!(is_stored(&store, &new));
    assert!(!is_stored(&store, &old), "the old one is not pinned");

    // Upstream drops the tag: what was pinned stays, by its digest.
    registry.untag("a/b", "1");
    let answer = client::get(&mirror.manifest_url("a/b", "1"), &[]).await;
    assert_eq!(answer.unwrap().status, 404);
    storm(&registry, &mirror, 90..120).await;
    registry.down();
    mirror.pull("a/b", &new.digest, &new).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_platforms_of_an_index_are_kept_as_they_arrive() {
    let (registry, mut mirror) = start("20MiB");
    let store = mirror.store_path();
    let (amd, arm) = (Image::random(1, &[3 * SIZE]), Image::random(2, &[3 * SIZE]));
    let index = Index::of(&[amd.clone(), arm.clone()]);
    registry.put_index("a/b", Some("1"), &index);
    let fetch_index = async |mirror: &Mirror| {
        let answer = client::get(&mirror.manifest_url("a/b", "1"), &[]).await;
        assert_eq!(answer.unwrap().body, index.bytes);
    };
    fetch_index(&mirror).await;
    mirror.pull("a/b", &amd.digest, &amd).await;
    eventually("the commits", || is_stored(&store, &amd));
    assert_said(&mirror.command(&["pin", "a/b:1"]), 0, &["3 MiB stored"]);
    storm(&registry, &mirror, 0..30).await;
    assert!(is_stored(&store, &amd));
    mirror.restart();
    mirror.pull("a/b", &arm.digest, &arm).await;
    eventually("the commits", || is_stored(&store, &arm));
    storm(&registry, &mirror, 30..60).await;
    registry.down();
    fetch_index(&mirror).await;
    for image in [&amd, &arm] {
        mirror.pull("a/b", &image.digest, image).await;
    }
    assert_said(&mirror.command(&["pin"]), 0, &["6 MiB stored"]);
}

/// An index that lists these blobs, each with its type, and these images.
fn listing(blobs: &[(&str, &Bytes)], images: &[Image]) -> String {
    let blobs = blobs.iter().map(|(kind, bytes)| descriptor(kind, bytes));
    let manifests = images
        .iter()
        .map(|it| descriptor(OCI_MANIFEST, &it.manifest));
    let all: Vec<_> = blobs.chain(manifests).collect();
    json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": all}).to_string()
}

/// BuildKit's `--cache-to type=registry` lists its layers, and what it knows of them, as manifests of an index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_layers_of_a_pinned_build_cache_were_evicted() {
    const CACHE: &str = "application/vnd.buildkit.cacheconfig.v0";
    const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let (registry, mirror) = start("20MiB");
    let store = mirror.store_path();
    // As a cache, and beside a platform in what is an image otherwise.
    let (cache, mixed) = (
        Image::random(1, &[2 * SIZE, SIZE]),
        Image::random(2, &[2 * SIZE]),
    );
    let platform = Image::random(3, &[SIZE]);
    let layers = [
        (OCI_GZIP_LAYER, &cache.layers[0]),
        (OCI_GZIP_LAYER, &cache.layers[1]),
    ];
    let indexes = [
        (
            "team/cache",
            &cache,
            listing(&[layers[0], layers[1], (CACHE, &cache.config)], &[]),
        ),
        (
            "team/app",
            &mixed,
            listing(
                &[(DOCKER_LAYER, &mixed.layers[0])],
                std::slice::from_ref(&platform),
            ),
        ),
    ];
    registry.put_image("team/app", None, &platform);
    for (repo, blobs, index) in &indexes {
        registry.put_image(repo, None, blobs);
        registry.put_manifest(repo, Some("1"), OCI_INDEX, index.clone());
        let pinned = mirror.command(&["pin", &format!("{repo}:1")]);
        assert_said(&pinned, 0, &["pinned", "not stored yet"]);
        let answer = mirror.manifest(repo, "1").await;
        assert_eq!(answer.body, index.as_bytes());
    }
    mirror.pull_blobs("team/cache", &cache).await;
    mirror.pull_blob("team/app", &mixed.blobs()[1]).await;
    mirror.pull("team/app", &platform.digest, &platform).await;
    eventually("the commits", || {
        is_stored(&store, &cache)
            && is_stored(&store, &platform)
            && blob_file(&store, &mixed.blobs()[1]).exists()
    });
    storm(&registry, &mirror, 0..40).await;
    let said = mirror.command(&["pin"]);
    assert_said(&said, 0, &["team/app:1", "team/cache:1", "3 MiB stored"]);
    registry.reset_counts();
    registry.down();
    mirror.pull_blobs("team/cache", &cache).await;
    mirror.pull_blob("team/app", &mixed.blobs()[1]).await;
    mirror.pull("team/app", &platform.digest, &platform).await;
}

/// An index may list what its registry does not have, so what it lists is no word that the repository has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_proves_none_of_the_blobs_it_lists() {
    let (registry, mirror) = start("20MiB");
    let secret = Image::random(1, &[SIZE]);
    registry.put_image("private/app", Some("1"), &secret);
    mirror.pull("private/app", "1", &secret).await;
    mirror.wait_until_stored(&secret.blobs());
    let index = listing(&[(OCI_GZIP_LAYER, &secret.layers[0])], &[]);
    registry.put_manifest("evil/app", Some("1"), OCI_INDEX, index);
    assert_eq!(mirror.manifest("evil/app", "1").await.status, 200);
    let url = mirror.blob_url("evil/app", &secret.blobs()[1]);
    assert_eq!(client::get(&url, &[]).await.unwrap().status, 404);
    registry.down();
    assert_ne!(client::head(&url, &[]).await.unwrap().status, 200);
}

/// An index lists a manifest of a kind that came after this program. Whether it is one, the client knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_a_later_kind_is_kept_with_the_index_that_lists_it() {
    const LATER: &str = "application/vnd.example.manifest.v3+json";
    let (registry, mirror) = start("20MiB");
    let later = Bytes::from(json!({"schemaVersion": 3, "mediaType": LATER}).to_string());
    let digest = registry.put_manifest("a/b", None, LATER, later.clone());
    let index = listing(&[(LATER, &later)], &[]);
    registry.put_manifest("a/b", Some("1"), OCI_INDEX, index);
    assert_said(&mirror.command(&["pin", "a/b:1"]), 0, &["pinned"]);
    for reference in ["1", &digest] {
        assert_eq!(mirror.manifest("a/b", reference).await.status, 200);
    }
    let said = mirror.command(&["pin", "--json"]);
    let pins: Value = serde_json::from_str(&said.out).unwrap();
    let pin = &pins["images"][0];
    assert_eq!(
        (&pin["stored"], &pin["missing"]),
        (&json!(2), &json!(0)),
        "{said:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_of_two_pinned_images_is_kept_for_the_one_that_is_left() {
    let (registry, mirror) = start("20MiB");
    let store = mirror.store_path();
    let first = Image::random(1, &[3 * SIZE]);
    let shared = first.layers[0].clone();
    let more = Image::random(2, &[SIZE]).layers[0].clone();
    let second = Image::of_layers("amd64", vec![shared, more], &["/bin/sh"]);
    for (tag, image) in [("1", &first), ("2", &second)] {
        registry.put_image("a/b", Some(tag), image);
        mirror.pull("a/b", tag, image).await;
        eventually("the commits", || is_stored(&store, image));
        assert_said(
            &mirror.command(&["pin", &format!("a/b:{tag}")]),
            0,
            &["pinned"],
        );
    }
    assert_said(&mirror.command(&["unpin", "a/b:1"]), 0, &["unpinned"]);
    storm(&registry, &mirror, 0..30).await;
    registry.down();
    mirror.pull("a/b", "2", &second).await;
    assert!(!is_stored(&store, &first));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_fits_can_be_pinned_is_told_and_passes_through() {
    let (registry, mirror) = start("8MiB");
    let watch = Watch::start(&mirror.store_path(), 8 * MIB);
    let (first, second) = (Image::random(1, &[5 * SIZE]), Image::random(2, &[5 * SIZE]));
    for (tag, image) in [("1", &first), ("2", &second)] {
        registry.put_image("a/b", Some(tag), image);
    }
    mirror.pull("a/b", "1", &first).await;
    let store = mirror.store_path();
    eventually("the commits", || is_stored(&store, &first));
    let fits = mirror.command(&["pin", "a/b:1"]);
    assert_said(&fits, 0, &["5 MiB stored"]);
    assert_eq!(fits.err, "");
    mirror.pull("a/b", "2", &second).await;
    // The second pushes the first one out, or finds no room, depending on which was pinned.
    let crowded = mirror.command(&["pin", "a/b:2"]);
    assert_said(
        &crowded,
        0,
        &["pinned docker.io/a/b:2", "8 MiB", "raise max_size"],
    );
    for _ in 0..2 {
        mirror.pull("a/b", "2", &second).await;
        mirror.pull("a/b", "1", &first).await;
    }
    let layer = &second.blobs()[1];
    let answer = download(&mirror.blob_url("a/b", layer), &[]).await.unwrap();
    assert_eq!(answer.header("cache-status"), Some("pierglass; fwd=bypass"));
    assert!(is_stored(&store, &first));
    assert!(watch.most() <= 8 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_can_be_changed_while_the_mirror_is_stopped() {
    let (registry, mut mirror) = start("20MiB");
    let store = mirror.store_path();
    let image = Image::random(1, &[4 * SIZE]);
    registry.put_image("library/kept", Some("latest"), &image);
    mirror.pull("library/kept", "latest", &image).await;
    eventually("the commits", || is_stored(&store, &image));
    mirror.kill9();
    let run = |arguments: &[&str]| mirror.command_without_admin(arguments);
    assert_said(&run(&["pin"]), 0, &["nothing is pinned"]);
    let name = "docker.io/library/kept:latest";
    assert_said(
        &run(&["pin", "kept"]),
        0,
        &["pinned", name, "once the mirror runs"],
    );
    assert_said(&run(&["pin", "kept:other"]), 0, &["pinned"]);
    assert_said(&run(&["pin"]), 0, &[name, "docker.io/library/kept:other"]);
    assert_said(&run(&["unpin", "kept:other"]), 0, &["unpinned"]);
    let list: Value = serde_json::from_str(&run(&["pin", "--json"]).out).unwrap();
    assert_eq!(list["images"], serde_json::json!([{ "image": name }]));
    mirror.restart();
    storm(&registry, &mirror, 0..30).await;
    registry.down();
    mirror.pull("library/kept", "latest", &image).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_lets_nothing_go_that_it_named() {
    let (registry, mut mirror) = start("20MiB");
    let store = mirror.store_path();
    let (image, other) = (Image::random(1, &[4 * SIZE]), Image::random(2, &[SIZE]));
    registry.put_image("a/b", Some("1"), &image);
    registry.put_image("a/b", Some("2"), &other);
    mirror.pull("a/b", "1", &image).await;
    eventually("the commits", || is_stored(&store, &image));
    assert_said(&mirror.command(&["pin", "a/b:1"]), 0, &["pinned"]);
    let file = manifest_file(&store, "a/b", &image.digest);
    std::fs::write(&file, "{}\ndamaged").unwrap();
    assert_said(
        &mirror.command(&["verify", "--repair"]),
        0,
        &["1 damaged and dropped"],
    );
    // Another record of that repository has its pins traced again.
    mirror.pull("a/b", "2", &other).await;
    storm(&registry, &mirror, 0..30).await;
    assert!(is_stored(&store, &image));
    mirror.command(&["pin"]);
    mirror.pull("a/b", "1", &image).await;
    mirror.restart();
    registry.down();
    mirror.pull("a/b", "1", &image).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_none_are_refused_with_64_or_by_the_mirror() {
    let (_registry, mut mirror) = start("20MiB");
    for wrong in ["", "UPPER", "a b", "https://quay.io/a/b", "a@sha256:12"] {
        for command in ["pin", "unpin"] {
            let ran = mirror.command(&[command, wrong]);
            assert_eq!(ran.code, Some(64), "{wrong}: {ran:?}");
            assert!(
                ran.err.contains("invalid") || ran.err.contains("digest"),
                "{ran:?}"
            );
        }
    }
    let unknown = mirror.command(&["pin", "quay.io/a/b"]);
    assert_said(&unknown, 1, &["no upstream quay.io"]);
    // One that was pinned when that registry was configured can be let go of.
    mirror.kill9();
    std::fs::write(
        mirror.store_path().join("pins"),
        "quay.io/a/b 1\nnonsense\n",
    )
    .unwrap();
    mirror.restart();
    assert_said(&mirror.command(&["pin"]), 0, &["quay.io/a/b:1"]);
    assert!(mirror.output().contains("a pin cannot be read"));
    assert_said(
        &mirror.command(&["unpin", "quay.io/a/b:1"]),
        0,
        &["unpinned"],
    );
    assert_said(&mirror.command(&["pin"]), 0, &["nothing is pinned"]);
}
