//! A disk in trouble must cost no pull, must be told once, and must be used again when it is well.

use std::time::Duration;

use crate::disks::{Disk, Failing, Immutable, ReadOnly};
use crate::support::client::{self, Download, Downloading, download};
use crate::support::disk::{blob_file, blobs, eventually, files};
use crate::support::mirror::log_field;
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, until};

const MIB: u64 = 1024 * 1024;
const REPO: &str = "acme/app";

/// A mirror, its upstream, and blobs that no client has asked for yet.
struct Scene {
    registry: FakeRegistry,
    mirror: Mirror,
    next: u64,
}

impl Scene {
    async fn on(store: Option<&Disk>) -> Scene {
        let registry = FakeRegistry::start().await;
        let config = MirrorConfig::for_upstream(&registry)
            .max_size("48MiB")
            .store("min_free", "\"1MiB\"");
        let config = match store {
            Some(disk) => config.store_path(&disk.store()),
            None => config,
        };
        Scene {
            registry,
            mirror: Mirror::start(config),
            next: 0,
        }
    }

    /// A blob of that size, cold.
    fn cold(&mut self, size: u64) -> String {
        self.next += 1;
        self.registry.put_generated_blob(REPO, self.next, size)
    }

    async fn pull(&self, digest: &str) -> Download {
        let url = self.mirror.blob_url(REPO, digest);
        let got = download(&url, &[]).await.unwrap();
        got.assert_is(digest);
        got
    }

    /// A blob that is stored, by now.
    async fn stored(&mut self, size: u64) -> String {
        let digest = self.cold(size);
        self.pull(&digest).await;
        self.wait_until_stored(&digest);
        digest
    }

    #[track_caller]
    fn wait_until_stored(&self, digest: &str) {
        let store = self.mirror.store_path();
        eventually("the commit", || blobs(&store).contains(digest));
    }

    async fn ready(&self) -> (u16, String) {
        let url = format!("{}/readyz", self.mirror.admin_url());
        let answer = client::get(&url, &[]).await.unwrap();
        (answer.status.as_u16(), answer.text())
    }

    async fn trouble(&self, cause: &str) -> f64 {
        let labels = [("cause", cause)];
        let value = self.mirror.metric("pierglass_store_trouble", &labels).await;
        value.unwrap_or(f64::NAN)
    }

    /// How often the log tells of that cause, as an error.
    fn told(&self, cause: &str) -> usize {
        let about = |line: &&serde_json::Value| {
            log_field(line, "cause").is_some_and(|logged| logged == cause)
                && log_field(line, "level").is_some_and(|level| level == "ERROR")
        };
        self.mirror.logs().iter().filter(about).count()
    }

    /// While there is trouble: ten cold pulls are whole, the operator is told, once.
    async fn pulls_go_on(&mut self, cause: &str) {
        for _ in 0..10 {
            let digest = self.cold(2 * MIB);
            self.pull(&digest).await;
        }
        until("the trouble is in the metrics", async || {
            self.trouble(cause).await == 1.0
        })
        .await;
        let (status, text) = self.ready().await;
        assert_eq!(status, 200, "{text}");
        assert!(text.contains(&format!("store: {cause}")), "{text}");
        assert_eq!(self.told(cause), 1, "{}", self.mirror.output());
        let digest = self.cold(MIB);
        let got = self.pull(&digest).await;
        let status = got.header("cache-status");
        assert_eq!(status, Some("pierglass; fwd=bypass"));
    }

    /// After the trouble, without a restart: what is pulled is stored.
    async fn heals(&mut self) {
        let pid = self.mirror.pid();
        until("the trouble is over", async || {
            let metrics = self.mirror.metric("pierglass_store_trouble", &[]).await;
            metrics == Some(0.0)
        })
        .await;
        assert_eq!(self.ready().await, (200, "ready\n".to_owned()));
        // While the files are counted again there is no room that anything waits for: what is pulled then is not kept.
        let digest = self.cold(3 * MIB);
        until("what is pulled is stored", async || {
            let got = self.pull(&digest).await;
            got.header("cache-status") == Some("pierglass; hit")
        })
        .await;
        assert_eq!(self.mirror.pid(), pid);
        let store = self.mirror.store_path();
        eventually("nothing is left behind", || {
            files(&store.join("trash")).is_empty()
        });
    }
}

/// A transfer under way, and what becomes of it.
type Running = tokio::task::JoinHandle<Result<Download, String>>;

fn begin(scene: &Scene, digest: &str) -> Running {
    let url = scene.mirror.blob_url(REPO, digest);
    tokio::spawn(async move { download(&url, &[]).await })
}

async fn filled_up(disk: Disk) {
    let mut scene = Scene::on(Some(&disk)).await;
    let kept = scene.stored(MIB).await;
    // In the middle of a transfer, with its room reserved.
    let large = scene.cold(24 * MIB);
    scene.registry.set_rate(12 * MIB);
    let running = [begin(&scene, &large), begin(&scene, &large)];
    let ingests = scene.mirror.store_path().join("ingest");
    eventually("the transfer", || {
        let lengths = files(&ingests)
            .into_iter()
            .filter_map(|path| path.metadata().ok());
        let written = lengths.map(|file| file.len());
        written.max().unwrap_or(0) > 4 * MIB
    });
    let hog = disk.hog();
    hog.wait_until_full();
    for running in running {
        running.await.unwrap().unwrap().assert_is(&large);
    }
    scene.registry.set_rate(0);
    scene.pulls_go_on("full").await;
    scene.pull(&kept).await;
    drop(hog);
    scene.heals().await;
}

/// The client was told a length, the disk filled up, and upstream said another length then: the bytes were right, and
/// their end was missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_has_another_length_when_it_goes_on_does_not_end_cleanly() {
    let disk = Disk::tmpfs();
    let mut scene = Scene::on(Some(&disk)).await;
    // For more than this the room is taken at the start.
    let large = scene.cold(1000 * 1000);
    let shorter = scene
        .registry
        .fault(On::blob().get(), Fault::WrongLength(-354));
    scene.registry.set_rate(400 * 1000);
    let running = begin(&scene, &large);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let hog = disk.hog();
    hog.wait_until_full();
    let got = running.await.unwrap().unwrap();
    assert_eq!(scene.registry.struck(shorter), 1);
    assert!(got.error.is_some(), "a clean end after {} bytes", got.bytes);
    scene.registry.set_rate(0);
    scene.pull(&large).await;
    drop(hog);
    scene.heals().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tmpfs_that_others_fill_up_costs_no_pull() {
    filled_up(Disk::tmpfs()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ext4_that_others_fill_up_costs_no_pull() {
    filled_up(Disk::ext4()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_at_the_start_is_used_when_there_is_room() {
    let disk = Disk::tmpfs();
    let mut scene = Scene::on(Some(&disk)).await;
    let kept = scene.stored(MIB).await;
    let hog = disk.hog();
    hog.wait_until_full();
    scene.mirror.restart();
    scene.pulls_go_on("full").await;
    scene.pull(&kept).await;
    drop(hog);
    scene.heals().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_becomes_read_only_serves_and_passes_through() {
    let mut scene = Scene::on(None).await;
    let kept = scene.stored(MIB).await;
    let over = ReadOnly::lay_over(&scene.mirror.store_path());
    scene.pulls_go_on("read_only").await;
    let again = scene.pull(&kept).await;
    assert_eq!(again.header("cache-status"), Some("pierglass; hit"));
    drop(over);
    scene.heals().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_permissions_serves_and_passes_through() {
    let mut scene = Scene::on(None).await;
    let kept = scene.stored(MIB).await;
    let denied = Immutable::make(&scene.mirror.store_path().join("ingest"));
    scene.pulls_go_on("denied").await;
    let again = scene.pull(&kept).await;
    assert_eq!(again.header("cache-status"), Some("pierglass; hit"));
    drop(denied);
    scene.heals().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_removed_under_the_mirror_is_created_again() {
    let mut scene = Scene::on(None).await;
    scene.stored(MIB).await;
    let large = scene.cold(24 * MIB);
    scene.registry.set_rate(12 * MIB);
    let running = begin(&scene, &large);
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::remove_dir_all(scene.mirror.store_path()).unwrap();
    running.await.unwrap().unwrap().assert_is(&large);
    scene.registry.set_rate(0);
    for _ in 0..3 {
        let digest = scene.cold(MIB);
        scene.pull(&digest).await;
    }
    scene.heals().await;
}

/// Reads fail in the middle of a body that is being sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_read_a_blob_to_its_end_costs_no_pull() {
    let mut scene = Scene::on(None).await;
    let stored = scene.stored(24 * MIB).await;
    let url = scene.mirror.blob_url(REPO, &stored);
    let slowly = Downloading {
        bytes_per_sec: Some(12 * MIB),
        ..Downloading::default()
    };
    let running = tokio::spawn(async move { slowly.run(&url, &[]).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = tempfile::TempDir::with_prefix("pg-").unwrap();
    // Not sendfile: it sends what the page cache was seen to have, for which no disk is read.
    let calls = "preadv2,preadv,pread64";
    let failing = Failing::make(scene.mirror.pid(), calls, "EIO", &log.path().join("strace"));
    running.await.unwrap().unwrap().assert_is(&stored);
    scene.pull(&stored).await;
    drop(failing);
    let injected = std::fs::read_to_string(log.path().join("strace")).unwrap();
    assert!(injected.contains("INJECTED"), "no read has failed");
    scene.pull(&stored).await;
    scene.wait_until_stored(&stored);
    let again = scene.pull(&stored).await;
    assert_eq!(again.header("cache-status"), Some("pierglass; hit"));
}

/// What was written is not on the disk: it must not get its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_sync_keeps_nothing_and_costs_no_pull() {
    let mut scene = Scene::on(None).await;
    let log = tempfile::TempDir::with_prefix("pg-").unwrap();
    let calls = "fsync,fdatasync";
    let failing = Failing::make(scene.mirror.pid(), calls, "EIO", &log.path().join("strace"));
    let first = scene.cold(2 * MIB);
    scene.pull(&first).await;
    scene.pulls_go_on("io").await;
    assert!(!blob_file(&scene.mirror.store_path(), &first).exists());
    drop(failing);
    let injected = std::fs::read_to_string(log.path().join("strace")).unwrap();
    assert!(injected.contains("INJECTED"), "no sync has failed");
    scene.heals().await;
}
