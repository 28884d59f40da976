//! Whether a repository has a blob that others of this mirror have: its proof.
//!
//! A proof must cost what only the one who has the blob can pay. The word of a manifest is enough for a blob of the same
//! upstream. What another upstream gave must be shown: a piece of it, chosen here at random. Whatever the proof was, it
//! ages, and the registry itself is asked again, so that a revocation is seen.

use std::sync::Arc;

use bytes::Bytes;

use crate::headers::range::Span;
use crate::mirror::answer::{Error, Outcome};
use crate::mirror::clock::{between, seconds_now};
use crate::mirror::freshness::{Phase, decide_vouched};
use crate::mirror::once::{Answered, Once, Refusals};
use crate::mirror::site::{Context, Site};
use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::Store;
use crate::store::blobs::reader::BlobReader;
use crate::store::blobs::sample::Sample;
use crate::store::records::Vouch;
use crate::upstream;

use super::fill::{Fill, Fills};
use super::reminder;
use super::source::skip;

/// What is known of a blob that is stored.
struct Standing {
    vouch: Option<Vouch>,
    /// How old that is.
    phase: Phase,
    /// This upstream has given the bytes, under any of its repositories.
    given: bool,
}

impl Standing {
    /// Whether it is as good as a proof, but for its age.
    fn is_enough(&self) -> bool {
        self.vouch.is_some_and(|vouch| vouch.proven || self.given)
    }
}

/// Asks for proofs, and remembers them.
pub(super) struct Proofs {
    store: Arc<Store>,
    fills: Arc<Fills>,
    /// What upstream says it has no blob of.
    refusals: Refusals,
    /// Questions how long a blob is.
    lengths: Once<Digest, Option<u64>>,
    /// The same, for the registry itself.
    confirmed: Once<Digest, Option<u64>>,
    /// Questions whether a repository has a blob that is stored.
    proofs: Once<Digest, ()>,
}

impl Proofs {
    pub(super) fn new(store: &Arc<Store>, fills: &Arc<Fills>, refusals: &Refusals) -> Arc<Self> {
        Arc::new(Self {
            store: Arc::clone(store),
            fills: Arc::clone(fills),
            refusals: refusals.clone(),
            lengths: Once::new(refusals),
            confirmed: Once::new(refusals),
            proofs: Once::new(refusals),
        })
    }

    /// Makes sure that the repository has the blob that `reader` reads, asking upstream where nothing stored says so.
    pub(super) async fn of_stored(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
        reader: &BlobReader,
    ) -> Result<Outcome, Error> {
        let vouch = self.store.records().vouched(name, digest).await;
        let phase = phase(&context.site, vouch, reader.opened_at());
        if vouch.is_some_and(|vouch| vouch.proven) && matches!(phase, Phase::Fresh(_)) {
            return Ok(Outcome::Hit);
        }
        let namespace = &name.namespace;
        let known = Standing {
            vouch,
            phase,
            given: self.store.records().was_given(namespace, digest).await,
        };
        // Boxed: it is large, and few requests come here.
        Box::pin(self.prove_stored(context, name, digest, reader, known)).await
    }

    async fn prove_stored(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
        reader: &BlobReader,
        known: Standing,
    ) -> Result<Outcome, Error> {
        if let (Some(vouch), Phase::Fresh(_), true) = (known.vouch, known.phase, known.given) {
            // From now on one look is enough.
            let entry = (digest.clone(), vouch.as_proven());
            self.store.records().vouch(name, vec![entry]).await;
            return Ok(Outcome::Hit);
        }
        let usable = known.is_enough() && known.phase == Phase::Stale;
        if !usable {
            self.refusals.check(name, digest).map_err(blob_error)?;
        }
        let (this, reader) = (Arc::clone(self), reader.clone());
        let given = known.given;
        let work = move |context: Context, name: QualifiedName, digest: Digest| async move {
            this.prove(&context.site, &name, &digest, &reader, given)
                .await
        };
        let (asked, _) = self.proofs.ask(context, name, digest, work);
        if !usable {
            asked.answer().await.map_err(blob_error)?;
            return Ok(Outcome::Revalidated);
        }
        let patience = context.site.freshness().stale_after;
        match asked.answer_within(patience).await {
            Some(Ok(())) => Ok(Outcome::Revalidated),
            Some(Err(error)) if is_refusal(&error) => Err(blob_error(error)),
            Some(Err(error)) => {
                context.site.tell_stale(name, digest, &error);
                Ok(Outcome::Stale)
            }
            None => Ok(Outcome::Stale),
        }
    }

    /// Asks for the proof that is needed, and writes down the answer.
    async fn prove(
        &self,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
        reader: &BlobReader,
        given: bool,
    ) -> Answered<()> {
        let length = reader.length().unwrap_or_default();
        let question = || async move {
            let confirmed = match given || length == 0 {
                true => confirm(site, name, digest, length).await?,
                false => false,
            };
            match confirmed {
                false => show(site, name, digest, reader).await,
                true => Ok(()),
            }
        };
        let proven = reminder::ask(&self.store, site, name, digest, question).await;
        let records = self.store.records();
        match &proven {
            Ok(()) => {
                let entry = (digest.clone(), Vouch::proven());
                records.vouch(name, vec![entry]).await;
                if !given {
                    records.note_given(&name.namespace, digest).await;
                }
            }
            Err(error) if is_refusal(error) => records.disown(name, digest).await,
            Err(_) => {}
        }
        proven
    }

    /// Whether the repository may read along with a fill that another one has started. False if upstream does not say
    /// enough to tell.
    pub(super) async fn of_fill(
        self: &Arc<Self>,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
        fill: &Fill,
    ) -> Result<bool, Error> {
        if fill.is_proven(name) {
            return Ok(true);
        }
        let vouch = self.store.records().vouched(name, digest).await;
        let phase = phase(&context.site, vouch, seconds_now());
        if let Phase::Fresh(_) = phase {
            self.fills.prove(fill, name, digest).await;
            return Ok(true);
        }
        self.refusals.check(name, digest).map_err(blob_error)?;
        let work = |context: Context, name: QualifiedName, digest: Digest| async move {
            let upstream = context.site.upstream();
            upstream.confirm_blob(&name.repository, &digest).await
        };
        let (asked, _) = self.confirmed.ask(context, name, digest, work);
        let size = match asked.answer().await {
            Ok(size) => size,
            Err(error) if phase == Phase::Stale && !is_refusal(&error) => return Ok(true),
            Err(error) => return Err(blob_error(error)),
        };
        let alike = size.is_some() && size == fill.growing.size();
        if alike {
            self.fills.prove(fill, name, digest).await;
        }
        Ok(alike)
    }

    /// Whether the repository may know of the fill of another one, without asking upstream.
    pub(super) async fn is_known(
        &self,
        site: &Site,
        name: &QualifiedName,
        digest: &Digest,
    ) -> bool {
        let vouch = self.store.records().vouched(name, digest).await;
        matches!(phase(site, vouch, seconds_now()), Phase::Fresh(_))
    }

    /// How long a blob is: as a manifest of the repository says, else as upstream says, with one question for all who
    /// ask. It proves nothing about what is stored.
    pub(super) async fn length(
        &self,
        context: &Context,
        name: &QualifiedName,
        digest: &Digest,
    ) -> Result<(Option<u64>, Outcome), Error> {
        self.refusals.check(name, digest).map_err(blob_error)?;
        let vouch = self.store.records().vouched(name, digest).await;
        let named = vouch.and_then(|vouch| vouch.size());
        let phase = phase(&context.site, vouch, seconds_now());
        if named.is_some() && phase != Phase::Expired {
            return Ok((named, Outcome::Hit));
        }
        let work = |context: Context, name: QualifiedName, digest: Digest| async move {
            let upstream = context.site.upstream();
            let size = upstream.head_blob(&name.repository, &digest).await?;
            match (size, named) {
                (Some(size), Some(named)) if size != named => {
                    let words = format!("it says that a blob of {named} bytes has {size}");
                    Err(upstream::Error::Wrong(words.into()))
                }
                _ => Ok(size),
            }
        };
        let (size, outcome) = self.lengths.ask(context, name, digest, work);
        Ok((size.answer().await.map_err(blob_error)?, outcome))
    }
}

/// What upstream's error about a blob means to a client.
pub(super) fn blob_error(error: upstream::Error) -> Error {
    Error::of(error, Error::BlobUnknown)
}

/// How good the word for a blob still is. Without one it is void.
fn phase(site: &Site, vouch: Option<Vouch>, now: u32) -> Phase {
    match vouch {
        Some(vouch) => decide_vouched(between(vouch.at, now), site.freshness()),
        None => Phase::Expired,
    }
}

/// Whether upstream says that the repository does not have the blob, or does not show it to us.
fn is_refusal(error: &upstream::Error) -> bool {
    matches!(
        error,
        upstream::Error::NotFound | upstream::Error::Denied { .. }
    )
}

/// Asks the registry itself whether the repository has the blob; false if it does not say how long that is.
async fn confirm(
    site: &Site,
    name: &QualifiedName,
    digest: &Digest,
    length: u64,
) -> Answered<bool> {
    let upstream = site.upstream();
    match upstream.confirm_blob(&name.repository, digest).await? {
        Some(size) if size == length => Ok(true),
        Some(size) => {
            let words = format!("it says that a blob of {length} bytes has {size}");
            Err(upstream::Error::Wrong(words.into()))
        }
        None => Ok(false),
    }
}

/// Has the registry itself show a piece of the blob.
async fn show(
    site: &Site,
    name: &QualifiedName,
    digest: &Digest,
    reader: &BlobReader,
) -> Answered<()> {
    let length = reader.length().unwrap_or_default();
    let sample = Sample::of(reader.file(), length).await;
    let sample = sample.map_err(|error| {
        tracing::error!(%digest, %error, "cannot read a stored blob");
        upstream::Error::Unavailable("the stored blob cannot be read".into())
    })?;
    let span = Span::from(sample.range.clone());
    let upstream = site.upstream();
    let mut fetched = upstream.show_blob(&name.repository, digest, span).await?;
    let mut first = match fetched.part {
        Some(_) => Bytes::new(),
        None => skip(&mut fetched.body, sample.range.start).await?,
    };
    let mut left = sample.bytes.as_slice();
    while !left.is_empty() {
        let chunk = match std::mem::take(&mut first) {
            chunk if chunk.is_empty() => fetched.body.chunk().await?.unwrap_or_default(),
            chunk => chunk,
        };
        let count = chunk.len().min(left.len());
        let (piece, rest) = left.split_at(count);
        if chunk.is_empty() || !chunk.starts_with(piece) {
            tracing::warn!(repository = %name, %digest, "upstream does not have the blob that it names: its bytes are others");
            let words = "its bytes are not those that the digest stands for";
            return Err(upstream::Error::Wrong(words.into()));
        }
        left = rest;
    }
    Ok(())
}
