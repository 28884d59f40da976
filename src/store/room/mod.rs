//! How much there is, what was used longest ago, and how room is made.

mod entries;
pub(super) mod evict;
pub(super) mod index;
pub(super) mod scan;
