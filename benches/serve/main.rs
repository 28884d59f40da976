//! `make bench`: what Pierglass costs beside nginx and docker-registry, on this machine, over loopback.
//!
//! Every workload runs its programs interleaved (A B C A B C), so that whatever else the machine does meets
//! all of them; what is printed are medians, and the ratio to the best of those it is measured against. What
//! carries over to another machine are the ratios.
//!
//! Reading order: this file (the plan), `fixture` (what is served), `peers` (the programs), `usage` (what they
//! cost), `load` and `secure` (clients), `link` (a slow line to upstream), `report` (medians, ratios, bounds);
//! then the workloads: `stored`, `manifests`, `cold`, `connections`, `burst`,
//! `growth`, `store`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    reason = "a benchmark that cannot go on says why and ends; its result is what it prints"
)]

mod burst;
mod cold;
mod connections;
mod fixture;
mod growth;
mod link;
mod load;
#[path = "../../tests/it/support/loopback.rs"]
mod loopback;
mod manifests;
mod peers;
mod report;
mod secure;
mod store;
mod stored;
mod usage;

use std::path::PathBuf;

use fixture::Fixture;
use report::Report;

const HELP: &str = "\
Usage: cargo bench --bench serve -- [--quick] [--rounds N] [--only WORD]... [--json FILE] [--other FILE]

  --quick       smaller blobs, fewer rounds and workloads: under two minutes
  --rounds N    how often each program runs each workload (5, or 3 with --quick)
  --only WORD   only workloads whose name contains the word
  --json FILE   where the raw numbers go (target/bench.json)
  --other FILE  another build of Pierglass, to be measured beside this one";

/// What is to be run, and how much of it.
pub struct Plan {
    pub quick: bool,
    pub rounds: usize,
    only: Vec<String>,
    json: PathBuf,
    /// Another build, to compare with.
    pub other: Option<PathBuf>,
}

impl Plan {
    fn of_arguments() -> Result<Plan, String> {
        let mut plan = Plan {
            quick: false,
            rounds: 0,
            only: Vec::new(),
            json: PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../bench.json"),
            other: None,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| HELP.to_owned());
            match argument.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--quick" => plan.quick = true,
                "--rounds" => plan.rounds = value()?.parse().map_err(|_| HELP.to_owned())?,
                "--only" => plan.only.push(value()?),
                "--json" => plan.json = value()?.into(),
                "--other" => plan.other = Some(value()?.into()),
                _ => return Err(HELP.to_owned()),
            }
        }
        if plan.rounds == 0 {
            plan.rounds = if plan.quick { 3 } else { 5 };
        }
        Ok(plan)
    }

    /// Whether a workload of that name is to be run.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }

    /// Whether one of the workloads whose names begin so may be wanted.
    pub fn may_want(&self, beginning: &str) -> bool {
        let fits = |word: &String| word.contains(beginning) || beginning.contains(word.as_str());
        self.only.is_empty() || self.only.iter().any(fits)
    }

    /// One of two sizes.
    pub fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing is taken before the arguments are read"
)]
fn main() {
    let plan = Plan::of_arguments().unwrap_or_else(|words| {
        eprintln!("{words}");
        std::process::exit(64)
    });
    let fixture = Fixture::build(&plan);
    let mut report = Report::new(&plan.json);
    stored::run(&plan, &fixture, &mut report);
    manifests::run(&plan, &fixture, &mut report);
    cold::run(&plan, &fixture, &mut report);
    connections::run(&plan, &fixture, &mut report);
    burst::run(&plan, &fixture, &mut report);
    growth::run(&plan, &fixture, &mut report);
    store::run(&plan, &fixture, &mut report);
    report.summary();
}
