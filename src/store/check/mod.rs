//! Whether what is stored is still what it was.

pub(super) mod hash;
pub(super) mod scrub;
pub mod verify;
