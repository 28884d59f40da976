//! Blobs: from the store, from a transfer under way, from upstream; and whether the repository may have them.
//!
//! A blob is answered under a repository only when that repository vouches for it: one of its stored
//! manifests names it, or upstream confirms it there. Otherwise anybody who knows a digest could read a
//! private repository's bytes through the name of a public one.

use std::ops::Range;
use std::sync::Arc;

pub(crate) mod ahead;
pub(super) mod fill;
pub(crate) mod passthrough;
pub(crate) mod source;

use crate::flight::Role;
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Repository};
use crate::store::blobs::reader::Reader;
use crate::upstream::{self, FetchedBlob};

use crate::mirror::{Error, Mirror, Outcome, Site, Want};
use fill::{Fill, Filling};
use passthrough::{Bypass, compare};
use source::Source;

/// How often a request tries to get into a transfer that fails under it before it gives up.
const ATTEMPTS: usize = 3;

/// A blob, or what a HEAD of it says.
pub(crate) struct BlobAnswer {
    /// Length in bytes of the whole blob; `None` when upstream did not say and it is not complete yet.
    pub size: Option<u64>,
    /// Where its bytes come from, when they were wanted.
    pub content: Option<Content>,
    /// How this came about.
    pub outcome: Outcome,
}

/// Where a blob's bytes come from.
pub(crate) enum Content {
    /// The store; or its source, should the store fail in the middle.
    Stored(Reader, Source),
    /// The same, while it is growing: parts it has not come to can be had from the source ahead of it.
    Growing(Reader, Source),
    /// Upstream, past the store; one client alone.
    Bypass(Box<Bypass>),
}

impl Mirror {
    /// Answers for a blob of `repository`.
    pub(crate) async fn blob(
        self: &Arc<Self>,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
        want: Want,
    ) -> Result<BlobAnswer, Error> {
        let name = site.upstream.qualify(repository);
        if let Some(reader) = self.store.blobs().open(digest) {
            let outcome = self.check_belongs(site, &name, digest).await?;
            let source = self.source(site, repository, digest);
            return Ok(stored(reader, source, want, outcome));
        }
        if want == Want::Header {
            return self.head(site, &name, digest).await;
        }
        for _ in 0..ATTEMPTS {
            if let Some(answer) = self.follow_fill(site, &name, digest).await? {
                return Ok(answer);
            }
            // The fill we found ended before we got hold of it: it is stored now, or a new one is due.
            if let Some(reader) = self.store.blobs().open(digest) {
                let outcome = self.check_belongs(site, &name, digest).await?;
                let source = self.source(site, repository, digest);
                return Ok(stored(reader, source, want, outcome));
            }
        }
        Err(Error::Upstream(upstream::Error::Unavailable(
            "the transfer failed again and again".into(),
        )))
    }

    /// Whether asking for this blob's bytes would start a transfer.
    pub(crate) fn would_fill(&self, site: &Site, digest: &Digest) -> bool {
        let key = (site.upstream.namespace().clone(), digest.clone());
        !self.store.blobs().has(digest) && self.fills.find(&key).is_none()
    }

    /// Asks upstream how long a blob is whose transfer does not say it.
    pub(crate) async fn blob_length(
        self: &Arc<Self>,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<u64> {
        let name = site.upstream.qualify(repository);
        let asked = self.ask_about_blob(site, &name, digest).await;
        asked.ok().and_then(|(size, _)| size)
    }

    /// Fetches one part of a blob that cannot be stored, for one client.
    pub(crate) async fn blob_part(
        &self,
        site: &Site,
        repository: &Repository,
        digest: &Digest,
        part: Range<u64>,
    ) -> Result<Box<Bypass>, Error> {
        let source = self.source(site, repository, digest);
        let fetched = source.open(Some(part.clone())).await.map_err(blob_error)?;
        Ok(Box::new(Bypass::part(source, fetched, part)))
    }

    pub(super) fn source(&self, site: &Site, repository: &Repository, digest: &Digest) -> Source {
        let (store, metrics) = (&self.store, &self.metrics);
        Source::new(store, metrics, &site.upstream, repository, digest)
    }

    /// Joins or starts the transfer of a blob; `None` when the one found is over and it is worth another look.
    async fn follow_fill(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<Option<BlobAnswer>, Error> {
        if let Some(error) = self.missing_blobs.get(name, digest) {
            return Err(blob_error(error));
        }
        let key = (name.namespace.clone(), digest.clone());
        let start = fill::start(Arc::clone(self), site.clone(), name.clone(), digest.clone());
        let (landing, role) = self.fills.join(key, start);
        let Ok(Fill {
            name: filled_as,
            filling,
        }) = landing.value().await
        else {
            return Ok(None);
        };
        let growing = match filling {
            Ok(Filling::Growing(growing)) => growing,
            Ok(Filling::NoRoom(spare)) => {
                // The open body was given under another name: it says nothing about this one.
                let fetched = spare.take_for(&filled_as, name);
                return self.bypass(site, name, digest, fetched).await.map(Some);
            }
            Err(error) if filled_as == *name => return Err(blob_error(error)),
            // It failed for another repository, which says nothing about this one.
            Err(_) => return Ok(None),
        };
        if filled_as != *name {
            self.check_belongs(site, name, digest).await?;
        }
        if growing.size() == Some(0) {
            // There is no last chunk to hold back: nothing may be said before it is verified.
            growing.reader().wait(0).await;
        }
        if growing.has_failed() {
            return Ok(None);
        }
        let outcome = if role == Role::Leader {
            Outcome::Miss
        } else {
            Outcome::Joined
        };
        let reader = growing.reader();
        Ok(Some(BlobAnswer {
            size: reader.length(),
            content: Some(Content::Growing(
                reader,
                self.source(site, &name.repository, digest),
            )),
            outcome,
        }))
    }

    /// Passes upstream's body through to one client: the one already under way if nobody took it yet.
    async fn bypass(
        &self,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
        fetched: Option<FetchedBlob>,
    ) -> Result<BlobAnswer, Error> {
        let source = self.source(site, &name.repository, digest);
        let fetched = match fetched {
            Some(fetched) => fetched,
            None => source.open(None).await.map_err(blob_error)?,
        };
        let size = fetched.size;
        if size == Some(0) {
            // There is no last piece to hold back: nothing may be said before it is verified.
            compare(digest, &digest.hasher().finish()).map_err(Error::Upstream)?;
        }
        let content = Some(Content::Bypass(Box::new(Bypass::whole(source, fetched))));
        Ok(BlobAnswer {
            size,
            content,
            outcome: Outcome::Bypass,
        })
    }

    /// A HEAD for a blob that is not stored: from the transfer under way, else from upstream.
    async fn head(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<BlobAnswer, Error> {
        if let Some(landing) = self.fills.find(&(name.namespace.clone(), digest.clone()))
            && self.store.records().vouches(name, digest).await
            && let Ok(Fill {
                filling: Ok(Filling::Growing(growing)),
                ..
            }) = landing.value().await
            && growing.size().is_some()
        {
            return Ok(BlobAnswer {
                size: growing.size(),
                content: None,
                outcome: Outcome::Joined,
            });
        }
        let (size, role) = self.ask_about_blob(site, name, digest).await?;
        let outcome = if role == Role::Leader {
            Outcome::Miss
        } else {
            Outcome::Joined
        };
        Ok(BlobAnswer {
            size,
            content: None,
            outcome,
        })
    }

    /// Makes sure that the repository has the blob, asking upstream if nothing stored says so.
    async fn check_belongs(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<Outcome, Error> {
        if self.store.records().vouches(name, digest).await {
            return Ok(Outcome::Hit);
        }
        self.ask_about_blob(site, name, digest).await?;
        Ok(Outcome::Revalidated)
    }

    /// One HEAD upstream for all who ask; a yes is remembered for good, a no for a moment.
    async fn ask_about_blob(
        self: &Arc<Self>,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<(Option<u64>, Role), Error> {
        if let Some(error) = self.missing_blobs.get(name, digest) {
            return Err(blob_error(error));
        }
        let (mirror, site, key) = (
            Arc::clone(self),
            site.clone(),
            (name.clone(), digest.clone()),
        );
        let id = key.clone();
        let (landing, role) = self.blob_checks.join(key, |slot| async move {
            let (name, digest) = &id;
            let size = site.upstream.head_blob(&name.repository, digest).await;
            match &size {
                Ok(_) => {
                    mirror
                        .store
                        .records()
                        .vouch(name, vec![digest.clone()])
                        .await;
                }
                Err(error) => {
                    mirror
                        .missing_blobs
                        .note(name, digest, error, site.policy.negative_ttl);
                }
            }
            slot.publish(size);
        });
        let called_off = |_| {
            Err(upstream::Error::Unavailable(
                "the request was called off".into(),
            ))
        };
        let size = landing
            .value()
            .await
            .unwrap_or_else(called_off)
            .map_err(blob_error)?;
        Ok((size, role))
    }
}

fn stored(reader: Reader, source: Source, want: Want, outcome: Outcome) -> BlobAnswer {
    let size = reader.length();
    BlobAnswer {
        size,
        content: (want == Want::Content).then_some(Content::Stored(reader, source)),
        outcome,
    }
}

fn blob_error(error: upstream::Error) -> Error {
    match error {
        upstream::Error::NotFound => Error::BlobUnknown,
        error => Error::Upstream(error),
    }
}
