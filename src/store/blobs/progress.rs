//! How far a blob has come: what a writer says and its readers hear.

use std::io;
use std::sync::Arc;

use crate::oci::digest::Digest;

use crate::store::room::usage::NoRoom;

/// How far a blob being written has come. Three endings, never two: a writer that vanishes is a failure.
#[derive(Debug, Clone)]
pub(crate) enum Progress {
    /// This many bytes may be read; more will come.
    Growing(u64),
    /// All of it may be read, and it is what its digest says.
    Complete(u64),
    /// It will never be complete.
    Failed(IngestFailure),
}

/// Why an ingest did not become a blob.
#[derive(Debug, Clone)]
pub enum IngestFailure {
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
    /// The source of the bytes failed; the error in words.
    Source(Arc<str>),
    /// The writer was dropped.
    Abandoned,
}

impl IngestFailure {
    /// All the words of [`IngestFailure::reason`].
    pub(crate) const REASONS: [&'static str; 6] = [
        "length",
        "digest",
        "disk",
        "no_room",
        "upstream",
        "abandoned",
    ];

    /// Whether the source is still good for the bytes, and only the store is not.
    pub(crate) fn is_of_the_store(&self) -> bool {
        matches!(self, Self::Disk(_) | Self::NoRoom(_))
    }

    /// The word for it in metrics.
    pub(crate) fn reason(&self) -> &'static str {
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

impl std::fmt::Display for IngestFailure {
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

impl std::error::Error for IngestFailure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_list() {
        let digest = Digest::of(b"");
        let error = io::Error::from(io::ErrorKind::StorageFull);
        let failures = [
            IngestFailure::Length {
                expected: 1,
                found: 2,
            },
            IngestFailure::Digest {
                expected: digest.clone(),
                found: digest,
            },
            IngestFailure::Disk(Arc::new(error)),
            IngestFailure::NoRoom(NoRoom { wanted: 1 }),
            IngestFailure::Source("".into()),
            IngestFailure::Abandoned,
        ];
        let reasons = failures.each_ref().map(IngestFailure::reason);
        assert_eq!(reasons, IngestFailure::REASONS);
    }
}
