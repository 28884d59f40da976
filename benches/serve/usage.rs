//! What a program has used, from `/proc`.

use std::collections::BTreeMap;
use std::fs;

/// Clock ticks a second in `/proc/PID/stat`: fixed at 100 for user space on Linux.
const TICKS: f64 = 100.0;

/// CPU seconds of some processes up to a moment.
pub struct Cpu {
    /// Nanoseconds of each thread: exact, but threads that end take theirs along.
    threads: BTreeMap<u32, u64>,
    /// Ticks of whole processes: coarse, but nothing is lost.
    ticks: u64,
}

impl Cpu {
    pub fn of(processes: &[u32]) -> Cpu {
        Cpu {
            threads: processes.iter().flat_map(|pid| threads(*pid)).collect(),
            ticks: processes.iter().map(|pid| ticks(*pid)).sum(),
        }
    }

    /// Seconds since `earlier`: what the threads say, unless some ended and took more than a few ticks away.
    pub fn since(&self, earlier: &Cpu) -> f64 {
        let used = |(thread, now): (&u32, &u64)| {
            now.saturating_sub(*earlier.threads.get(thread).unwrap_or(&0))
        };
        let exact = self.threads.iter().map(used).sum::<u64>() as f64 / 1e9;
        let whole = self.ticks.saturating_sub(earlier.ticks) as f64 / TICKS;
        if whole - exact > 0.03 { whole } else { exact }
    }
}

fn threads(pid: u32) -> Vec<(u32, u64)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let threads = tasks.filter_map(|task| {
        let task = task.ok()?;
        let spent = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let spent = spent.split(' ').next()?.parse().ok()?;
        Some((task.file_name().to_str()?.parse().ok()?, spent))
    });
    threads.collect()
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; after it comes field 3.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse().ok());
    next().unwrap_or(0) + next().unwrap_or(0)
}

/// CPU seconds of the calling thread so far.
pub fn of_this_thread() -> f64 {
    let spent = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let spent = spent.split(' ').next().and_then(|field| field.parse().ok());
    spent.unwrap_or(0.0) / 1e9
}

/// A process and its children, which is where nginx does its work.
pub fn family(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(path).unwrap_or_default();
    let children = children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// KiB of memory that belongs to these processes alone: `RssAnon`, or at its highest, `VmHWM` less what
/// was there from the start as files.
pub fn anonymous(processes: &[u32]) -> f64 {
    processes.iter().map(|pid| status(*pid, "RssAnon:")).sum()
}

/// The highest resident set in KiB since [`forget_peak`], files mapped included.
pub fn peak(processes: &[u32]) -> f64 {
    processes.iter().map(|pid| status(*pid, "VmHWM:")).sum()
}

/// Starts to measure [`peak`] again, from now on.
pub fn forget_peak(processes: &[u32]) {
    for pid in processes {
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

fn status(pid: u32, key: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0.0)
}
