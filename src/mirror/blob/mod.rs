//! Blobs: from the store, from a transfer under way, from upstream; and whether the repository may have them.
//!
//! A blob is answered under a repository only when that repository vouches for it. Otherwise a client that knows a
//! digest could read a private repository's bytes through the name of a public one.
//!
//! It knows no sockets, no responses and no paths of files. Reading order: this file (what the answer is), `proof`
//! (whether the repository may have it), `opening` (asking upstream under one repository), `reminder` (a 404 that
//! contradicts a stored manifest), `fill` (a blob on its way into the store, for all repositories that have it),
//! `receive` (how it comes), [`delivery`] (which bytes go to a client next, and from where; also what happens
//! when the disk fails meanwhile), [`ahead`] (decides whether to wait for a fill or to fetch ahead of it; pure),
//! [`passthrough`] (upstream's body for one client), [`source`] (one blob at its upstream).

mod ahead;
pub(crate) mod delivery;
mod fill;
mod opening;
mod passthrough;
mod proof;
mod receive;
mod reminder;
mod source;
mod window;
mod wrong;

use std::ops::Range;
use std::sync::Arc;

use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::name::{QualifiedName, Repository};
use crate::store::Store;
use crate::store::blobs::reader::BlobReader;
use crate::upstream::{self, FetchedBlob};

use super::answer::{Error, Outcome, Want};
use super::children::Children;
use super::once::Refusals;
use super::site::{Context, Site};
use delivery::{Content, Delivery, StoredBlob};
use fill::{Fills, Landed};
use opening::{Joined, Openings};
use passthrough::{Passthrough, compare};
use proof::{Proofs, blob_error};
use source::{Source, SourceNotes};
use window::WindowLimits;

/// How often a request tries to get into a transfer that fails under it before it gives up.
const ATTEMPTS: usize = 3;

/// A blob, or what a HEAD of it says.
pub(crate) struct BlobAnswer {
    /// Length in bytes of the whole blob; `None` when upstream did not say and it is not complete yet.
    pub size: Option<u64>,
    /// Where its bytes come from, when they were wanted.
    pub content: Option<Content>,
    pub outcome: Outcome,
}

/// Answers for blobs.
pub(crate) struct BlobMirror {
    store: Arc<Store>,
    notes: Arc<SourceNotes>,
    fills: Arc<Fills>,
    openings: Arc<Openings>,
    /// What upstream says it has no blob of.
    refusals: Refusals,
    /// What is no blob.
    children: Children,
    proofs: Arc<Proofs>,
}

impl BlobMirror {
    pub(super) fn new(
        store: &Arc<Store>,
        children: &Children,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let refusals = Refusals::default();
        let notes = SourceNotes::new(store, metrics);
        let fills = Fills::new(store, metrics);
        Arc::new(Self {
            store: Arc::clone(store),
            openings: Openings::new(store, &notes, &refusals, &fills),
            proofs: Proofs::new(store, &fills, &refusals),
            fills,
            notes,
            refusals,
            children: children.clone(),
        })
    }

    /// Answers for a blob of `repository`.
    pub(crate) async fn get(
        self: &Arc<Self>,
        context: &Context,
        repository: &Repository,
        digest: &Digest,
        want: Want,
    ) -> Result<BlobAnswer, Error> {
        let name = context.site.qualify(repository);
        for attempt in 0..=ATTEMPTS {
            if let Some(reader) = self.store.blobs().open(digest) {
                let proof = self.proofs.of_stored(context, &name, digest, &reader);
                let outcome = proof.await?;
                return Ok(BlobAnswer {
                    size: reader.length(),
                    content: (want == Want::Content)
                        .then(|| self.stored(&context.site, &name, digest, reader, None)),
                    outcome,
                });
            }
            if self.is_manifest(&name, digest).await {
                return Err(Error::BlobUnknown);
            }
            if want == Want::Header {
                return self.head(context, &name, digest).await;
            }
            // A fill that is found may end before this request can read along: the blob is stored then, or a new fill
            // is due.
            if attempt < ATTEMPTS
                && let Some(answer) = self.follow_fill(context, &name, digest).await?
            {
                return Ok(answer);
            }
        }
        Err(Error::Upstream(upstream::Error::Unavailable(
            "the transfer failed again and again".into(),
        )))
    }

    /// Whether the repository has a manifest of that digest, and no manifest that names it as a blob.
    async fn is_manifest(&self, name: &QualifiedName, digest: &Digest) -> bool {
        let records = self.store.records();
        (records.has_manifest(name, digest) || self.children.has(name, digest))
            && records.vouched(name, digest).await.is_none()
    }

    /// Asks upstream how long a blob is whose transfer does not say it.
    pub(crate) async fn length(
        self: &Arc<Self>,
        context: &Context,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<u64> {
        let name = context.site.qualify(repository);
        let asked = self.proofs.length(context, &name, digest).await;
        asked.ok().and_then(|(size, _)| size)
    }

    /// Fetches one part of a blob that cannot be stored, for one client.
    pub(crate) async fn part(
        &self,
        context: &Context,
        repository: &Repository,
        digest: &Digest,
        part: Range<u64>,
    ) -> Result<Delivery, Error> {
        context.miss().map_err(Error::Upstream)?;
        let site = &context.site;
        let source = Source::new(&self.notes, site, &site.qualify(repository), digest);
        let part = Passthrough::part(source, part.into()).await;
        let part = part.map_err(blob_error)?;
        Ok(Box::new(part).into())
    }

    fn stored(
        &self,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
        reader: BlobReader,
        limits: Option<WindowLimits>,
    ) -> Content {
        let source = Source::new(&self.notes, site, name, digest);
        Content::Stored(StoredBlob::new(&self.store, reader, source, limits))
    }

    /// Joins or starts the transfer of a blob; `None` when the one found is over and it is worth another look.
    async fn follow_fill(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<Option<BlobAnswer>, Error> {
        self.refusals.check(name, digest).map_err(blob_error)?;
        let found = match self.fills.find(&context.site, digest) {
            Some(landing) => match landing.value().await {
                Ok(Landed::Growing(fill)) => {
                    let may_join = self.proofs.of_fill(context, name, digest, &fill).await?;
                    may_join.then_some(fill)
                }
                Ok(Landed::NoRoom(_)) | Err(_) => return Ok(None),
            },
            None => None,
        };
        let (landed, outcome) = match found {
            Some(fill) => (Landed::Growing(fill), Outcome::Joined),
            None => {
                let (opening, outcome) = self.openings.join(context, name, digest).await?;
                match opening.value().await {
                    Ok(Ok(Joined { landed, as_joiner })) => {
                        let outcome = if as_joiner { Outcome::Joined } else { outcome };
                        (landed, outcome)
                    }
                    Ok(Err(error)) => return Err(blob_error(error)),
                    Err(_) => return Ok(None),
                }
            }
        };
        let (growing, limits) = match landed {
            Landed::Growing(fill) => (fill.growing, fill.windows.for_request(context)),
            Landed::NoRoom(open_body) => {
                let answer = self.pass_through(context, name, digest, open_body.take());
                return answer.await.map(Some);
            }
        };
        if growing.size() == Some(0) {
            // There is no last chunk to hold back: nothing may be said before it is verified.
            growing.reader().wait(0).await;
        }
        if growing.has_failed() {
            return Ok(None);
        }
        let reader = growing.reader();
        Ok(Some(BlobAnswer {
            size: reader.length(),
            content: Some(self.stored(&context.site, name, digest, reader, Some(limits))),
            outcome,
        }))
    }

    /// Passes upstream's body through to one client: `fetched` if that is open already.
    async fn pass_through(
        &self,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
        fetched: Option<FetchedBlob>,
    ) -> Result<BlobAnswer, Error> {
        let source = Source::new(&self.notes, &context.site, name, digest);
        let fetched = match fetched {
            Some(fetched) => fetched,
            None => {
                context.miss().map_err(Error::Upstream)?;
                source.open(None).await.map_err(blob_error)?
            }
        };
        let size = match fetched.size {
            None => source.named_size().await,
            stated => stated,
        };
        if size == Some(0) {
            // There is no last piece to hold back: nothing may be said before it is verified.
            compare(digest, &digest.hasher().finish()).map_err(Error::Upstream)?;
        }
        let fetched = FetchedBlob { size, ..fetched };
        let passthrough = Passthrough::whole(source, fetched);
        Ok(BlobAnswer {
            size,
            content: Some(Content::Passthrough(Box::new(passthrough))),
            outcome: Outcome::Bypass,
        })
    }

    /// A HEAD for a blob that is not stored: from the transfer under way, else from upstream.
    async fn head(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<BlobAnswer, Error> {
        let (mut size, mut outcome) = (None, Outcome::Joined);
        if let Some(landing) = self.fills.find(&context.site, digest)
            && let Ok(Landed::Growing(fill)) = landing.value().await
            && (fill.is_proven(name) || self.proofs.is_known(&context.site, name, digest).await)
        {
            size = fill.growing.size();
        }
        if size.is_none() {
            (size, outcome) = self.proofs.length(context, name, digest).await?;
        }
        Ok(BlobAnswer {
            size,
            content: None,
            outcome,
        })
    }
}
