//! How to reach one upstream, and as whom: what the configuration says of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::oci::name::Namespace;

use super::login::password::Credentials;

/// One upstream as configured.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The name clients choose it by.
    pub namespace: Namespace,
    /// Scheme and authority, and a path that is put before `/v2/` if the registry lives under one.
    pub url: http::Uri,
    /// Places to ask before `url`, in this order, anonymously. What they do not give is asked of the next.
    pub endpoints: Vec<http::Uri>,
    /// As whom to pull; anonymously without.
    pub credentials: Option<Credentials>,
    /// Who takes over when that one is limited or refused.
    pub more_credentials: Vec<Credentials>,
    /// Certificate authorities (PEM) trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts outside the upstream's own domain that may receive its credentials as a token realm.
    pub realms: Vec<String>,
    /// How to get there.
    pub proxy: Proxy,
    /// How long to wait for it.
    pub timeouts: Timeouts,
}

impl Settings {
    /// Who we are there, for logs: the user name, or `anonymous`.
    pub(crate) fn identity(&self) -> &str {
        self.credentials
            .as_ref()
            .map_or("anonymous", |credentials| &credentials.username)
    }
}

/// Limits on silence; none of them bounds a whole transfer.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    /// Until a connection stands.
    pub connect: Duration,
    /// Until the response header is in: connecting, a token and redirects included.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

/// The HTTP proxy on the way to an upstream.
#[derive(Debug, Clone)]
pub(crate) enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    /// None.
    Direct,
    /// This one.
    Url(http::Uri),
}
