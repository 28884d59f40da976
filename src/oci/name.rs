//! Names: of registries, of repositories, of tags, and what can stand after `manifests/`.
//!
//! Each is valid by construction and cheap to clone: the text is checked once, when it is parsed,
//! and shared from then on.

mod namespace;
#[cfg(test)]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::digest::{Digest, DigestError};
pub use namespace::Namespace;
pub use text::NameError;

/// A repository's name inside its registry, such as `library/nginx`: OCI distribution-spec,
/// "Pulling manifests", `<name>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

text::shared_traits!(Repository);

impl Repository {
    /// Whether the name has one component only, as Docker Hub's `nginx` has, which there stands for
    /// `library/nginx`.
    pub(crate) fn single_component(&self) -> bool {
        !self.0.contains('/')
    }

    /// What it is called in a registry that has it below `path`. That registry decides which names are too long.
    pub(crate) fn below(&self, path: &Self) -> Self {
        Self(format!("{path}/{self}").into())
    }

    /// The name with `prefix/` in front, provided that this is a valid name too.
    pub(crate) fn with_prefix(&self, prefix: &str) -> Result<Self, NameError> {
        format!("{prefix}/{self}").parse()
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > text::MAX_LENGTH {
            return Err(NameError::new(
                "repository name",
                text,
                "it must not be longer than 255 bytes",
            ));
        }
        if !text.split('/').all(is_component) {
            let rule = "it must be lower-case letters and digits in components between slashes, \
                        separated inside a component by one dot, one or two underscores, or dashes";
            return Err(NameError::new("repository name", text, rule));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator =
        |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    // Between two letters there is an empty separator, which the last test lets pass.
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.split(alphanumeric).all(separator)
}

/// A tag: OCI distribution-spec, "Pulling manifests", `<reference>` as a tag.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

text::shared_traits!(Tag);

impl Tag {
    /// Whether it is `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    pub(super) fn is_valid(text: &str) -> bool {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        text.len() <= 128
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if !Self::is_valid(text) {
            let rule = "it must be 1 to 128 letters, digits, underscores, dots and dashes, and not begin with a dot or dash";
            return Err(NameError::new("tag", text, rule));
        }
        Ok(Self(text.into()))
    }
}

/// What names a manifest within its repository.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reference {
    /// A name that upstream can move.
    Tag(Tag),
    /// The content itself, for ever.
    Digest(Digest),
}

/// Why a text is neither a tag nor a digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReferenceError {
    /// It has no colon, so it was meant to be a tag.
    Tag(NameError),
    /// It has a colon, so it was meant to be a digest.
    Digest(DigestError),
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// A tag cannot hold a colon, a digest always does.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') {
            text.parse()
                .map(Self::Digest)
                .map_err(ReferenceError::Digest)
        } else {
            text.parse().map(Self::Tag).map_err(ReferenceError::Tag)
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => fmt::Display::fmt(digest, f),
        }
    }
}

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(error) => error.fmt(f),
            Self::Digest(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ReferenceError {}

/// A repository together with the registry it is in, printed `docker.io/library/nginx`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QualifiedName {
    /// The registry.
    pub namespace: Namespace,
    /// The repository in it.
    pub repository: Repository,
}

impl QualifiedName {
    /// Puts the two together.
    pub fn new(namespace: Namespace, repository: Repository) -> Self {
        Self {
            namespace,
            repository,
        }
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.repository)
    }
}
