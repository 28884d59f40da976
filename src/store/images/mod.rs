//! What is pinned, and a store at rest.

pub mod offline;
pub mod pins;
