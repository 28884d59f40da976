//! What the configuration says of one upstream.

use crate::oci::name::Namespace;

use super::login::kinds::Login;
use super::wire::settings::ConnectionSettings;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name clients choose it by.
    pub namespace: Namespace,
    /// Scheme and authority, and a path that is put before `/v2/` if the registry has one.
    pub url: http::Uri,
    /// URLs to ask before `url`, in this order, without credentials. What they do not give is asked of the next.
    pub endpoints: Vec<http::Uri>,
    /// As whom to pull: each takes over when the one before is limited or refused. Never empty.
    pub logins: Vec<Login>,
    /// Hosts outside the upstream's own domain that may receive its credentials as a token realm.
    pub realms: Vec<String>,
    /// Hosts that it may redirect to though they are on this machine, its link or a network like that.
    pub redirects: Vec<String>,
    pub connection: ConnectionSettings,
}

impl Settings {
    /// The first login's name, for logs: the user name, or `anonymous`.
    pub(crate) fn identity(&self) -> &str {
        self.logins.first().map_or("anonymous", Login::name)
    }
}
