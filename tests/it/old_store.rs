//! A store that an earlier version wrote must be served whole, without one question to upstream.
//!
//! `tests/fixtures/old_store` was written by the program as it was at commit 4d9e2ec, as a mirror of a small registry:
//! `library/demo` with an index tagged `1`, its image for amd64 pulled and also tagged `single`, its image for arm64 not
//! pulled, a signature that refers to the index; the lists of tags and of referrers were read, and `demo:1` was pinned.
//! Afterwards all times in its records were set to the beginning of 2025, so that no clock is behind them, and `boot` was
//! left out. Git keeps no extended attributes and no empty directories: blobs have neither the length they were committed
//! with nor the time of their last check, as after a copy by `cp -r` or on a file system without attributes.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use crate::support::client::{self, Response, download};
use crate::support::content::Content;
use crate::support::disk::{blob_file, blobs, eventually, files};
use crate::support::{FakeRegistry, Mirror, MirrorConfig, digest_of};

const REPO: &str = "library/demo";
const INDEX: &str = "sha256:9b7f4952edfa29a22dce5e11152605aba2e84d4f78f8741696190820ada19a9a";
const AMD64: &str = "sha256:30d359a1da2176337d12377a574733277d7d35fee5f19958b43f877e91d36184";
const SIGNATURE: &str = "sha256:0b1b6d529c00d7c88e2592a3a251ea1ab0c9fb7a162329e29d4e4786bcd8839f";
const LAYER: &str = "sha256:a007fd257bd68665ae70cb1c422c557eafa9a36bd236b08288049628e3017963";

/// A copy of the fixture.
fn old_store() -> TempDir {
    let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/old_store");
    for file in files(&fixture) {
        let copy = directory.path().join(file.strip_prefix(&fixture).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(&file, copy).unwrap();
    }
    directory
}

/// The records as they are after a move.
fn moved(store: &Path) -> Vec<String> {
    let below = |path: PathBuf| {
        let path = path.strip_prefix(store).unwrap().to_owned();
        path.to_str().unwrap().to_owned()
    };
    let mut all: Vec<_> = files(&store.join("repositories"))
        .into_iter()
        .map(below)
        .collect();
    all.sort();
    all
}

/// A mirror on that store whose upstream has nothing: what it asks shows, and is answered 404.
fn serve(store: &TempDir) -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::builder().start_now();
    let config = MirrorConfig::for_upstream(&registry)
        .tag_ttl("36500d")
        .max_stale("36500d")
        .store_path(store.path());
    (registry, Mirror::start(config))
}

async fn get(url: &str) -> Response {
    let answer = client::get(url, &[]).await.unwrap();
    assert_eq!(answer.status, 200, "{url}: {}", answer.text());
    answer
}

fn set_length(blob: &Path) {
    let length = blob.metadata().unwrap().len().to_le_bytes();
    // A file system without attributes is the case of the fixture.
    let _ = setxattr(blob, "user.pierglass.length", &length, XattrFlags::empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_store_of_an_earlier_version_is_served_without_upstream() {
    let store = old_store();
    let (registry, mirror) = serve(&store);
    for (reference, digest) in [
        ("1", INDEX),
        ("single", AMD64),
        (INDEX, INDEX),
        (AMD64, AMD64),
        (SIGNATURE, SIGNATURE),
    ] {
        let answer = get(&mirror.manifest_url(REPO, reference)).await;
        assert_eq!(digest_of(&answer.body), digest, "{reference}");
        assert_eq!(answer.header("docker-content-digest"), Some(digest));
    }
    let media_type = get(&mirror.manifest_url(REPO, "1")).await;
    let media_type = media_type.header("content-type");
    assert_eq!(media_type, Some("application/vnd.oci.image.index.v1+json"));
    let stored = blobs(store.path());
    assert_eq!(stored.len(), 3);
    for digest in &stored {
        let blob = download(&mirror.blob_url(REPO, digest), &[]).await.unwrap();
        blob.assert_is(digest);
    }
    let tags = get(&format!("{}/v2/{REPO}/tags/list", mirror.url())).await;
    assert_eq!(
        tags.json()["tags"],
        serde_json::json!(["1", "1.0", "single"])
    );
    let referrers = get(&format!("{}/v2/{REPO}/referrers/{INDEX}", mirror.url())).await;
    assert_eq!(referrers.json()["manifests"][0]["digest"], SIGNATURE);
    let catalog = get(&format!("{}/v2/_catalog", mirror.url())).await;
    assert!(catalog.text().contains(REPO), "{}", catalog.text());

    let verified = mirror.command(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified:?}");
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
    assert_eq!(blobs(store.path()), stored);
}

/// Its directories were one for each component of a name, and a name may have 127.
#[test]
fn the_records_of_an_earlier_version_move_to_one_directory_a_repository() {
    let store = old_store();
    drop(serve(&store));
    let directory = "repositories/docker.io/library+demo";
    let dashed = |digest: &str| digest.replace(':', "-");
    let mut expected = vec![
        format!("{directory}/blobs"),
        format!("{directory}/manifest-{}", dashed(INDEX)),
        format!("{directory}/manifest-{}", dashed(AMD64)),
        format!("{directory}/manifest-{}", dashed(SIGNATURE)),
        format!("{directory}/referrers-{}", dashed(INDEX)),
        format!("{directory}/tag-1"),
        format!("{directory}/tag-single"),
        format!("{directory}/tags"),
    ];
    expected.sort();
    assert_eq!(moved(store.path()), expected);
    assert!(!store.path().join("records").exists());
    let version = fs::read_to_string(store.path().join("version")).unwrap();
    assert_eq!(version, "pierglass store 2\n");
}

/// Killed after any number of records, with the version of before or of after, and once more by the version before.
#[test]
fn a_move_that_was_killed_in_the_middle_is_continued() {
    let whole = old_store();
    drop(serve(&whole));
    let expected = moved(whole.path());
    let name = "docker.io/library/demo";
    for (count, version) in [(1, 1), (4, 1), (7, 1), (3, 2)] {
        let store = old_store();
        let records = store.path().join("records").join(name);
        let target = store.path().join("repositories/docker.io/library+demo");
        fs::create_dir_all(&target).unwrap();
        for file in files(&records).into_iter().take(count) {
            let inside = file.strip_prefix(&records).unwrap().to_str().unwrap();
            let new = inside
                .replace("_manifests/", "manifest-")
                .replace("_tags/", "tag-")
                .replace("_lists/", "")
                .replace("_blobs", "blobs");
            fs::rename(&file, target.join(new)).unwrap();
        }
        // What that version could not know is not lost either.
        let foreign = records.join("_tags/.hidden~");
        fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        fs::write(&foreign, "mine").unwrap();
        let text = format!("pierglass store {version}\n");
        fs::write(store.path().join("version"), text).unwrap();
        drop(serve(&store));
        assert_eq!(moved(store.path()), expected, "{count} were moved");
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "mine");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_version_pinned_stays_pinned() {
    let store = old_store();
    let (_registry, mirror) = serve(&store);
    eventually("the count", || mirror.output().contains("store counted"));
    let pins = get(&format!("{}/api/v1/pins", mirror.admin_url()))
        .await
        .json();
    let pin = &pins["images"][0];
    assert_eq!(pin["image"], "docker.io/library/demo:1", "{pins}");
    assert_eq!(pin["digest"], INDEX);
    // The index, the image that was pulled, its configuration and two layers.
    assert_eq!(pin["stored"], 5, "{pins}");
    assert_eq!(pin["missing"], 0, "{pins}");
    let pinned = mirror.metric("pierglass_store_pinned_bytes", &[]).await;
    assert!(pinned.unwrap() > 4000.0, "{pinned:?}");
    let line = format!("docker.io/library/demo 1 {INDEX}\n");
    assert_eq!(fs::read_to_string(store.path().join("pins")).unwrap(), line);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_an_earlier_version_committed_at_another_length_is_not_served() {
    let store = old_store();
    let blob = blob_file(store.path(), LAYER);
    set_length(&blob);
    fs::OpenOptions::new()
        .write(true)
        .open(&blob)
        .unwrap()
        .set_len(100)
        .unwrap();
    let mut length = [0; 8];
    if rustix::fs::getxattr(&blob, "user.pierglass.length", &mut length).is_err() {
        return;
    }
    let (_registry, mirror) = serve(&store);
    let answer = client::get(&mirror.blob_url(REPO, LAYER), &[]).await;
    assert_ne!(answer.unwrap().status, 200);
    assert!(!blob.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_an_earlier_version_began_is_continued() {
    let store = old_store();
    let (size, half) = (4 << 20, 2 << 20);
    // Named as that version names it, in the boot in which it was written.
    let content = Content::generated(1, size);
    let digest = content.digest();
    let partial: PathBuf = store.path().join("partial/docker.io");
    fs::create_dir_all(&partial).unwrap();
    let file = partial.join(digest.replace(':', "-"));
    fs::write(file, content.read(0, half)).unwrap();
    let boot = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    fs::write(store.path().join("boot"), boot).unwrap();

    let (registry, mirror) = serve(&store);
    registry.put_generated_blob(REPO, 1, size);
    let blob = download(&mirror.blob_url(REPO, &digest), &[])
        .await
        .unwrap();
    blob.assert_is(&digest);
    let sent = registry.counts().bytes_sent;
    assert!(sent < size - half as u64 / 2, "{sent} bytes were sent");
}
