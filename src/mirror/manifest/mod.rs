//! Manifests: by digest, which never changes, and by tag, which upstream can move.

pub(crate) mod digest;
pub(super) mod tag;
