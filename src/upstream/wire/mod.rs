//! Requests as they are: names, sockets, TLS, proxies, time limits. No login and no redirects.
//!
//! Reading order: `http` (one request), `connect`, `resolve`, `origin` (what a URL says of where it leads).

pub(super) mod connect;
pub(super) mod http;
pub(super) mod origin;
pub(super) mod resolve;
