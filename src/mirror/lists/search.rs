//! Search: upstream's, passed on, and remembered for as long as a tag is fresh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use moka::sync::Cache;

use crate::flight::Flights;
use crate::mirror::answer::{Error, Outcome};
use crate::mirror::once::{Answered, join};
use crate::mirror::site::{Context, Site};
use crate::oci::name::Namespace;
use crate::upstream;

/// Memory for results, in bytes.
const MEMORY: u64 = 8 * 1024 * 1024;

/// The upstream, and the query it is asked with.
type SearchKey = (Namespace, String);

/// Searches that are remembered or under way. Never stored: a search is of no use without upstream.
pub(crate) struct Searches {
    known: Cache<SearchKey, SearchEntry>,
    under_way: Arc<Flights<SearchKey, Answered<Bytes>>>,
}

#[derive(Clone)]
struct SearchEntry {
    result: Answered<Bytes>,
    at: Instant,
    until: Instant,
}

/// What upstream found.
#[derive(Debug, Clone)]
pub(crate) struct SearchAnswer {
    /// Upstream's JSON, untouched.
    pub bytes: Bytes,
    pub outcome: Outcome,
    /// How long ago upstream said so.
    pub age: Duration,
}

impl Default for Searches {
    fn default() -> Self {
        let bytes = |id: &SearchKey, known: &SearchEntry| {
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
    /// Passes a search on; `query` is the query string to ask with.
    pub(crate) async fn search(
        self: &Arc<Self>,
        context: &Context,
        query: String,
    ) -> Result<SearchAnswer, Error> {
        let id = (context.site.namespace().clone(), query);
        if let Some(SearchEntry { result, at, .. }) = self.get(&id) {
            return Ok(SearchAnswer {
                bytes: result.map_err(search_error)?,
                outcome: Outcome::Hit,
                age: at.elapsed(),
            });
        }
        let (this, asking, key) = (Arc::clone(self), context.clone(), id.clone());
        let (result, outcome) = join(context, &self.under_way, key, async move {
            let result = asking.site.upstream().search(id.1.clone()).await;
            this.note(id, &result, &asking.site);
            result
        });
        Ok(SearchAnswer {
            bytes: result.answer().await.map_err(search_error)?,
            outcome,
            age: Duration::ZERO,
        })
    }

    fn get(&self, id: &SearchKey) -> Option<SearchEntry> {
        let known = self.known.get(id);
        known.filter(|known| Instant::now() < known.until)
    }

    /// Remembers results, and for a shorter time that there is no search; an outage is not remembered.
    fn note(&self, id: SearchKey, result: &Answered<Bytes>, site: &Site) {
        let freshness = site.freshness();
        let ttl = match result {
            Ok(_) => freshness.tag_ttl,
            Err(upstream::Error::NotFound) => freshness.negative_ttl,
            Err(_) => return,
        };
        let at = Instant::now();
        let known = SearchEntry {
            result: result.clone(),
            at,
            until: at + ttl,
        };
        self.known.insert(id, known);
    }
}

fn search_error(error: upstream::Error) -> Error {
    Error::of(error, Error::NoSearch)
}
