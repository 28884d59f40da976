//! Upstreams: the registries this mirror pulls from, as configured.
//!
//! This folder asks a registry for something and authenticates. It knows no disk, no cache and no client of the
//! mirror: it returns a stream, a value or an [`Error`] that says whose fault it is.
//!
//! Reading order: this file (the questions that an upstream can be asked), then what each question is: `manifests`,
//! `blobs`, `lists`, `search`, `probe`; `heads` (how far a HEAD is believed); `settings`; and what these use: `asking` (one question, with all its tries),
//! `login` (as whom), `wire` (connections), `restraint` (when not to ask), `error`.

mod asking;
mod blobs;
mod error;
mod heads;
mod lists;
mod login;
mod manifests;
mod probe;
mod restraint;
mod search;
mod settings;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::headers::range::Span;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::name::{Namespace, Reference, Repository};
use crate::oci::referrers;
use crate::sites::budget::{Budget, Pulls};
use crate::sites::hub;

pub(crate) use blobs::FetchedBlob;
pub(crate) use error::{CertificateError, Error};
pub(crate) use lists::ReferrersAnswer;
pub(crate) use login::kinds::Login;
pub(crate) use login::password::Password;
pub(crate) use manifests::{FetchedManifest, ManifestHead};
pub(crate) use probe::{Probe, Reached};
pub(crate) use settings::{BaseUrl, Settings};
pub(crate) use wire::http::UpstreamBody;
pub(crate) use wire::settings::{ConnectionSettings, Proxy, Timeouts};

use asking::failover::{Endpoints, Turn};
use heads::Heads;
use manifests::ManifestQuestion;

/// How answers are read, for fuzz targets.
pub(crate) mod answers {
    pub(crate) use super::asking::refusal::detail as refusal;
    pub(crate) use super::login::granted::is_token;
    pub(crate) use super::restraint::backoff::retry_after;
    pub(crate) use super::search::is_search;
}

pub(crate) struct Upstream {
    settings: Settings,
    endpoints: Endpoints,
    /// How far the registry's answers to HEAD are believed.
    heads: Heads,
    /// Its share of it.
    memory: Arc<Memory>,
}

impl Upstream {
    /// A client for the registry and each of its endpoints; reads certificate files, opens no connection.
    pub(crate) fn new(
        settings: Settings,
        memory: &Memory,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, CertificateError> {
        Ok(Self {
            memory: memory.share(),
            endpoints: Endpoints::new(&settings, metrics)?,
            heads: Heads::default(),
            settings,
        })
    }

    /// The name clients choose it by.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.settings.namespace
    }

    /// Whether it is Docker Hub itself.
    pub(crate) fn is_docker_hub(&self) -> bool {
        self.settings.is_docker_hub()
    }

    /// Asks which manifest a reference is, with a HEAD, which is free of quota on Docker Hub; fetches it where that does
    /// not tell.
    ///
    /// With `known`, upstream may answer that it is still that one.
    pub(crate) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, Error> {
        let asked = ManifestQuestion {
            repository,
            reference,
            known,
            memory: &self.memory,
        };
        let counted = self.counts_pulls();
        let ask = |turn| manifests::head(turn, asked, &self.heads.of_manifests, counted);
        if is_of_referrers(reference) {
            return ask(self.endpoints.registry_turn()).await;
        }
        match self.endpoints.first_answer(None, ask).await {
            Err(error) if heads::is_outage(&error) => {
                // An endpoint that refuses HEAD may still be asked with GET, as it is for all else meanwhile.
                let ask = async |turn: Turn<'_>| match turn.last {
                    true => Err(error.clone()),
                    false => manifests::fetch(turn, asked).await,
                };
                Box::pin(self.endpoints.first_answer(None, ask)).await
            }
            answer => answer,
        }
    }

    /// Fetches a manifest. One without the digest that was asked for, or that upstream states, is refused.
    pub(crate) async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        let asked = ManifestQuestion {
            repository,
            reference,
            known: None,
            memory: &self.memory,
        };
        let ask = |turn| manifests::get(turn, asked);
        match is_of_referrers(reference) {
            true => ask(self.endpoints.registry_turn()).await,
            false => self.endpoints.first_answer(None, ask).await,
        }
    }

    /// Asks whether the repository has a blob, and how long it is.
    pub(crate) async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        self.endpoints
            .first_answer(None, |turn| {
                blobs::head(turn, repository, digest, &self.heads.of_blobs)
            })
            .await
    }

    /// The same, asked of the registry itself: what an endpoint says proves nothing.
    pub(crate) async fn confirm_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let turn = self.endpoints.registry_turn();
        blobs::head(turn, repository, digest, &self.heads.of_blobs).await
    }

    /// Fetches a part of a blob from the registry itself.
    pub(crate) async fn show_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Span,
    ) -> Result<FetchedBlob, Error> {
        blobs::get(
            self.endpoints.registry_turn(),
            repository,
            digest,
            Some(part),
            None,
        )
        .await
    }

    /// Fetches a blob, or a part of it. The bytes are still to come and are not verified here. `named`: its length, as a
    /// manifest says.
    pub(crate) async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Span>,
        named: Option<u64>,
    ) -> Result<FetchedBlob, Error> {
        self.endpoints
            .first_answer(Some(repository), |turn| {
                blobs::get(turn, repository, digest, part, named)
            })
            .await
    }

    /// All tags of a repository, sorted, one to a line, without names that are not valid as a tag.
    pub(crate) async fn tags(&self, repository: &Repository) -> Result<Bytes, Error> {
        lists::tags(self.endpoints.registry(), repository, &self.memory).await
    }

    /// Whether upstream has the repository and shows it.
    pub(crate) async fn has_repository(&self, repository: &Repository) -> bool {
        lists::has_repository(self.endpoints.registry(), repository, &self.memory).await
    }

    /// Whether a registry answers at all.
    pub(crate) async fn is_registry(&self) -> bool {
        lists::is_registry(self.endpoints.registry()).await
    }

    /// The manifests that refer to one. `patient`: whether to try again what may pass.
    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        patient: bool,
    ) -> Result<ReferrersAnswer, Error> {
        let client = self.endpoints.registry();
        lists::referrers(client, repository, digest, patient, &self.memory).await
    }

    /// The results of upstream's search, as it wrote them; not found if it has no search. `query` is the query string.
    pub(crate) async fn search(&self, query: String) -> Result<Bytes, Error> {
        let elsewhere = hub::search(&self.settings.namespace, self.settings.registry.url.host());
        search::search(self.endpoints.registry(), elsewhere, query, &self.memory).await
    }

    /// What the registry warned of when it was last asked about this, a moment ago: headers for those who asked.
    pub(crate) fn warnings(&self, asked: &Endpoint) -> Option<Arc<[HeaderValue]>> {
        self.endpoints.registry().warnings(asked)
    }

    /// The room for what is made of its answers.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// A body from an endpoint was wrong: for a while, blobs of this repository are asked of the registry itself alone.
    pub(crate) fn distrust_endpoints(&self, repository: &Repository) {
        self.endpoints.distrust(repository);
    }

    /// Whether a GET of a manifest is counted as a pull: at Docker Hub itself, and where a quota is stated.
    pub(crate) fn counts_pulls(&self) -> bool {
        let states = |pulls: &Pulls| Budget::best(std::slice::from_ref(pulls)).is_some();
        hub::is_at(self.settings.registry.url.host()) || self.pulls().iter().any(states)
    }

    /// The pull quota of each account. Answers of upstream keep it up to date.
    pub(crate) fn pulls(&self) -> Vec<Pulls> {
        let accounts = self.endpoints.registry().accounts().iter();
        accounts.map(|account| account.quota().pulls()).collect()
    }

    /// One probe for each account, then for each endpoint that is asked before the registry.
    pub(crate) fn probes(&self) -> impl Iterator<Item = Probe<'_>> {
        probe::all(&self.settings, &self.endpoints)
    }
}

/// Whether a tag stands for a list of referrers, or for a signature: lists are asked of the registry alone.
fn is_of_referrers(reference: &Reference) -> bool {
    matches!(reference, Reference::Tag(tag) if referrers::is_fallback_tag(tag))
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({})", self.settings.namespace)
    }
}
