//! After the storm: everything can be pulled again, nothing stored is wrong, and nothing was left behind.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::gauge::{Gauge, Measured, resident};
use crate::puller::{self, Stop};
use crate::support::content::digest_of;
use crate::support::disk::{blobs, files};
use crate::support::{FakeRegistry, Mirror, client};
use crate::world::{Manifest, Repo};
use crate::{MAX_SIZE, Run};

/// An upstream that failed may be left alone for a while, and a disk is looked at again after a while.
const HEALING: Duration = Duration::from_secs(90);
/// Above what was used in the first half of a run.
const SLACK: u64 = 48 * 1024 * 1024;
/// More than that is never right, whatever was pulled.
const MOST: u64 = 256 * 1024 * 1024;
/// Each file and directory counts as 4 KiB at least, and the store's own few are not evicted.
const MOST_FILES: u64 = MAX_SIZE / 4096 + 32;
/// Requests at the hostile registry for each request of a hostile client: a token, a HEAD, a GET, a second try.
const MOST_FOR_ONE: u64 = 4;
/// Connections of the log, the admin address and our own questions.
const FEW: usize = 12;

pub fn reach(run: &Run, gauge: Gauge, runtime: &Runtime) {
    something_was_proved(run);
    runtime.block_on(everything_can_be_pulled(run));
    runtime.block_on(what_is_pulled_is_kept(run));
    let mirror = run.mirror.lock().unwrap();
    runtime.block_on(becomes_quiet(run, &mirror));
    nothing_stored_is_wrong(run);
    let bytes = runtime.block_on(mirror.metric("pierglass_store_bytes", &[]));
    let Measured { du, files, memory } = gauge.end();
    run.tally.max_files.store(files, Ordering::Relaxed);
    if files > MOST_FILES {
        run.tally
            .wrong(format!("the store had {files} files and directories"));
    }
    upstream_is_not_flooded(run);
    run.tally.max_du.store(du, Ordering::Relaxed);
    if du > MAX_SIZE {
        run.tally
            .wrong(format!("the store took {du} bytes of {MAX_SIZE}"));
    }
    if bytes.is_none_or(|bytes| bytes > MAX_SIZE as f64 || bytes < mirror.du() as f64) {
        let du = mirror.du();
        run.tally
            .wrong(format!("counted {bytes:?} bytes, on disk {du}"));
    }
    memory_is_flat(run, &memory, mirror.pid());
    runtime.block_on(nothing_is_held(run, &mirror));
    run.tally.read_log(&mirror.output());
}

/// A storm in which nothing is pulled, or nothing breaks, would pass as well.
fn something_was_proved(run: &Run) {
    let completed = run.tally.completed.load(Ordering::Relaxed);
    let kills = run.tally.kills.load(Ordering::Relaxed);
    let struck = run.tally.struck.load(Ordering::Relaxed);
    let attacks = run.tally.attacks.load(Ordering::Relaxed);
    if completed < 10 || kills == 0 || struck == 0 || attacks < 10 {
        run.tally.wrong(format!(
            "proves nothing: {completed} pulls, {kills} kills, {struck} faults, {attacks} attacks"
        ));
    }
}

/// Only hostile clients ask for what the hostile registry has.
fn upstream_is_not_flooded(run: &Run) {
    let asked = run.tally.hostile_requests.load(Ordering::Relaxed);
    let reached = run.tally.evil_requests.load(Ordering::Relaxed);
    if reached > asked * MOST_FOR_ONE {
        run.tally.wrong(format!(
            "{asked} requests of hostile clients became {reached} upstream"
        ));
    }
}

async fn everything_can_be_pulled(run: &Run) {
    let deadline = Instant::now() + HEALING;
    let mut dice = run.dice(3);
    for repo in &run.world.repos {
        for tag in &repo.tags {
            while let Err(stop) = puller::resolve(run, repo, tag, &mut dice).await {
                if late(run, deadline, &format!("{}:{tag}", repo.path), &stop).await {
                    return;
                }
            }
        }
        for manifest in &repo.manifests {
            let name = format!("{}@{}", repo.path, manifest.digest);
            while let Err(stop) = puller::pull_all(run, repo, manifest).await {
                if late(run, deadline, &name, &stop).await {
                    return;
                }
            }
        }
    }
}

async fn late(run: &Run, deadline: Instant, name: &str, stop: &Stop) -> bool {
    if Instant::now() > deadline {
        run.tally.wrong(format!(
            "{HEALING:?} after the storm {name} cannot be pulled: {stop:?}"
        ));
        return true;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    false
}

/// A small image, so that it has room: the second time it is a hit, or the mirror only passes through by now.
async fn what_is_pulled_is_kept(run: &Run) {
    let size = |manifest: &Manifest| -> u64 {
        let sizes = manifest.blobs.iter().map(|blob| blob.content.len());
        sizes.sum()
    };
    let images = run.world.repos.iter().flat_map(|repo| {
        let images = repo.manifests.iter();
        images.map(move |manifest| (repo, manifest))
    });
    let small = images.filter(|(_, manifest)| !manifest.blobs.is_empty());
    let (repo, manifest): (&Repo, &Manifest) =
        small.min_by_key(|(_, manifest)| size(manifest)).unwrap();
    let deadline = Instant::now() + HEALING;
    loop {
        let pulled = puller::pull_all(run, repo, manifest).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut statuses = Vec::new();
        for blob in &manifest.blobs {
            let url = format!("{}/v2/{}/blobs/{}", run.url, repo.path, blob.digest);
            let answer = client::get(&url, &[]).await;
            statuses.push(answer.map_or_else(
                |error| error,
                |answer| answer.header("cache-status").unwrap_or_default().to_owned(),
            ));
        }
        if statuses
            .iter()
            .all(|status| status.starts_with("pierglass; hit"))
        {
            return;
        }
        if Instant::now() > deadline {
            run.tally.wrong(format!(
                "{HEALING:?} after the storm nothing is kept: {statuses:?}, {pulled:?}"
            ));
            return;
        }
    }
}

async fn becomes_quiet(run: &Run, mirror: &Mirror) {
    let store = mirror.store_path();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let fills = mirror.metric("pierglass_fills_in_flight", &[]).await;
        let trash = files(&store.join("trash")).len();
        if fills.unwrap_or(0.0) == 0.0 && trash == 0 {
            return;
        }
        if Instant::now() > deadline {
            run.tally.wrong(format!(
                "never quiet: {fills:?} fills, {trash} files in the trash"
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All that was damaged was asked for since, and so was noticed: there is no excuse for a single file.
fn nothing_stored_is_wrong(run: &Run) {
    let store = run.ground.store();
    for path in files(&store.join("blobs")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let Ok(bytes) = std::fs::read(&path) else {
            continue;
        };
        if digest_of(&bytes) != format!("sha256:{name}") {
            run.tally
                .wrong(format!("stored and wrong: {name}, {} bytes", bytes.len()));
        }
    }
    if blobs(&store).is_empty() {
        run.tally.wrong("nothing is stored in the end".into());
    }
}

fn memory_is_flat(run: &Run, samples: &[u64], pid: u32) {
    let most = |samples: &[u64]| samples.iter().copied().max().unwrap_or(0);
    run.tally.max_rss.store(most(samples), Ordering::Relaxed);
    let (first, last) = samples.split_at(samples.len() / 2);
    let now = resident(pid).unwrap_or(0);
    if most(samples) > MOST || most(last).max(now) > most(first) + SLACK {
        run.tally.wrong(format!(
            "memory grows: at most {} in the first half, {} in the second, {now} at rest",
            most(first),
            most(last)
        ));
    }
}

/// With its upstreams gone the mirror has no connection that it needs.
async fn nothing_is_held(run: &Run, mirror: &Mirror) {
    run.world.registries.iter().for_each(FakeRegistry::down);
    run.evil.down();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let open = sockets_and_files(mirror.pid(), &mirror.store_path());
        if open <= FEW {
            return;
        }
        if Instant::now() > deadline {
            run.tally.wrong(format!(
                "{open} sockets and files of the store are open at rest"
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What a leak would be made of.
fn sockets_and_files(pid: u32, store: &std::path::Path) -> usize {
    let links = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links
        .filter(|link| {
            let text = link.to_string_lossy();
            text.starts_with("socket:") || link.starts_with(store)
        })
        .count()
}
