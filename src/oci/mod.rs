//! The words of the OCI distribution-spec as types: what a registry API path, a name, a digest, a manifest and an error
//! are.
//!
//! Text from the network is parsed here once, and what comes out cannot be wrong: a [`name::Repository`] has a valid
//! name, a [`digest::Digest`] has all of its bytes. Nothing here does I/O, and nothing here may know of sockets, HTTP
//! headers, disks, clocks, configuration or any particular registry.
//!
//! Reading order: [`name`] (registries, repositories, tags), [`digest`], [`endpoint`] (the paths of the API),
//! [`manifest`], [`referrers`], [`tags`], `error` (codes and their JSON), [`image`] (names of images as people write them).

pub mod digest;
pub mod endpoint;
pub(crate) mod error;
pub mod image;
pub mod manifest;
pub mod name;
pub mod referrers;
pub mod tags;
