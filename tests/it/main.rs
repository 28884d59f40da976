//! Integration tests: the program is run, and spoken to over HTTP, between a client and registries that misbehave.
//!
//! Contents, in reading order:
//! - `support`: the fake registry, the program, the client
//! - `fake_registry`: the fake registry does what its faults say
//! - `crash`: killed at any instant, nothing committed is lost and nothing wrong is served
//! - `limits`: the store stays within its limit, and what has no room passes through
//! - `damage`: what is damaged on disk is fetched again and not served
//! - `server`: limits of connections, TLS and HTTP/2, the admin address, the log, the end
//! - `proxy`: upstreams through proxies and over TLS, and upstreams that are silent or gone
//! - `commands`: the command line, its messages and its exit codes
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for"
)]

mod support;

mod fake_registry;

mod commands;
mod crash;
mod damage;
mod limits;
mod proxy;
mod server;
