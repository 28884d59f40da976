//! Questions about manifests.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::memory::{Memory, work_on};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest::{self, Manifest};
use crate::oci::name::{Reference, Repository};

use super::asking::failover::Turn;
use super::asking::request::{Question, content_length, content_type};
use super::error::Error;

/// The answers of servers that do not support HEAD.
pub(super) const NO_HEAD: &[u16] = &[405, 501];

/// What a HEAD of a manifest said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ManifestHead {
    /// It is still the one that was asked about (304).
    NotModified,
    Found {
        /// As stated by upstream.
        digest: Digest,
        media_type: String,
        size: u64,
    },
    /// Upstream has it but did not say which one it is: only a GET can tell.
    Unspecific,
}

/// A manifest as upstream sent it, its digest verified.
#[derive(Debug, Clone)]
pub(crate) struct FetchedManifest {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// Its type, and what it names.
    pub manifest: Manifest,
    /// Unchanged.
    pub bytes: Bytes,
}

pub(super) fn endpoint(repository: &Repository, reference: &Reference) -> Endpoint {
    Endpoint::Manifest {
        repository: repository.clone(),
        reference: reference.clone(),
    }
}

pub(super) async fn head(
    turn: Turn<'_>,
    repository: &Repository,
    reference: &Reference,
    known: Option<&Digest>,
) -> Result<ManifestHead, Error> {
    let question = Question {
        accept: Some(manifest::ACCEPT),
        if_none_match: known.map(|digest| format!("\"{digest}\"")),
        answers: NO_HEAD,
        // The manifest that is known can be served meanwhile.
        patient: turn.last && known.is_none(),
        ..Question::new(Method::HEAD, endpoint(repository, reference))
    };
    let reply = turn.client.send(&question, turn.until).await?;
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
    if digest.is_some() && digest.as_ref() == known {
        return Ok(ManifestHead::NotModified);
    }
    // The type may be in the body alone. What another place than the registry says of it must be in the body as well.
    let media_type = content_type(&reply.headers).filter(|_| turn.last);
    let media_type = media_type.and_then(manifest::stated);
    match (digest, content_length(&reply.headers), media_type) {
        (Some(digest), Some(size), Some(media_type)) => Ok(ManifestHead::Found {
            digest,
            media_type: media_type.to_owned(),
            size,
        }),
        _ => Ok(ManifestHead::Unspecific),
    }
}

pub(super) async fn get(
    turn: Turn<'_>,
    repository: &Repository,
    reference: &Reference,
    memory: &Memory,
) -> Result<FetchedManifest, Error> {
    let question = Question {
        accept: Some(manifest::ACCEPT),
        patient: turn.last,
        ..Question::new(Method::GET, endpoint(repository, reference))
    };
    let reply = turn.client.send(&question, turn.until).await?;
    let stated = stated_digest(&reply.headers)?;
    let body = reply.body;
    let bytes = body
        .collect(
            memory.largest_manifest(),
            "the manifest",
            turn.until,
            memory,
        )
        .await?;
    let expected_length = content_length(&reply.headers);
    if expected_length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Error::wrong(format!(
            "the manifest is {} bytes long, not as announced",
            bytes.len()
        )));
    }
    let unread = Unread {
        asked: match reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => None,
        },
        stated,
        content_type: content_type(&reply.headers).map(str::to_owned),
        from_registry: turn.last,
        bytes,
    };
    work_on(unread.bytes.len(), move || unread.read()).await
}

/// A manifest's bytes, and what was said of them.
struct Unread {
    /// The digest that was asked for.
    asked: Option<Digest>,
    /// The one that upstream states.
    stated: Option<Digest>,
    content_type: Option<String>,
    /// Whether the registry itself sent them, and not a place that is asked before it.
    from_registry: bool,
    bytes: Bytes,
}

impl Unread {
    /// Believes of all that what the bytes prove. Only of the type the registry's own word is enough.
    fn read(self) -> Result<FetchedManifest, Error> {
        let manifest = Manifest::parse(self.content_type.as_deref(), &self.bytes);
        let media_type = manifest
            .as_ref()
            .map_or("", |manifest| &manifest.media_type);
        let digest = self.digest(media_type)?;
        let manifest = manifest.map_err(|error| {
            Error::wrong(format!(
                "what upstream sent for {digest} is not a manifest: {error}"
            ))
        })?;
        if !self.from_registry && !manifest.self_described {
            let said = &manifest.media_type;
            return Err(Error::wrong(format!(
                "that {digest} is {said} is not in its bytes, and only the registry itself is believed"
            )));
        }
        Ok(FetchedManifest {
            digest,
            manifest,
            bytes: self.bytes,
        })
    }

    /// The digest of the manifest: the one asked for, else the one stated, else computed. Refuses bytes that do not have
    /// the digest that was asked for or stated.
    fn digest(&self, media_type: &str) -> Result<Digest, Error> {
        let is = |digest| manifest::is_digest_of(digest, media_type, &self.bytes);
        if let Some(asked) = &self.asked
            && !is(asked)
        {
            let found = Digest::of(&self.bytes);
            let words = format!("asked for manifest {asked}, upstream sent {found}");
            return Err(Error::wrong(words));
        }
        if let Some(stated) = &self.stated
            && self.asked != self.stated
            && !is(stated)
        {
            let found = Digest::of(&self.bytes);
            let words = format!("upstream calls the manifest {stated}, its bytes are {found}");
            return Err(Error::wrong(words));
        }
        let known = self.asked.as_ref().or(self.stated.as_ref());
        Ok(known.cloned().unwrap_or_else(|| Digest::of(&self.bytes)))
    }
}

/// `Docker-Content-Digest` (distribution-spec, "Pulling manifests"). One that cannot be read is an error.
fn stated_digest(headers: &HeaderMap) -> Result<Option<Digest>, Error> {
    let Some(value) = headers.get("docker-content-digest") else {
        return Ok(None);
    };
    let digest = value.to_str().ok().and_then(|text| text.parse().ok());
    digest
        .map(Some)
        .ok_or_else(|| Error::wrong("upstream's Docker-Content-Digest is not a digest"))
}
