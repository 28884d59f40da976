//! Path components: decoding them, and finding the endpoint that they spell.

use percent_encoding::percent_decode_str;

use super::super::name::{ReferenceError, Repository};
use super::{Endpoint, EndpointError};

/// Splits a path at its slashes, then decodes each component once, in that order (RFC 3986 2.4): an
/// encoded slash must not become a separator.
pub(super) fn components(path: &str) -> Result<Vec<String>, EndpointError> {
    path.split('/').map(component).collect()
}

fn component(raw: &str) -> Result<String, EndpointError> {
    let text = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| EndpointError::Encoding)?;
    let forbidden =
        matches!(&*text, "" | "." | "..") || text.contains(|c: char| c == '/' || c.is_control());
    if forbidden {
        Err(EndpointError::Encoding)
    } else {
        Ok(text.into_owned())
    }
}

/// The endpoint that the components after `/v2/` spell.
///
/// The last keyword decides, because a repository may have components called `manifests` or `blobs`
/// itself.
pub(super) fn endpoint(components: &[String]) -> Result<Endpoint, EndpointError> {
    let words: Vec<&str> = components.iter().map(String::as_str).collect();
    match words.as_slice() {
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
        _ => upload(&words),
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
