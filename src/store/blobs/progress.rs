//! How far a blob has come: what a writer says and its readers hear.

use std::io;
use std::sync::Arc;

use crate::oci::digest::Digest;

use crate::store::room::index::NoRoom;

/// How far a blob being written has come. Three endings, never two: a writer that vanishes is a failure.
#[derive(Debug, Clone)]
pub enum Progress {
    /// This many bytes may be read; more will come.
    Growing(u64),
    /// All of it may be read, and it is what its digest says.
    Complete(u64),
    /// It will never be complete.
    Failed(Failure),
}

/// Why an ingest did not become a blob.
#[derive(Debug, Clone)]
pub enum Failure {
    /// There were fewer or more bytes than announced.
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// The bytes are not what the digest says.
    Digest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The file cannot be written.
    Disk(Arc<io::Error>),
    /// A blob of unannounced size outgrew the store.
    NoRoom(NoRoom),
    /// The source of the bytes failed; in its own words.
    Source(Arc<str>),
    /// The writer went away without a word.
    Abandoned,
}

impl Failure {
    /// All the words of [`Failure::reason`].
    pub const REASONS: [&'static str; 6] = [
        "length",
        "digest",
        "disk",
        "no_room",
        "upstream",
        "abandoned",
    ];

    /// Whether the source is still good for the bytes, and only the store is not.
    pub fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Disk(_) | Self::NoRoom(_))
    }

    /// The word for it in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Length { .. } => "length",
            Self::Digest { .. } => "digest",
            Self::Disk(_) => "disk",
            Self::NoRoom(_) => "no_room",
            Self::Source(_) => "upstream",
            Self::Abandoned => "abandoned",
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Length { expected, found } => {
                write!(f, "expected {expected} bytes, found {found}")
            }
            Self::Digest { expected, found } => {
                write!(f, "expected {expected}, the bytes are {found}")
            }
            Self::Disk(error) => write!(f, "cannot write to the store: {error}"),
            Self::NoRoom(error) => error.fmt(f),
            Self::Source(words) => f.write_str(words),
            Self::Abandoned => f.write_str("the transfer was abandoned"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_list() {
        let digest = Digest::of(b"");
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let failures = [
            Failure::Length {
                expected: 1,
                found: 2,
            },
            Failure::Digest {
                expected: digest.clone(),
                found: digest,
            },
            Failure::Disk(Arc::new(error)),
            Failure::NoRoom(NoRoom { wanted: 1 }),
            Failure::Source("".into()),
            Failure::Abandoned,
        ];
        let reasons = failures.each_ref().map(Failure::reason);
        assert_eq!(reasons, Failure::REASONS);
    }
}
