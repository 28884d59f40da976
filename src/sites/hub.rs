//! Docker Hub: all that is special about it, such as `nginx` for `library/nginx`. The rest of the program knows
//! registries in general.

use crate::oci::endpoint::{Endpoint, EndpointError};
use crate::oci::name::Namespace;

/// The name it is configured by, and chosen by.
pub(crate) const NAMESPACE: &str = "docker.io";
/// Its registry is another host, and has been several.
pub(crate) const URL: &str = "https://registry-1.docker.io";
/// What it offers for this very purpose: a repository and a tag whose HEAD shows the quota and costs none.
pub(crate) const QUOTA_PROBE: (&str, &str) = ("ratelimitpreview/test", "latest");

const REGISTRY: &str = "registry-1.docker.io";
/// Images are searched at another host than they are pulled from.
const SEARCH: &str = "https://index.docker.io";
/// Other names it goes by.
const ALIASES: [&str; 3] = ["index.docker.io", REGISTRY, "registry.hub.docker.com"];

/// Whether a namespace, as configured, is Docker Hub.
pub(crate) fn is(namespace: &Namespace) -> bool {
    namespace.as_str() == NAMESPACE
}

/// Whether a registry at `host` is Docker Hub itself, and not a cache of it.
pub(crate) fn is_at(host: Option<&str>) -> bool {
    host.is_some_and(|host| ALIASES.contains(&host))
}

/// The one name of a registry: Docker Hub goes by several, all others by one.
pub(crate) fn canonical(namespace: &Namespace) -> Namespace {
    let alias = ALIASES.contains(&namespace.as_str());
    let canonical = if alias { NAMESPACE.parse().ok() } else { None };
    canonical.unwrap_or_else(|| namespace.clone())
}

/// What an endpoint is called there: `nginx` is `library/nginx`.
pub(super) fn own_name(endpoint: Endpoint) -> Result<Endpoint, EndpointError> {
    match endpoint.repository() {
        Some(repository) if repository.single_component() => {
            let official = repository
                .with_prefix("library")
                .map_err(EndpointError::Name)?;
            Ok(endpoint.with_repository(official))
        }
        _ => Ok(endpoint),
    }
}

/// Where to search, if that is not the registry at `host` itself.
pub(crate) fn search(namespace: &Namespace, host: Option<&str>) -> Option<&'static str> {
    (is(namespace) && host == Some(REGISTRY)).then_some(SEARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_docker_hub_itself_is_searched_elsewhere() {
        let (hub, quay) = ("docker.io".parse().unwrap(), "quay.io".parse().unwrap());
        let at = Some("registry-1.docker.io");
        assert_eq!(search(&hub, at), Some("https://index.docker.io"));
        assert_eq!(search(&hub, Some("mirror.gcr.io")), None);
        assert_eq!(search(&quay, at), None);
    }
}
