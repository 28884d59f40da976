//! Names of images, as people write them: `alpine`, `quay.io/org/app:1.2`, `app@sha256:...`.
//!
//! The grammar is that of Docker's references (distribution/reference): a registry only where the first
//! component looks like one, `latest` where nothing is said, and a digest counts more than a tag.

use std::fmt;
use std::str::FromStr;

use super::endpoint::{Endpoint, Prefix, Route};
use super::name::{NameError, Namespace, QualifiedName, Reference, ReferenceError, Repository};

/// What is meant where neither a tag nor a digest is written.
const DEFAULT_TAG: &str = "latest";

/// The name of an image, with or without its registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ImageName {
    /// The registry, if it is written.
    pub namespace: Option<Namespace>,
    /// The repository as it is written: without the `library/` that Docker Hub adds.
    pub repository: Repository,
    /// The tag or the digest.
    pub reference: Reference,
}

/// An image of a registry: what a name means once its registry is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Image {
    /// The registry and the repository.
    pub name: QualifiedName,
    /// The tag or the digest.
    pub reference: Reference,
}

/// Why a text is no image's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ImageNameError {
    /// The registry or the repository is wrong.
    Name(NameError),
    /// The tag or the digest is wrong.
    Reference(ReferenceError),
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is that of a registry's port.
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (namespace, repository) = match name.split_once('/') {
            Some((host, rest)) if Namespace::is_host_like(host) => (Some(host), rest),
            _ => (None, name),
        };
        let namespace = namespace.map(str::parse).transpose();
        let tag = tag.unwrap_or(DEFAULT_TAG).parse().map(Reference::Tag);
        let tag = tag.map_err(|error| ImageNameError::Reference(ReferenceError::Tag(error)))?;
        let digest = digest.map(|digest| digest.parse().map(Reference::Digest));
        let digest = digest.transpose();
        let digest =
            digest.map_err(|error| ImageNameError::Reference(ReferenceError::Digest(error)))?;
        Ok(Self {
            namespace: namespace.map_err(ImageNameError::Name)?,
            repository: repository.parse().map_err(ImageNameError::Name)?,
            reference: digest.unwrap_or(tag),
        })
    }
}

impl ImageName {
    /// The image itself, if the name says its registry, which need not be configured any more.
    pub(crate) fn literal(&self) -> Option<Image> {
        let namespace = self.namespace.clone()?;
        Some(Image {
            name: QualifiedName::new(namespace, self.repository.clone()),
            reference: self.reference.clone(),
        })
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference {
            Reference::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Reference::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

impl From<ImageName> for Route {
    /// The request that a client makes for it.
    fn from(image: ImageName) -> Self {
        Self {
            ns: None,
            prefix: image.namespace.map_or(Prefix::None, Prefix::BeforeV2),
            endpoint: Endpoint::Manifest {
                repository: image.repository,
                reference: image.reference,
            },
        }
    }
}

impl fmt::Display for ImageNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(error) => error.fmt(f),
            Self::Reference(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ImageNameError {}

#[cfg(test)]
mod tests {
    use super::super::digest::Digest;
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = Digest::of(b"x").to_string();
        for (text, namespace, repository, reference) in [
            ("alpine", None, "alpine", "latest"),
            ("alpine:3.20", None, "alpine", "3.20"),
            ("org/app:1", None, "org/app", "1"),
            ("quay.io/org/app", Some("quay.io"), "org/app", "latest"),
            ("localhost/app", Some("localhost"), "app", "latest"),
            ("host:5000/a/b:1", Some("host:5000"), "a/b", "1"),
            (&format!("app@{digest}"), None, "app", &digest),
            (
                &format!("quay.io/app:1@{digest}"),
                Some("quay.io"),
                "app",
                &digest,
            ),
        ] {
            let image: ImageName = text.parse().unwrap();
            let namespace = namespace.map(|namespace| namespace.parse().unwrap());
            assert_eq!(image.namespace, namespace, "{text}");
            assert_eq!(image.repository.to_string(), repository, "{text}");
            assert_eq!(image.reference.to_string(), reference, "{text}");
        }
    }

    #[test]
    fn what_docker_refuses_is_refused() {
        for text in [
            "",
            ":",
            "@",
            "UPPER",
            "a:",
            "a@",
            "a@sha256:12",
            "a:b:c",
            "quay.io/",
            "quay.io/:1",
            "-a.b/c",
            "a b",
            "https://quay.io/a",
            "a:1@2",
            "../x",
            "a.b/../c",
        ] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
