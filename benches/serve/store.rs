//! A store with many blobs: how soon it answers after a start, what memory it takes, and whether a lookup
//! costs more than in a small one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::fixture::{Fixture, Image};
use crate::load::{self, Request, Until};
use crate::peers::Mirror;
use crate::report::{Bound, Report, Workload};
use crate::usage;

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let counts: &[u64] = plan.pick(&[10_000], &[1_000, 10_000, 100_000, 1_000_000]);
    let wanted: Vec<_> = counts
        .iter()
        .filter(|count| plan.wants(&name(**count)))
        .collect();
    if wanted.is_empty() {
        return;
    }
    let directory = fixture.scratch();
    let empty = memory_of_an_empty_store(fixture);
    // Makes the store a store.
    drop(
        Mirror {
            store: Some(directory.path()),
            ..Mirror::default()
        }
        .start(fixture),
    );
    let mut made = 0;
    for count in wanted {
        made = fill(directory.path(), made, *count);
        report.begin(Workload {
            name: name(*count),
            figure: "bytes a blob",
            more_is_better: false,
            against: &[],
            bounds: if *count >= 100_000 {
                vec![
                    ("bytes a blob", Bound::Figure(160.0)),
                    ("first answer ms", Bound::Figure(1000.0)),
                ]
            } else {
                Vec::new()
            },
        });
        for round in 0..plan.rounds.min(3) {
            once(fixture, directory.path(), *count, round, empty, report);
        }
        report.end();
        // The store loses some, which `fill` writes again.
        if *count >= 10_000 {
            eviction(fixture, report, directory.path(), *count);
            made = 0;
        }
    }
}

/// What it costs to make room in a store of many small blobs, beside what the same transfers cost without.
fn eviction(fixture: &Fixture, report: &mut Report, store: &Path, count: u64) {
    let name = format!("eviction from {count} blobs");
    report.begin(Workload {
        name,
        figure: "CPU us a blob evicted",
        more_is_better: false,
        against: &[],
        bounds: Vec::new(),
    });
    let (roomy, full) = fixture.images.split_at(fixture.images.len() / 2);
    let layer = |image: &Image| image.blobs[2].clone();
    for image in &fixture.images {
        // From a smaller store, measured before.
        let hex = layer(image).digest.replace("sha256:", "");
        let _ = fs::remove_file(store.join("blobs/sha256").join(&hex[..2]).join(hex));
    }
    let mut cpu = [0.0; 2];
    let mut evicted = 0;
    for ((images, max_size), cpu) in [(roomy, None), (full, Some(taken(store)))]
        .into_iter()
        .zip(&mut cpu)
    {
        let peer = Mirror {
            store: Some(store),
            quiet: true,
            max_size,
            ..Mirror::default()
        }
        .start(fixture);
        while !at_rest(&peer) {}
        let manifests = images.iter().map(|image| Request::get(&image.by_tag()));
        load::run(peer.address, vec![manifests.collect()], Until::Done).expect_complete(peer.name);
        let there = blobs(store);
        let before = peer.cpu();
        let script = images
            .iter()
            .map(|image| Request::get(&layer(image).path()));
        load::run(peer.address, vec![script.collect()], Until::Done).expect_complete(peer.name);
        while !at_rest(&peer) {}
        *cpu = peer.cpu().since(&before);
        evicted = there + images.len() - blobs(store);
    }
    let evicted = evicted as f64;
    let figures = vec![
        ("CPU us a blob evicted", (cpu[1] - cpu[0]) * 1e6 / evicted),
        ("blobs evicted", evicted),
    ];
    report.note("pierglass", 0, figures, false);
    report.end();
}

/// How many blobs there are.
fn blobs(store: &Path) -> usize {
    let directories = fs::read_dir(store.join("blobs/sha256")).unwrap();
    let counts =
        directories.map(|directory| fs::read_dir(directory.unwrap().path()).unwrap().count());
    counts.sum()
}

/// Bytes of disk below a directory.
fn taken(store: &Path) -> u64 {
    let output = Command::new("du")
        .arg("-s")
        .arg("-B1")
        .arg(store)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn name(count: u64) -> String {
    format!("start with {count} blobs")
}

fn once(
    fixture: &Fixture,
    store: &Path,
    count: u64,
    round: usize,
    empty: f64,
    report: &mut Report,
) {
    let started = Instant::now();
    let peer = Mirror {
        store: Some(store),
        quiet: true,
        ..Mirror::default()
    }
    .start(fixture);
    let base = vec![Request::get("/v2/")];
    load::run(peer.address, vec![base], Until::Done).expect_complete("first answer");
    let first = started.elapsed();
    let before = peer.cpu();
    while !at_rest(&peer) {}
    let scanned = peer.cpu().since(&before);
    let at_once = usage::anonymous(&peer.processes());
    // What the counting took meanwhile goes back to the system after ten seconds.
    if count >= 100_000 {
        std::thread::sleep(Duration::from_secs(12));
    }
    let memory = usage::anonymous(&peer.processes());
    let bytes_a_blob = |memory: f64| (memory - empty).max(0.0) * 1024.0 / count as f64;
    let request = Request::get(&fixture.sizes.blobs[1].path());
    let introduce = vec![Request::get(&fixture.sizes.by_tag()), request.clone()];
    load::run(peer.address, vec![introduce], Until::Done).expect_complete("a blob");
    let before = peer.cpu();
    let scripts = vec![vec![request]; 8];
    let outcome = load::run(
        peer.address,
        scripts,
        Until::After(Duration::from_millis(500)),
    );
    let lookup = peer.cpu().since(&before) * 1e6 / outcome.requests as f64;
    let figures = vec![
        ("first answer ms", first.as_secs_f64() * 1000.0),
        ("scan CPU s", scanned),
        ("bytes a blob", bytes_a_blob(memory)),
        ("when just counted", bytes_a_blob(at_once)),
        ("CPU us a 4 KiB blob served", lookup),
    ];
    report.note(
        peer.name,
        round,
        figures,
        outcome.client_was_the_bottleneck(),
    );
}

fn memory_of_an_empty_store(fixture: &Fixture) -> f64 {
    let peer = Mirror {
        quiet: true,
        ..Mirror::default()
    }
    .start(fixture);
    while !at_rest(&peer) {}
    usage::anonymous(&peer.processes())
}

fn at_rest(peer: &crate::peers::Peer) -> bool {
    let before = peer.cpu();
    std::thread::sleep(Duration::from_millis(300));
    peer.cpu().since(&before) < 0.005
}

/// Makes blobs number `from` to `upto`: a few bytes each, under names that no content has.
fn fill(store: &Path, from: u64, upto: u64) -> u64 {
    let blobs = store.join("blobs/sha256");
    for number in from..upto {
        let name = format!(
            "{:016x}{number:048x}",
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        );
        let directory = blobs.join(&name[..2]);
        if number < 4096 {
            fs::create_dir_all(&directory).unwrap();
        }
        fs::write(directory.join(name), b"blob").unwrap();
    }
    upto
}
