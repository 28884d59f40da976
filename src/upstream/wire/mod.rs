//! Requests as they are: names, sockets, TLS, proxies, time limits. No login and no redirects.
//!
//! Reading order: `http` (one request), [`settings`] (how connections are made), `connect`, `resolve`, `origin` (what a
//! URL says of where it leads).

mod connect;
pub(super) mod http;
pub(super) mod origin;
mod resolve;
pub(super) mod settings;
