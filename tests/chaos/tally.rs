//! What happened in a run, and what must not have.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

pub const HEAD: &str = "| seed | pulls | failed | faults struck | tags moved | kills | disk full | damaged | attacks | MiB pulled | MiB from upstream | requests upstream | of hostile clients | at the hostile registry | max RSS | max du | max files | wrong |\n\
                        |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// No more of one kind is worth reading.
const MOST: usize = 20;

#[derive(Debug, Default)]
pub struct Tally {
    pub completed: AtomicU64,
    pub abandoned: AtomicU64,
    pub bytes: AtomicU64,
    pub upstream_bytes: AtomicU64,
    pub struck: AtomicU64,
    pub moved: AtomicU64,
    pub kills: AtomicU64,
    pub full: AtomicU64,
    pub damaged: AtomicU64,
    pub attacks: AtomicU64,
    pub hostile_requests: AtomicU64,
    /// Requests that reached the registries, and those that reached the hostile one.
    pub upstream_requests: AtomicU64,
    pub evil_requests: AtomicU64,
    /// Files and directories of the store.
    pub max_files: AtomicU64,
    pub max_rss: AtomicU64,
    pub max_du: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
    violations: Mutex<Vec<String>>,
}

/// Counts one more.
pub fn one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Tally {
    pub fn failed(&self, cause: String) {
        *self.failed.lock().unwrap().entry(cause).or_default() += 1;
    }

    pub fn wrong(&self, what: String) {
        let mut violations = self.violations.lock().unwrap();
        if violations.len() < MOST {
            violations.push(what);
        }
    }

    /// What a process has logged until its end.
    pub fn read_log(&self, log: &str) {
        for line in log.lines().filter(|line| line.contains("panicked")) {
            self.wrong(line.to_owned());
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    pub fn failures(&self) -> u64 {
        self.failed.lock().unwrap().values().sum()
    }

    /// How often pulls failed, by cause.
    pub fn causes(&self) -> String {
        let failed = self.failed.lock().unwrap();
        let lines = failed
            .iter()
            .map(|(cause, count)| format!("chaos: refused, as allowed {count:6} x {cause}"));
        let abandoned = self.abandoned.load(Ordering::Relaxed);
        let all: Vec<_> = lines
            .chain([format!("chaos: abandoned {abandoned} on purpose")])
            .collect();
        all.join("\n")
    }

    pub fn row(&self, seed: u64) -> String {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mib = |counter: &AtomicU64| of(counter) / (1024 * 1024);
        format!(
            "| {seed} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} MiB | {:.1} MiB | {} | {} |",
            of(&self.completed),
            self.failures(),
            of(&self.struck),
            of(&self.moved),
            of(&self.kills),
            of(&self.full),
            of(&self.damaged),
            of(&self.attacks),
            mib(&self.bytes),
            mib(&self.upstream_bytes),
            of(&self.upstream_requests),
            of(&self.hostile_requests),
            of(&self.evil_requests),
            mib(&self.max_rss),
            of(&self.max_du) as f64 / (1024.0 * 1024.0),
            of(&self.max_files),
            self.violations().len(),
        )
    }
}
