//! Blobs that are stored: whole ones of several sizes, ranges, and over TLS.

use std::rc::Rc;

use crate::Plan;
use crate::fixture::{Blob, Fixture};
use crate::load::{self, Outcome, Request, Until, percentile};
use crate::peers::{Mirror, Nginx, PULL_THROUGH, Peer, pull_through};
use crate::report::{Bound, Figures, Report, Workload};
use crate::secure::{self, Certificate};
use crate::usage;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const NGINX: &[&str] = &["nginx", "nginx, tcp_nopush"];

/// Connections, and what CPU a GiB may cost beside nginx.
const STREAMS: [(usize, Option<f64>); 3] = [(1, Some(1.1)), (8, Some(0.8)), (64, None)];

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if plan.may_want("stored plain") || plan.may_want("stored range") {
        plain(plan, fixture, report);
    }
    if plan.may_want("stored tls") {
        tls(plan, fixture, report);
    }
}

fn plain(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    // nginx writes no log here either.
    let mirror = Mirror {
        quiet: true,
        ..Mirror::default()
    };
    let mut peers = vec![
        mirror.start(fixture),
        Nginx::files("nginx").start(fixture),
        Nginx {
            nopush: true,
            ..Nginx::files("nginx, tcp_nopush")
        }
        .start(fixture),
    ];
    peers.extend(mirror.other(plan).map(|other| other.start(fixture)));
    if !plan.quick {
        peers.push(pull_through(fixture, fixture.registry.address));
    }
    for peer in &peers {
        warm(fixture, peer);
    }
    let large = &fixture.large.blobs[1];
    for (connections, bound) in STREAMS {
        let (blob, times) = match connections {
            1 => (large, plan.pick(4, 2)),
            8 => (large, 1),
            _ => (&fixture.sizes.blobs[plan.pick(4, 5)], 1),
        };
        let name = format!(
            "stored plain, {} MiB, {connections} connections",
            blob.size >> 20
        );
        let script = vec![Request::get(&blob.path()); times];
        let job = Job {
            name,
            script,
            connections,
            bound,
        };
        job.run(plan, report, &peers, "CPU s/GiB", figures_of_streams);
    }
    for (place, name) in [(1, "4 KiB"), (2, "64 KiB"), (3, "1 MiB"), (4, "10 MiB")] {
        let blob = &fixture.sizes.blobs[place];
        let times = (plan.pick(1 << 28, 1 << 30) / (blob.size + 50_000) / 8) as usize;
        let name = format!("stored plain, {name}, 8 connections");
        let script = vec![Request::get(&blob.path()); times];
        let job = Job {
            name,
            script,
            connections: 8,
            bound: None,
        };
        job.run(plan, report, &peers, "CPU s/1000", figures_of_requests);
    }
    let script = scattered(large, plan.pick(500, 2000));
    let name = "stored range, 64 KiB scattered, 8 connections".to_owned();
    let job = Job {
        name,
        script,
        connections: 8,
        bound: None,
    };
    job.run(plan, report, &peers, "CPU s/1000", figures_of_requests);
}

struct Job {
    name: String,
    script: Vec<Rc<Request>>,
    connections: usize,
    /// Of the ratio.
    bound: Option<f64>,
}

impl Job {
    fn run(
        &self,
        plan: &Plan,
        report: &mut Report,
        peers: &[Peer],
        figure: &'static str,
        figures: fn(f64, &Outcome, f64) -> Figures,
    ) {
        if !plan.wants(&self.name) {
            return;
        }
        report.begin(Workload {
            name: self.name.clone(),
            figure,
            more_is_better: false,
            against: NGINX,
            bounds: self
                .bound
                .map(|bound| (figure, Bound::Ratio(bound)))
                .into_iter()
                .collect(),
        });
        for round in 0..plan.rounds {
            for peer in peers {
                // It takes minutes for small bodies, and is not what is compared with.
                if round > 0 && peer.name == PULL_THROUGH {
                    continue;
                }
                let processes = peer.processes();
                usage::forget_peak(&processes);
                let before = peer.cpu();
                let scripts = vec![self.script.clone(); self.connections];
                let outcome =
                    load::run(peer.address, scripts, Until::Done).expect_complete(peer.name);
                let cpu = peer.cpu().since(&before);
                let figures = figures(cpu, &outcome, usage::peak(&processes) / 1024.0);
                report.note(
                    peer.name,
                    round,
                    figures,
                    outcome.client_was_the_bottleneck(),
                );
            }
        }
        report.end();
    }
}

fn figures_of_streams(cpu: f64, outcome: &Outcome, peak: f64) -> Figures {
    let seconds = outcome.wall.as_secs_f64();
    vec![
        ("CPU s/GiB", cpu / (outcome.bytes as f64 / GIB)),
        ("MB/s", outcome.bytes as f64 / 1e6 / seconds),
        ("first byte p50 ms", milliseconds(outcome, 0.5)),
        ("p99 ms", milliseconds(outcome, 0.99)),
        ("peak MiB", peak),
    ]
}

fn figures_of_requests(cpu: f64, outcome: &Outcome, peak: f64) -> Figures {
    let seconds = outcome.wall.as_secs_f64();
    vec![
        ("CPU s/1000", cpu / (outcome.requests as f64 / 1000.0)),
        ("requests/s", outcome.requests as f64 / seconds),
        ("first byte p50 ms", milliseconds(outcome, 0.5)),
        ("p99 ms", milliseconds(outcome, 0.99)),
        ("peak MiB", peak),
    ]
}

pub fn milliseconds(outcome: &Outcome, share: f64) -> f64 {
    percentile(&outcome.first_byte, share).as_secs_f64() * 1000.0
}

fn scattered(blob: &Blob, count: u64) -> Vec<Rc<Request>> {
    let pieces = blob.size / 65_536;
    let range = |number: u64| {
        let first = number.wrapping_mul(0x9e37_79b9) % pieces * 65_536;
        Request::range(&blob.path(), first, first + 65_535)
    };
    (0..count).map(range).collect()
}

/// Has `peer` store what will be asked for.
fn warm(fixture: &Fixture, peer: &Peer) {
    let images = [&fixture.large, &fixture.sizes];
    let mut script: Vec<_> = images
        .iter()
        .map(|image| Request::get(&image.by_tag()))
        .collect();
    for blob in images.iter().flat_map(|image| &image.blobs) {
        script.push(Request::get(&blob.path()));
    }
    load::run(peer.address, vec![script], Until::Done).expect_complete(peer.name);
    settle();
}

/// Lets a program finish what it does behind its answers.
pub fn settle() {
    std::thread::sleep(std::time::Duration::from_millis(500));
}

fn tls(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let certificate = Certificate::new();
    let tls = Some(&certificate);
    let mirror = Mirror {
        tls,
        quiet: true,
        ..Mirror::default()
    };
    let nginx = Nginx {
        tls,
        ..Nginx::files("nginx")
    };
    let mut peers = vec![mirror.start(fixture), nginx.start(fixture)];
    peers.extend(mirror.other(plan).map(|other| other.start(fixture)));
    let blob = &fixture.large.blobs[1];
    for peer in &peers {
        let mut stream = secure::connect(&certificate, peer.address);
        let mut buffer = vec![0; 256 * 1024];
        for image in [&fixture.large, &fixture.sizes] {
            secure::take(&mut stream, &image.by_tag(), &mut buffer);
            for blob in &image.blobs {
                secure::take(&mut stream, &blob.path(), &mut buffer);
            }
        }
        settle();
    }
    for (connections, times) in [(1, plan.pick(2, 1)), (8, 1), (64, 1)] {
        let blob = if connections == 64 {
            &fixture.sizes.blobs[plan.pick(4, 5)]
        } else {
            blob
        };
        let name = format!(
            "stored tls, {} MiB, {connections} connections",
            blob.size >> 20
        );
        if !plan.wants(&name) {
            continue;
        }
        report.begin(Workload {
            name,
            figure: "CPU s/GiB",
            more_is_better: false,
            against: NGINX,
            bounds: vec![("CPU s/GiB", Bound::Ratio(0.55))],
        });
        for round in 0..plan.rounds {
            for peer in &peers {
                let before = peer.cpu();
                let outcome =
                    secure::run(&certificate, peer.address, &blob.path(), connections, times);
                let cpu = peer.cpu().since(&before);
                let gib = outcome.bytes as f64 / GIB;
                let figures = vec![
                    ("CPU s/GiB", cpu / gib),
                    (
                        "MB/s",
                        outcome.bytes as f64 / 1e6 / outcome.wall.as_secs_f64(),
                    ),
                ];
                report.note(
                    peer.name,
                    round,
                    figures,
                    outcome.client_was_the_bottleneck(),
                );
            }
        }
        report.end();
    }
}
