//! Chaos: clients pull, everything breaks at random, and nothing wrong may come of it.
//!
//! `make chaos` runs one seed for some seconds, `make soak` several for minutes; docs/testing.md tells what is broken,
//! what is held, and how to repeat a failure. As root the store lies on a small file system of its own, which is
//! filled up now and then; another user goes without that, and `PIERGLASS_CHAOS_ROOT` makes it a failure.
//!
//! Contents, in reading order:
//! - `dice`: random numbers from a seed
//! - `world`: registries, their images, and every digest a tag ever pointed to
//! - `ground`: the file system the store lies on
//! - `puller`: a client as real ones are, which knows every byte that it should get
//! - `hostile`: clients and a registry that try to make the mirror pay
//! - `upstream_weather`: what goes wrong with the registries
//! - `local_weather`: what goes wrong with the mirror's process, disk and files
//! - `gauge`: memory and disk, sampled
//! - `tally`: what happened, and what must not have
//! - `verdict`: after the storm
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for; seeds and figures are printed for who runs it by hand"
)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "it is made for tests/it")]
mod support;

mod dice;
mod gauge;
mod ground;
mod hostile;
mod local_weather;
mod puller;
mod tally;
mod upstream_weather;
mod verdict;
mod world;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use dice::Dice;
use gauge::Gauge;
use ground::Ground;
use support::{FakeRegistry, Mirror, MirrorConfig};
use tally::Tally;
use world::World;

const CLIENTS: u64 = 16;
const HOSTILE: u64 = 4;
/// A third of what there is to pull, so that something is evicted all the time.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// Short, so that what hangs is over before the storm is.
const PATIENCE: &str = "connect_timeout = \"1s\"\nheader_timeout = \"2s\"\nidle_timeout = \"2s\"";

/// What all parts of a run share.
struct Run {
    seed: u64,
    world: World,
    evil: FakeRegistry,
    ground: Ground,
    /// Taken to restart it; its addresses stay the same.
    mirror: Mutex<Mirror>,
    url: String,
    tally: Tally,
    over: AtomicBool,
}

impl Run {
    fn start(seed: u64) -> Arc<Run> {
        let world = World::start(seed);
        let ground = Ground::lay();
        let mut config = MirrorConfig::for_upstream(&world.registries[0]).toml(PATIENCE);
        for (name, registry) in [
            ("quay.io", &world.registries[1]),
            ("ghcr.io", &world.registries[2]),
        ] {
            config = config.upstream(name, registry).toml(PATIENCE);
        }
        let evil = hostile::registry();
        config = config.upstream(hostile::NAMESPACE, &evil).toml(PATIENCE);
        let config = config
            .max_size(&MAX_SIZE.to_string())
            .store("min_free", "0")
            .store_path(&ground.store())
            .tag_ttl("1s")
            .negative_ttl("200ms");
        let mirror = Mirror::start(config);
        Arc::new(Run {
            seed,
            world,
            evil,
            ground,
            url: mirror.url(),
            mirror: Mutex::new(mirror),
            tally: Tally::default(),
            over: AtomicBool::new(false),
        })
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Sleeps, but not past the end.
    fn sleep(&self, span: Duration) {
        let until = std::time::Instant::now() + span;
        while !self.is_over() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(20).min(span));
        }
    }

    /// Random numbers for one part of the run, the same for the same seed.
    fn dice(&self, part: u64) -> Dice {
        Dice::of(self.seed ^ part.wrapping_mul(0xd6e8_feb8_6659_fd93))
    }
}

/// The storm, and then the verdict.
fn weather(seed: u64, length: Duration) -> Arc<Run> {
    println!("chaos: PIERGLASS_CHAOS_SEED={seed}, {length:?}");
    let run = Run::start(seed);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let gauge = Gauge::start(&run);
    let pullers =
        (0..CLIENTS).map(|number| runtime.spawn(puller::keep_pulling(run.clone(), number)));
    let hostile =
        (0..HOSTILE).map(|number| runtime.spawn(hostile::keep_attacking(run.clone(), number)));
    let clients: Vec<_> = pullers.chain(hostile).collect();
    let threads = [upstream_weather::blow, local_weather::blow].map(|blow| {
        let run = run.clone();
        std::thread::spawn(move || blow(&run))
    });
    std::thread::sleep(length);
    run.over.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap();
    }
    for client in clients {
        runtime.block_on(client).unwrap();
    }
    verdict::reach(&run, gauge, &runtime);
    run
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name}: {text:?} is not a number"))
    })
}

#[test]
fn whatever_breaks_no_pull_that_completes_is_wrong() {
    let length = Duration::from_secs(number("PIERGLASS_CHAOS_SECONDS", 20));
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64;
    let first = number("PIERGLASS_CHAOS_SEED", now);
    let mut rows = vec![tally::HEAD.to_owned()];
    let mut wrong = Vec::new();
    for seed in (0..number("PIERGLASS_CHAOS_SEEDS", 1)).map(|more| first.wrapping_add(more)) {
        let run = weather(seed, length);
        rows.push(run.tally.row(seed));
        println!("{}", run.tally.causes());
        for violation in run.tally.violations() {
            println!("chaos: seed {seed}: WRONG: {violation}");
            wrong.push(format!("seed {seed}: {violation}"));
        }
    }
    println!("{}", rows.join("\n"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
