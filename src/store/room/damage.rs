//! What can be wrong with a stored file, and how that was found.

use std::io;

use crate::oci::digest::Digest;

/// What is wrong with a file.
#[derive(Debug)]
pub(crate) enum Damage {
    /// It has another digest.
    Digest(Digest),
    /// The disk does not give its bytes back.
    Unreadable(io::Error),
    /// A record that does not parse, or holds a manifest other than its own.
    Record,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Digest(found) => write!(f, "its bytes have the digest {found}"),
            Self::Unreadable(error) => write!(f, "it cannot be read: {error}"),
            Self::Record => f.write_str("it does not hold what it was written with"),
        }
    }
}

/// How damage was found: a label of the metrics.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FoundBy {
    /// A blob that was to be served has another length.
    Open,
    /// A record that was to be used does not parse, or a blob that was being served cannot be read to its end.
    Read,
    /// The check behind the requests.
    Scrub,
    /// The check on demand: `verify`.
    Verify,
}

impl FoundBy {
    pub(super) const ALL: [Self; 4] = [Self::Open, Self::Read, Self::Scrub, Self::Verify];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Read => "read",
            Self::Scrub => "scrub",
            Self::Verify => "verify",
        }
    }
}
