//! Who asks, and what they may take.
//!
//! A leaf: it knows no HTTP, no registry and no store, so that the server and the mirror can both use it. Reading order:
//! [`caller`] (who), [`permits`] (how much one client may take at a time), [`client`] (what counts as one client).

pub(crate) mod caller;
pub(crate) mod client;
pub(crate) mod permits;
