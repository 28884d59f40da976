//! `pierglass verify`: is everything that is stored still what it was?

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::process::ExitCode;

use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::config::Config;
use crate::config::units::format_size;
use crate::store::check::verify::{Event, Summary};

use super::admin::{Admin, Target, block_on, target};
use super::{FAILED, Verify, complain, print};

/// Runs the command.
pub(super) fn run(arguments: &Verify, config: &Config) -> ExitCode {
    let mut report = Report::new(arguments);
    let checked = target(&arguments.place, config).and_then(|target| match target {
        Target::Running(admin) => block_on(ask(&admin, &mut report)),
        Target::AtRest(store) => {
            report.place(&config.store.path.display().to_string());
            store.verify(arguments.repair, &mut |event| {
                report.take(&event);
                ControlFlow::Continue(())
            });
            Ok(())
        }
    });
    report.bar.finish_and_clear();
    match (checked, report.end) {
        (Err(words), _) => {
            complain(&words);
            ExitCode::from(FAILED)
        }
        (Ok(()), None) => {
            complain("the check broke off before its end");
            ExitCode::from(FAILED)
        }
        (Ok(()), Some(summary)) => {
            if !arguments.json {
                print(&words(&summary));
            }
            if summary.damaged == summary.dropped && summary.unchecked == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILED)
            }
        }
    }
}

async fn ask(admin: &Admin, report: &mut Report) -> Result<(), String> {
    let path = format!("/api/v1/verify?repair={}", report.repair);
    let mut lines = admin.ask(Method::POST, &path).await?;
    report.place(&format!("the mirror at {}", admin.url()));
    while let Some(line) = lines.next().await? {
        let event = serde_json::from_slice(&line);
        report.take(&event.map_err(|error| format!("the mirror's answer is none: {error}"))?);
    }
    Ok(())
}

/// Tells what is found while it is found.
struct Report {
    repair: bool,
    json: bool,
    bar: ProgressBar,
    place: String,
    end: Option<Summary>,
}

impl Report {
    fn new(arguments: &Verify) -> Self {
        let shown = !arguments.json && std::io::stderr().is_terminal();
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
            repair: arguments.repair,
            json: arguments.json,
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
