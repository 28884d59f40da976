//! Killed between any two system calls, the store is right; failed by any of them, pulls are.
//!
//! The program runs as shipped, without a hook in it: strace stops it before its n-th call of a kind, n from 1 on,
//! until all that it does was done undisturbed. So what a new version does is covered too, without a list of places.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::programs::Program;
use crate::support::client::{self, download};
use crate::support::disk::{blob_file, blobs, eventually, files};
use crate::support::mirror::sum_of;
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig, digest_of};

const PATIENCE: Duration = Duration::from_secs(30);
const REPO: &str = "acme/app";

/// What changes something on disk, by all the names it has on one architecture or another.
const CHANGES: &[&str] = &[
    "fallocate",
    "pwritev",
    "ftruncate",
    "fsetxattr",
    "fsync",
    "fdatasync",
    "mkdir,?mkdirat",
    "rename,?renameat,?renameat2",
    "unlink,?unlinkat",
    "openat",
    "write",
];

/// More of one kind than a pull makes in one thread.
const MOST: usize = 60;

/// strace, attached to all threads of a program.
#[expect(dead_code, reason = "ends strace when it is dropped")]
struct Tampering(Program);

impl Tampering {
    fn with(mirror: &Mirror, directory: &Path, calls: &str, what: &str) -> Self {
        let pid = mirror.pid();
        let log = directory.join("strace.log");
        let known = calls.replace("?", "");
        let inject = format!("inject={known}:{what}");
        let mut strace = Program::start("strace", "strace", log, |command: &mut Command| {
            command
                .args(["-f", "-qqq", "-o", "/dev/null"])
                .args(["-e", &format!("trace={calls}"), "-e", &inject])
                .args(["-p", &pid.to_string()]);
        });
        strace.wait_until(|| is_traced(pid).then_some(()));
        Self(strace)
    }
}

fn is_traced(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let mut statuses = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("status")).ok());
    statuses.all(|status| {
        let tracer = status
            .lines()
            .find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.is_some_and(|tracer| tracer.trim() != "0")
    })
}

fn is_alive(pid: u32) -> bool {
    // A process that was killed and not waited for has no memory any more.
    std::fs::read_to_string(format!("/proc/{pid}/status"))
        .is_ok_and(|status| status.contains("VmRSS"))
}

/// Pulls an image as far as it goes; what comes whole is right. Says whether all of it came.
async fn pull(mirror: &Mirror, tag: &str, image: &Image) -> bool {
    let mut whole = true;
    for reference in [tag, &image.digest] {
        match client::get(&mirror.manifest_url(REPO, reference), &[]).await {
            Ok(answer) if answer.status == 200 => assert_eq!(answer.body, image.manifest),
            _ => whole = false,
        }
    }
    for digest in image.blobs() {
        match download(&mirror.blob_url(REPO, &digest), &[]).await {
            Ok(got) if got.status == 200 && got.error.is_none() => got.assert_is(&digest),
            _ => whole = false,
        }
    }
    whole
}

/// Fills under way, unless the mirror dies over the question.
async fn fills(mirror: &Mirror) -> Option<f64> {
    let url = format!("{}/metrics", mirror.admin_url());
    let answer = client::get(&url, &[]).await.ok()?;
    sum_of(&answer.text(), "pierglass_fills_in_flight", &[])
}

/// All commits are done, and what they leave behind is swept.
async fn settled(mirror: &Mirror) {
    let deadline = Instant::now() + PATIENCE;
    let store = mirror.store_path();
    while is_alive(mirror.pid())
        && (fills(mirror).await != Some(0.0) || !files(&store.join("trash")).is_empty())
    {
        assert!(Instant::now() < deadline, "it does not come to rest");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everything under a final name is what its name says.
fn assert_store_is_right(store: &Path, moment: &str) {
    for digest in blobs(store) {
        let bytes = std::fs::read(blob_file(store, &digest)).unwrap();
        assert_eq!(digest_of(&bytes), digest, "{moment}");
    }
}

struct Rounds {
    registry: FakeRegistry,
    mirror: Mirror,
    seed: u64,
    kills: usize,
}

impl Rounds {
    async fn begin(max_size: &str) -> Self {
        let registry = FakeRegistry::start().await;
        let config = MirrorConfig::for_upstream(&registry)
            .max_size(max_size)
            .tag_ttl("1h");
        let mirror = Mirror::start(config);
        Self {
            registry,
            mirror,
            seed: 0,
            kills: 0,
        }
    }

    fn new_image(&mut self) -> (String, Image) {
        self.seed += 1;
        let image = Image::random(self.seed, &[1_500_000, 2000]);
        let tag = format!("t{}", self.seed);
        self.registry.put_image(REPO, Some(&tag), &image);
        (tag, image)
    }

    /// Kills the mirror before its `nth` call, pulling an image; false if it did not make so many.
    async fn kill_before(&mut self, calls: &str, nth: usize) -> bool {
        let directory = tempfile::tempdir().unwrap();
        let (tag, image) = self.new_image();
        let what = format!("signal=KILL:when={nth}");
        let strace = Tampering::with(&self.mirror, directory.path(), calls, &what);
        pull(&self.mirror, &tag, &image).await;
        settled(&self.mirror).await;
        drop(strace);
        let killed = !is_alive(self.mirror.pid());
        let moment = format!("killed before call {nth} of {calls}");
        let store = self.mirror.store_path();
        assert_store_is_right(&store, &moment);
        if killed {
            self.kills += 1;
            let before = blobs(&store);
            self.mirror.restart();
            self.mirror
                .wait_for_log(PATIENCE, |line| line.to_string().contains("store counted"));
            eventually("the sweeping", || {
                files(&store.join("ingest")).is_empty() && files(&store.join("trash")).is_empty()
            });
            let figure = self.mirror.metric("pierglass_store_bytes", &[]).await;
            let (figure, du) = (figure.unwrap() as u64, self.mirror.du());
            assert!(figure >= du, "{moment}: {figure} counted, {du} on disk");
            assert!(
                before.is_subset(&blobs(&store)),
                "{moment}: something was lost"
            );
        }
        assert!(pull(&self.mirror, &tag, &image).await, "{moment}");
        settled(&self.mirror).await;
        assert_store_is_right(&store, &moment);
        killed
    }

    async fn kill_everywhere(&mut self) {
        for calls in CHANGES {
            let mut nth = 1;
            while nth <= MOST && self.kill_before(calls, nth).await {
                nth += 1;
            }
            println!("{calls}: killed before each of {}", nth - 1);
        }
        assert!(self.kills >= 20, "{} kills", self.kills);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_calls_of_a_commit_nothing_is_lost_or_wrong() {
    let mut rounds = Rounds::begin("1GiB").await;
    let (tag, image) = rounds.new_image();
    assert!(pull(&rounds.mirror, &tag, &image).await);
    settled(&rounds.mirror).await;
    rounds.kill_everywhere().await;
    // What was at rest before the first kill has lived through all of them.
    rounds.registry.down();
    assert!(pull(&rounds.mirror, &tag, &image).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_any_two_calls_of_an_eviction_the_store_is_right() {
    let mut rounds = Rounds::begin("6MiB").await;
    for _ in 0..4 {
        let (tag, image) = rounds.new_image();
        assert!(pull(&rounds.mirror, &tag, &image).await);
        settled(&rounds.mirror).await;
    }
    rounds.kill_everywhere().await;
    assert!(rounds.mirror.du() <= 6 * 1024 * 1024);
}

/// What can fail, how, and whether the store must notice that it cannot be written to.
const FAILURES: &[(&str, &str)] = &[
    ("fallocate", "ENOSPC"),
    ("pwritev", "ENOSPC"),
    ("pwritev", "EIO"),
    ("fsync", "EIO"),
    ("fsetxattr", "ENOSPC"),
    ("mkdir,?mkdirat", "EROFS"),
    ("rename,?renameat,?renameat2", "EROFS"),
    ("rename,?renameat,?renameat2", "EACCES"),
    ("unlink,?unlinkat", "EIO"),
    ("preadv2", "EIO"),
    ("pread64", "EIO"),
    ("preadv2,pread64", "EIO"),
    ("statfs,?fstatfs", "EIO"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_disk_refuses_pulls_go_on_and_it_heals() {
    let mut rounds = Rounds::begin("6MiB").await;
    for (calls, error) in FAILURES {
        let directory = tempfile::tempdir().unwrap();
        let (stored_tag, stored) = rounds.new_image();
        assert!(pull(&rounds.mirror, &stored_tag, &stored).await);
        settled(&rounds.mirror).await;
        let strace = Tampering::with(
            &rounds.mirror,
            directory.path(),
            calls,
            &format!("error={error}"),
        );
        let moment = format!("{calls} fails with {error}");
        assert!(pull(&rounds.mirror, &stored_tag, &stored).await, "{moment}");
        for _ in 0..3 {
            let (tag, image) = rounds.new_image();
            assert!(pull(&rounds.mirror, &tag, &image).await, "{moment}");
            assert!(pull(&rounds.mirror, &tag, &image).await, "{moment}");
        }
        assert!(rounds.mirror.du() <= 6 * 1024 * 1024, "{moment}");
        drop(strace);
        let healed = Instant::now() + PATIENCE;
        while rounds.mirror.metric("pierglass_store_trouble", &[]).await != Some(0.0) {
            assert!(
                Instant::now() < healed,
                "{moment}: {}",
                rounds.mirror.output()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        settled(&rounds.mirror).await;
        // Caching is back: what is pulled now is here without upstream.
        let (tag, image) = rounds.new_image();
        assert!(pull(&rounds.mirror, &tag, &image).await, "{moment}");
        settled(&rounds.mirror).await;
        rounds.registry.down();
        assert!(pull(&rounds.mirror, &tag, &image).await, "after {moment}");
        rounds.registry.up();
        assert_store_is_right(&rounds.mirror.store_path(), &moment);
        println!("{moment}: pulls went on, and it healed");
    }
    let output = rounds.mirror.output();
    assert!(!output.contains("panicked"), "{output}");
    for cause in ["full", "io", "read_only", "denied"] {
        let told = output.lines().filter(|line| {
            line.contains("cannot be written;") && line.contains(&format!("\"{cause}\""))
        });
        assert!(told.count() <= 1, "{cause} was told again and again");
    }
}
