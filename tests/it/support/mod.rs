//! What tests stand on: a registry that misbehaves on order, the real program, and a client that notices everything.
//!
//! Nothing here knows the inside of pierglass. The fake registry runs on a runtime and threads of its own, so that a
//! test may block (wait for a program, sleep) without stopping it, and so that it works from tests without `async`.
//! `tests/e2e` and `tests/chaos` include this folder by path and use a part of it; what `it` does not use is dead here.

/// Bearer tokens and Basic passwords, as the fake registry checks them.
pub mod auth;
/// A small HTTP client that reports times, digests and incomplete bodies.
pub mod client;
/// What the program under test is told to do.
pub mod config;
/// Repositories, blobs (large ones computed on the fly) and manifests.
pub mod content;
/// The store as it lies on disk.
pub mod disk;
/// What can go wrong, and which requests it goes wrong for.
pub mod fault;
/// Valid images and indexes.
pub mod image;
/// A large blob that breaks off, and a mirror that dies over it.
pub mod large;
/// What was asked of the fake registry.
pub mod ledger;
/// The throttle that all blob connections share.
pub mod link;
/// An address for each listener.
pub mod loopback;
/// The program under test.
pub mod mirror;
/// `multipart/byteranges`, taken apart.
pub mod multipart;
/// A listener that can go away and come back on its port.
pub mod origin;
/// Waiting for a condition.
pub mod patience;
/// The fake registry: builder and handle.
pub mod registry;
/// How the fake registry answers.
pub mod routes;
/// A registry, a mirror, one blob or image, and what clients do: what most tests begin with.
pub mod scene;
/// A server that answers as the test says.
pub mod scripted;
/// Certificates, and TLS on both sides of the program.
pub mod tls;
/// HTTP/1.1 by hand, for answers no well-behaved server gives.
pub mod wire;

pub use client::Client;
pub use config::MirrorConfig;
pub use content::{digest_of, generated_digest};
pub use fault::{Fault, On};
pub use image::{Image, Index};
pub use mirror::Mirror;
pub use patience::until;
pub use registry::{FakeRegistry, Redirect};
pub use scene::{KIB, MIB, REPO, TAG, image, plain};
pub use scripted::Scripted;
