//! Openings: asking upstream for the body of a blob, under one repository.
//!
//! Clients of the same repository share one. Another repository asks for itself, so that it never waits for an answer,
//! or a refusal, that is not about it: upstream may take long over a name that does not even exist. Only with upstream's
//! yes does an opening become a fill, or join the one that is under way.

use std::sync::Arc;

use crate::flight::{Flights, Landing, Role, Slot};
use crate::headers::range::Span;
use crate::mirror::answer::{Error, Outcome};
use crate::mirror::once::{Answered, Refusals};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::Store;
use crate::store::blobs::partial::Partial;
use crate::upstream::{self, FetchedBlob};

use super::fill::{FillPermit, Fills, Landed, Opened};
use super::reminder;
use super::source::{Source, SourceNotes};
use super::wrong::WrongBlobs;

type OpeningKey = (QualifiedName, Digest);
type OpeningSlot = Slot<OpeningKey, Answered<Joined>>;

/// The fill that upstream's yes led to.
#[derive(Clone)]
pub(super) struct Joined {
    pub(super) landed: Landed,
    /// It was under way already.
    pub(super) as_joiner: bool,
}

/// The openings under way, one for each repository and digest.
pub(super) struct Openings {
    store: Arc<Store>,
    notes: Arc<SourceNotes>,
    wrong: WrongBlobs,
    refusals: Refusals,
    fills: Arc<Fills>,
    under_way: Arc<Flights<OpeningKey, Answered<Joined>>>,
}

impl Openings {
    pub(super) fn new(
        store: &Arc<Store>,
        notes: &Arc<SourceNotes>,
        refusals: &Refusals,
        fills: &Arc<Fills>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            notes: Arc::clone(notes),
            wrong: notes.wrong.clone(),
            refusals: refusals.clone(),
            fills: Arc::clone(fills),
            under_way: Arc::default(),
        })
    }

    /// Joins the opening of a blob under this name, or starts it as soon as this client may start one more.
    ///
    /// Nothing can be joined while the permit is waited for: no client waits for what another one must give back.
    pub(super) async fn join(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<(Landing<Answered<Joined>>, Outcome), Error> {
        let key = (name.clone(), digest.clone());
        if let Some(landing) = self.under_way.find(&key) {
            return Ok((landing, Outcome::Joined));
        }
        let wrong = self.wrong.check(name, digest);
        wrong.map_err(|again_in| Error::WrongBlob { again_in })?;
        context.miss().map_err(Error::Upstream)?;
        let context = context.for_fill().await.map_err(Error::OverShare)?;
        let this = Arc::clone(self);
        let (name, digest) = key.clone();
        // Boxed: it is large, and few requests start one.
        let start = |slot| Box::pin(this.run(context, name, digest, slot));
        let (landing, role) = self.under_way.join(key, start);
        Ok((landing, role.into()))
    }

    async fn run(
        self: Arc<Self>,
        context: Context,
        name: QualifiedName,
        digest: Digest,
        mut slot: OpeningSlot,
    ) {
        let site = Arc::clone(&context.site);
        let permit = FillPermit::new(context, &self.notes.metrics);
        if self.has_come(&site, &name, &digest).await {
            return;
        }
        let source = Source::new(&self.notes, &site, &name, &digest);
        let fetch = || fetch(&self.store, &source);
        let begun = reminder::ask(&self.store, &site, &name, &digest, fetch).await;
        let (mut fetched, partial) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                self.refusals.note(&site, &name, &digest, &error);
                slot.retire();
                return slot.publish(Err(error));
            }
        };
        let named = source.named_size().await;
        if partial.is_none()
            && differ(named, fetched.size).is_some()
            && let Ok(again) = source.open(None).await
        {
            // It may have been an error that calls itself a blob, for a moment.
            fetched = again;
        }
        if let Some((named, size)) = differ(named, fetched.size) {
            // The digest tells whether it is the right blob.
            tracing::warn!(repository = %name, %digest, named, size, "upstream announces another length of a blob than its manifest");
        }
        let (landing, role) = self.fills.start(Opened {
            source,
            named,
            fetched,
            partial,
            permit,
        });
        let Ok(landed) = landing.value().await else {
            return;
        };
        if let Landed::Growing(fill) = &landed {
            self.fills.prove(fill, &name, &digest).await;
        }
        let as_joiner = role == Role::Joiner;
        slot.publish(Ok(Joined { landed, as_joiner }));
    }

    /// Whether it came, or began to come, between the asker's look and the start of its opening.
    async fn has_come(&self, site: &Site, name: &QualifiedName, digest: &Digest) -> bool {
        if self.store.blobs().open(digest).is_some() {
            return true;
        }
        let Some(landing) = self.fills.find(site, digest) else {
            return false;
        };
        matches!(landing.value().await, Ok(Landed::Growing(fill)) if fill.is_proven(name))
    }
}

/// Two lengths of one blob that are not the same.
fn differ(named: Option<u64>, stated: Option<u64>) -> Option<(u64, u64)> {
    named.zip(stated).filter(|(named, stated)| named != stated)
}

/// Opens upstream's body: where an earlier transfer broke off, if one did.
///
/// What it left is taken out of the store only after upstream's yes: a request under a name that upstream refuses must
/// not take it away from the others.
async fn fetch(
    store: &Arc<Store>,
    source: &Source,
) -> Result<(FetchedBlob, Option<Partial>), upstream::Error> {
    let (namespace, digest) = (&source.name().namespace, source.digest());
    let Some(begins) = store.blobs().begun(namespace, digest).await else {
        return Ok((source.open(None).await?, None));
    };
    let fetched = match source.open(Some(Span::from(begins))).await {
        Ok(fetched) => fetched,
        // It has no such part: what is stored is not the beginning of its blob, or this repository has another one.
        Err(upstream::Error::Wrong(_)) => return Ok((source.open(None).await?, None)),
        Err(error) => return Err(error),
    };
    match store.blobs().partial(namespace, digest).await {
        Some(partial) if partial.written() == begins => {
            tracing::info!(repository = %source.name().repository, %digest, at = begins, "going on with a transfer that broke off earlier");
            source.count_resume();
            Ok((fetched, Some(partial)))
        }
        // Another opening took it, or it was evicted.
        Some(_) | None => Ok((source.open(None).await?, None)),
    }
}
