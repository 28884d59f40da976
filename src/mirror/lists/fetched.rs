//! A list as upstream gave it.

use crate::mirror::answer::Outcome;
use crate::store::records::StoredListing;

pub(super) struct Fetched {
    pub(super) listing: StoredListing,
    pub(super) is_empty: bool,
    /// It is empty because upstream has no such thing (404), not because upstream listed nothing.
    pub(super) is_refusal: bool,
    /// It stands under a tag that is a stale one.
    pub(super) stale: Option<Outcome>,
}
