//! Sites: the table of what this mirror answers for, and the choice among its entries.
//!
//! A site is what stands behind a namespace. What that is depends on who asks: the mirror keeps an upstream and its
//! freshness there, a command that only spells an image's name keeps nothing. The table is built once from the
//! configuration and never changes; a new configuration is a new table. It knows no network, no disk and no clock.
//!
//! Reading order: this file (the table), [`hub`] (all that is special about Docker Hub), [`budget`] (the pull quota of
//! a site, which its upstream writes and the mirror reads).

pub(crate) mod budget;
pub(crate) mod hub;

use std::collections::HashMap;

use crate::oci::endpoint::{Endpoint, EndpointError, Prefix, Route};
use crate::oci::image::{Image, ImageName};
use crate::oci::name::{Namespace, QualifiedName};

pub(crate) struct Sites<S> {
    by_namespace: HashMap<Namespace, S>,
    default: Option<Namespace>,
}

/// The site of a request, and how the endpoint is called there.
pub(crate) struct Selected<'a, S> {
    pub namespace: &'a Namespace,
    pub site: &'a S,
    pub endpoint: Endpoint,
}

/// Why a request names no site.
#[derive(Debug)]
pub(crate) enum SelectError {
    /// The namespace is not configured here; it is never dialled.
    UnknownNamespace(Namespace),
    /// No namespace was given and there is no default.
    NoDefault,
    /// The repository's name is not valid on that site.
    Endpoint(EndpointError),
}

impl std::fmt::Display for SelectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownNamespace(namespace) => write!(
                f,
                "this mirror has no upstream {namespace}; to have it, add [upstream.\"{namespace}\"] to the configuration"
            ),
            Self::NoDefault => f.write_str(
                "this mirror has no default upstream; write the registry in front of the repository",
            ),
            Self::Endpoint(error) => error.fmt(f),
        }
    }
}

impl<S> Sites<S> {
    /// A table of `sites`; requests without a namespace go to `default`.
    pub(crate) fn new(
        sites: impl IntoIterator<Item = (Namespace, S)>,
        default: Option<Namespace>,
    ) -> Self {
        let by_namespace = sites.into_iter().collect();
        Self {
            by_namespace,
            default,
        }
    }

    /// Chooses the site of a request: `ns`, else the path's prefix, else the default (the public contract).
    ///
    /// The endpoint comes back with the repository as that site calls it: without the prefix, and on Docker Hub with
    /// `library/` before a single component.
    pub(crate) fn select(&self, route: Route) -> Result<Selected<'_, S>, SelectError> {
        let ((namespace, site), route) = match (&route.ns, &route.prefix) {
            (Some(ns), prefix) => {
                let found = self.named(ns)?;
                // BuildKit sends the mirror's path and `ns`. A prefix that names another registry is not a prefix: it
                // is a repository whose first component has a dot.
                let same = match prefix {
                    Prefix::InRepository(prefix) => hub::canonical(prefix) == *found.0,
                    Prefix::None | Prefix::BeforeV2(_) => true,
                } || route.endpoint.repository().is_none();
                let route = if same {
                    route
                } else {
                    route.keep_prefix().map_err(SelectError::Endpoint)?
                };
                (found, route)
            }
            (None, Prefix::BeforeV2(prefix) | Prefix::InRepository(prefix)) => {
                (self.named(prefix)?, route)
            }
            (None, Prefix::None) => {
                let default = self.default.as_ref().ok_or(SelectError::NoDefault)?;
                (self.named(default)?, route)
            }
        };
        let endpoint = match hub::is(namespace) {
            true => hub::own_name(route.endpoint).map_err(SelectError::Endpoint)?,
            false => route.endpoint,
        };
        Ok(Selected {
            namespace,
            site,
            endpoint,
        })
    }

    fn named(&self, namespace: &Namespace) -> Result<(&Namespace, &S), SelectError> {
        let namespace = hub::canonical(namespace);
        self.by_namespace
            .get_key_value(&namespace)
            .ok_or(SelectError::UnknownNamespace(namespace))
    }

    /// What an image's name means here: the rules are those of a client's request.
    pub(crate) fn image(&self, name: &ImageName) -> Result<Image, SelectError> {
        let selected = self.select(name.clone().into())?;
        let repository = selected.endpoint.repository().unwrap_or(&name.repository);
        Ok(Image {
            name: QualifiedName::new(selected.namespace.clone(), repository.clone()),
            reference: name.reference.clone(),
        })
    }

    /// What to write after this mirror's address to pull from that repository; `None` if no site here has it.
    pub(crate) fn pullable(&self, name: &QualifiedName) -> Option<String> {
        if !self.by_namespace.contains_key(&name.namespace) {
            return None;
        }
        let repository = name.repository.as_str();
        let first = repository.split('/').next().unwrap_or_default();
        // A first component with a dot would be taken for a registry.
        let bare =
            self.default.as_ref() == Some(&name.namespace) && !Namespace::is_host_like(first);
        Some(if bare {
            repository.to_owned()
        } else {
            name.to_string()
        })
    }

    /// All of them, sorted by namespace.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Namespace, &S)> {
        let mut all: Vec<_> = self.by_namespace.iter().collect();
        all.sort_unstable_by_key(|(namespace, _)| *namespace);
        all.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(default: Option<&str>) -> Sites<()> {
        let names = ["docker.io", "quay.io"].map(|name| (name.parse().unwrap(), ()));
        Sites::new(names, default.map(|name| name.parse().unwrap()))
    }

    #[test]
    fn an_image_means_what_a_request_for_it_means() {
        let hub = sites(Some("docker.io"));
        let image = |name: &str| {
            hub.image(&name.parse().unwrap())
                .map(|image| image.to_string())
                .map_err(|error| error.to_string())
        };
        for (written, meant) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("org/app", "docker.io/org/app:latest"),
            ("quay.io/app:1", "quay.io/app:1"),
        ] {
            assert_eq!(image(written), Ok(meant.to_owned()));
        }
        assert!(image("ghcr.io/a/b").unwrap_err().contains("ghcr.io"));
        let none = sites(None).image(&"alpine".parse().unwrap());
        assert!(matches!(none, Err(SelectError::NoDefault)));
    }

    #[test]
    fn a_name_says_its_registry_where_it_has_to() {
        let name = |namespace: &str, repository: &str| {
            QualifiedName::new(namespace.parse().unwrap(), repository.parse().unwrap())
        };
        let hub = sites(Some("docker.io"));
        let printed = |name| hub.pullable(&name).unwrap();
        assert_eq!(printed(name("docker.io", "library/a")), "library/a");
        assert_eq!(printed(name("docker.io", "a.b/c")), "docker.io/a.b/c");
        assert_eq!(printed(name("quay.io", "a/b")), "quay.io/a/b");
        let none = sites(None).pullable(&name("quay.io", "a/b"));
        assert_eq!(none.unwrap(), "quay.io/a/b");
        assert_eq!(hub.pullable(&name("ghcr.io", "a/b")), None);
    }
}
