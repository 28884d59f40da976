//! What the configuration says of connections.

use std::path::PathBuf;
use std::time::Duration;

/// How connections to one upstream are made.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionSettings {
    /// Certificate authorities (PEM) trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    pub proxy: Proxy,
    pub timeouts: Timeouts,
}

/// Limits on silence; none of them bounds a whole transfer.
#[derive(Debug, Clone)]
pub(crate) struct Timeouts {
    /// Until a connection is made.
    pub connect: Duration,
    /// Until the response header is in, with connecting, a token and redirects.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

/// The proxy on the way to an upstream.
#[derive(Debug, Clone)]
pub(crate) enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    Environment,
    Direct,
    Url(http::Uri),
}
