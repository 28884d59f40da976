//! Real clients and real servers: what passes here works for people.
//!
//! Run as root. A program that is missing is a failure, not a skip; `make deps` installs them all.
//!
//! Contents, in reading order:
//! - `programs`: programs are started, waited for and ended; nothing outlives its test
//! - `fence`: a proxy that lets no request past the mirror, and notes each one
//! - `authority`: certificates that only some trust
//! - `dockerd`, `containerd`, `containers`, `distribution`, `prometheus`: the programs
//! - `installed`: clients from PyPI and npm
//! - `busybox`, `tar`: an image that runs
//! - `probe`: a client that reads as much as it wants and hangs up
//! - `docker_pull`: dockerd pulls through the mirror
//! - `containerd_pull`: containerd does, from two registries at once
//! - `containers_image`: podman, buildah and skopeo do
//! - `search`, `lists`: dockerd, podman and skopeo look for images and list tags
//! - `parallel_fetch`, `lazy_puller`: what newer clients do than Debian has, as they do it on the wire
//! - `both_ways`: a client at a registry, and then at its mirror
//! - `libraries`, `charliecloud`, `flatpak`: clients that few have heard of
//! - `registry_ui`: a page in a browser reads the registry
//! - `outages`: dockerd and containerd pull what is stored, whatever upstream does
//! - `disks`, `disk_trouble`: the disk of the store is full, read-only, forbidden, gone or broken
//! - `large_blob`: a gibibyte in pieces, and through a `kill -9`
//! - `system_calls`: the program is killed between any two system calls, and failed by any of them
//! - `metrics`: Prometheus and its linter read the metrics
//! - `systemd`: systemd in namespaces of its own
//! - `unit_file`: systemd and Prometheus read what is in `deploy/`, and systemd runs the unit
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "a test that panics has failed, which is what it is for; figures are printed for who runs it by hand"
)]

#[path = "../it/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "it is made for tests/it")]
mod support;

mod authority;
mod both_ways;
mod busybox;
mod containerd;
mod containers;
mod disks;
mod distribution;
mod dockerd;
mod fence;
mod installed;
mod probe;
mod programs;
mod prometheus;
mod search;
mod systemd;
mod tar;

mod charliecloud;
mod containerd_pull;
mod containers_image;
mod disk_trouble;
mod docker_pull;
mod flatpak;
mod large_blob;
mod lazy_puller;
mod libraries;
mod lists;
mod metrics;
mod outages;
mod parallel_fetch;
mod registry_ui;
mod system_calls;
mod unit_file;
