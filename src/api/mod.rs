//! The admin API under `/api/v1/`, as both of its ends have it: a running mirror answers, the commands ask.
//!
//! A leaf of values. It opens no connection and decides nothing. Programs read this JSON: names stay, and fields are
//! written in the order of the alphabet. What `verify` sends, a line each, is `store::check::verify::Event`.

use serde::{Deserialize, Serialize};

/// What all paths of the API begin with.
pub(crate) const ROOT: &str = "/api/";
/// GET tells which store it is.
pub(crate) const STORE: &str = "/api/v1/store";
/// GET lists pinned images, POST pins `?image=`, DELETE unpins it.
pub(crate) const PINS: &str = "/api/v1/pins";
/// POST checks the store; `?repair=true` also drops what is damaged, `&rate=` is how many bytes a second it reads, or 0.
pub(crate) const VERIFY: &str = "/api/v1/verify";
/// The header that a request must carry to change something, whatever its value.
pub(crate) const ADMIN_HEADER: &str = "pierglass-admin";

/// Images that may be pinned at a time: each is looked at whenever its repository changes.
pub(crate) const MAX_PINS: usize = 1000;

/// The store of a running mirror: where it is, and the directory itself, whatever path leads there.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoreAnswer {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) path: String,
}

/// Why there is no answer.
#[derive(Serialize, Deserialize)]
pub(crate) struct ApiProblem {
    pub(crate) error: String,
}

/// A pinned image, and how much of it is stored.
#[derive(Serialize, Deserialize)]
pub(crate) struct PinnedImage {
    /// The manifest that its name points to, if that is known.
    pub(crate) digest: Option<String>,
    pub(crate) image: String,
    /// Manifests and blobs that are not stored yet.
    pub(crate) missing: usize,
    pub(crate) missing_bytes: u64,
    /// Manifests and blobs that are stored.
    pub(crate) stored: usize,
    pub(crate) stored_bytes: u64,
}

/// All pinned images, and whether the store has room for them.
#[derive(Serialize, Deserialize)]
pub(crate) struct PinList {
    pub(crate) fit: bool,
    pub(crate) images: Vec<PinnedImage>,
    pub(crate) max_size: u64,
    pub(crate) wanted_bytes: u64,
}

/// An image was pinned, now or earlier.
#[derive(Serialize, Deserialize)]
pub(crate) struct PinAnswer {
    /// False if it was pinned already.
    pub(crate) changed: bool,
    pub(crate) fit: bool,
    pub(crate) image: String,
    pub(crate) max_size: u64,
    pub(crate) pinned: Option<PinnedImage>,
    pub(crate) wanted_bytes: u64,
}

/// An image is not pinned any more.
#[derive(Serialize, Deserialize)]
pub(crate) struct UnpinAnswer {
    /// False if it was not pinned.
    pub(crate) changed: bool,
    pub(crate) image: String,
}
