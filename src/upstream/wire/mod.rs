//! Requests as they are: names, sockets, TLS, proxies, time limits. No login, and no redirect is followed.
//!
//! Reading order: `http` (one request), `pool` (connections that are kept), `breaks` (bodies that broke off), `pace` (how
//! slow a body may be), `coding` (what was done to its bytes), [`settings`] (how connections are made), `location`
//! (where a redirect leads), `failure` (why there was no response), `connect`, `resolve`, `zone` (where an address is, and
//! what may be reached from where), `origin` (what a URL says of where it leads).

pub(super) mod breaks;
pub(super) mod coding;
mod connect;
mod failure;
pub(super) mod http;
pub(super) mod location;
pub(super) mod origin;
mod pace;
mod pool;
mod resolve;
pub(super) mod settings;
pub(super) mod zone;
