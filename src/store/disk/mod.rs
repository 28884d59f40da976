//! The directory of the store: where things are in it, and whether it can be written to.

pub mod health;
pub(super) mod layout;
pub(super) mod length;
