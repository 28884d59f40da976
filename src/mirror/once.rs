//! What upstream said it does not have, or will not give: believed for a moment, so that a loop of
//! requests for a typo does not become a loop of requests upstream.

use std::time::{Duration, Instant};

use moka::sync::Cache;

use crate::oci::name::QualifiedName;
use crate::upstream;

/// Enough for any moment; each is a name and an error.
const MAX_ENTRIES: u64 = 20_000;

/// Refusals by repository and reference or digest.
pub(super) struct Negatives {
    entries: Cache<(QualifiedName, String), (upstream::Error, Instant)>,
}

impl Default for Negatives {
    fn default() -> Self {
        Self {
            entries: Cache::new(MAX_ENTRIES),
        }
    }
}

impl Negatives {
    /// The refusal that is still believed.
    pub(super) fn get(
        &self,
        name: &QualifiedName,
        what: &impl ToString,
    ) -> Option<upstream::Error> {
        let key = (name.clone(), what.to_string());
        let (error, until) = self.entries.get(&key)?;
        if Instant::now() < until {
            return Some(error);
        }
        self.entries.invalidate(&key);
        None
    }

    /// Remembers a refusal; errors that are not one are not remembered.
    pub(super) fn note(
        &self,
        name: &QualifiedName,
        what: &impl ToString,
        error: &upstream::Error,
        ttl: Duration,
    ) {
        if matches!(
            error,
            upstream::Error::NotFound | upstream::Error::Denied { .. }
        ) && !ttl.is_zero()
        {
            self.entries.insert(
                (name.clone(), what.to_string()),
                (error.clone(), Instant::now() + ttl),
            );
        }
    }
}
