//! `Range`, `Content-Range` and `If-Range` (RFC 9110 13.1.5 and 14): asking for, and getting, a
//! part of a representation.

#[cfg(test)]
mod tests;

use std::ops::Range;

use http::HeaderValue;

/// More ranges than this in one request are an attack (RFC 9110 17.15), not a lazy puller's list of
/// chunks.
const MAX_RANGES: usize = 1024;

/// What a `Range` header turns out to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// Another unit, or malformed: the request is to be served as if the header were not there (RFC
    /// 9110 14.2).
    Ignore,
    /// More than 1024 ranges: to be refused.
    TooMany,
    /// Ranges of bytes, at least one.
    Ranges(RangeSet),
}

/// The ranges that were asked for, of a representation whose length is not known yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeSet(Vec<Spec>);

/// RFC 9110 14.1.2, with the last position inclusive as it is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spec {
    From(u64),
    FromTo(u64, u64),
    Suffix(u64),
}

/// The parts of a representation to send. Ends are exclusive, and no part is empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Selection {
    /// One part: 206.
    One(Range<u64>),
    /// Several, in the order they were asked for, neither sorted nor merged: 206 with
    /// `multipart/byteranges`.
    Many(Vec<Range<u64>>),
    /// None of what was asked for exists: 416.
    Unsatisfiable,
}

/// Bytes of a representation from `from` on: up to `to`, exclusive, or to its end, wherever that is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: Option<u64>,
}

impl From<u64> for Span {
    /// To the end.
    fn from(from: u64) -> Self {
        Self { from, to: None }
    }
}

impl From<Range<u64>> for Span {
    fn from(range: Range<u64>) -> Self {
        Self {
            from: range.start,
            to: Some(range.end),
        }
    }
}

impl Span {
    /// What there can be of it in a representation of this length, if that is known.
    pub(crate) fn within(self, length: Option<u64>) -> Self {
        let to = match (self.to, length) {
            (Some(to), Some(length)) => Some(to.min(length)),
            (to, length) => to.or(length),
        };
        Self { to, ..self }
    }

    /// The `Range` header that asks for it (RFC 9110 14.1.1). It must not be empty.
    pub(crate) fn header(self) -> String {
        match self.to {
            Some(to) => format!("bytes={}-{}", self.from, to.saturating_sub(1)),
            None => format!("bytes={}-", self.from),
        }
    }

    /// Whether an answer with the bytes `got` is an answer to it: all of it, or its beginning (RFC 9110 15.3.7).
    pub(crate) fn is_answered_by(self, got: &Range<u64>) -> bool {
        got.start == self.from && !got.is_empty() && self.to.is_none_or(|to| got.end <= to)
    }
}

/// Parses a `Range` header. A number too large to hold is as good as the largest: no representation
/// is that long.
pub fn parse(value: &HeaderValue) -> Parsed {
    let Some(list) = value.to_str().ok().and_then(bytes_unit) else {
        return Parsed::Ignore;
    };
    let mut specs = Vec::new();
    // Empty list elements are allowed (RFC 9110 5.6.1.2).
    for element in list
        .split(',')
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
    {
        if specs.len() == MAX_RANGES {
            return Parsed::TooMany;
        }
        match spec(element) {
            Some(spec) => specs.push(spec),
            None => return Parsed::Ignore,
        }
    }
    if specs.is_empty() {
        Parsed::Ignore
    } else {
        Parsed::Ranges(RangeSet(specs))
    }
}

/// What follows `bytes=`; units are compared without case (RFC 9110 14.1).
fn bytes_unit(text: &str) -> Option<&str> {
    text.split_once('=')
        .filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"))
        .map(|(_, list)| list)
}

fn spec(element: &str) -> Option<Spec> {
    match element.split_once('-')? {
        ("", suffix) => number(suffix).map(Spec::Suffix),
        (first, "") => number(first).map(Spec::From),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::FromTo(first, last))
        }
    }
}

/// Digits only: `u64::from_str` alone would take a plus sign, too.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

impl RangeSet {
    /// Which bytes of a representation `len` long these are. Parts that lie beyond it are dropped,
    /// the others cut to fit.
    pub fn resolve(&self, len: u64) -> Selection {
        let mut parts: Vec<_> = self.0.iter().filter_map(|spec| spec.resolve(len)).collect();
        match parts.len() {
            0 => Selection::Unsatisfiable,
            1 => Selection::One(parts.remove(0)),
            _ => Selection::Many(parts),
        }
    }
}

impl Spec {
    fn resolve(self, len: u64) -> Option<Range<u64>> {
        let part = match self {
            Self::From(first) => first..len,
            Self::FromTo(first, last) => first..last.saturating_add(1).min(len),
            Self::Suffix(length) => len.saturating_sub(length)..len,
        };
        (!part.is_empty()).then_some(part)
    }
}

/// `Content-Range` of one part of `total` bytes (RFC 9110 14.4). The part must not be empty.
pub fn content_range(part: &Range<u64>, total: u64) -> HeaderValue {
    super::visible(&format!(
        "bytes {}-{}/{total}",
        part.start,
        part.end.saturating_sub(1)
    ))
}

/// `Content-Range` of a 416: nothing of `total` bytes.
pub(crate) fn unsatisfied(total: u64) -> HeaderValue {
    super::visible(&format!("bytes */{total}"))
}

/// The part that a 206 from upstream holds, and the length of the whole if it is told. `None` if it
/// does not make sense, and then nothing may be made of the body (RFC 9110 14.4).
pub fn parse_content_range(value: &HeaderValue) -> Option<(Range<u64>, Option<u64>)> {
    let (unit, rest) = value.to_str().ok()?.split_once(' ')?;
    let (part, total) = rest.trim_ascii().split_once('/')?;
    let (first, last) = part.split_once('-')?;
    let part = exact(first)?..exact(last)?.checked_add(1)?;
    let total = if total == "*" {
        None
    } else {
        Some(exact(total)?)
    };
    let sane = !part.is_empty() && total.is_none_or(|total| part.end <= total);
    (unit.eq_ignore_ascii_case("bytes") && sane).then_some((part, total))
}

/// Without saturation: where an answer's bytes belong must be known exactly.
fn exact(text: &str) -> Option<u64> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// Whether `If-Range` allows to send a part of the representation tagged `etag` (with its quotes).
///
/// Strong comparison (RFC 9110 8.8.3.2): a weak tag never matches, and neither does a date, because
/// what is addressed by its content has no other.
pub(crate) fn if_range_matches(value: &HeaderValue, etag: &str) -> bool {
    etag.starts_with('"') && value.as_bytes().trim_ascii() == etag.as_bytes()
}
