//! Upstreams: the registries this mirror pulls from, as configured.
//!
//! This folder knows how to ask a registry for something and how to prove who asks. It knows no disk, no
//! cache and no client: what it is asked for comes back as a stream, a value or an [`Error`] that says
//! whose fault it is.
//!
//! Reading order: this file (the questions one can ask an upstream), `select` (which one is asked),
//! `listings` and `search` (further
//! questions), [`client`] (one request with its token and redirects), [`auth`] (tokens), [`credentials`] (where secrets
//! come from), `http1` (one request as it is, time limits), `origin` (where it may go), `connect` (sockets, TLS, proxies).

pub mod auth;
pub mod client;
mod connect;
pub mod credentials;
mod error;
mod http1;
mod listings;
mod origin;
mod quota;
mod search;
mod select;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};

use crate::headers::range::parse_content_range;
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::endpoint::{Endpoint, EndpointError};
use crate::oci::manifest;
use crate::oci::name::{Namespace, QualifiedName, Reference, Repository};

pub use http1::Body;
pub use quota::RateLimit;
pub use select::{SelectError, Upstreams, canonical};

use client::{Ask, Client, Reply};
use credentials::Credentials;
pub use error::{Error, StartError};

/// The largest manifest that is passed on. Clients take no more than 4 MiB (containerd, containers/image).
const MAX_MANIFEST: usize = 8 * 1024 * 1024;

/// What servers say that know no HEAD.
const NO_HEAD: &[u16] = &[405, 501];

/// What servers say to a range that the blob does not have.
const NO_SUCH_PART: &[u16] = &[416];

/// The canonical name of Docker Hub.
const DOCKER_HUB: &str = "docker.io";

/// One upstream as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name clients choose it by.
    pub namespace: Namespace,
    /// Whether requests without a namespace go here.
    pub default: bool,
    /// Scheme and authority, and a path that is put before `/v2/` if the registry lives under one.
    pub url: http::Uri,
    /// As whom to pull; anonymously without.
    pub credentials: Option<Credentials>,
    /// Certificate authorities (PEM) trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts outside the upstream's own domain that may receive its credentials as a token realm.
    pub realms: Vec<String>,
    /// How to get there.
    pub proxy: Proxy,
    /// How long to wait for it.
    pub timeouts: Timeouts,
}

impl Settings {
    /// Whether this is Docker Hub, with its aliases and its `library/`.
    pub fn is_docker_hub(&self) -> bool {
        self.namespace.as_str() == DOCKER_HUB
    }

    /// Who we are there, for logs: the user name, or `anonymous`.
    pub fn identity(&self) -> &str {
        self.credentials
            .as_ref()
            .map_or("anonymous", |credentials| &credentials.username)
    }
}

/// Limits on silence; none of them bounds a whole transfer.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the response header is in: connecting, a token and redirects included.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

/// The HTTP proxy on the way to an upstream.
#[derive(Debug, Clone)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// None.
    Direct,
    /// This one.
    Url(http::Uri),
}

/// One registry to pull from.
pub struct Upstream {
    settings: Settings,
    client: Client,
}

/// What a HEAD of a manifest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestHead {
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
pub struct FetchedManifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// From Content-Type, or from the manifest itself.
    pub media_type: String,
    /// Untouched.
    pub bytes: Bytes,
}

/// The body of a blob, as it comes from upstream.
#[derive(Debug)]
pub struct FetchedBlob {
    /// Length of the whole blob if upstream said so.
    pub size: Option<u64>,
    /// What part of it `body` is; `None` for all of it.
    pub part: Option<Range<u64>>,
    /// The bytes, unverified.
    pub body: Body,
}

impl Upstream {
    fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        let client = Client::new(&settings, metrics)?;
        Ok(Self { settings, client })
    }

    /// As configured.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The name clients choose it by.
    pub fn namespace(&self) -> &Namespace {
        &self.settings.namespace
    }

    /// The full name of one of its repositories.
    pub fn qualify(&self, repository: &Repository) -> QualifiedName {
        QualifiedName::new(self.settings.namespace.clone(), repository.clone())
    }

    fn own_name_for(&self, endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
        match endpoint.repository() {
            Some(repository) if self.settings.is_docker_hub() && repository.single_component() => {
                let official = repository
                    .with_prefix("library")
                    .map_err(EndpointError::Name)?;
                Ok(endpoint.with_repository(official))
            }
            _ => Ok(endpoint),
        }
    }

    /// Asks which manifest a reference is, without fetching it: free of quota on Docker Hub.
    ///
    /// With `known`, upstream may answer that it is still that one.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        known: Option<&Digest>,
    ) -> Result<ManifestHead, Error> {
        let ask = Ask {
            accept: Some(manifest::ACCEPT),
            if_none_match: known.map(|digest| format!("\"{digest}\"")),
            answers: NO_HEAD,
            ..Ask::new(Method::HEAD, manifest_endpoint(repository, reference))
        };
        let reply = self.client.send(ask).await?;
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
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<FetchedManifest, Error> {
        let ask = Ask {
            accept: Some(manifest::ACCEPT),
            ..Ask::new(Method::GET, manifest_endpoint(repository, reference))
        };
        let Reply { headers, body, .. } = self.client.send(ask).await?;
        let stated = stated_digest(&headers)?;
        let expected_length = content_length(&headers);
        let bytes = self.whole(body, MAX_MANIFEST, "the manifest").await?;
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

    /// All of a short body, which may take as long as a header may.
    async fn whole(&self, body: Body, most: usize, what: &str) -> Result<Bytes, Error> {
        let limit = self.settings.timeouts.headers;
        let late = |_| Error::Silent(format!("{what} was not whole within {limit:?}").into());
        tokio::time::timeout(limit, body.collect_up_to(most))
            .await
            .map_err(late)?
    }

    /// Asks whether the repository has a blob, and how long it is.
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let ask = Ask {
            answers: NO_HEAD,
            ..Ask::new(Method::HEAD, blob_endpoint(repository, digest))
        };
        let reply = self.client.send(ask).await?;
        if NO_HEAD.contains(&reply.status.as_u16()) {
            // Its first byte says the same; whatever follows is not read.
            let first = self.get_blob(repository, digest, Some(0..1)).await?;
            return Ok(first.size);
        }
        Ok(content_length(&reply.headers))
    }

    /// Fetches a blob, or a part of it; `u64::MAX` as its end is that of the blob. The bytes are not verified here: they are still to come.
    pub async fn get_blob(
        &self,
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
            ..Ask::new(Method::GET, blob_endpoint(repository, digest))
        };
        let Reply {
            status,
            headers,
            body,
        } = self.client.send(ask).await?;
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
            (Some((got, size)), Some(asked)) if got.start == asked.start => Ok(FetchedBlob {
                size,
                part: Some(got),
                body,
            }),
            _ => Err(Error::wrong(
                "upstream sent another part of the blob than was asked for".to_owned(),
            )),
        }
    }

    /// What upstream last said of our pull quota; `None` if it never stated one.
    pub fn quota(&self) -> Option<RateLimit> {
        self.client.quota()
    }

    /// Asks for `/v2/`, with a token if upstream wants one.
    pub async fn ping(&self) -> Result<(), Error> {
        self.client
            .send(Ask::new(Method::GET, Endpoint::Base))
            .await
            .map(drop)
    }
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
