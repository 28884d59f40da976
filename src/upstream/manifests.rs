//! Questions about manifests.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use crate::memory::{Memory, work_on};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest::{self, Looks, Manifest};
use crate::oci::name::{Reference, Repository};

use super::asking::failover::Turn;
use super::asking::request::{Question, Reply, content_length, content_type};
use super::error::Error;
use super::heads::{Doubt, NO_HEAD, REFUSALS, may_be_about_head};

const CONTENT_DIGEST: &str = "docker-content-digest";

/// What upstream said when it was asked which manifest a reference is.
#[derive(Debug, Clone)]
pub(crate) enum ManifestHead {
    /// It is still the one that was asked about.
    NotModified,
    Found {
        /// As stated by upstream.
        digest: Digest,
        media_type: String,
        size: u64,
    },
    /// A HEAD did not tell, so it was fetched.
    Fetched(FetchedManifest),
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

/// A question about a manifest.
#[derive(Clone, Copy)]
pub(super) struct ManifestQuestion<'q> {
    pub(super) repository: &'q Repository,
    pub(super) reference: &'q Reference,
    /// What is known of the tag: upstream may say that it is still that one.
    pub(super) known: Option<&'q Digest>,
    pub(super) memory: &'q Memory,
}

pub(super) fn endpoint(repository: &Repository, reference: &Reference) -> Endpoint {
    Endpoint::Manifest {
        repository: repository.clone(),
        reference: reference.clone(),
    }
}

impl ManifestQuestion<'_> {
    fn question(&self, method: Method, turn: Turn<'_>) -> Question {
        Question {
            accept: Some(manifest::ACCEPT),
            if_none_match: self.known.map(|digest| format!("\"{digest}\"")),
            // The manifest that is known can be served meanwhile.
            patient: turn.last && self.known.is_none(),
            ..Question::new(method, endpoint(self.repository, self.reference))
        }
    }
}

/// Asks with a HEAD, and with a GET where that does not tell.
///
/// `counted`: GETs of manifests are counted as pulls. They are spent then only on a 404 of a tag that is known, and
/// where upstream has the manifest and does not say which one it is.
pub(super) async fn head(
    turn: Turn<'_>,
    asked: ManifestQuestion<'_>,
    doubt: &Doubt,
    counted: bool,
) -> Result<ManifestHead, Error> {
    let confirms = turn.last && !counted;
    // Boxed: it is large, and seldom needed.
    let get = || Box::pin(fetch(turn, asked));
    if confirms && doubt.is_on() {
        return get().await;
    }
    let question = Question {
        answers: match (confirms, turn.last) {
            (true, _) => REFUSALS,
            (false, true) => NO_HEAD,
            (false, false) => &[],
        },
        ..asked.question(Method::HEAD, turn)
    };
    let mut names_digest = false;
    let told = match turn.client.send(&question, turn.until).await {
        Ok(reply) => {
            names_digest =
                reply.status == StatusCode::OK && stated_digest(&reply.headers).is_some();
            read_head(turn, asked, &reply)
        }
        Err(error) => Err(error),
    };
    match told {
        Ok(Some(told)) => return Ok(told),
        Ok(None) => {}
        Err(error) if confirms && may_be_about_head(&error) => {}
        Err(Error::NotFound) if turn.last && asked.known.is_some() => {}
        Err(error) => return Err(error),
    }
    let fetched = get().await?;
    // A HEAD that only lacks a length still tells whether a tag moved.
    if confirms && !names_digest {
        doubt.note();
    }
    Ok(fetched)
}

/// What the answer to a HEAD tells; `None` if a GET must tell.
fn read_head(
    turn: Turn<'_>,
    asked: ManifestQuestion<'_>,
    reply: &Reply,
) -> Result<Option<ManifestHead>, Error> {
    match reply.status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if asked.known.is_some() => {
            return Ok(Some(ManifestHead::NotModified));
        }
        _ => return Ok(None),
    }
    let digest = stated_digest(&reply.headers);
    if let (Reference::Digest(asked), Some(stated)) = (asked.reference, &digest)
        && asked != stated
    {
        return Err(Error::wrong(format!(
            "asked for manifest {asked}, upstream calls it {stated}"
        )));
    }
    if digest.is_some() && digest.as_ref() == asked.known {
        return Ok(Some(ManifestHead::NotModified));
    }
    // The type may be in the body alone. What another place than the registry says of it must be in the body as well.
    let media_type = content_type(&reply.headers).filter(|_| turn.last);
    let media_type = media_type
        .and_then(manifest::stated)
        .filter(|said| manifest::is_known(said));
    // No manifest is empty, and none that is taken is longer than this.
    let most = asked.memory.largest_manifest() as u64;
    let size = content_length(&reply.headers).filter(|size| (1..=most).contains(size));
    match (digest, size, media_type) {
        (Some(digest), Some(size), Some(media_type)) => Ok(Some(ManifestHead::Found {
            digest,
            media_type,
            size,
        })),
        _ => Ok(None),
    }
}

/// Fetches a manifest, unless it is the one that is known.
pub(super) async fn fetch(
    turn: Turn<'_>,
    asked: ManifestQuestion<'_>,
) -> Result<ManifestHead, Error> {
    let question = asked.question(Method::GET, turn);
    let reply = turn.client.send(&question, turn.until).await?;
    if reply.status == StatusCode::NOT_MODIFIED {
        return Ok(ManifestHead::NotModified);
    }
    if reply.status != StatusCode::OK {
        let words = format!(
            "upstream answers {} where a manifest should be",
            reply.status
        );
        return Err(Error::wrong(words));
    }
    let stated = stated_digest(&reply.headers);
    let memory = asked.memory;
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
        asked: match asked.reference {
            Reference::Digest(digest) => Some(digest.clone()),
            Reference::Tag(_) => None,
        },
        stated,
        content_type: content_type(&reply.headers).map(str::to_owned),
        from_registry: turn.last,
        bytes,
    };
    let read = work_on(unread.bytes.len(), move || unread.read()).await;
    read.map(ManifestHead::Fetched)
}

/// The same without anything known.
pub(super) async fn get(
    turn: Turn<'_>,
    asked: ManifestQuestion<'_>,
) -> Result<FetchedManifest, Error> {
    match fetch(turn, asked).await? {
        ManifestHead::Fetched(fetched) => Ok(fetched),
        ManifestHead::NotModified | ManifestHead::Found { .. } => {
            Err(Error::wrong("upstream says that nothing changed"))
        }
    }
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
        if !self.is_a_manifest(&manifest) {
            let words = "what upstream sent for a manifest is JSON, and none";
            return Err(Error::wrong(words));
        }
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

    /// Whether what was sent is a manifest, and not just any JSON. One that looks like none may be of a kind to come: then
    /// its digest was asked for, or upstream must have stated it, and a type that only manifests have. An error has a digest
    /// as well, and a HEAD may have named it.
    fn is_a_manifest(&self, read: &Manifest) -> bool {
        if self.asked.is_some() {
            return read.looks != Looks::LikeAnError || read.self_described;
        }
        match read.looks {
            Looks::LikeAManifest => true,
            Looks::LikeNeither => self.stated.is_some() && !manifest::is_generic(&read.media_type),
            Looks::LikeAnError => false,
        }
    }

    /// The digest of the manifest: the one asked for, else the one stated, else computed. Refuses bytes that do not have
    /// the digest that was asked for; where none was, the one that was stated.
    fn digest(&self, media_type: &str) -> Result<Digest, Error> {
        let Some(known) = self.asked.as_ref().or(self.stated.as_ref()) else {
            return Ok(Digest::of(&self.bytes));
        };
        if manifest::is_digest_of(known, media_type, &self.bytes) {
            return Ok(known.clone());
        }
        let found = Digest::of(&self.bytes);
        Err(Error::wrong(match self.asked {
            Some(_) => format!("asked for manifest {known}, upstream sent {found}"),
            None => format!("upstream calls the manifest {known}, its bytes are {found}"),
        }))
    }
}

/// `Docker-Content-Digest` (distribution-spec, "Pulling manifests"), as it is meant. One that cannot be read, and two that
/// differ, are none: the bytes tell.
fn stated_digest(headers: &HeaderMap) -> Option<Digest> {
    let lines = headers.get_all(CONTENT_DIGEST).into_iter();
    let texts = lines.flat_map(|line| line.to_str().unwrap_or_default().split(','));
    let mut all = texts.map(digest_as_meant);
    let first = all.next()??;
    all.all(|other| other.as_ref() == Some(&first))
        .then_some(first)
}

/// Some write it in quotes, in capitals, or without its algorithm.
fn digest_as_meant(text: &str) -> Option<Digest> {
    let text = text.trim().trim_matches('"').to_ascii_lowercase();
    let digest = text.parse();
    digest.or_else(|_| format!("sha256:{text}").parse()).ok()
}
