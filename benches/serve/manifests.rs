//! Manifests that are stored, over connections that are kept: by digest and by tag, GET and HEAD.

use std::time::Duration;

use crate::Plan;
use crate::fixture::Fixture;
use crate::load::{self, Outcome, Request, Until};
use crate::peers::{Mirror, Nginx, Peer, pull_through};
use crate::report::{Bound, Figures, Report, Workload};
use crate::stored::{milliseconds, settle};
use crate::usage;

const CONNECTIONS: usize = 32;
/// Like is measured against like: with a line in a log for each request, and without.
const LOGGED: &str = "pierglass";
const SILENT: &str = "pierglass, no log";

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if !plan.may_want("manifest") {
        return;
    }
    let quiet = Mirror {
        name: SILENT,
        quiet: true,
        ..Mirror::default()
    };
    let loud = Nginx {
        log: true,
        ..Nginx::files("nginx")
    };
    let logged = Mirror {
        name: LOGGED,
        ..Mirror::default()
    };
    let silent = Nginx::files("nginx, no log");
    let pairs = [(quiet, silent), (logged, loud)].map(|(mirror, nginx)| {
        let mut peers = vec![mirror.start(fixture), nginx.start(fixture)];
        peers.extend(mirror.other(plan).map(|other| other.start(fixture)));
        peers
    });
    let cache = (!plan.quick).then(|| pull_through(fixture, fixture.registry.address));
    let image = &fixture.large;
    let kinds = [
        ("GET by digest", Request::get(&image.by_digest())),
        ("GET by tag", Request::get(&image.by_tag())),
        ("HEAD by digest", Request::head(&image.by_digest())),
        ("HEAD by tag", Request::head(&image.by_tag())),
    ];
    for peer in pairs.iter().flatten().chain(&cache) {
        let script = vec![kinds[1].1.clone(), kinds[0].1.clone()];
        load::run(peer.address, vec![script], Until::Done).expect_complete(peer.name);
    }
    settle();
    let time = plan.pick(Duration::from_millis(500), Duration::from_secs(2));
    for (kind, request) in kinds {
        for (pair, against) in pairs.iter().zip([&["nginx, no log"], &["nginx"]]) {
            let name = format!("manifest {kind}, {}", pair[0].name);
            if !plan.wants(&name) {
                continue;
            }
            report.begin(Workload {
                name,
                figure: "requests/s",
                more_is_better: true,
                against,
                bounds: vec![("requests/s", Bound::Ratio(0.8))],
            });
            let asked = fixture.registry.cpu();
            for round in 0..plan.rounds {
                for peer in pair.iter().chain(cache.iter().filter(|_| round == 0)) {
                    let scripts = vec![vec![request.clone()]; CONNECTIONS];
                    measure(peer, round, report, || {
                        load::run(peer.address, scripts, Until::After(time))
                    });
                }
            }
            report.end();
            let asked = fixture.registry.cpu().since(&asked);
            assert!(
                cache.is_some() || asked < 0.1,
                "upstream was asked for what is stored"
            );
        }
    }
    if plan.may_want("manifest latency") {
        latency(plan, &pairs[1], fixture, report);
    }
}

/// A fixed number of requests a second, about half of what there is room for.
fn latency(plan: &Plan, pair: &[Peer], fixture: &Fixture, report: &mut Report) {
    let request = Request::get(&fixture.large.by_tag());
    let time = plan.pick(Duration::from_millis(500), Duration::from_secs(2));
    let scripts = || vec![vec![request.clone()]; CONNECTIONS];
    let most =
        load::run(pair[0].address, scripts(), Until::After(time)).expect_complete("half load");
    let rate = most.requests as f64 / most.wall.as_secs_f64() / 2.0;
    report.begin(Workload {
        name: format!("manifest latency, GET by tag at {rate:.0} requests/s"),
        figure: "p99 ms",
        more_is_better: false,
        against: &["nginx"],
        // What the client and the scheduler add is in nginx' figure as well.
        bounds: vec![("p99 ms", Bound::Added(1.0))],
    });
    for round in 0..plan.rounds {
        for peer in pair {
            measure(peer, round, report, || {
                load::run(peer.address, scripts(), Until::Paced(time, rate))
            });
        }
    }
    report.end();
}

fn measure(peer: &Peer, round: usize, report: &mut Report, load: impl FnOnce() -> Outcome) {
    let processes = peer.processes();
    usage::forget_peak(&processes);
    let before = peer.cpu();
    let outcome = load().expect_complete(peer.name);
    let cpu = peer.cpu().since(&before);
    let figures: Figures = vec![
        (
            "requests/s",
            outcome.requests as f64 / outcome.wall.as_secs_f64(),
        ),
        ("CPU s/1000", cpu / (outcome.requests as f64 / 1000.0)),
        ("p50 ms", milliseconds(&outcome, 0.5)),
        ("p99 ms", milliseconds(&outcome, 0.99)),
        ("peak MiB", usage::peak(&processes) / 1024.0),
    ];
    report.note(
        peer.name,
        round,
        figures,
        outcome.client_was_the_bottleneck(),
    );
}
