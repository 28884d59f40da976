//! Pierglass: a caching pull-through mirror for container registries.
//!
//! Between container clients and the registries they pull from: it asks upstream once, keeps what it
//! verified, and answers everybody else from local disk. This file is the map; it defines nothing. In
//! reading order, from what a user sees down to what everything stands on:
//!
//! - [`cli`]: the commands and what each does that is more than a call into `app`.
//! - [`app`]: builds all of the below from a configuration, binds, spawns, drains.
//! - [`config`]: from a file, the environment and flags to settings, every mistake reported at once.
//! - [`server`]: connections and requests; the only place that knows HTTP towards clients.
//! - [`mirror`]: policy; decides from where to answer. The only place that knows both of these:
//!   - [`store`]: verified blobs and records on disk. Knows no network.
//!   - [`upstream`]: registries, tokens, redirects. Knows no disk.
//! - [`sites`]: which namespace is which site; a table without a network. Knows [`oci`] alone.
//! - Leaves that import nothing of ours: [`access`] (who asks, and what they may take), [`api`] (the admin API's
//!   JSON), [`oci`] (the words of the distribution API), [`headers`] (of HTTP), [`flight`] (many ask, one works), [`metrics`], [`logging`], [`secret`].
//!
//! Imports point down this list and never up; `tests/it/layers.rs` holds it.

mod access;
mod api;
mod app;
pub mod cli;
mod config;
mod flight;
pub mod headers;
mod logging;
pub mod metrics;
mod mirror;
pub mod oci;
mod secret;
mod server;
mod sites;
pub mod store;
mod upstream;
