//! Routes: an endpoint, and what the request says about which registry it is meant for.
//!
//! Clients name the registry behind a mirror in three ways: containerd in the query (`?ns=quay.io`), dockerd in front
//! of the path (`/quay.io/v2/...`), BuildKit and podman inside it (`/v2/quay.io/...`). `sites` chooses between them.

use super::super::name::{Namespace, Repository};
use super::path::{components, endpoint};
use super::{Endpoint, EndpointError};

/// The registry that a path names, and where in the path it stood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Prefix {
    /// The path names none.
    None,
    /// `/quay.io/v2/org/repo/...`
    BeforeV2(Namespace),
    /// `/v2/quay.io/org/repo/...`, or without any `v2`. It could be part of the repository's name:
    /// [`Route::keep_prefix`].
    InRepository(Namespace),
}

/// A request's path and query, understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// The `ns` query parameter (OCI distribution-spec, "Registry Proxying").
    pub ns: Option<Namespace>,
    /// The registry in the path; it is not part of `endpoint` any more.
    pub prefix: Prefix,
    /// What is asked for.
    pub endpoint: Endpoint,
}

impl Route {
    /// Parses a request's target, as it came, still percent-encoded.
    ///
    /// Exactly one prefix is taken off the path: in `/quay.io/v2/a.b/c/...` the repository is
    /// `a.b/c`.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, EndpointError> {
        let (prefix, endpoint) = parse_path(path)?;
        let ns = query
            .and_then(|query| query_value(query, "ns"))
            .filter(|ns| !ns.is_empty());
        let ns = ns
            .map(|ns| ns.parse())
            .transpose()
            .map_err(EndpointError::Namespace)?;
        Ok(Self {
            ns,
            prefix,
            endpoint,
        })
    }

    /// Puts a prefix that was found inside the repository's name back there.
    ///
    /// For when `ns` names another registry: then what looked like one is only a repository with a
    /// dot in its first component. Other prefixes stay as they are.
    pub fn keep_prefix(mut self) -> Result<Self, EndpointError> {
        if let Prefix::InRepository(prefix) = &self.prefix {
            let repository = self.endpoint.repository().ok_or(EndpointError::NotFound)?;
            let repository = repository
                .with_prefix(prefix.as_str())
                .map_err(EndpointError::Name)?;
            self.endpoint = self.endpoint.with_repository(repository);
            self.prefix = Prefix::None;
        }
        Ok(self)
    }
}

/// The first value of `key` in a query string, decoded. Also for `n`, `last` and `artifactType`.
pub(crate) fn query_value(query: &str, key: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}

fn parse_path(path: &str) -> Result<(Prefix, Endpoint), EndpointError> {
    if !path.starts_with('/') {
        return Err(EndpointError::NotFound);
    }
    let components = components(path)?;
    let words: Vec<&str> = components.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => Err(EndpointError::NotFound),
        ["v2", rest @ ..] => in_repository(rest),
        ["v1", rest @ ..] => Ok((Prefix::None, search(rest)?)),
        [host, "v2", rest @ ..] if Namespace::is_host_like(host) => {
            Ok((before_v2(host)?, endpoint(rest)?))
        }
        [host, "v1", rest @ ..] if Namespace::is_host_like(host) => {
            Ok((before_v2(host)?, search(rest)?))
        }
        words => without_v2(words),
    }
}

fn before_v2(host: &str) -> Result<Prefix, EndpointError> {
    host.parse()
        .map(Prefix::BeforeV2)
        .map_err(EndpointError::Namespace)
}

fn search(rest: &[&str]) -> Result<Endpoint, EndpointError> {
    match rest {
        ["search"] => Ok(Endpoint::Search),
        ["_ping"] => Ok(Endpoint::SearchPing),
        _ => Err(EndpointError::NotFound),
    }
}

/// Takes a registry off the front of the components after `/v2/`, if they begin with one.
fn in_repository(components: &[&str]) -> Result<(Prefix, Endpoint), EndpointError> {
    let Some((first, rest)) = components
        .split_first()
        .filter(|(first, _)| Namespace::is_host_like(first))
    else {
        return Ok((Prefix::None, endpoint(components)?));
    };
    match first.parse() {
        // `/v2/quay.io/manifests/x`: a host alone is no repository's name, so it was a name with a
        // dot.
        Ok(host) => match endpoint(rest) {
            Err(EndpointError::NotFound) => Ok((Prefix::None, endpoint(components)?)),
            parsed => Ok((Prefix::InRepository(host), parsed?)),
        },
        // `a.b_c` is no host, but it is the beginning of a valid repository name.
        Err(_) if first.parse::<Repository>().is_ok() => Ok((Prefix::None, endpoint(components)?)),
        Err(error) => Err(EndpointError::Namespace(error)),
    }
}

/// containerd's `override_path` makes the configured URL the root of the API and appends no `v2`.
/// Any path ends up here, so one that is not an endpoint in all its parts is simply not found.
fn without_v2(components: &[&str]) -> Result<(Prefix, Endpoint), EndpointError> {
    match in_repository(components) {
        Ok((prefix, endpoint)) if endpoint.repository().is_some() => Ok((prefix, endpoint)),
        _ => Err(EndpointError::NotFound),
    }
}
