//! Real clients and real servers: what passes here works for people.
//!
//! Run as root. A program that is missing is a failure, not a skip; `make deps` installs them all.
//!
//! Contents, in reading order:
//! - `programs`: programs are started, waited for and ended; nothing outlives its test
//! - `dockerd`, `distribution`, `prometheus`: the programs
//! - `busybox`: an image that runs
//! - `docker_pull`: dockerd pulls through the mirror
//! - `docker_search`: dockerd searches through the mirror
//! - `metrics`: Prometheus and its linter read the metrics
//! - `unit_file`: systemd and Prometheus read what is in `deploy/`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for"
)]

#[path = "../it/support/mod.rs"]
mod support;

mod busybox;
mod distribution;
mod dockerd;
mod programs;
mod prometheus;

mod docker_pull;
mod docker_search;
mod metrics;
mod unit_file;
