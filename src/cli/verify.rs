//! `pierglass verify`: is everything that is stored still what it was?

use std::io::IsTerminal;
use std::ops::ControlFlow;

use clap::Args;
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::api;
use crate::config::Config;
use crate::config::units::{format_size, parse_size};
use crate::store::check::pace::Rate;
use crate::store::check::verify::{Event, Summary};

use super::exit::{Failure, print};
use super::flags::TargetFlags;
use super::runtime::block_on;
use super::target::{self, AdminClient, Target};

/// `pierglass verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyFlags {
    #[command(flatten)]
    target: TargetFlags,
    /// Drop what is damaged; it is fetched again when it is asked for.
    #[arg(long)]
    repair: bool,
    /// How much it reads in a second, such as 200MiB, and a quarter of that while blobs come in; 0: all that the disk gives.
    ///
    /// Default: 64MiB beside a running mirror; of a store at rest as much as the disk gives.
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,
    /// Print JSON, a line for each event, for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(flags: &VerifyFlags) -> Result<(), Failure> {
    let config = flags.target.load()?;
    let mut report = Report::new(flags);
    let checked = check(&flags.target, &config, &mut report);
    report.bar.finish_and_clear();
    checked?;
    let Some(summary) = report.end else {
        return Err(Failure::failed("the check broke off before its end"));
    };
    if !flags.json {
        print(&words(&summary));
    }
    if summary.damaged == summary.dropped && summary.unchecked == 0 {
        Ok(())
    } else {
        Err(Failure::silent())
    }
}

fn check(flags: &TargetFlags, config: &Config, report: &mut Report) -> Result<(), Failure> {
    match target::choose(flags, config)? {
        Target::Running(admin) => block_on(ask(&admin, report)),
        Target::AtRest(store) => {
            report.place(&config.store.path.display().to_string());
            let rate = report.rate.and_then(Rate::new);
            store.verify(report.repair, rate, &mut |event| {
                report.take(&event);
                ControlFlow::Continue(())
            });
            Ok(())
        }
    }
}

async fn ask(admin: &AdminClient, report: &mut Report) -> Result<(), String> {
    let mut path = format!("{}?repair={}", api::VERIFY, report.repair);
    if let Some(rate) = report.rate {
        path.push_str(&format!("&rate={rate}"));
    }
    let mut lines = admin.ask(Method::POST, &path).await?;
    report.place(&admin.describe());
    while let Some(line) = lines.next().await? {
        let event = serde_json::from_slice(&line);
        report.take(&event.map_err(|error| format!("the mirror's answer is none: {error}"))?);
    }
    Ok(())
}

/// Tells what is found while it is found.
struct Report {
    repair: bool,
    rate: Option<u64>,
    json: bool,
    bar: ProgressBar,
    place: String,
    end: Option<Summary>,
}

impl Report {
    fn new(flags: &VerifyFlags) -> Self {
        let shown = !flags.json && std::io::stderr().is_terminal();
        let bar = ProgressBar::with_draw_target(
            None,
            match shown {
                true => ProgressDrawTarget::stderr(),
                false => ProgressDrawTarget::hidden(),
            },
        );
        let style = "{bar:24} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left";
        // The template is ours; if it were wrong, the default would do.
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        Self {
            repair: flags.repair,
            rate: flags.rate,
            json: flags.json,
            bar,
            place: String::new(),
            end: None,
        }
    }

    fn place(&mut self, place: &str) {
        place.clone_into(&mut self.place);
    }

    fn take(&mut self, event: &Event) {
        if self.json {
            print(&serde_json::to_string(event).unwrap_or_default());
        } else {
            self.show(event);
        }
        if let Event::End(summary) = event {
            self.end = Some(*summary);
        }
    }

    fn show(&self, event: &Event) {
        match event {
            Event::Begin { files, bytes } => {
                self.bar.set_length(*bytes);
                let size = format_size(*bytes);
                let files = count(*files);
                self.line(&format!("reading {files}, {size}: {}", self.place));
            }
            Event::Progress { bytes, .. } => self.bar.set_position(*bytes),
            Event::Damaged {
                kind,
                name,
                detail,
                dropped,
            } => {
                let done = if *dropped { "dropped" } else { "left as it is" };
                self.line(&format!("damaged: {kind} {name}: {detail}; {done}"));
            }
            Event::Unchecked { kind, name, detail } => {
                self.line(&format!("cannot be read: {kind} {name}: {detail}"));
            }
            Event::End(_) => {}
        }
    }

    /// Prints a line without tearing the bar.
    fn line(&self, line: &str) {
        self.bar.suspend(|| print(line));
    }
}

fn rate(text: &str) -> Result<u64, &'static str> {
    parse_size(text).map_err(|_| "write a size, such as 64MiB, or 0")
}

fn count(files: u64) -> String {
    match files {
        1 => "1 file".to_owned(),
        files => format!("{files} files"),
    }
}

fn words(summary: &Summary) -> String {
    let Summary {
        files,
        bytes,
        damaged,
        dropped,
        unchecked,
    } = *summary;
    let read = format!("read {}, {}", count(files), format_size(bytes));
    let found = match (damaged, damaged - dropped.min(damaged)) {
        (0, _) => "nothing is damaged".to_owned(),
        (damaged, 0) => format!("{damaged} damaged and dropped; fetched again when asked for"),
        (damaged, left) if left == damaged => {
            format!("{damaged} damaged; --repair drops them, to be fetched again when asked for")
        }
        (damaged, left) => format!("{damaged} damaged, {left} of them could not be dropped"),
    };
    match unchecked {
        0 => format!("{read}: {found}"),
        unchecked => format!("{read}: {found}; {unchecked} could not be read"),
    }
}
