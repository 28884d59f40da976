//! Samples, and what is made of them: medians, ratios, and whether a bound is met.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One workload: what is looked at, and what it must be.
pub struct Workload {
    pub name: String,
    /// The figure that ratios are made of.
    pub figure: &'static str,
    pub more_is_better: bool,
    /// Programs to compare with; the best of them is 1.00.
    pub against: &'static [&'static str],
    /// What Pierglass must reach: a figure, and the most (or the least) it may be.
    pub bounds: Vec<(&'static str, Bound)>,
}

/// What Pierglass must reach.
#[derive(Clone, Copy)]
pub enum Bound {
    /// Of the ratio to the best of the others.
    Ratio(f64),
    /// Of the figure itself.
    Figure(f64),
    /// Of what it is more than the best of the others.
    Added(f64),
}

/// Figures of one run, by name.
pub type Figures = Vec<(&'static str, f64)>;

struct Sample {
    peer: &'static str,
    round: usize,
    figures: Figures,
    client_limited: bool,
}

pub struct Report {
    json: PathBuf,
    results: Vec<(Workload, Vec<Sample>)>,
}

impl Report {
    /// A report whose raw numbers go to `json`.
    pub fn new(json: &Path) -> Self {
        Self {
            json: json.to_path_buf(),
            results: Vec::new(),
        }
    }

    /// What is noted from here on belongs to `workload`.
    pub fn begin(&mut self, workload: Workload) {
        eprintln!("{}", workload.name);
        self.results.push((workload, Vec::new()));
    }

    pub fn note(
        &mut self,
        peer: &'static str,
        round: usize,
        figures: Figures,
        client_limited: bool,
    ) {
        let (_, samples) = self.results.last_mut().expect("a workload was begun");
        samples.push(Sample {
            peer,
            round,
            figures,
            client_limited,
        });
    }

    /// Prints the workload that was begun last, and writes down the raw numbers so far: a run takes long enough to be
    /// broken off.
    pub fn end(&self) {
        if let Some((workload, samples)) = self.results.last() {
            println!("{}", table(workload, samples));
        }
        self.write_json();
    }

    /// The bounds, and what was reached.
    pub fn summary(&self) {
        println!("## Bounds\n\n| workload | figure | bound | reached | |\n|---|---|---|---|---|");
        for (workload, samples) in &self.results {
            let ours = peers(samples)
                .into_iter()
                .filter(|peer| peer.starts_with("pierglass"));
            for peer in ours {
                for (figure, bound) in &workload.bounds {
                    if let Some(verdict) = verdict(workload, samples, peer, figure, *bound) {
                        println!("{verdict}");
                    }
                }
            }
        }
        println!("\n{}", machine());
        eprintln!("raw numbers: {}", self.json.display());
    }

    fn write_json(&self) {
        let workloads: Vec<_> = self
            .results
            .iter()
            .map(|(workload, samples)| {
                let samples: Vec<_> = samples
                    .iter()
                    .map(|sample| {
                        let figures: BTreeMap<_, _> = sample.figures.iter().copied().collect();
                        serde_json::json!({
                            "peer": sample.peer, "round": sample.round, "figures": figures,
                            "client_was_the_bottleneck": sample.client_limited
                        })
                    })
                    .collect();
                serde_json::json!({"workload": workload.name, "samples": samples})
            })
            .collect();
        let all = serde_json::json!({"machine": machine(), "workloads": workloads});
        std::fs::write(&self.json, format!("{all:#}\n")).unwrap();
    }
}

fn table(workload: &Workload, samples: &[Sample]) -> String {
    let Some(first) = samples.first() else {
        return String::new();
    };
    let names: Vec<_> = first.figures.iter().map(|(name, _)| *name).collect();
    let mut text = format!(
        "### {}\n\n| | {} | ratio |\n",
        workload.name,
        names.join(" | ")
    );
    text += &format!("|---|{}---|\n", "---|".repeat(names.len()));
    for peer in peers(samples) {
        let limited = samples
            .iter()
            .any(|sample| sample.peer == peer && sample.client_limited);
        let mark = if limited {
            " (client was the bottleneck)"
        } else {
            ""
        };
        let figures: Vec<_> = names
            .iter()
            .map(|name| shown(median(samples, peer, name)))
            .collect();
        let ratio =
            ratio(workload, samples, peer).map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        text += &format!("| {peer}{mark} | {} | {ratio} |\n", figures.join(" | "));
    }
    text
}

fn verdict(
    workload: &Workload,
    samples: &[Sample],
    peer: &str,
    figure: &str,
    bound: Bound,
) -> Option<String> {
    let own = median(samples, peer, figure)?;
    let (bound, reached, what) = match bound {
        Bound::Figure(bound) => (bound, own, ""),
        Bound::Ratio(bound) => (bound, own / best(workload, samples, figure)?, ", ratio"),
        Bound::Added(bound) => (bound, own - best(workload, samples, figure)?, ", added"),
    };
    let met = if workload.more_is_better {
        reached >= bound
    } else {
        reached <= bound
    };
    let (sign, met) = (
        if workload.more_is_better { ">=" } else { "<=" },
        if met { "met" } else { "**missed**" },
    );
    Some(format!(
        "| {}, {peer} | {figure}{what} | {sign} {bound} | {} | {met} |",
        workload.name,
        shown(Some(reached))
    ))
}

fn ratio(workload: &Workload, samples: &[Sample], peer: &str) -> Option<f64> {
    let own = median(samples, peer, workload.figure)?;
    Some(own / best(workload, samples, workload.figure)?)
}

/// Of those that are compared with.
fn best(workload: &Workload, samples: &[Sample], figure: &str) -> Option<f64> {
    let figures = workload.against.iter();
    let figures = figures.filter_map(|peer| median(samples, peer, figure));
    figures.reduce(if workload.more_is_better {
        f64::max
    } else {
        f64::min
    })
}

fn peers(samples: &[Sample]) -> Vec<&'static str> {
    let mut peers = Vec::new();
    for sample in samples {
        if !peers.contains(&sample.peer) {
            peers.push(sample.peer);
        }
    }
    peers
}

fn median(samples: &[Sample], peer: &str, figure: &str) -> Option<f64> {
    let of_peer = samples.iter().filter(|sample| sample.peer == peer);
    let mut values: Vec<_> = of_peer
        .filter_map(|sample| sample.figures.iter().find(|(name, _)| *name == figure))
        .map(|(_, value)| *value)
        .collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => values.get(middle).copied(),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Three significant digits.
fn shown(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        one if one >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What it ran on, and what ran.
fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .and_then(|line| line.split(':').nth(1))
        .unwrap_or("unknown")
        .trim();
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let version = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok();
        let text = output
            .map(|output| [output.stdout, output.stderr].concat())
            .unwrap_or_default();
        String::from_utf8_lossy(&text)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    format!(
        "{model}, {count} cores; Linux {}; load at the end {}; pierglass {}; {}; {}; {}",
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
        env!("CARGO_PKG_VERSION"),
        version("nginx", "-v"),
        version("docker-registry", "--version"),
        version("date", "-I"),
    )
}
