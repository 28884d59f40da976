//! A request that brought no answer, and whether it is worth repeating.

use super::error::Error;

/// Why there is no answer, with what only this folder wants to know about it.
pub(super) struct Failed {
    pub(super) error: Error,
    /// It may be gone the next moment: a connection that broke, a 502, 503 or 504.
    pub(super) passing: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self {
            error,
            passing: false,
        }
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Failed {
    pub(super) fn passing(error: Error) -> Self {
        Self {
            error,
            passing: true,
        }
    }
}
