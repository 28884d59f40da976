//! Logs: text for people, JSON lines for programs, always on stderr.
//!
//! It knows nothing of what is logged. Secrets stay out of logs because they have a type that does not print itself.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

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
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&settings.level)?)
        .with_writer(std::io::stderr)
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
