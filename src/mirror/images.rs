//! Images by the names that people give them.

use crate::oci::endpoint::Endpoint;
use crate::oci::image::ImageName;
use crate::oci::name::QualifiedName;
use crate::store::images::pins::Image;
use crate::upstream::{SelectError, Upstreams};

use super::Mirror;

impl Mirror {
    /// What an image's name means here: the rules are those of a client's request.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Image, SelectError> {
        resolve(&self.upstreams, name)
    }
}

/// The same without a mirror.
pub(crate) fn resolve(upstreams: &Upstreams, name: &ImageName) -> Result<Image, SelectError> {
    let (upstream, endpoint) = upstreams.select(name.clone().into())?;
    let repository = endpoint.repository().unwrap_or(&name.repository);
    Ok(Image {
        name: upstream.qualify(repository),
        reference: match &endpoint {
            Endpoint::Manifest { reference, .. } => reference.clone(),
            _ => name.reference.clone(),
        },
    })
}

/// The image of a registry that need not be configured any more: it can be let go of all the same.
pub(crate) fn literal(name: &ImageName) -> Option<Image> {
    let namespace = name.namespace.clone()?;
    Some(Image {
        name: QualifiedName::new(namespace, name.repository.clone()),
        reference: name.reference.clone(),
    })
}
