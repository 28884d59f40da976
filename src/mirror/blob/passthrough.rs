//! A blob, or what is left of one, that passes through to one client because the store cannot take it; still
//! verified, and gone on with where upstream breaks off.

use std::ops::Range;

use bytes::Bytes;

use crate::oci::digest::{Digest, Hasher};
use crate::upstream::{self, Body, FetchedBlob};

use super::source::{Perseverance, Source, skip};

/// Upstream's body on its way to one client.
///
/// Of a whole blob the last piece is held back until the digest is verified, so that the client never has
/// all of a wrong blob. A part of a blob has no digest of its own and is passed on as it comes.
pub(crate) struct Bypass {
    source: Source,
    /// Comes before `body`.
    first: Option<Bytes>,
    body: Body,
    perseverance: Perseverance,
    /// Where in the blob the next byte of `body` belongs.
    position: u64,
    /// What the client gets; its end is `u64::MAX` while nobody knows how long the blob is.
    wanted: Range<u64>,
    /// Length of the blob, where upstream said it.
    size: Option<u64>,
    check: Option<Check>,
}

/// The digest of all of the blob, up to the position.
struct Check {
    /// `None` once the end was checked.
    hasher: Option<Hasher>,
    held: Option<Bytes>,
}

impl Bypass {
    /// All of a blob.
    pub(in crate::mirror) fn whole(source: Source, fetched: FetchedBlob) -> Self {
        Self::rest_of_whole(source, fetched, 0)
    }

    /// A blob from `from` on, out of a body that brings all of it.
    pub(in crate::mirror) fn rest_of_whole(
        source: Source,
        fetched: FetchedBlob,
        from: u64,
    ) -> Self {
        let hasher = source.digest().hasher();
        Self::new(source, fetched, 0, from..u64::MAX, Some(hasher))
    }

    /// A blob from `from` on, `hasher` having seen what is before that.
    pub(in crate::mirror) fn rest(
        source: Source,
        fetched: FetchedBlob,
        from: u64,
        hasher: Hasher,
    ) -> Self {
        Self::new(source, fetched, from, from..u64::MAX, Some(hasher))
    }

    /// Holds it to the length that the client was told, should upstream have said another one since.
    pub(in crate::mirror) fn of_length(
        mut self,
        told: Option<u64>,
    ) -> Result<Self, upstream::Error> {
        match (told, self.size) {
            (Some(told), Some(size)) if told != size => Err(upstream::Error::Wrong(
                format!("upstream said that the blob has {told} bytes, and now {size}").into(),
            )),
            _ => {
                self.size = told.or(self.size);
                Ok(self)
            }
        }
    }

    /// A part of a blob, out of a body that brings just that, or everything.
    pub(in crate::mirror) fn part(source: Source, fetched: FetchedBlob, part: Range<u64>) -> Self {
        let begins = fetched.part.as_ref().map_or(0, |part| part.start);
        Self::new(source, fetched, begins, part, None)
    }

    fn new(
        source: Source,
        fetched: FetchedBlob,
        position: u64,
        wanted: Range<u64>,
        hasher: Option<Hasher>,
    ) -> Self {
        Self {
            source,
            first: None,
            body: fetched.body,
            perseverance: Perseverance::default(),
            position,
            wanted,
            size: fetched.size,
            check: hasher.map(|hasher| Check {
                hasher: Some(hasher),
                held: None,
            }),
        }
    }

    /// The next piece; `None` at the end. A wrong digest and a body that breaks off for good are errors, never
    /// an end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        match self.check.is_some() {
            true => self.checked_chunk().await,
            false => self.part_chunk().await,
        }
    }

    async fn checked_chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        loop {
            let at = self.position;
            let done = self
                .check
                .as_ref()
                .is_none_or(|check| check.hasher.is_none());
            let chunk = if done { None } else { self.next().await? };
            let Some(check) = &mut self.check else {
                return Ok(None);
            };
            let Some(chunk) = chunk else {
                if let Some(hasher) = check.hasher.take() {
                    compare(self.source.digest(), &hasher.finish()).inspect_err(|_| {
                        check.held = None;
                    })?;
                }
                return Ok(check.held.take());
            };
            if self.size.is_some_and(|size| self.position > size) {
                // The client was told that length: what is held back now would be the end of it.
                check.held = None;
                return Err(upstream::Error::Wrong(
                    "upstream sent more than it announced".into(),
                ));
            }
            if let Some(hasher) = &mut check.hasher {
                hasher.update(&chunk);
            }
            let chunk = cut(chunk, at, &self.wanted);
            if chunk.is_empty() {
                continue;
            }
            if let Some(before) = check.held.replace(chunk) {
                return Ok(Some(before));
            }
        }
    }

    async fn part_chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        while self.position < self.wanted.end {
            let at = self.position;
            let Some(chunk) = self.next().await? else {
                return Err(upstream::Error::Wrong(
                    "upstream sent less than was asked for".into(),
                ));
            };
            let chunk = cut(chunk, at, &self.wanted);
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    /// The next piece of the body, from a new request where the last one broke off.
    async fn next(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        loop {
            let next = match self.first.take() {
                Some(first) => Ok(Some(first)),
                None => self.body.chunk().await,
            };
            let broken = match next {
                Ok(Some(chunk)) => {
                    self.position += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                // Breaking after the last byte is no harm: the digest tells whether they are right.
                Ok(None) | Err(_) if self.has_come_to_the_end() => return Ok(None),
                Ok(None) if self.end().is_none() => return Ok(None),
                Ok(None) => upstream::Error::Wrong("upstream sent less than it announced".into()),
                Err(error) => error,
            };
            self.go_on(broken).await?;
        }
    }

    /// Where the body must end, if that is known.
    fn end(&self) -> Option<u64> {
        let end = self.size.unwrap_or(u64::MAX).min(self.wanted.end);
        Some(end).filter(|end| *end != u64::MAX)
    }

    fn has_come_to_the_end(&self) -> bool {
        self.end().is_some_and(|end| self.position >= end)
    }

    async fn go_on(&mut self, mut broken: upstream::Error) -> Result<(), upstream::Error> {
        loop {
            let Some(pause) = self.perseverance.after_break(self.position) else {
                return Err(broken);
            };
            tokio::time::sleep(pause).await;
            self.source.count_resume();
            let fetched = match self.source.open(Some(self.position..self.wanted.end)).await {
                Ok(fetched) => fetched,
                Err(error) => {
                    broken = error;
                    continue;
                }
            };
            self.size = self.size.or(fetched.size);
            let whole = fetched.part.is_none();
            self.body = fetched.body;
            if !whole {
                return Ok(());
            }
            // An upstream that ignores Range begins anew: what was had before is left out.
            match skip(&mut self.body, self.position).await {
                Ok(first) => {
                    self.first = Some(first);
                    return Ok(());
                }
                Err(error) => broken = error,
            }
        }
    }
}

pub(in crate::mirror) fn compare(expected: &Digest, found: &Digest) -> Result<(), upstream::Error> {
    if found == expected {
        return Ok(());
    }
    let words = format!("expected {expected}, the bytes are {found}");
    Err(upstream::Error::Wrong(words.into()))
}

/// What of a piece that begins at `at` is wanted.
fn cut(mut chunk: Bytes, at: u64, wanted: &Range<u64>) -> Bytes {
    let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let before = length(wanted.start.saturating_sub(at)).min(chunk.len());
    let _ = chunk.split_to(before);
    let from = at.saturating_add(before as u64);
    chunk.truncate(length(wanted.end.saturating_sub(from)));
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_cut_to_what_is_wanted() {
        let cut = |at, wanted| cut(Bytes::from_static(b"0123456789"), at, &wanted);
        assert_eq!(cut(0, 0..u64::MAX), "0123456789");
        assert_eq!(cut(100, 0..u64::MAX), "0123456789");
        assert_eq!(cut(100, 105..107), "56");
        assert_eq!(cut(100, 110..120), "");
        assert_eq!(cut(100, 0..100), "");
        assert_eq!(cut(0, 9..10), "9");
    }
}
