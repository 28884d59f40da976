//! Names and sizes that clients and upstreams make up must cost no more room than is allowed, and none for ever.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::support::client::{Downloading, download};
use crate::support::disk::{Watch, blob_file, blobs, directories, eventually, files};
use crate::support::image::OCI_MANIFEST;
use crate::support::{FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, client, plain, scene};

/// A repository of as many components as there may be.
fn deep(number: usize) -> String {
    format!("n{number}{}", "/a".repeat(120))
}

async fn stored_bytes(mirror: &Mirror) -> u64 {
    let bytes = mirror.metric("pierglass_store_bytes", &[]).await;
    bytes.unwrap() as u64
}

async fn count(mirror: &Mirror, share: &str) -> u64 {
    let files = mirror
        .metric("pierglass_store_files", &[("share", share)])
        .await;
    files.unwrap() as u64
}

/// A blob is still stored after all that.
async fn assert_stores(registry: &FakeRegistry, mirror: &Mirror) {
    let digest = registry.put_generated_blob("a/b", 77, MIB / 2);
    mirror.store_blob("a/b", &digest).await;
}

/// 125 requests filled a store of 64 MiB with directories that were never removed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_costs_one_directory_and_gives_it_back() {
    let (registry, mut mirror) = scene::start_with(|config| config.max_size("2MiB"));
    let watch = Watch::start(&mirror.store_path(), 2 * MIB);
    for number in 0..300 {
        let manifest = format!("{{\"number\": {number}}}");
        registry.put_manifest(&deep(number), Some("1"), OCI_MANIFEST, manifest);
        let answer = client::get(&mirror.manifest_url(&deep(number), "1"), &[]).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    let repositories = mirror.store_path().join("repositories");
    let (there, names) = (
        directories(&repositories),
        files(&repositories).len() as u64,
    );
    // The names' own, that of docker.io and `repositories` itself.
    assert!(there <= names + 2, "{there} directories, {names} files");
    assert!(there > 20, "{there} directories");
    assert_stores(&registry, &mirror).await;
    mirror.restart();
    assert_stores(&registry, &mirror).await;
    let most = watch.most();
    assert!(most <= 2 * MIB, "{most} bytes on disk");
}

/// What is asked for and refused leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_upstream_refuses_leaves_nothing_on_disk() {
    let (registry, mirror) = scene::start();
    eventually("the count", || mirror.output().contains("store counted"));
    let before = stored_bytes(&mirror).await;
    let nothing = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for number in 0..20 {
        for what in [
            "manifests/1".to_owned(),
            format!("manifests/{nothing}"),
            format!("blobs/{nothing}"),
            "tags/list".to_owned(),
        ] {
            let url = format!("{}/v2/{}/{what}", mirror.url(), deep(number));
            assert_eq!(client::get(&url, &[]).await.unwrap().status, 404, "{what}");
        }
    }
    assert_eq!(stored_bytes(&mirror).await, before);
    let repositories = mirror.store_path().join("repositories");
    assert_eq!(directories(&repositories), 1);
    assert!(registry.counts().requests() > 0);
}

/// Lists of blobs were outside the limit: 112 MB in a store of 64 MiB after seven seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_manifests_name_is_within_the_limit() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("4MiB"));
    let watch = Watch::start(&mirror.store_path(), 4 * MIB);
    for number in 0..60 {
        let layers: Vec<_> = (0..1000)
            .map(|layer| {
                let digest = format!("sha256:{number:032x}{layer:032x}");
                serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 1})
            })
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"},
        });
        let repo = format!("r/{number}");
        registry.put_manifest(&repo, Some("1"), OCI_MANIFEST, manifest.to_string());
        let answer = client::get(&mirror.manifest_url(&repo, "1"), &[]).await;
        assert_eq!(answer.unwrap().status, 200);
    }
    assert!(stored_bytes(&mirror).await <= 4 * MIB);
    assert_stores(&registry, &mirror).await;
    let most = watch.most();
    assert!(most <= 4 * MIB, "{most} bytes on disk");
}

/// Each file costs memory and an inode, however short it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_files_than_are_allowed_are_never_stored() {
    let (registry, mut mirror) = scene::start_with(|config| config.store("max_files", "40"));
    for number in 0..100 {
        let manifest = format!("{{\"number\": {number}}}");
        registry.put_manifest("a/b", Some(&format!("t{number}")), OCI_MANIFEST, manifest);
        mirror.manifest("a/b", &format!("t{number}")).await;
        let all = files(&mirror.store_path().join("repositories")).len();
        assert!(all <= 40, "{all} files");
    }
    assert_stores(&registry, &mirror).await;
    let shares = ["blobs", "records", "vouched", "partials"];
    let mut sum = 0;
    for share in shares {
        sum += count(&mirror, share).await;
    }
    assert!(sum > 30 && sum <= 40, "{sum} files");
    assert_eq!(count(&mirror, "blobs").await, 1);
    // One that was filled under a larger limit is brought within this one.
    mirror.restart();
    assert_stores(&registry, &mirror).await;
}

/// A file system for this test alone.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` for who may not mount anything.
    fn new(path: &Path, options: &str) -> Option<Mounted> {
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path);
        let mounted = mount.output().is_ok_and(|mount| mount.status.success());
        mounted.then(|| Mounted(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Inodes ran out long before `max_size`, and then nothing was ever evicted nor stored.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inodes_are_left_for_others_and_never_run_out() {
    let directory = tempfile::TempDir::new().unwrap();
    let Some(mounted) = Mounted::new(directory.path(), "nr_inodes=500,size=64m") else {
        return;
    };
    let registry = FakeRegistry::builder().start_now();
    let config = MirrorConfig::for_upstream(&registry).store("min_free", "0");
    let mirror = Mirror::start(config.store_path(&directory.path().join("store")));
    for number in 0..400 {
        let manifest = format!("{{\"number\": {number}}}");
        registry.put_manifest("a/b", Some(&format!("t{number}")), OCI_MANIFEST, manifest);
        mirror.manifest("a/b", &format!("t{number}")).await;
    }
    assert_stores(&registry, &mirror).await;
    let free = rustix::fs::statvfs(&mounted.0).unwrap().f_favail;
    assert!((9..200).contains(&free), "{free} inodes are free");
    let trouble = mirror.metric("pierglass_store_trouble", &[]).await;
    assert_eq!(trouble, Some(0.0), "{}", mirror.output());
}

/// A request to an upstream that announces much, and a client that hangs up, evicted 28 of 40 blobs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_size_evicts_nothing() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("40MiB"));
    let mut stored = Vec::new();
    for seed in 0..30 {
        let digest = registry.put_generated_blob("a/b", seed, MIB);
        mirror.store_blob("a/b", &digest).await;
        stored.push(digest);
    }
    let large = registry.put_generated_blob("a/b", 100, 36 * MIB);
    let stall = Fault::Stall(100_000, Duration::from_secs(60));
    let stalled = registry.fault(On::blob().containing(&large), stall);
    let url = mirror.blob_url("a/b", &large);
    let reading = tokio::spawn(async move { Downloading::default().run(&url, &[]).await });
    eventually("the announcement", || registry.struck(stalled) == 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    reading.abort();
    let left = blobs(&mirror.store_path());
    let lost = stored.iter().filter(|digest| !left.contains(*digest));
    assert_eq!(lost.count(), 0);
}

/// It is refused before anything is evicted for it, and passes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_fit_evicts_nothing() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("20MiB"));
    for seed in 0..10 {
        let digest = registry.put_generated_blob("a/b", seed, MIB);
        mirror.store_blob("a/b", &digest).await;
    }
    let large = registry.put_generated_blob("a/b", 100, 21 * MIB);
    let answer = download(&mirror.blob_url("a/b", &large), &[])
        .await
        .unwrap();
    answer.assert_is(&large);
    assert_eq!(answer.header("cache-status"), Some("pierglass; fwd=bypass"));
    assert_eq!(blobs(&mirror.store_path()).len(), 10);
}

/// One pull of many new layers flushed what is pulled every day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_daily_outlives_one_large_pull() {
    let (registry, mut mirror) = scene::start_with(|config| config.max_size("20MiB"));
    let mut daily = Vec::new();
    for seed in 0..6 {
        let digest = registry.put_generated_blob("a/b", seed, MIB);
        mirror.store_blob("a/b", &digest).await;
        daily.push(digest);
    }
    mirror.term_and_wait();
    // As after uses on another day.
    for digest in &daily {
        let file = std::fs::File::options()
            .write(true)
            .open(blob_file(&mirror.store_path(), digest))
            .unwrap();
        let later = SystemTime::now() + Duration::from_secs(2 * 3600);
        file.set_modified(later).unwrap();
        if file.metadata().unwrap().created().is_err() {
            return;
        }
    }
    mirror.restart();
    for seed in 100..130 {
        let digest = registry.put_generated_blob("a/b", seed, MIB);
        mirror.store_blob("a/b", &digest).await;
    }
    let left = blobs(&mirror.store_path());
    assert!(daily.iter().all(|digest| left.contains(digest)));
    assert!(left.len() > 10 && left.len() < 20, "{}", left.len());
}

/// A namespace of 190 bytes put the whole store into trouble: the name of the file being written was too long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_namespace_is_stored_like_any_other() {
    let host = format!("{0}.{0}.{0}.example", "h".repeat(60));
    let (registry, mirror) = scene::start_with(plain);
    let long = FakeRegistry::builder().start_now();
    drop(mirror);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).upstream(&host, &long));
    let digest = long.put_generated_blob("a/b", 1, MIB);
    let url = format!("{}?ns={host}", mirror.blob_url("a/b", &digest));
    download(&url, &[]).await.unwrap().assert_is(&digest);
    eventually("the commit", || {
        blobs(&mirror.store_path()).contains(&digest)
    });
    assert_stores(&registry, &mirror).await;
    let trouble = mirror.metric("pierglass_store_trouble", &[]).await;
    assert_eq!(trouble, Some(0.0));
}
