//! Real clients and real servers: what passes here works for people.
//!
//! Run as root. A program that is missing is a failure, not a skip; `make deps` installs them all.
//!
//! Contents, in reading order:
//! - `programs`: programs are started, waited for and ended; nothing outlives its test
//! - `fence`: a proxy that lets nobody past the mirror, and notes who tried
//! - `dockerd`, `containerd`, `distribution`, `prometheus`: the programs
//! - `busybox`: an image that runs
//! - `docker_pull`: dockerd pulls through the mirror
//! - `containerd_pull`: containerd does, from two registries at once
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
mod containerd;
mod distribution;
mod dockerd;
mod fence;
mod programs;
mod prometheus;

mod containerd_pull;
mod docker_pull;
mod metrics;
mod unit_file;
