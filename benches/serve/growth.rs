//! The same work once, ten and a hundred times: what a piece of it costs must not grow with how much there is.

use std::rc::Rc;

use crate::Plan;
use crate::fixture::Fixture;
use crate::load::{self, Outcome, Request, Until};
use crate::peers::{Mirror, Nginx, Peer};
use crate::report::{Bound, Figures, Report, Workload};
use crate::stored::settle;
use crate::usage;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
const STEPS: [(&str, usize); 3] = [
    ("pierglass, 1x", 1),
    ("pierglass, 10x", 10),
    ("pierglass, 100x", 100),
];
const OURS: [&str; 3] = [STEPS[0].0, STEPS[1].0, STEPS[2].0];
const PER_THOUSAND: &str = "CPU s/1000";
const PER_GIB: &str = "CPU s/GiB";
/// What is measured is the same figure of the same program, so this is noise.
const FLAT: f64 = 1.2;

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if plan.quick {
        return;
    }
    requests(plan, fixture, report);
    connections(plan, fixture, report);
    images(plan, fixture, report);
    bytes(plan, fixture, report);
    cold(plan, fixture, report);
}

fn begin(plan: &Plan, report: &mut Report, name: &str, figure: &'static str) -> bool {
    let name = format!("growth, {name}");
    let wanted = plan.wants(&name);
    if wanted {
        report.begin(Workload {
            name,
            figure,
            more_is_better: false,
            against: &["pierglass, 1x"],
            bounds: vec![(figure, Bound::Ratio(FLAT))],
        });
    }
    wanted
}

fn quiet(fixture: &Fixture) -> Peer {
    let mirror = Mirror {
        quiet: true,
        ..Mirror::default()
    };
    mirror.start(fixture)
}

/// Has a program store all that is in `script`.
fn warm(peer: &Peer, script: Vec<Rc<Request>>) {
    load::run(peer.address, vec![script], Until::Done).expect_complete(peer.name);
    settle();
}

fn measure(
    peer: &Peer,
    scripts: Vec<Vec<Rc<Request>>>,
    figure: &'static str,
    units: impl Fn(&Outcome) -> f64,
) -> (Figures, bool) {
    let processes = peer.processes();
    usage::forget_peak(&processes);
    let before = peer.cpu();
    let outcome = load::run(peer.address, scripts, Until::Done).expect_complete(peer.name);
    let cpu = peer.cpu().since(&before);
    let figures = vec![
        (figure, cpu / units(&outcome)),
        ("peak MiB", usage::peak(&processes) / 1024.0),
    ];
    (figures, outcome.client_was_the_bottleneck())
}

/// Once, ten times and a hundred times what `scripts` makes of the factor, interleaved.
fn steps(
    plan: &Plan,
    report: &mut Report,
    peer: &Peer,
    names: [&'static str; 3],
    figure: &'static str,
    scripts: impl Fn(usize) -> Vec<Vec<Rc<Request>>>,
) {
    let units = if figure == PER_GIB { gibs } else { thousands };
    for round in 0..plan.rounds.min(3) {
        for (name, (_, factor)) in names.into_iter().zip(STEPS) {
            let (figures, limited) = measure(peer, scripts(factor), figure, units);
            report.note(name, round, figures, limited);
        }
    }
}

fn thousands(outcome: &Outcome) -> f64 {
    outcome.requests as f64 / 1000.0
}

fn gibs(outcome: &Outcome) -> f64 {
    outcome.bytes as f64 / GIB
}

/// Requests, one after the other over as many connections.
fn requests(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let each = 100;
    let name = format!("{} manifests asked for, and more", each * 32);
    if !begin(plan, report, &name, PER_THOUSAND) {
        return;
    }
    let peer = quiet(fixture);
    let request = Request::get(&fixture.large.by_tag());
    warm(&peer, vec![request.clone()]);
    steps(plan, report, &peer, OURS, PER_THOUSAND, |factor| {
        vec![vec![request.clone(); each * factor]; 32]
    });
    report.end();
}

/// Clients at a time.
fn connections(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if !begin(plan, report, "10 clients at a time, and more", PER_THOUSAND) {
        return;
    }
    let peer = quiet(fixture);
    let request = Request::get(&fixture.large.by_tag());
    warm(&peer, vec![request.clone()]);
    // Many for each connection, of which the opening is not the point.
    let total = 100_000;
    steps(plan, report, &peer, OURS, PER_THOUSAND, |factor| {
        vec![vec![request.clone(); total / (10 * factor)]; 10 * factor]
    });
    report.end();
}

/// Images that are known, and asked for in turn.
fn images(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if !begin(plan, report, "10 images known, and more", PER_THOUSAND) {
        return;
    }
    let peer = quiet(fixture);
    let by_tag = |count: usize| fixture.many.iter().take(count);
    let total = 50_000;
    for (name, factor) in STEPS {
        let requests: Vec<_> = by_tag(10 * factor)
            .map(|image| Request::get(&image.by_tag()))
            .collect();
        warm(&peer, requests.clone());
        let script: Vec<_> = requests.iter().cycle().take(total / 8).cloned().collect();
        for round in 0..plan.rounds.min(3) {
            let scripts = vec![script.clone(); 8];
            let (figures, limited) = measure(&peer, scripts, PER_THOUSAND, thousands);
            report.note(name, round, figures, limited);
        }
    }
    report.end();
}

/// Bytes of a stored blob that one client takes.
fn bytes(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if !begin(plan, report, "400 MiB sent, and more", PER_GIB) {
        return;
    }
    let peer = quiet(fixture);
    let blob = &fixture.sizes.blobs[5];
    let request = Request::get(&blob.path());
    warm(
        &peer,
        vec![Request::get(&fixture.sizes.by_tag()), request.clone()],
    );
    let scripts = |factor| vec![vec![request.clone(); 4 * factor]];
    steps(plan, report, &peer, OURS, PER_GIB, scripts);
    // Whether it is the server or the machine that slows down.
    let nginx = Nginx::files("nginx").start(fixture);
    warm(&nginx, vec![request.clone()]);
    let names = ["nginx, 1x", "nginx, 10x", "nginx, 100x"];
    steps(plan, report, &nginx, names, PER_GIB, scripts);
    report.end();
}

/// The length of a cold blob.
fn cold(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    if !begin(plan, report, "cold: 10 MiB, and more", PER_GIB) {
        return;
    }
    let blobs = [
        &fixture.sizes.blobs[4],
        &fixture.sizes.blobs[5],
        &fixture.large.blobs[1],
    ];
    for round in 0..plan.rounds.min(3) {
        for ((name, _), blob) in STEPS.into_iter().zip(blobs) {
            let peer = quiet(fixture);
            let images = [&fixture.sizes, &fixture.large];
            warm(
                &peer,
                images.map(|image| Request::get(&image.by_tag())).into(),
            );
            let scripts = vec![vec![Request::get(&blob.path())]];
            let (figures, limited) = measure(&peer, scripts, PER_GIB, gibs);
            report.note(name, round, figures, limited);
        }
    }
    report.end();
}
