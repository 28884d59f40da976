//! How a command ends and what it prints.

use std::io::Write;
use std::process::ExitCode;

use crate::config::Mistakes;

/// It failed.
const FAILED: u8 = 1;
/// It was asked for in the wrong way (`EX_USAGE`), or the configuration is wrong.
pub(super) const USAGE: u8 = 64;

/// Why a command did not do what it was asked for.
pub(super) struct Failure {
    code: u8,
    words: Option<String>,
}

impl Failure {
    pub(super) fn failed(words: impl Into<String>) -> Self {
        Self {
            code: FAILED,
            words: Some(words.into()),
        }
    }

    /// The arguments or the configuration are wrong.
    pub(super) fn usage(words: impl Into<String>) -> Self {
        Self {
            code: USAGE,
            words: Some(words.into()),
        }
    }

    /// It failed, and what it printed says why.
    pub(super) fn silent() -> Self {
        Self {
            code: FAILED,
            words: None,
        }
    }

    /// What was printed says why.
    #[must_use]
    pub(super) fn said(self) -> Self {
        Self {
            words: None,
            ..self
        }
    }

    /// Says why, and returns the exit code.
    pub(super) fn report(&self) -> ExitCode {
        if let Some(words) = &self.words {
            complain(words);
        }
        ExitCode::from(self.code)
    }
}

impl From<String> for Failure {
    fn from(words: String) -> Self {
        Self::failed(words)
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::usage(mistakes.to_string())
    }
}

pub(super) fn print(text: &str) {
    // A closed pipe is the reader's decision.
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "pierglass: {text}");
}
