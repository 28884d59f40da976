//! Who asks, for what, whether they may, and how much they may take.
//!
//! It knows the words of the API ([`crate::oci`]) and no HTTP, registry or store, so that the server and the mirror can
//! both use it. Reading order: [`caller`] (who), [`action`] (what), [`rules`] (who may do what), [`permits`] (how much
//! one client may take at a time), [`misses`] (how often it may have upstream asked), [`address`] (what counts as one
//! client).

pub(crate) mod action;
pub(crate) mod address;
pub(crate) mod caller;
pub(crate) mod misses;
pub(crate) mod permits;
pub(crate) mod rules;
