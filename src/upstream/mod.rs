//! Upstreams: the registries this mirror pulls from, as configured.
//!
//! This folder knows how to ask a registry for something and how to prove who asks. It knows no disk, no
//! cache and no client: what it is asked for comes back as a stream, a value or an [`Error`] that says
//! whose fault it is.
//!
//! Reading order: this file (the questions that an upstream can be asked), `lists` and
//! `search` (further questions), `settings`, and then down the arrows: [`asking`] (one question, however many tries it
//! takes), [`login`] (as whom), [`wire`] (connections), [`restraint`] (when not to ask) and `error`.

mod asking;
mod error;
mod lists;
mod login;
mod restraint;
mod search;
mod settings;
mod wire;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use crate::headers::range::parse_content_range;
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest;
use crate::oci::name::{Namespace, QualifiedName, Reference, Repository};

pub(crate) use error::{Error, StartError};
pub(crate) use login::password::{Credentials, Password};
pub(crate) use restraint::quota::{Budget, RateLimit};
pub(crate) use settings::{Proxy, Settings, Timeouts};
pub(crate) use wire::http::Body;

use asking::client::Client;
use asking::failover::{Turn, Turns};
use asking::request::{Ask, Reply};
use login::account::Identity;

/// The largest manifest that is passed on. Clients take no more than 4 MiB (containerd, containers/image).
const MAX_MANIFEST: usize = 8 * 1024 * 1024;

/// What servers say that know no HEAD.
const NO_HEAD: &[u16] = &[405, 501];

/// What servers say to a range that the blob does not have.
const NO_SUCH_PART: &[u16] = &[416];

/// One registry to pull from.
pub(crate) struct Upstream {
    settings: Settings,
    /// Asked first, in this order.
    endpoints: Vec<Client>,
    /// The registry itself.
    home: Client,
}

/// What a HEAD of a manifest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestHead {
    /// It is the one that was asked about (304).
    NotModified,
    /// Upstream has it.
    Found {
        /// Its digest, in upstream's words.
        digest: Digest,
        /// Its media type.
        media_type: String,
        /// Its length in bytes.
        size: u64,
    },
    /// Upstream has it but did not say which: only a GET can tell.
    Unspecific,
}

/// A manifest as upstream sent it, its digest verified.
#[derive(Debug, Clone)]
pub(crate) struct FetchedManifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// From Content-Type, or from the manifest itself.
    pub media_type: String,
    /// Untouched.
    pub bytes: Bytes,
}

/// The body of a blob, as it comes from upstream.
#[derive(Debug)]
pub(crate) struct FetchedBlob {
    /// Length of the whole blob if upstream said so.
    pub size: Option<u64>,
    /// What part of it `body` is; `None` for all of it.
    pub part: Option<Range<u64>>,
    /// The bytes, unverified.
    pub body: Body,
}

impl Upstream {
    /// A client for the registry and each of its endpoints; reads certificate files, opens no connection.
    pub(crate) fn new(settings: Settings, metrics: &Arc<Metrics>) -> Result<Self, StartError> {
        let endpoint = |url: &http::Uri| {
            let anonymous = Settings {
                url: url.clone(),
                credentials: None,
                more_credentials: Vec::new(),
                realms: Vec::new(),
                ..settings.clone()
            };
            Client::new(&anonymous, false, metrics)
        };
        let endpoints = settings
            .endpoints
            .iter()
            .map(endpoint)
            .collect::<Result<_, _>>()?;
        let home = Client::new(&settings, true, metrics)?;
        Ok(Self {
            settings,
            endpoints,
            home,
        })
    }

    /// Who is asked for content; all of them together have the time that an answer may take to begin.
    fn turns(&self, for_bodies: bool) -> Turns<'_> {
        let time = self.settings.timeouts.headers;
        Turns::new(&self.endpoints, &self.home, time, for_bodies)
    }

    /// Until when an answer of the registry itself is waited for.
    fn deadline(&self) -> Instant {
        Instant::now() + self.settings.timeouts.headers
    }

    /// Whether the next is to be asked after that.
    fn passes_on<T>(&self, turn: &Turn<'_>, result: &Result<T, Error>) -> bool {
        match result {
            Err(error) if !turn.last => {
                let (upstream, endpoint) = (self.namespace(), turn.client.base());
                tracing::debug!(%upstream, endpoint, %error, "asking the next");
                true
            }
            _ => false,
        }
    }

    /// As configured.
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The name clients choose it by.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.settings.namespace
    }

    /// The full name of one of its repositories.
    pub(crate) fn qualify(&self, repository: &Repository) -> QualifiedName {
        QualifiedName::new(self.settings.namespace.clone(), repository.clone())
    }

    /// Asks which manifest a reference is, without fetching it: free of quota on Docker Hub.
    ///
    /// With `known`, upstream may answer that it is still that one.
    pub(crate) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, Error> {
        for turn in self.turns(false) {
            let head = self
                .head_manifest_of(&turn, repository, reference, known)
                .await;
            if !self.passes_on(&turn, &head) {
                return head;
            }
        }
        Err(nobody())
    }

    async fn head_manifest_of(
        &self,
        turn: &Turn<'_>,
        repository: &Repository,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, Error> {
        let ask = Ask {
            accept: Some(manifest::ACCEPT),
            if_none_match: known.map(|digest| format!("\"{digest}\"")),
            answers: NO_HEAD,
            // What is known can be served meanwhile.
            patient: turn.last && known.is_none(),
            ..Ask::new(Method::HEAD, manifest_endpoint(repository, reference))
        };
        let reply = turn.client.send(&ask, turn.until).await?;
        if NO_HEAD.contains(&reply.status.as_u16()) {
            return Ok(ManifestHead::Unspecific);
        }
        if reply.status == StatusCode::NOT_MODIFIED {
            return Ok(ManifestHead::NotModified);
        }
        let digest = stated_digest(&reply.headers)?;
        if let (Reference::Digest(asked), Some(stated)) = (reference, &digest)
            && asked != stated
        {
            return Err(Error::wrong(format!(
                "asked for manifest {asked}, upstream calls it {stated}"
            )));
        }
        // Where upstream only says that it is JSON, the type is in the body. Of what is known already it is
        // known as well.
        let media_type = content_type(&reply.headers)
            .filter(|said| manifest::specific(said).is_some() || digest.as_ref() == known)
            .map(|said| manifest::media_type_of(Some(said), b""));
        match (digest, content_length(&reply.headers), media_type) {
            (Some(digest), Some(size), Some(media_type)) => Ok(ManifestHead::Found {
                digest,
                media_type,
                size,
            }),
            _ => Ok(ManifestHead::Unspecific),
        }
    }

    /// Fetches a manifest. What does not have the digest that was asked for, or that upstream states, is refused.
    pub(crate) async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        for turn in self.turns(false) {
            let manifest = self.get_manifest_of(&turn, repository, reference).await;
            if !self.passes_on(&turn, &manifest) {
                return manifest;
            }
        }
        Err(nobody())
    }

    async fn get_manifest_of(
        &self,
        turn: &Turn<'_>,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        let ask = Ask {
            accept: Some(manifest::ACCEPT),
            patient: turn.last,
            ..Ask::new(Method::GET, manifest_endpoint(repository, reference))
        };
        let Reply { headers, body, .. } = turn.client.send(&ask, turn.until).await?;
        let stated = stated_digest(&headers)?;
        let expected_length = content_length(&headers);
        let bytes = whole(body, MAX_MANIFEST, "the manifest", turn.until).await?;
        if expected_length.is_some_and(|length| length != bytes.len() as u64) {
            return Err(Error::wrong(format!(
                "the manifest is {} bytes long, not as announced",
                bytes.len()
            )));
        }
        let asked = match reference {
            Reference::Digest(digest) => Some(digest),
            Reference::Tag(_) => None,
        };
        let digest = verified_digest(&bytes, asked, stated.as_ref())?;
        if manifest::Manifest::parse(&bytes).is_err() {
            return Err(Error::wrong(format!(
                "what upstream sent for {reference} is not a manifest"
            )));
        }
        let media_type = manifest::media_type_of(content_type(&headers), &bytes);
        Ok(FetchedManifest {
            digest,
            media_type,
            bytes,
        })
    }

    /// Asks whether the repository has a blob, and how long it is.
    pub(crate) async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        for turn in self.turns(false) {
            let length = self.head_blob_of(&turn, repository, digest).await;
            if !self.passes_on(&turn, &length) {
                return length;
            }
        }
        Err(nobody())
    }

    async fn head_blob_of(
        &self,
        turn: &Turn<'_>,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let ask = Ask {
            answers: NO_HEAD,
            patient: turn.last,
            ..Ask::new(Method::HEAD, blob_endpoint(repository, digest))
        };
        let reply = turn.client.send(&ask, turn.until).await?;
        if NO_HEAD.contains(&reply.status.as_u16()) {
            // Its first byte says the same; whatever follows is not read.
            let first = self
                .get_blob_of(turn, repository, digest, Some(0..1))
                .await?;
            return Ok(first.size);
        }
        Ok(content_length(&reply.headers))
    }

    /// Fetches a blob, or a part of it; `u64::MAX` as its end is that of the blob. The bytes are not verified here: they are still to come.
    pub(crate) async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Range<u64>>,
    ) -> Result<FetchedBlob, Error> {
        for turn in self.turns(true) {
            let blob = self
                .get_blob_of(&turn, repository, digest, part.clone())
                .await;
            if !self.passes_on(&turn, &blob) {
                return blob;
            }
        }
        Err(nobody())
    }

    async fn get_blob_of(
        &self,
        turn: &Turn<'_>,
        repository: &Repository,
        digest: &Digest,
        part: Option<Range<u64>>,
    ) -> Result<FetchedBlob, Error> {
        let ask = Ask {
            range: part.as_ref().map(|part| match part.end {
                u64::MAX => format!("bytes={}-", part.start),
                end => format!("bytes={}-{}", part.start, end.saturating_sub(1)),
            }),
            answers: NO_SUCH_PART,
            patient: turn.last,
            ..Ask::new(Method::GET, blob_endpoint(repository, digest))
        };
        let Reply {
            status,
            headers,
            body,
        } = turn.client.send(&ask, turn.until).await?;
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Err(Error::wrong(
                "upstream says that the blob is shorter".to_owned(),
            ));
        }
        if status != StatusCode::PARTIAL_CONTENT {
            return Ok(FetchedBlob {
                size: content_length(&headers),
                part: None,
                body,
            });
        }
        let stated = headers
            .get(header::CONTENT_RANGE)
            .and_then(parse_content_range);
        match (stated, part) {
            (Some((got, size)), Some(asked)) if is_answer(&got, size, &asked) => Ok(FetchedBlob {
                size,
                part: Some(got),
                body,
            }),
            _ => Err(Error::wrong(
                "upstream sent another part of the blob than was asked for".to_owned(),
            )),
        }
    }

    /// What came from an endpoint was wrong: for a while, blobs are asked of the registry itself alone.
    pub(crate) fn distrust_endpoints(&self) {
        self.endpoints.iter().for_each(Client::distrust);
    }

    /// What is left of our pull quota, as the one of us who has the most left; `None` if anybody's is not known, or
    /// nothing is limited.
    pub(crate) fn budget(&self) -> Option<Budget> {
        let share = |budget: &Budget| {
            // In thousandths: quotas are small numbers.
            u128::from(budget.remaining) * 1000 / u128::from(budget.limit.max(1))
        };
        let identities = self.home.identities().iter();
        let all: Option<Vec<_>> = identities.map(Identity::budget).collect();
        all?.into_iter().max_by_key(share)
    }

    /// Those we can be at the registry itself, in the order they are asked as.
    pub(crate) fn identities(&self) -> impl Iterator<Item = &str> {
        let identities = self.home.identities().iter();
        identities.map(|identity| identity.name.as_str())
    }

    /// What the registry last said of the pull quota of one of us; `None` if it never stated one.
    pub(crate) fn quota_of(&self, identity: usize) -> Option<RateLimit> {
        self.home.identities().get(identity)?.stated_quota()
    }

    /// Asks the registry itself for `/v2/` as one of us, with a token if it wants one.
    pub(crate) async fn ping_as(&self, identity: usize) -> Result<(), Error> {
        let ask = Ask::new(Method::GET, Endpoint::Base);
        let until = self.deadline();
        self.home.send_as(identity, &ask, until).await.map(drop)
    }

    /// Asks the registry itself with a HEAD as one of us, for what it says of the quota.
    pub(crate) async fn look_as(
        &self,
        identity: usize,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<(), Error> {
        let ask = Ask {
            accept: Some(manifest::ACCEPT),
            ..Ask::new(Method::HEAD, manifest_endpoint(repository, reference))
        };
        let until = self.deadline();
        self.home.send_as(identity, &ask, until).await.map(drop)
    }

    /// Asks one of the endpoints for `/v2/`.
    pub(crate) async fn ping_endpoint(&self, endpoint: usize) -> Result<(), Error> {
        let client = self.endpoints.get(endpoint).ok_or_else(nobody)?;
        let ask = Ask::new(Method::GET, Endpoint::Base);
        client.send(&ask, self.deadline()).await.map(drop)
    }
}

/// There is always a registry to ask.
fn nobody() -> Error {
    Error::unavailable("there is nobody to ask")
}

/// All of a short body.
async fn whole(body: Body, most: usize, what: &str, until: Instant) -> Result<Bytes, Error> {
    let late = |_| Error::Silent(format!("{what} was not whole in time").into());
    tokio::time::timeout_at(until.into(), body.collect_up_to(most))
        .await
        .map_err(late)?
}

/// Whether a part of a blob is what was asked for, or its beginning.
fn is_answer(got: &Range<u64>, size: Option<u64>, asked: &Range<u64>) -> bool {
    got.start == asked.start
        && got.end <= asked.end
        && got.end > got.start
        && size.is_none_or(|size| got.end <= size)
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("namespace", &self.settings.namespace)
            .finish_non_exhaustive()
    }
}

fn manifest_endpoint(repository: &Repository, reference: &Reference) -> Endpoint {
    Endpoint::Manifest {
        repository: repository.clone(),
        reference: reference.clone(),
    }
}

fn blob_endpoint(repository: &Repository, digest: &Digest) -> Endpoint {
    Endpoint::Blob {
        repository: repository.clone(),
        digest: digest.clone(),
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn content_type(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::CONTENT_TYPE)?.to_str().ok()
}

/// `Docker-Content-Digest` (distribution-spec, "Pulling manifests"). One that cannot be read is a lie.
fn stated_digest(headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    let Some(value) = headers.get("docker-content-digest") else {
        return Ok(None);
    };
    let digest = value.to_str().ok().and_then(|text| text.parse().ok());
    digest
        .map(Some)
        .ok_or_else(|| Error::wrong("upstream's Docker-Content-Digest is not a digest".to_owned()))
}

/// The digest the manifest goes by: the one asked for, else the one stated, else that of its bytes. Refuses
/// bytes that are not what a digest says.
fn verified_digest(
    bytes: &[u8],
    asked: Option<&Digest>,
    stated: Option<&Digest>,
) -> Result<Digest, Error> {
    if let Some(asked) = asked
        && !manifest::is_digest_of(asked, bytes)
    {
        let found = Digest::of(bytes);
        let words = format!("asked for manifest {asked}, upstream sent {found}");
        return Err(Error::wrong(words));
    }
    if let Some(stated) = stated
        && !manifest::is_digest_of(stated, bytes)
    {
        let found = Digest::of(bytes);
        let words = format!("upstream calls the manifest {stated}, its bytes are {found}");
        return Err(Error::wrong(words));
    }
    Ok(asked
        .or(stated)
        .cloned()
        .unwrap_or_else(|| Digest::of(bytes)))
}
