//! Blobs that are not stored: one client, a herd, and a range. Every measurement starts the programs again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Plan;
use crate::fixture::{Blob, Fixture, Image};
use crate::link::{distance, relay};
use crate::load::{self, Request, Until, percentile};
use crate::peers::{Mirror, Nginx, OTHER, PULL_THROUGH, Peer, pull_through};
use crate::report::{Bound, Report, Workload};
use crate::stored::{milliseconds, settle};
use crate::usage;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// Bytes a second of a link that is the bottleneck.
const LINK: f64 = 100.0 * 1024.0 * 1024.0;
/// To a registry on another continent and back.
const ROUND_TRIP: Duration = Duration::from_millis(50);
const PEERS: [&str; 4] = ["pierglass", "nginx as cache", PULL_THROUGH, OTHER];
const DIRECT: &str = "direct";

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let registry = fixture.registry.address;
    one(plan, fixture, report, registry, "CPU-bound");
    if !plan.quick {
        one(
            plan,
            fixture,
            report,
            relay(registry, LINK),
            "100 MiB/s link",
        );
    }
    let clients: &[usize] = plan.pick(&[100], &[1, 32, 100, 400]);
    for (upstream, place) in [
        (registry, "CPU-bound"),
        (relay(registry, LINK), "100 MiB/s link"),
    ] {
        if plan.quick && upstream != registry {
            break;
        }
        for count in clients {
            herd(plan, fixture, report, upstream, *count, place);
        }
    }
    if !plan.quick {
        // With the other link a hundred clients are more than two cores can serve.
        let upstream = relay(registry, LINK / 4.0);
        herd(plan, fixture, report, upstream, 100, "25 MiB/s link");
    }
    range(plan, fixture, report);
    scattered(plan, fixture, report);
}

fn start(plan: &Plan, fixture: &Fixture, name: &str, upstream: SocketAddr) -> Option<Peer> {
    let mirror = Mirror {
        upstream: Some(upstream),
        ..Mirror::default()
    };
    match name {
        "pierglass" => Some(mirror.start(fixture)),
        OTHER => mirror.other(plan).map(|other| other.start(fixture)),
        "nginx as cache" => {
            let nginx = Nginx::files("nginx as cache");
            Some(
                Nginx {
                    proxy: Some(upstream),
                    ..nginx
                }
                .start(fixture),
            )
        }
        DIRECT => None,
        _ => Some(pull_through(fixture, upstream)),
    }
}

/// Has Pierglass know that the repository has the blob, as every pull does first.
fn introduce(peer: &Peer, image: &Image) {
    let script = vec![Request::get(&image.by_tag())];
    load::run(peer.address, vec![script], Until::Done).expect_complete(peer.name);
}

/// Waits until a program is at rest: a fill is made durable behind the answer.
fn at_rest(peer: &Peer) {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        let before = peer.cpu();
        std::thread::sleep(Duration::from_millis(300));
        if peer.cpu().since(&before) < 0.005 {
            return;
        }
    }
}

fn one(plan: &Plan, fixture: &Fixture, report: &mut Report, upstream: SocketAddr, place: &str) {
    let image = &fixture.large;
    let blob = &image.blobs[1];
    let name = format!("cold {} MiB, {place}", blob.size >> 20);
    if !plan.wants(&name) {
        return;
    }
    let by_link = place != "CPU-bound";
    report.begin(Workload {
        name,
        figure: if by_link { "seconds" } else { "CPU s/GiB" },
        more_is_better: false,
        against: if by_link { &[DIRECT] } else { &[] },
        bounds: if by_link {
            vec![("seconds", Bound::Ratio(1.05))]
        } else {
            vec![("CPU s/GiB", Bound::Figure(1.4))]
        },
    });
    for round in 0..plan.rounds.min(5) {
        for name in PEERS.into_iter().chain([DIRECT]) {
            if name == PULL_THROUGH && round > 0 {
                continue;
            }
            let peer = start(plan, fixture, name, upstream);
            if peer.is_none() && name != DIRECT {
                continue;
            }
            let address = peer.as_ref().map_or(upstream, |peer| peer.address);
            if let Some(peer) = &peer {
                introduce(peer, image);
            }
            let before = peer.as_ref().map(Peer::cpu);
            let script = vec![Request::get(&blob.path())];
            let outcome = load::run(address, vec![script], Until::Done).expect_complete(name);
            let cpu = peer.as_ref().zip(before).map_or(0.0, |(peer, before)| {
                at_rest(peer);
                peer.cpu().since(&before)
            });
            let peak = peer
                .as_ref()
                .map_or(0.0, |peer| usage::peak(&peer.processes()) / 1024.0);
            let figures = vec![
                ("CPU s/GiB", cpu / (blob.size as f64 / GIB)),
                ("seconds", outcome.wall.as_secs_f64()),
                ("first byte p50 ms", milliseconds(&outcome, 0.5)),
                ("peak MiB", peak),
            ];
            let name = peer.as_ref().map_or(DIRECT, |peer| peer.name);
            report.note(name, round, figures, outcome.client_was_the_bottleneck());
        }
    }
    report.end();
}

fn herd(
    plan: &Plan,
    fixture: &Fixture,
    report: &mut Report,
    upstream: SocketAddr,
    clients: usize,
    place: &str,
) {
    let image = &fixture.herd;
    let blob = &image.blobs[1];
    let name = format!(
        "herd of {clients}, one cold {} MiB blob, {place}",
        blob.size >> 20
    );
    if !plan.wants(&name) {
        return;
    }
    let by_link = place != "CPU-bound";
    report.begin(Workload {
        name,
        figure: "last client s",
        more_is_better: false,
        // Where the line is the limit, a herd should be through as soon as one client alone.
        against: if by_link {
            &[DIRECT]
        } else {
            &["nginx as cache"]
        },
        bounds: bounds_of_a_herd(clients, by_link),
    });
    for round in 0..plan.rounds.min(plan.pick(2, 3)) {
        for name in PEERS
            .into_iter()
            .chain([DIRECT].into_iter().filter(|_| by_link))
        {
            // Its herds take minutes, and are not what is compared with.
            if name == PULL_THROUGH && (round > 0 || clients > 100 || by_link) {
                continue;
            }
            let peer = start(plan, fixture, name, upstream);
            if peer.is_none() && name != DIRECT {
                continue;
            }
            if let Some(peer) = &peer {
                introduce(peer, image);
                settle();
            }
            let processes = peer.as_ref().map(Peer::processes).unwrap_or_default();
            usage::forget_peak(&processes);
            let before = usage::Cpu::of(&processes);
            let (asked, gets) = (fixture.registry.cpu(), fixture.blob_gets());
            let (address, clients) = peer
                .as_ref()
                .map_or((upstream, 1), |peer| (peer.address, clients));
            let scripts = vec![vec![Request::get(&blob.path())]; clients];
            let outcome = load::run(address, scripts, Until::Done).expect_complete(name);
            let peak = usage::peak(&processes) / 1024.0;
            let cpu = usage::Cpu::of(&processes).since(&before);
            let done = |share| percentile(&outcome.done, share).as_secs_f64();
            let figures = vec![
                ("last client s", done(1.0)),
                ("first client s", done(0.0)),
                ("worst first byte ms", milliseconds(&outcome, 1.0)),
                ("peak MiB", peak),
                ("CPU s", cpu),
                ("registry's GETs", fixture.blob_gets() - gets),
                ("registry's CPU s", fixture.registry.cpu().since(&asked)),
            ];
            report.note(name, round, figures, outcome.client_was_the_bottleneck());
        }
    }
    report.end();
}

fn bounds_of_a_herd(clients: usize, by_link: bool) -> Vec<(&'static str, Bound)> {
    let mut bounds = vec![
        ("registry's GETs", Bound::Figure(1.0)),
        ("worst first byte ms", Bound::Figure(100.0)),
    ];
    match clients {
        100 => bounds.push(("peak MiB", Bound::Figure(40.0))),
        400 => bounds.push(("peak MiB", Bound::Figure(64.0))),
        _ => {}
    }
    let last = if by_link { 1.1 } else { 1.0 };
    bounds.push(("last client s", Bound::Ratio(last)));
    bounds
}

/// The last 64 KiB of a large cold blob.
fn range(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let image = &fixture.large;
    let blob: &Blob = &image.blobs[1];
    let name = format!("cold range, last 64 KiB of {} MiB", blob.size >> 20);
    if !plan.wants(&name) {
        return;
    }
    report.begin(Workload {
        name,
        figure: "ms",
        more_is_better: false,
        against: &["nginx as cache"],
        bounds: Vec::new(),
    });
    for round in 0..plan.rounds.min(3) {
        for name in &PEERS[..2] {
            let Some(peer) = start(plan, fixture, name, fixture.registry.address) else {
                continue;
            };
            introduce(&peer, image);
            let script = vec![Request::range(
                &blob.path(),
                blob.size - 65_536,
                blob.size - 1,
            )];
            let outcome = load::run(peer.address, vec![script], Until::Done).expect_complete(name);
            let figures = vec![("ms", outcome.wall.as_secs_f64() * 1000.0)];
            report.note(peer.name, round, figures, false);
        }
    }
    report.end();
}

/// A lazy puller: scattered pieces of a large cold blob from a registry far away, while the fill goes on.
fn scattered(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let name = "cold ranges, 64 KiB scattered, registry 50 ms away".to_owned();
    if !plan.wants(&name) {
        return;
    }
    let image = &fixture.large;
    let blob = &image.blobs[1];
    let upstream = relay(distance(fixture.registry.address, ROUND_TRIP), LINK);
    report.begin(Workload {
        name,
        figure: "worst round trips",
        more_is_better: false,
        against: &[],
        // Two, and what it takes to transfer it beside the fill.
        bounds: vec![("worst round trips", Bound::Figure(2.5))],
    });
    for round in 0..plan.rounds.min(3) {
        let Some(peer) = start(plan, fixture, PEERS[0], upstream) else {
            continue;
        };
        introduce(&peer, image);
        // From the end on, where the fill comes last.
        let pieces = blob.size / 65_536;
        let place = |number: u64| pieces - 1 - number * 7919 % (pieces / 2);
        let took: Vec<_> = (0..20)
            .map(|number| {
                let first = place(number) * 65_536;
                let request = Request::range(&blob.path(), first, first + 65_535);
                // To the last byte: the header of the answer comes at once.
                load::run(peer.address, vec![vec![request]], Until::Done)
                    .expect_complete(peer.name)
                    .wall
            })
            .collect();
        let round_trips = |share| percentile(&took, share).as_secs_f64() / ROUND_TRIP.as_secs_f64();
        let figures = vec![
            ("worst round trips", round_trips(1.0)),
            ("median", round_trips(0.5)),
            ("first", took[0].as_secs_f64() / ROUND_TRIP.as_secs_f64()),
        ];
        report.note(peer.name, round, figures, false);
    }
    report.end();
}
