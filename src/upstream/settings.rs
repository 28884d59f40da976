//! What the configuration says of one upstream.

use std::fmt;

use crate::oci::name::{Namespace, Repository};
use crate::sites::hub;

use super::login::kinds::Login;
use super::wire::settings::ConnectionSettings;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name clients choose it by.
    pub namespace: Namespace,
    pub registry: BaseUrl,
    /// Asked before the registry, in this order, without credentials. What they do not give is asked of the next.
    pub endpoints: Vec<BaseUrl>,
    /// As whom to pull: each takes over when the one before is limited or refused. Never empty.
    pub logins: Vec<Login>,
    /// Hosts outside the upstream's own domain that may receive its credentials as a token realm.
    pub realms: Vec<String>,
    /// Hosts that it may redirect to though they are on this machine, its link or a network like that.
    pub redirects: Vec<String>,
    pub connection: ConnectionSettings,
}

/// Where questions are sent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BaseUrl {
    /// Scheme and authority, and a path that is put before `/v2/` if the registry has one.
    pub url: http::Uri,
    /// What stands before the name of every repository there, if it has more than those of this upstream.
    pub prefix: Option<Repository>,
}

impl BaseUrl {
    /// The name of a repository of this upstream there.
    pub(super) fn name_of(&self, repository: &Repository) -> Repository {
        let below = self.prefix.as_ref().map(|prefix| repository.below(prefix));
        below.unwrap_or_else(|| repository.clone())
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.to_string();
        match &self.prefix {
            Some(prefix) => write!(f, "{}/v2/{prefix}", url.trim_end_matches('/')),
            None => f.write_str(&url),
        }
    }
}

impl Settings {
    /// Whether it is Docker Hub itself and not, under its name, a registry that has it below a path.
    pub(super) fn is_docker_hub(&self) -> bool {
        hub::is(&self.namespace) && self.registry.prefix.is_none()
    }

    /// The first login's name, for logs: the user name, or `anonymous`.
    pub(crate) fn identity(&self) -> &str {
        self.logins.first().map_or("anonymous", Login::name)
    }
}
