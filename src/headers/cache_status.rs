//! `Cache-Status` (RFC 9211): where an answer came from, for a person who looks at the response.

use std::fmt;

use http::HeaderValue;

/// What this cache did for one response. Prints as `pierglass; hit`, `pierglass; fwd=uri-miss;
/// stored` and the like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CacheStatus {
    /// `None` for a hit.
    forwarded: Option<Fwd>,
    ttl: Option<i64>,
    stored: bool,
    collapsed: bool,
    detail: Option<&'static str>,
}

/// Why a request went forward to upstream: those of the reasons in RFC 9211 2.2 that this mirror has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fwd {
    /// Nothing is stored under this URL.
    UriMiss,
    /// The store cannot take it.
    Bypass,
}

impl CacheStatus {
    /// Served from the store, without asking upstream.
    pub(crate) fn hit() -> Self {
        Self {
            forwarded: None,
            ttl: None,
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// Served with upstream's help.
    pub(crate) fn forwarded(why: Fwd) -> Self {
        Self {
            forwarded: Some(why),
            ..Self::hit()
        }
    }

    /// The answer was stored, too. Not printed on a hit, where it has no meaning (RFC 9211 2.5).
    #[must_use]
    pub(crate) fn stored(self) -> Self {
        Self {
            stored: true,
            ..self
        }
    }

    /// The request joined another's transfer. Not printed on a hit (RFC 9211 2.6).
    #[must_use]
    pub(crate) fn collapsed(self) -> Self {
        Self {
            collapsed: true,
            ..self
        }
    }

    /// One word more, which must be a token (RFC 9211 2.8, RFC 9651 3.3.4).
    #[must_use]
    pub(crate) fn detail(self, token: &'static str) -> Self {
        Self {
            detail: Some(token),
            ..self
        }
    }

    /// For how many more seconds it is fresh; negative if it is not (RFC 9211 2.4).
    #[must_use]
    pub(crate) fn ttl(self, seconds: i64) -> Self {
        Self {
            ttl: Some(seconds),
            ..self
        }
    }

    pub(crate) fn to_header(self) -> HeaderValue {
        if self == Self::hit() {
            // Most answers.
            return HeaderValue::from_static("pierglass; hit");
        }
        super::visible(&self.to_string())
    }
}

/// The largest integer that a structured field can hold (RFC 9651 3.3.1).
const MAX_INTEGER: i64 = 999_999_999_999_999;

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.forwarded {
            None => "pierglass; hit",
            Some(Fwd::UriMiss) => "pierglass; fwd=uri-miss",
            Some(Fwd::Bypass) => "pierglass; fwd=bypass",
        })?;
        if self.forwarded.is_some() {
            f.write_str(if self.stored { "; stored" } else { "" })?;
            f.write_str(if self.collapsed { "; collapsed" } else { "" })?;
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={}", ttl.clamp(-MAX_INTEGER, MAX_INTEGER))?;
        }
        match self.detail {
            None => Ok(()),
            Some(token) => write!(f, "; detail={token}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_prints_what_the_documentation_promises() {
        let miss = CacheStatus::forwarded(Fwd::UriMiss);
        for (status, expected) in [
            (CacheStatus::hit(), "pierglass; hit"),
            (
                CacheStatus::hit().detail("stale"),
                "pierglass; hit; detail=stale",
            ),
            (
                CacheStatus::hit().stored().collapsed().ttl(-5),
                "pierglass; hit; ttl=-5",
            ),
            (miss.stored(), "pierglass; fwd=uri-miss; stored"),
            (miss.collapsed(), "pierglass; fwd=uri-miss; collapsed"),
            (CacheStatus::forwarded(Fwd::Bypass), "pierglass; fwd=bypass"),
        ] {
            assert_eq!(status.to_string(), expected);
            assert_eq!(status.to_header(), expected);
        }
    }

    proptest! {
        #[test]
        fn any_time_to_live_is_a_valid_header(ttl: i64) {
            let status = CacheStatus::forwarded(Fwd::UriMiss).ttl(ttl).detail("stale");
            prop_assert!(status.to_header().to_str().is_ok());
        }
    }
}
