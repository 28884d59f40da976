//! One entry of a list of vouched blobs.

use std::fmt;

use crate::store::room::index::seconds_now;

/// An entry is not written again for a newer time alone until that is this much newer (seconds).
const NEWER: u32 = 3600;

const PROVEN: &str = "proven";
const NAMED: &str = "named";
/// What stands after the digest of an entry that was removed.
pub(super) const GONE: &str = " gone";

/// The word that a blob belongs to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vouch {
    /// When upstream gave it last, in seconds of the Unix epoch.
    pub(crate) at: u32,
    /// Upstream gave or confirmed the blob itself; otherwise a manifest names it.
    pub(crate) proven: bool,
    /// How long the blob is, where a manifest says so; else 0.
    size: u64,
}

impl Vouch {
    /// A manifest of the repository, which upstream gives now, names the blob.
    pub(crate) fn named(size: u64) -> Self {
        Self {
            at: seconds_now(),
            proven: false,
            size,
        }
    }

    /// Upstream gives or confirms the blob now.
    pub(crate) fn proven() -> Self {
        Self {
            at: seconds_now(),
            proven: true,
            size: 0,
        }
    }

    /// The same word, about a blob that upstream has given.
    pub(crate) fn as_proven(self) -> Self {
        Self {
            proven: true,
            ..self
        }
    }

    pub(crate) fn size(&self) -> Option<u64> {
        (self.size > 0).then_some(self.size)
    }

    /// What a newer word makes of it.
    pub(super) fn renewed(self, newer: Self) -> Self {
        Self {
            at: newer.at,
            proven: self.proven || newer.proven,
            size: if newer.size > 0 {
                newer.size
            } else {
                self.size
            },
        }
    }

    /// Whether `newer` says anything that is worth to be written.
    pub(super) fn is_old_beside(self, newer: Self) -> bool {
        let alike = Self {
            at: newer.at,
            ..self
        };
        alike != newer || newer.at.abs_diff(self.at) >= NEWER
    }

    /// Reads what stands after the digest of a line. Earlier versions wrote nothing there, and had upstream's word.
    pub(super) fn parse(words: &str, written: u32) -> Option<Self> {
        let mut words = words.split_ascii_whitespace();
        let Some(at) = words.next() else {
            return Some(Self {
                at: written,
                proven: true,
                size: 0,
            });
        };
        Some(Self {
            at: at.parse().ok()?,
            proven: match words.next()? {
                PROVEN => true,
                NAMED => false,
                _ => return None,
            },
            size: words.next().map_or(Some(0), |size| size.parse().ok())?,
        })
    }
}

impl fmt::Display for Vouch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grounds = if self.proven { PROVEN } else { NAMED };
        write!(f, "{} {grounds} {}", self.at, self.size)
    }
}
