//! Logs: text for people, JSON lines for programs, always on stderr.
//!
//! It knows nothing of what is logged. Secrets stay out of logs because they have a type that does not print itself.

use std::io::{self, IoSlice, IsTerminal, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub format: Format,
    /// What is logged: directives such as `info` or `info,pierglass::upstream=debug`.
    pub level: String,
}

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text on a terminal, JSON anywhere else.
    Auto,
    /// One compact line for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging for the whole process. Times are RFC 3339 in UTC; colours appear only on a terminal.
///
/// # Errors
///
/// A level that [`filter`] refuses, or a second call: the first one stays in force.
pub(crate) fn init(settings: &Settings) -> Result<(), String> {
    let terminal = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.level)?)
        .with_writer(StandardError {
            to_journal: is_journal(),
        })
        .with_ansi(terminal && !no_color());

    let started = match settings.format {
        Format::Auto if terminal => log.compact().try_init(),
        Format::Text => log.compact().try_init(),
        Format::Auto | Format::Json => log.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| error.to_string())
}

/// Reads log directives, separated by commas: a level, or `target=level`.
///
/// # Errors
///
/// What is wrong, in words that follow the quoted text. A bare word that is no level is refused although
/// [`EnvFilter`] takes it for a target: `inof` would silently mean "trace for the module `inof`, nothing else".
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    let bare = level
        .split(',')
        .map(str::trim)
        .find(|part| !part.contains(['=', '[', ']', '{', '}', ' ']) && !is_level(part));
    if let Some(word) = bare {
        return Err(format!("has {word:?}, which is not a level"));
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|error| format!("cannot be read: {error}"))
}

fn is_level(word: &str) -> bool {
    word.parse::<tracing::metadata::LevelFilter>().is_ok() && !word.is_empty()
}

/// Standard error; what goes to systemd's journal says how grave it is, so that `journalctl -p warning` finds it.
struct StandardError {
    to_journal: bool,
}

/// One line of the log.
struct Line {
    /// The priority as the journal takes it from a line's beginning (sd-daemon(3)).
    priority: &'static [u8],
}

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { priority: b"" }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Line {
        let priority: &[u8] = match *event.level() {
            _ if !self.to_journal => b"",
            Level::ERROR => b"<3>",
            Level::WARN => b"<4>",
            Level::INFO => b"<6>",
            _ => b"<7>",
        };
        Line { priority }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let priority = std::mem::take(&mut self.priority);
        if priority.is_empty() {
            return io::stderr().write(line);
        }
        let parts = [IoSlice::new(priority), IoSlice::new(line)];
        let written = io::stderr().write_vectored(&parts)?;
        Ok(written.saturating_sub(priority.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Whether standard error is the journal: systemd names the device and inode that it connected (systemd.exec(5)).
#[expect(
    clippy::disallowed_methods,
    reason = "it is about this process and no setting"
)]
fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").ok();
    let here = rustix::fs::fstat(io::stderr()).ok();
    let here = here.map(|file| format!("{}:{}", file.st_dev, file.st_ino));
    named.is_some() && named == here
}

/// <https://no-color.org>: any value but the empty one.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_targets_are_read() {
        for level in [
            "info",
            "OFF",
            "warn,pierglass=debug",
            "info,hyper=off",
            "warn,pierglass[fill{digest=abc}]=trace",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_target() {
        for level in ["inof", "", "info,", "info,debgu", "pierglass=loud"] {
            assert!(filter(level).is_err(), "{level}");
        }
    }
}
