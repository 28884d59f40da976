//! What is wrong with a configuration: where, which key, what, and what would be right.
//!
//! A mistake carries words, never a value of a key that may hold a secret.

use std::fmt;

use serde::Serialize;

/// Where a value was written. Mistakes are reported in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Location {
    File {
        file: String,
    },
    Position {
        file: String,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
    },
    Variable(String),
    /// A flag of the command line, with its dashes.
    Flag(String),
    Absent,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Mistake {
    pub place: Location,
    /// The key's path, such as `store.max_size`; absent when no key is to blame.
    pub key: Option<String>,
    pub wrong: String,
    pub right: String,
}

/// Every mistake of a configuration, in the order of the file, then the environment, then the command line.
///
/// Prints one line for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Mistakes(Vec<Mistake>);

/// What is wrong with a value, before it is known where the value stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) wrong: String,
    pub(super) right: String,
}

/// A value that cannot be used, whose mistake has been noted already.
///
/// The rest is still read, so that the next mistake is found as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported;

impl Mistakes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.0.iter()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn note(
        &mut self,
        location: Location,
        key: impl Into<Option<String>>,
        fault: Fault,
    ) -> Reported {
        let Fault { wrong, right } = fault;
        self.0.push(Mistake {
            place: location,
            key: key.into(),
            wrong,
            right,
        });
        Reported
    }

    pub(super) fn sorted(mut self) -> Self {
        self.0.sort();
        self.0.dedup();
        self
    }
}

impl Fault {
    pub(super) fn new(wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self {
            wrong: wrong.into(),
            right: right.into(),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => write!(f, "{file}: "),
            Self::Position { file, line, column } => write!(f, "{file}:{line}:{column}: "),
            Self::Variable(name) => write!(f, "{}: ", name.escape_debug()),
            Self::Flag(name) => write!(f, "{name}: "),
            Self::Absent => Ok(()),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        write!(f, "{}; {}", self.wrong, self.right)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}
