//! Path components: decoding them, and finding the endpoint that they spell.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::super::name::{ReferenceError, Repository};
use super::{Endpoint, EndpointError};

/// Splits a path at its slashes, then decodes each component once, as registries written in Go do (`URL.Path`): Azure's
/// SDKs write a repository's name as one component, with `%2F` in it, which therefore divides as well. What results is
/// judged part by part, so that an encoded slash can make nothing that a bare one cannot. A second decoding does not
/// happen: `%252F` is a name with a percent sign, which none has.
///
/// `//`, a slash at the end and `.` say nothing, and clients that join URLs by hand write them. `..` is refused: no client
/// writes it, and a proxy before this one may have judged the path as it came.
pub(super) fn components(path: &str) -> Result<Vec<Cow<'_, str>>, EndpointError> {
    let mut parts = Vec::with_capacity(8);
    for raw in path.split('/').filter(|raw| !matches!(*raw, "" | ".")) {
        match percent_decode_str(raw).decode_utf8() {
            Ok(Cow::Borrowed(text)) => parts.push(part(text)?.into()),
            Ok(Cow::Owned(text)) => {
                for text in text.split('/') {
                    parts.push(part(text)?.to_owned().into());
                }
            }
            Err(_) => return Err(EndpointError::Encoding),
        }
    }
    Ok(parts)
}

fn part(text: &str) -> Result<&str, EndpointError> {
    match matches!(text, "" | "." | "..") || text.contains(char::is_control) {
        true => Err(EndpointError::Encoding),
        false => Ok(text),
    }
}

/// The endpoint that the components after `/v2/` spell.
///
/// The last keyword decides, because a repository may have components called `manifests` or `blobs`
/// itself.
pub(super) fn endpoint(words: &[&str]) -> Result<Endpoint, EndpointError> {
    match words {
        [] => Ok(Endpoint::Base),
        ["_catalog"] => Ok(Endpoint::Catalog),
        [name @ .., "tags", "list"] => Ok(Endpoint::Tags {
            repository: repository(name)?,
        }),
        [name @ .., "manifests", reference] => Ok(Endpoint::Manifest {
            repository: repository(name)?,
            reference: reference.parse()?,
        }),
        [name @ .., "blobs", "uploads"] => Ok(Endpoint::Uploads {
            repository: repository(name)?,
        }),
        [name @ .., "blobs", digest] => {
            let digest = digest.parse().map_err(EndpointError::Digest)?;
            Ok(Endpoint::Blob {
                repository: repository(name)?,
                digest,
            })
        }
        [name @ .., "referrers", digest] => {
            let digest = digest.parse().map_err(EndpointError::Digest)?;
            Ok(Endpoint::Referrers {
                repository: repository(name)?,
                digest,
            })
        }
        _ => upload(words),
    }
}

/// What is below `blobs/uploads/` is the registry's own business, so it may have any number of
/// components.
fn upload(words: &[&str]) -> Result<Endpoint, EndpointError> {
    let at = words
        .windows(2)
        .rposition(|pair| pair == ["blobs", "uploads"])
        .ok_or(EndpointError::NotFound)?;
    Ok(Endpoint::Uploads {
        repository: repository(&words[..at])?,
    })
}

fn repository(words: &[&str]) -> Result<Repository, EndpointError> {
    if words.is_empty() {
        return Err(EndpointError::NotFound);
    }
    words.join("/").parse().map_err(EndpointError::Name)
}

impl From<ReferenceError> for EndpointError {
    fn from(error: ReferenceError) -> Self {
        match error {
            ReferenceError::Tag(error) => Self::Tag(error),
            ReferenceError::Digest(error) => Self::Digest(error),
        }
    }
}
