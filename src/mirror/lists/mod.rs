//! Lists: tags and referrers, as fresh as tags are and served stale as tags are; the catalog; search.
//!
//! Upstream can confirm a list only by sending all of it, so there is no cheap question as there is for a tag. A list
//! that comes back unchanged counts as confirmed.
//!
//! It knows whole lists only: pages and filters for clients are the server's work. Reading order: this file (a list of
//! a repository), [`tags`] and [`referrers`] (what to ask upstream for each), `fetched`, [`search`], [`catalog`].

pub(super) mod catalog;
mod fetched;
mod referrers;
pub(super) mod search;
mod tags;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Repository};
use crate::oci::referrers::lists_any;
use crate::store::Store;
use crate::store::records::{Durability, Listing, StoredListing};
use crate::upstream;

use super::answer::{Error, Outcome};
use super::clock::{age, elapsed};
use super::freshness::{Phase, decide};
use super::manifest::tag::ByTag;
use super::once::{Answered, Asked, Once, Refusals};
use super::site::{Context, Site};
use fetched::Fetched;

/// Empty lists in memory; each is two names and little more.
const MAX_EMPTY: u64 = 20_000;

/// A list, as it is stored: tags one to a line in their order, referrers as an index.
#[derive(Debug, Clone)]
pub(crate) struct ListingAnswer {
    pub bytes: Bytes,
    pub outcome: Outcome,
    /// How long ago upstream said so.
    pub age: Duration,
    /// How long it will be served without asking upstream.
    pub fresh_for: Option<Duration>,
}

impl ListingAnswer {
    fn of(site: &Site, listing: &StoredListing, outcome: Outcome) -> Self {
        let age = elapsed(listing.fetched_at);
        let left = site.freshness().tag_ttl.saturating_sub(age);
        Self {
            bytes: listing.bytes.clone(),
            outcome,
            age,
            fresh_for: (outcome != Outcome::Stale).then_some(left),
        }
    }
}

/// The answer to a question for a list.
#[derive(Clone)]
struct Listed {
    listing: Arc<StoredListing>,
    /// Overrides the outcome that follows from who started the question: the list is confirmed, or stale.
    outcome: Option<Outcome>,
}

/// Answers for the lists of a repository.
pub(crate) struct Lists {
    store: Arc<Store>,
    tags: Arc<ByTag>,
    refusals: Refusals,
    /// Empty lists that are not on disk, so that no question leaves anything there.
    empty: Cache<(QualifiedName, Listing), Arc<StoredListing>>,
    questions: Once<Listing, Listed>,
}

impl Lists {
    pub(super) fn new(store: &Arc<Store>, tags: &Arc<ByTag>) -> Arc<Self> {
        let refusals = Refusals::default();
        Arc::new(Self {
            store: Arc::clone(store),
            tags: Arc::clone(tags),
            questions: Once::new(&refusals),
            empty: Cache::new(MAX_EMPTY),
            refusals,
        })
    }

    /// All tags of a repository: sorted, each followed by a line feed.
    pub(crate) async fn tags(
        self: &Arc<Self>,
        context: &Context,
        repository: &Repository,
    ) -> Result<ListingAnswer, Error> {
        self.get(context, repository, &Listing::Tags).await
    }

    /// What refers to a manifest, as an index; an empty one if upstream knows of nothing that does.
    pub(crate) async fn referrers(
        self: &Arc<Self>,
        context: &Context,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ListingAnswer, Error> {
        let which = Listing::Referrers(digest.clone());
        self.get(context, repository, &which).await
    }

    async fn get(
        self: &Arc<Self>,
        context: &Context,
        repository: &Repository,
        which: &Listing,
    ) -> Result<ListingAnswer, Error> {
        let site = &context.site;
        let name = &site.qualify(repository);
        let Some(known) = self.known(name, which).await else {
            self.refusals.check(name, which).map_err(listing_error)?;
            let (listed, outcome) = self.ask(context, name, which, None);
            return answer(site, listed.answer().await, outcome);
        };
        let phase = decide(age(known.fetched_at), site.freshness());
        if let Phase::Fresh(_) = phase {
            return Ok(ListingAnswer::of(site, &known, Outcome::Hit));
        }
        let (listed, outcome) = self.ask(context, name, which, Some(Arc::clone(&known)));
        if phase == Phase::Expired {
            return answer(site, listed.answer().await, outcome);
        }
        match listed.answer_within(site.freshness().stale_after).await {
            Some(Err(error)) if error.is_no_answer() => {
                site.tell_stale(name, which, &error);
                Ok(ListingAnswer::of(site, &known, Outcome::Stale))
            }
            Some(listed) => answer(site, listed, outcome),
            None => Ok(ListingAnswer::of(site, &known, Outcome::Stale)),
        }
    }

    /// Starts or joins the question for a list, given what is stored of it.
    fn ask(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        which: &Listing,
        known: Option<Arc<StoredListing>>,
    ) -> (Asked<Listed>, Outcome) {
        let this = Arc::clone(self);
        let work = |context: Context, name: QualifiedName, which: Listing| async move {
            let is_stored = known.is_some();
            let listed = this.fetch(&context, &name, &which, known).await;
            if let Err(upstream::Error::NotFound) = listed {
                if is_stored && !context.site.upstream().is_registry().await {
                    let words = "it says 404 to everything: there is no registry behind it";
                    return Err(upstream::Error::Unavailable(words.into()));
                }
                this.empty.invalidate(&(name.clone(), which.clone()));
                this.store.records().drop_listing(&name, &which).await;
            }
            listed
        };
        self.questions.ask(context, name, which, work)
    }

    async fn fetch(
        &self,
        context: &Context,
        name: &QualifiedName,
        which: &Listing,
        known: Option<Arc<StoredListing>>,
    ) -> Answered<Listed> {
        let fetched_at = known.as_ref().map(|known| known.fetched_at);
        if let Some(listing) = self.known(name, which).await
            && Some(listing.fetched_at) > fetched_at
        {
            // Another flight landed between the asker's look into the store and this one's start.
            let outcome = known.and(Some(Outcome::Revalidated));
            return Ok(Listed { listing, outcome });
        }
        let fetched = match which {
            Listing::Tags => tags::fetch(&context.site, name).await?,
            Listing::Referrers(digest) => {
                let is_held = known.as_ref().is_some_and(|known| {
                    decide(age(known.fetched_at), context.site.freshness()) != Phase::Expired
                        && lists_any(&known.bytes)
                });
                referrers::fetch(&self.tags, &self.store, context, name, digest, is_held).await?
            }
        };
        let confirmed = known.is_some_and(|known| known.bytes == fetched.listing.bytes);
        let confirmed = confirmed.then_some(Outcome::Revalidated);
        let outcome = fetched.stale.or(confirmed);
        let listing = self.keep(name, which, fetched).await;
        Ok(Listed { listing, outcome })
    }

    /// The list that is remembered.
    async fn known(&self, name: &QualifiedName, which: &Listing) -> Option<Arc<StoredListing>> {
        let stored = self.store.records().listing(name, which).await;
        stored.or_else(|| self.empty.get(&(name.clone(), which.clone())))
    }

    /// Keeps a list: an empty one in memory, unless upstream itself says that nothing refers to a manifest that is stored.
    /// Anyone can ask for the lists of what does not exist.
    async fn keep(
        &self,
        name: &QualifiedName,
        which: &Listing,
        fetched: Fetched,
    ) -> Arc<StoredListing> {
        let records = self.store.records();
        let is_of_stored = match which {
            Listing::Referrers(digest) if fetched.is_empty && !fetched.is_refusal => {
                records.manifest(name, digest).await.is_some()
            }
            _ => false,
        };
        let key = (name.clone(), which.clone());
        if !fetched.is_empty || is_of_stored {
            self.empty.invalidate(&key);
            let (listing, behind) = (fetched.listing, Durability::Behind);
            let put = records.put_listing(name, which, listing, behind).await;
            return put.value;
        }
        if records.listing(name, which).await.is_some() {
            records.drop_listing(name, which).await;
        }
        let listing = Arc::new(fetched.listing);
        self.empty.insert(key, Arc::clone(&listing));
        listing
    }
}

fn answer(site: &Site, listed: Answered<Listed>, outcome: Outcome) -> Result<ListingAnswer, Error> {
    let listed = listed.map_err(listing_error)?;
    let outcome = listed.outcome.unwrap_or(outcome);
    Ok(ListingAnswer::of(site, &listed.listing, outcome))
}

fn listing_error(error: upstream::Error) -> Error {
    Error::of(error, Error::RepositoryUnknown)
}
