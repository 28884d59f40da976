//! Search: upstream's, passed on, and remembered for as long as a tag is fresh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;

use crate::oci::name::Namespace;
use crate::upstream;

use crate::mirror::manifest::digest::{landed, outcome_of};
use crate::mirror::{Answered, Error, Mirror, Outcome, Shared, Site};

/// Memory for results, in bytes.
const MEMORY: u64 = 8 * 1024 * 1024;

/// The upstream, and the query it is asked with.
type Id = (Namespace, String);

/// Searches that are remembered or under way. Never stored: a search is of no use without upstream.
pub(in crate::mirror) struct Searches {
    known: Cache<Id, Known>,
    under_way: Shared<Id, Answered<Bytes>>,
}

#[derive(Clone)]
struct Known {
    result: Answered<Bytes>,
    at: Instant,
    until: Instant,
}

/// What upstream found.
#[derive(Debug, Clone)]
pub(crate) struct SearchAnswer {
    /// Upstream's JSON, untouched.
    pub bytes: Bytes,
    /// How this came about.
    pub outcome: Outcome,
    /// How long ago upstream said so.
    pub age: Duration,
}

impl Default for Searches {
    fn default() -> Self {
        let bytes = |id: &Id, known: &Known| {
            let result = known.result.as_ref().map_or(0, Bytes::len);
            u32::try_from(id.1.len() + result + 512).unwrap_or(u32::MAX)
        };
        Self {
            known: Cache::builder().max_capacity(MEMORY).weigher(bytes).build(),
            under_way: Arc::default(),
        }
    }
}

impl Searches {
    fn get(&self, id: &Id) -> Option<Known> {
        self.known
            .get(id)
            .filter(|known| Instant::now() < known.until)
    }

    /// Remembers results, and for a shorter time that there is no search; an outage is not remembered.
    fn note(&self, id: Id, result: &Answered<Bytes>, site: &Site) {
        let ttl = match result {
            Ok(_) => site.policy.tag_ttl,
            Err(upstream::Error::NotFound) => site.policy.negative_ttl,
            Err(_) => return,
        };
        let at = Instant::now();
        let known = Known {
            result: result.clone(),
            at,
            until: at + ttl,
        };
        self.known.insert(id, known);
    }
}

impl Mirror {
    /// Passes a search on; `query` is the query string to ask with.
    pub(crate) async fn search(
        self: &Arc<Self>,
        site: &Site,
        query: String,
    ) -> Result<SearchAnswer, Error> {
        let id = (site.upstream.namespace().clone(), query);
        if let Some(Known { result, at, .. }) = self.searches.get(&id) {
            return Ok(SearchAnswer {
                bytes: result.map_err(search_error)?,
                outcome: Outcome::Hit,
                age: at.elapsed(),
            });
        }
        let (mirror, site, key) = (Arc::clone(self), site.clone(), id.clone());
        let (landing, role) = self.searches.under_way.join(key, |slot| async move {
            let result = site.upstream.search(id.1.clone()).await;
            mirror.searches.note(id, &result, &site);
            slot.publish(result);
        });
        Ok(SearchAnswer {
            bytes: landed(landing).await.map_err(search_error)?,
            outcome: outcome_of(role),
            age: Duration::ZERO,
        })
    }
}

fn search_error(error: upstream::Error) -> Error {
    match error {
        upstream::Error::NotFound => Error::NoSearch,
        error => Error::Upstream(error),
    }
}
