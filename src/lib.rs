//! Pierglass: a caching pull-through mirror for container registries.
//!
//! Clients ask it. It asks the registry once, keeps what it has verified, and answers later requests from local disk.
//!
//! This file is the map; it defines nothing. The first comment of each folder says what the folder holds, what it must
//! never know, and in which order to read its files. `CONTRIBUTING.md` says where a change goes. In reading order, from
//! what a user sees down to what everything stands on:
//!
//! - [`cli`]: the commands, one file each: their flags, what they do, what they print.
//! - [`fuzzing`]: parsers of what upstream says, for fuzz targets.
//! - [`app`]: builds all parts from a configuration, starts them and stops them. It decides nothing about a request.
//! - [`config`]: reads the file, the environment and the flags; gives settings, or every mistake at once.
//! - [`server`]: connections, requests, responses, bodies; the admin address. The only place that knows HTTP towards
//!   clients, and the one where an error becomes a status.
//! - [`mirror`]: decides what to answer: from the store, from upstream, or a stale copy. The only place that knows
//!   both:
//!   - [`store`]: verified blobs and the records of manifests and tags, on disk, below a size limit. Knows no network.
//!   - [`upstream`]: asks registries: logins, tokens, redirects, retries, and when not to ask. Knows no disk.
//! - [`sites`]: the table of registries that this mirror answers for, and all that is special about Docker Hub (`nginx`
//!   is `library/nginx`). Opens no connection.
//! - [`access`]: who asks, for what, whether they may, and how much one client may take at a time.
//! - [`api`]: the JSON of the admin API, which the server writes and the commands read.
//! - [`oci`]: the words of the distribution API: paths, names, digests, manifests, error codes.
//! - [`headers`]: HTTP headers that have a grammar, such as `Range`. They mean the same for every sender.
//! - [`flight`]: many ask for the same thing, one task works for all of them.
//! - [`memory`]: bodies that are in memory as a whole: how much of them there may be, and where work on them is done.
//! - [`metrics`]: the table of all metrics.
//! - [`logging`]: how log lines look and which are written.
//! - [`secret`]: a type for passwords that cannot be printed by accident.
//!
//! `sites` and `access` use [`oci`]; the modules after them use nothing of this program. Imports point down this
//! list and never up; `tests/it/layers` checks that.
//!
//! To follow one request through the code: `server/connection`, `server/registry/service.rs`, `sites`,
//! `access/rules.rs`, `mirror/manifest/tag.rs` or `mirror/blob/mod.rs`, `store/records` or `store/blobs`; then back
//! through `server/registry/respond.rs` and `server/body`. Where the store does not have it: `mirror/blob/fill.rs`,
//! then `upstream`.

mod access;
mod api;
mod app;
pub mod cli;
mod config;
mod flight;
pub mod fuzzing;
pub mod headers;
mod logging;
pub mod memory;
pub mod metrics;
mod mirror;
pub mod oci;
mod secret;
mod server;
mod sites;
pub mod store;
mod upstream;
