//! A CI system at nine o'clock: many clients pull images, some far more often than others, cold and warm.

use std::rc::Rc;

use crate::Plan;
use crate::fixture::{Fixture, Image};
use crate::load::{self, Request, Until, percentile};
use crate::peers::{Mirror, Peer, pull_through};
use crate::report::{Report, Workload};
use crate::stored::milliseconds;
use crate::usage;

pub fn run(plan: &Plan, fixture: &Fixture, report: &mut Report) {
    let clients = plan.pick(50, 200);
    for (temperature, warm) in [("cold", false), ("warm", true)] {
        let name = format!("CI burst, {clients} clients, 20 images, {temperature}");
        if !plan.wants(&name) {
            continue;
        }
        report.begin(Workload {
            name,
            figure: "last client s",
            more_is_better: false,
            against: &["docker-registry as cache"],
            bounds: Vec::new(),
        });
        for round in 0..plan.rounds.min(plan.pick(1, 3)) {
            let registry = fixture.registry.address;
            for peer in [
                Mirror::default().start(fixture),
                pull_through(fixture, registry),
            ] {
                if warm {
                    let all = fixture.images.iter().flat_map(pull).collect();
                    load::run(peer.address, vec![all], Until::Done).expect_complete(peer.name);
                }
                pull_all(&peer, fixture, clients, round, report);
            }
        }
        report.end();
    }
}

fn pull_all(peer: &Peer, fixture: &Fixture, clients: usize, round: usize, report: &mut Report) {
    let processes = peer.processes();
    usage::forget_peak(&processes);
    let (before, asked) = (peer.cpu(), fixture.registry.cpu());
    let choices = zipf(clients, fixture.images.len());
    let scripts = choices.map(|place| pull(&fixture.images[place])).collect();
    let outcome = load::run(peer.address, scripts, Until::Done);
    let figures = vec![
        (
            "last client s",
            percentile(&outcome.done, 1.0).as_secs_f64(),
        ),
        (
            "median client s",
            percentile(&outcome.done, 0.5).as_secs_f64(),
        ),
        ("first byte p99 ms", milliseconds(&outcome, 0.99)),
        ("CPU s", peer.cpu().since(&before)),
        ("registry's CPU s", fixture.registry.cpu().since(&asked)),
        ("peak MiB", usage::peak(&processes) / 1024.0),
        ("failures", outcome.failures as f64),
    ];
    report.note(
        peer.name,
        round,
        figures,
        outcome.client_was_the_bottleneck(),
    );
}

/// What a client asks for, in the order of one connection.
fn pull(image: &Image) -> Vec<Rc<Request>> {
    let manifests = [
        Request::head(&image.by_tag()),
        Request::get(&image.by_digest()),
    ];
    let blobs = image.blobs.iter().map(|blob| Request::get(&blob.path()));
    manifests.into_iter().chain(blobs).collect()
}

/// The same choices in every run: image k is chosen in proportion to 1/k.
fn zipf(clients: usize, images: usize) -> impl Iterator<Item = usize> {
    let total: f64 = (1..=images).map(|rank| 1.0 / rank as f64).sum();
    (0..clients).map(move |client| {
        // Golden-ratio steps are spread evenly and look like chance.
        let mut left = (client as f64 * 0.618_033_988_75).fract() * total;
        for rank in 1..images {
            left -= 1.0 / rank as f64;
            if left < 0.0 {
                return rank - 1;
            }
        }
        images - 1
    })
}
