//! What a registry warns of, kept for the moment until the client is answered whose question it was.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::header::WARNING;
use http::{HeaderMap, HeaderValue};
use lru::LruCache;

use crate::headers::warning::warnings;
use crate::oci::endpoint::Endpoint;

/// Of how many things, and for how long.
const THINGS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
const KEPT: Duration = Duration::from_secs(10);

type Noted = (Arc<[HeaderValue]>, Instant);

/// Who joins a question is told as well, and what is served from the store is served without.
pub(super) struct Warnings(Mutex<LruCache<Endpoint, Noted>>);

impl Default for Warnings {
    fn default() -> Self {
        Self(Mutex::new(LruCache::sparse(THINGS)))
    }
}

impl Warnings {
    /// Notes what an answer about this warns of, or that it warns of nothing any more.
    pub(super) fn note(&self, about: &Endpoint, headers: &HeaderMap) {
        let stated = warnings(headers.get_all(WARNING));
        let mut noted = self.lock();
        if !stated.is_empty() {
            noted.put(about.clone(), (stated.into(), Instant::now()));
        } else if !noted.is_empty() {
            noted.pop(about);
        }
    }

    pub(super) fn about(&self, asked: &Endpoint) -> Option<Arc<[HeaderValue]>> {
        let noted = self.lock();
        let (stated, at) = noted.peek(asked)?;
        (at.elapsed() < KEPT).then(|| Arc::clone(stated))
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Endpoint, Noted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
