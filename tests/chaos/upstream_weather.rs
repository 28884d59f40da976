//! What goes wrong with the registries: every fault that they know, outages, limits, tags that move.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Run;
use crate::dice::Dice;
use crate::support::fault::FaultId;
use crate::support::{Fault, On};
use crate::tally::one;

const MIB: u64 = 1024 * 1024;

/// Blows until the run is over.
pub fn blow(run: &Run) {
    let mut dice = run.dice(1);
    let mut faults: Vec<(usize, FaultId)> = Vec::new();
    while !run.is_over() {
        let number = dice.index(run.world.registries.len());
        let registry = &run.world.registries[number];
        match dice.below(100) {
            0..4 => {
                registry.down();
                run.sleep(dice.millis(200, 3000));
                registry.up();
            }
            4..8 => registry.revoke_tokens(),
            8..28 => {
                let repo = dice.pick(&run.world.repos);
                let (tag, manifest) = (dice.pick(&repo.tags), dice.pick(&repo.manifests));
                run.world.point(repo, tag, &manifest.digest);
                one(&run.tally.moved);
            }
            28..34 => {
                let (on, limit) = (On::any().times(dice.between(1, 20)), limited(&mut dice));
                faults.push((number, registry.fault(on, limit)));
            }
            _ => {
                let (on, fault) = any_fault(&mut dice);
                faults.push((number, registry.fault(on, fault)));
            }
        }
        run.sleep(dice.millis(20, 200));
        count_traffic(run);
    }
    for registry in &run.world.registries {
        registry.clear_faults();
        registry.up();
    }
    let struck = faults
        .iter()
        .map(|(number, id)| run.world.registries[*number].struck(*id));
    let counter = &run.tally.struck;
    counter.store(struck.sum(), Ordering::Relaxed);
    count_traffic(run);
}

/// The ledgers would grow for as long as the run lasts.
fn count_traffic(run: &Run) {
    let add = |counter: &AtomicU64, count| {
        counter.fetch_add(count, Ordering::Relaxed);
    };
    for registry in &run.world.registries {
        let traffic = registry.take_traffic();
        add(&run.tally.upstream_requests, traffic.requests);
        add(&run.tally.upstream_bytes, traffic.bytes);
    }
    let traffic = run.evil.take_traffic();
    add(&run.tally.evil_requests, traffic.requests);
}

/// Docker Hub's two kinds of 429.
fn limited(dice: &mut Dice) -> Fault {
    let quota = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}"#;
    if dice.percent(50) {
        let json = vec![("Content-Type".into(), "application/json".into())];
        Fault::Status(429, quota.into(), json)
    } else {
        let text = vec![
            ("Content-Type".into(), "text/plain".into()),
            ("Retry-After".into(), "1".into()),
        ];
        Fault::Status(429, "Too Many Requests (HAP429)\n".into(), text)
    }
}

fn any_fault(dice: &mut Dice) -> (On, Fault) {
    let on = match dice.below(10) {
        0 => On::any(),
        1..4 => On::manifest(),
        4..8 => On::blob(),
        8 => On::redirect(),
        _ => On::token(),
    };
    let on = on.times(dice.between(1, 4)).skip(dice.below(3));
    let status = *dice.pick(&[400, 401, 403, 404, 408, 500, 502, 503, 504]);
    let pause = dice.millis(50, 4000);
    let fault = match dice.below(16) {
        0 => Fault::status(status),
        1 | 2 => Fault::CutAfter(dice.below(3 * MIB)),
        3 => Fault::CutChunked(dice.below(3 * MIB)),
        4 => Fault::ShortClose(dice.below(3 * MIB)),
        // A part that is fetched ahead of the rest cannot be told from a right one except by the client, who has
        // the digest of the whole: what is flipped here is whole, and no client may get it complete.
        5 => return (on.whole(), Fault::WrongBytes),
        6 => Fault::WrongLength(i64::try_from(dice.between(1, 5000)).unwrap() - 2500),
        // On HEAD there is nothing to check it against.
        7 => return (on.get(), Fault::LyingDigestHeader),
        8 => Fault::Stall(dice.below(MIB), pause),
        9 => Fault::DelayHeaders(pause),
        10 => Fault::Hang,
        11 => Fault::Reset,
        12 => Fault::Html(*dice.pick(&[200, 404, 429, 502])),
        13 => Fault::Slow {
            bytes_per_sec: dice.between(64, 2048) * 1024,
        },
        14 => Fault::NoContentLength,
        _ if dice.percent(50) => Fault::RedirectLoop,
        _ => Fault::IgnoreRange,
    };
    (on, fault)
}
