//! A blob that the store has no room for: passed through to one client, and still verified.

use std::ops::Range;

use bytes::Bytes;

use crate::oci::digest::{Digest, Hasher};
use crate::upstream::{self, Body, FetchedBlob};

/// Upstream's body on its way to one client.
///
/// Of a whole blob the last piece is held back until the digest is verified, so that the client never has
/// all of a wrong blob. A part of a blob has no digest of its own and is passed on as it comes.
pub struct Bypass {
    body: Body,
    check: Option<Check>,
    /// Bytes to drop before the part begins, when upstream sent the whole blob instead.
    skip: u64,
    /// Bytes still to pass on; `None` without a limit.
    left: Option<u64>,
}

struct Check {
    expected: Digest,
    /// `None` once the end was checked.
    hasher: Option<Hasher>,
    held: Option<Bytes>,
}

impl Bypass {
    pub(super) fn whole(fetched: FetchedBlob, expected: Digest) -> Self {
        let check = Check {
            hasher: Some(expected.hasher()),
            expected,
            held: None,
        };
        Self {
            body: fetched.body,
            check: Some(check),
            skip: 0,
            left: None,
        }
    }

    pub(super) fn part(fetched: FetchedBlob, part: Range<u64>) -> Self {
        let skip = if fetched.part.is_some() {
            0
        } else {
            part.start
        };
        Self {
            body: fetched.body,
            check: None,
            skip,
            left: Some(part.end.saturating_sub(part.start)),
        }
    }

    /// The next piece; `None` at the end. A wrong digest and a body that breaks off are errors, never an end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        match self.check.is_some() {
            true => self.checked_chunk().await,
            false => self.part_chunk().await,
        }
    }

    async fn checked_chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        let Some(check) = &mut self.check else {
            return Ok(None);
        };
        while check.hasher.is_some() {
            match self.body.chunk().await? {
                Some(chunk) => {
                    if let Some(hasher) = &mut check.hasher {
                        hasher.update(&chunk);
                    }
                    if let Some(before) = check.held.replace(chunk) {
                        return Ok(Some(before));
                    }
                }
                None => {
                    let found = check.hasher.take().map(Hasher::finish);
                    if found.as_ref() != Some(&check.expected) {
                        check.held = None;
                        let found = found.map(|digest| digest.to_string()).unwrap_or_default();
                        let words = format!("expected {}, the bytes are {found}", check.expected);
                        return Err(upstream::Error::Wrong(words.into()));
                    }
                }
            }
        }
        Ok(check.held.take())
    }

    async fn part_chunk(&mut self) -> Result<Option<Bytes>, upstream::Error> {
        loop {
            let left = self.left.unwrap_or(u64::MAX);
            if left == 0 {
                return Ok(None);
            }
            let Some(mut chunk) = self.body.chunk().await? else {
                return Err(upstream::Error::Wrong(
                    "upstream sent less than was asked for".into(),
                ));
            };
            let skipped = usize::try_from(self.skip)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            self.skip -= skipped as u64;
            let _ = chunk.split_to(skipped);
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                self.left = Some(left - chunk.len() as u64);
                return Ok(Some(chunk));
            }
        }
    }
}
