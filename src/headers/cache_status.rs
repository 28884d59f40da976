//! `Cache-Status` (RFC 9211): where an answer came from, for whoever looks at the response.

use std::fmt;

use http::HeaderValue;

/// What this cache did for one response. Prints as `pierglass; hit`, `pierglass; fwd=uri-miss;
/// stored` and the like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheStatus {
    /// `None` for a hit.
    forwarded: Option<Fwd>,
    fwd_status: Option<u16>,
    ttl: Option<i64>,
    stored: bool,
    collapsed: bool,
    detail: Option<&'static str>,
}

/// Why a request went forward to upstream (RFC 9211 2.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Fwd {
    /// Nothing is stored under this URL.
    UriMiss,
    /// What is stored must be confirmed first.
    Stale,
    /// The cache was configured, or forced, not to handle this request.
    Bypass,
    /// The request's method requires it.
    Method,
    /// The request's header fields require it.
    Request,
    /// Something is stored, but not for these request headers.
    VaryMiss,
    /// Nothing suitable is stored, for a reason not told.
    Miss,
    /// Only some of the bytes asked for are stored.
    Partial,
}

impl CacheStatus {
    /// Served from the store, without asking upstream.
    pub fn hit() -> Self {
        Self {
            forwarded: None,
            fwd_status: None,
            ttl: None,
            stored: false,
            collapsed: false,
            detail: None,
        }
    }

    /// Served with upstream's help.
    pub fn forwarded(why: Fwd) -> Self {
        Self {
            forwarded: Some(why),
            ..Self::hit()
        }
    }

    /// The answer was stored, too. Not printed on a hit, where it has no meaning (RFC 9211 2.5).
    #[must_use]
    pub fn stored(self) -> Self {
        Self {
            stored: true,
            ..self
        }
    }

    /// The request joined another's transfer. Not printed on a hit (RFC 9211 2.6).
    #[must_use]
    pub fn collapsed(self) -> Self {
        Self {
            collapsed: true,
            ..self
        }
    }

    /// A word more (RFC 9211 2.8).
    #[must_use]
    pub fn detail(self, detail: &'static str) -> Self {
        Self {
            detail: Some(detail),
            ..self
        }
    }

    /// For how many more seconds it is fresh; negative if it is not (RFC 9211 2.4).
    #[must_use]
    pub fn ttl(self, seconds: i64) -> Self {
        Self {
            ttl: Some(seconds),
            ..self
        }
    }

    /// The status upstream answered with. Not printed on a hit (RFC 9211 2.3).
    #[must_use]
    pub fn fwd_status(self, status: u16) -> Self {
        Self {
            fwd_status: Some(status),
            ..self
        }
    }

    /// The header's value.
    pub fn to_header(&self) -> HeaderValue {
        if *self == Self::hit() {
            // Most answers.
            return HeaderValue::from_static("pierglass; hit");
        }
        super::visible(&self.to_string())
    }
}

impl Fwd {
    /// The reason's token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UriMiss => "uri-miss",
            Self::Stale => "stale",
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::Request => "request",
            Self::VaryMiss => "vary-miss",
            Self::Miss => "miss",
            Self::Partial => "partial",
        }
    }
}

/// The largest integer that a structured field can hold (RFC 9651 3.3.1).
const MAX_INTEGER: i64 = 999_999_999_999_999;

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.forwarded {
            None => f.write_str("pierglass; hit")?,
            Some(why) => {
                write!(f, "pierglass; fwd={}", why.as_str())?;
                if let Some(status) = self.fwd_status {
                    write!(f, "; fwd-status={status}")?;
                }
                f.write_str(if self.stored { "; stored" } else { "" })?;
                f.write_str(if self.collapsed { "; collapsed" } else { "" })?;
            }
        }
        if let Some(ttl) = self.ttl {
            write!(f, "; ttl={}", ttl.clamp(-MAX_INTEGER, MAX_INTEGER))?;
        }
        self.detail.map_or(Ok(()), |detail| write_detail(f, detail))
    }
}

/// A token if it can be one, and else a string (RFC 9651 3.3.3 and 3.3.4), in which anything but
/// visible ASCII is a `?`.
fn write_detail(f: &mut fmt::Formatter<'_>, detail: &str) -> fmt::Result {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&b);
    if detail.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
        && detail.bytes().all(token)
    {
        return write!(f, "; detail={detail}");
    }
    f.write_str("; detail=\"")?;
    for c in detail.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            ' '..='~' => write!(f, "{c}")?,
            _ => f.write_str("?")?,
        }
    }
    f.write_str("\"")
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
                CacheStatus::hit()
                    .stored()
                    .collapsed()
                    .fwd_status(200)
                    .ttl(-5),
                "pierglass; hit; ttl=-5",
            ),
            (miss.stored(), "pierglass; fwd=uri-miss; stored"),
            (miss.collapsed(), "pierglass; fwd=uri-miss; collapsed"),
            (
                CacheStatus::forwarded(Fwd::Stale).fwd_status(304),
                "pierglass; fwd=stale; fwd-status=304",
            ),
            (CacheStatus::forwarded(Fwd::Bypass), "pierglass; fwd=bypass"),
            (
                CacheStatus::hit().detail("a \"b\"\n\u{e9}"),
                "pierglass; hit; detail=\"a \\\"b\\\"??\"",
            ),
        ] {
            assert_eq!(status.to_string(), expected);
            assert_eq!(status.to_header(), expected);
        }
    }

    proptest! {
        #[test]
        fn whatever_is_put_in_is_a_valid_header(ttl: i64, status: u16, detail: String) {
            // Leaked, because a detail is a constant in the program; a few hundred short ones do no
            // harm in a test.
            let detail: &'static str = Box::leak(detail.into_boxed_str());
            let status = CacheStatus::forwarded(Fwd::Partial).ttl(ttl).fwd_status(status).detail(detail);
            prop_assert!(status.to_header().to_str().is_ok());
        }
    }
}
