//! Upstream's body of a blob, or of a part, that goes to one client past the store; still verified, and continued where
//! upstream breaks off.

use std::ops::Range;

use bytes::Bytes;

use crate::headers::range::Span;
use crate::mirror::once::Answered;
use crate::oci::digest::{Digest, Hasher};
use crate::store::blobs::reader::{BlobReader, hash_beginning};
use crate::upstream::{self, FetchedBlob, UpstreamBody};

use super::source::{Perseverance, Source, skip};

/// Upstream's body on its way to one client.
///
/// Of a whole blob the last piece is held back until the digest is verified, so that the client never has all of a
/// wrong blob. A part of a blob has no digest of its own and is passed on as it comes.
pub(crate) struct Passthrough {
    source: Source,
    /// Comes before `body`.
    first: Option<Bytes>,
    body: UpstreamBody,
    perseverance: Perseverance,
    /// Where in the blob the next byte of `body` belongs.
    position: u64,
    /// What the client gets.
    wanted: Span,
    /// Length of the blob, where upstream said it.
    size: Option<u64>,
    check: Option<DigestCheck>,
}

/// The digest of all of the blob, up to the position.
struct DigestCheck {
    /// `None` once the end was checked.
    hasher: Option<Hasher>,
    held_back: Option<Bytes>,
}

impl Passthrough {
    /// All of a blob, out of a body that brings all of it.
    pub(super) fn whole(source: Source, fetched: FetchedBlob) -> Self {
        Self::rest_of_whole(source, fetched, 0)
    }

    /// A part of a blob, of which no more is sent than was asked for.
    pub(super) async fn part(source: Source, part: Span) -> Answered<Self> {
        let fetched = source.open(Some(part)).await?;
        Ok(Self::of_part(source, fetched, part))
    }

    /// A part of a blob ahead of its fill.
    ///
    /// An upstream that ignores Range would send the whole blob once more: that is an error here, and the caller waits
    /// for the fill.
    pub(super) async fn ahead(source: Source, part: Range<u64>) -> Answered<Self> {
        let fetched = source.open(Some(part.clone().into())).await?;
        if fetched.part.is_none() {
            return Err(upstream::Error::Wrong(
                "upstream does not serve parts of a blob".into(),
            ));
        }
        Ok(Self::of_part(source, fetched, part.into()))
    }

    /// The rest of a blob of which the store has sent the first `position` bytes and cannot send more.
    ///
    /// Verified as a whole: what was sent is hashed again where it can still be read, else all of it is fetched once
    /// more and its beginning left out.
    pub(super) async fn rest(source: Source, reader: &BlobReader, position: u64) -> Answered<Self> {
        let rest = Span::from(position);
        let passthrough = match hash_of_sent(&source, reader, position).await {
            Some(hasher) => {
                let fetched = source.open(Some(rest)).await?;
                match fetched.part {
                    Some(_) => Self::new(source, fetched, position, rest, Some(hasher)),
                    None => Self::rest_of_whole(source, fetched, position),
                }
            }
            None => {
                let fetched = source.open(None).await?;
                Self::rest_of_whole(source, fetched, position)
            }
        };
        passthrough.of_length(reader.length())
    }

    /// A blob from `from` on, out of a body that brings all of it.
    fn rest_of_whole(source: Source, fetched: FetchedBlob, from: u64) -> Self {
        let hasher = source.digest().hasher();
        Self::new(source, fetched, 0, Span::from(from), Some(hasher))
    }

    /// A part of a blob, out of a body that brings just that, or everything.
    fn of_part(source: Source, fetched: FetchedBlob, part: Span) -> Self {
        let begins = fetched.part.as_ref().map_or(0, |part| part.start);
        Self::new(source, fetched, begins, part, None)
    }

    /// Holds it to the length that the client was told, should upstream have said another one since.
    fn of_length(mut self, told: Option<u64>) -> Result<Self, upstream::Error> {
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

    fn new(
        source: Source,
        fetched: FetchedBlob,
        position: u64,
        wanted: Span,
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
            check: hasher.map(|hasher| DigestCheck {
                hasher: Some(hasher),
                held_back: None,
            }),
        }
    }

    /// The next piece; `None` at the end. A wrong digest and a body that breaks off for good are errors, never
    /// an end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
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
                        check.held_back = None;
                        self.source.note_wrong();
                    })?;
                    self.source.note_right();
                }
                return Ok(check.held_back.take());
            };
            if self.size.is_some_and(|size| self.position > size) {
                // The client was told that length: what is held back now would be the end of it.
                check.held_back = None;
                self.source.note_wrong();
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
            if let Some(before) = check.held_back.replace(chunk) {
                return Ok(Some(before));
            }
        }
    }

    async fn part_chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        while self.wanted.to.is_none_or(|to| self.position < to) {
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
            self.resume(broken).await?;
        }
    }

    /// Where the body must end, if that is known.
    fn end(&self) -> Option<u64> {
        self.wanted.within(self.size).to
    }

    fn has_come_to_the_end(&self) -> bool {
        self.end().is_some_and(|end| self.position >= end)
    }

    async fn resume(&mut self, mut broken: upstream::Error) -> Result<(), upstream::Error> {
        loop {
            let Some(pause) = self.perseverance.after_break(self.position) else {
                if let upstream::Error::Wrong(_) = broken {
                    self.source.note_wrong();
                }
                return Err(broken);
            };
            tokio::time::sleep(pause).await;
            self.source.count_resume();
            let missing = Span {
                from: self.position,
                to: self.wanted.to,
            };
            let fetched = match self.source.open(Some(missing)).await {
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
            // An upstream that ignores Range sends all of it: what came before is left out.
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

async fn hash_of_sent(source: &Source, reader: &BlobReader, position: u64) -> Option<Hasher> {
    let (file, mut hasher) = (reader.file(), source.digest().hasher());
    let hash = move || hash_beginning(&file, &mut hasher, position).map(|()| hasher);
    tokio::task::spawn_blocking(hash).await.ok()?.ok()
}

pub(super) fn compare(expected: &Digest, found: &Digest) -> Answered<()> {
    if found == expected {
        return Ok(());
    }
    let words = format!("expected {expected}, the bytes are {found}");
    Err(upstream::Error::Wrong(words.into()))
}

/// What of a piece that begins at `at` is wanted.
fn cut(mut chunk: Bytes, at: u64, wanted: &Span) -> Bytes {
    let length = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let before = length(wanted.from.saturating_sub(at)).min(chunk.len());
    let _ = chunk.split_to(before);
    if let Some(to) = wanted.to {
        let from = at.saturating_add(before as u64);
        chunk.truncate(length(to.saturating_sub(from)));
    }
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_cut_to_what_is_wanted() {
        let cut = |at, wanted: Span| cut(Bytes::from_static(b"0123456789"), at, &wanted);
        assert_eq!(cut(0, Span::from(0)), "0123456789");
        assert_eq!(cut(100, Span::from(0)), "0123456789");
        assert_eq!(cut(100, Span::from(105..107)), "56");
        assert_eq!(cut(100, Span::from(110..120)), "");
        assert_eq!(cut(100, Span::from(0..100)), "");
        assert_eq!(cut(0, Span::from(9..10)), "9");
    }
}
