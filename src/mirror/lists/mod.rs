//! Lists of tags and of referrers: as fresh as tags are, and served stale as tags are.
//!
//! A list cannot be asked about without being fetched, so there is no cheap confirmation; one that comes
//! back as it was counts as confirmed.

pub(super) mod catalog;
mod referrers;
pub(crate) mod search;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use crate::flight::{Landing, Role};
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Repository};
use crate::store::records::{Listing, StoredListing};
use crate::upstream;

use crate::mirror::freshness::{Freshness, decide};
use crate::mirror::manifest::digest::{elapsed, landed, outcome_of};
use crate::mirror::manifest::tag::age;
use crate::mirror::{Answered, Error, Mirror, Outcome, Site};

/// A list, as it is stored: tags one to a line in their order, referrers as an index.
#[derive(Debug, Clone)]
pub(crate) struct ListingAnswer {
    /// The list.
    pub bytes: Bytes,
    /// How this came about.
    pub outcome: Outcome,
    /// How long ago upstream said so.
    pub age: Duration,
    /// How long it will be served without asking upstream.
    pub fresh_for: Option<Duration>,
}

/// What a question for a list brought.
#[derive(Clone)]
pub(in crate::mirror) struct Listed {
    listing: Arc<StoredListing>,
    /// If it is neither new nor what the asker's part in the question makes of it.
    outcome: Option<Outcome>,
}

impl Listed {
    fn answer(&self, site: &Site, role: Role) -> ListingAnswer {
        let outcome = self.outcome.unwrap_or_else(|| outcome_of(role));
        answer(site, &self.listing, outcome)
    }
}

impl Mirror {
    /// All tags of a repository: sorted, each followed by a line feed.
    pub(crate) async fn tags(
        self: &Arc<Self>,
        site: &Site,
        repository: &Repository,
    ) -> Result<ListingAnswer, Error> {
        let name = site.upstream.qualify(repository);
        self.listing(site, &name, &Listing::Tags).await
    }

    /// What refers to a manifest, as an index; an empty one if upstream knows of nothing that does.
    pub(crate) async fn referrers(
        self: &Arc<Self>,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ListingAnswer, Error> {
        let name = site.upstream.qualify(repository);
        self.listing(site, &name, &Listing::Referrers(digest.clone()))
            .await
    }

    async fn listing(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        which: &Listing,
    ) -> Result<ListingAnswer, Error> {
        let Some(known) = self.store.records().listing(name, which).await else {
            if let Some(error) = self.missing_listings.get(name, which) {
                return Err(listing_error(error));
            }
            let (landing, role) = self.list(site, name, which, None);
            let listed = landed(landing).await.map_err(listing_error)?;
            return Ok(listed.answer(site, role));
        };
        let freshness = decide(age(known.fetched_at), &site.policy);
        if let Freshness::Fresh(_) = freshness {
            return Ok(answer(site, &known, Outcome::Hit));
        }
        let (landing, role) = self.list(site, name, which, Some(Arc::clone(&known)));
        let landing = landed(landing);
        let listed = if freshness == Freshness::Expired {
            landing.await
        } else {
            match tokio::time::timeout(site.policy.stale_after, landing).await {
                Ok(Err(error)) if error.is_no_answer() => {
                    if error.is_circuit_open() {
                        tracing::debug!(repository = %name, list = %which, %error, "serving a stale list");
                    } else {
                        tracing::warn!(repository = %name, list = %which, %error, "upstream has no answer; serving a stale list");
                    }
                    return Ok(answer(site, &known, Outcome::Stale));
                }
                Ok(listed) => listed,
                // The question goes on behind this answer.
                Err(_) => return Ok(answer(site, &known, Outcome::Stale)),
            }
        };
        let listed = listed.map_err(listing_error)?;
        Ok(listed.answer(site, role))
    }

    /// Starts or joins the question for a list, given what is remembered of it.
    fn list(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        which: &Listing,
        known: Option<Arc<StoredListing>>,
    ) -> (Landing<Answered<Listed>>, Role) {
        let (mirror, site, key) = (
            Arc::clone(self),
            site.clone(),
            (name.clone(), which.clone()),
        );
        let id = key.clone();
        self.listings.join(key, |slot| async move {
            let (name, which) = &id;
            let listed = mirror.ask_for_list(&site, name, which, known).await;
            if let Err(error) = &listed {
                let ttl = site.policy.negative_ttl;
                mirror.missing_listings.note(name, which, error, ttl);
            }
            if let Err(upstream::Error::NotFound) = listed {
                mirror.store.records().drop_listing(name, which).await;
            }
            slot.publish(listed);
        })
    }

    async fn ask_for_list(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        which: &Listing,
        known: Option<Arc<StoredListing>>,
    ) -> Answered<Listed> {
        let fetched_at = known.as_ref().map(|known| known.fetched_at);
        if let Some(listing) = self.store.records().listing(name, which).await
            && Some(listing.fetched_at) > fetched_at
        {
            // Another flight landed between the asker's look into the store and this one's start.
            let outcome = known.and(Some(Outcome::Revalidated));
            return Ok(Listed { listing, outcome });
        }
        let (fetched, stale) = match which {
            Listing::Tags => (self.ask_for_tags(site, name).await?, None),
            Listing::Referrers(digest) => self.ask_for_referrers(site, name, digest).await?,
        };
        let confirmed = known.is_some_and(|known| known.bytes == fetched.bytes);
        let outcome = stale.or(confirmed.then_some(Outcome::Revalidated));
        let listing = self.store.records().put_listing(name, which, fetched).await;
        Ok(Listed { listing, outcome })
    }

    async fn ask_for_tags(&self, site: &Site, name: &QualifiedName) -> Answered<StoredListing> {
        let tags = site.upstream.tags(&name.repository).await?;
        let lines: String = tags.iter().flat_map(|tag| [tag.as_str(), "\n"]).collect();
        Ok(StoredListing {
            bytes: lines.into(),
            fetched_at: SystemTime::now(),
        })
    }
}

fn answer(site: &Site, listing: &StoredListing, outcome: Outcome) -> ListingAnswer {
    let age = elapsed(listing.fetched_at);
    let left = site.policy.tag_ttl.saturating_sub(age);
    ListingAnswer {
        bytes: listing.bytes.clone(),
        outcome,
        age,
        fresh_for: (outcome != Outcome::Stale).then_some(left),
    }
}

fn listing_error(error: upstream::Error) -> Error {
    match error {
        upstream::Error::NotFound => Error::RepositoryUnknown,
        error => Error::Upstream(error),
    }
}
