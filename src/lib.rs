//! Pierglass, a caching pull-through mirror for container registries.

pub mod headers;
pub mod oci;
pub mod secret;
