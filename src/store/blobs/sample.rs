//! A piece of a stored blob, by which an upstream shows that it has the same bytes.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::store::disk::blocking::try_run;
use crate::store::disk::files::read_blocking;

/// Long enough not to be guessed, and no more than a packet or three.
const LENGTH: u64 = 4096;

/// Out of how many pieces the one is chosen that is hardest to guess: an archive has stretches of zeros.
const CANDIDATES: usize = 8;

/// Some bytes of a blob, chosen at random; all of a short one.
pub(crate) struct Sample {
    pub(crate) range: Range<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Sample {
    pub(crate) async fn of(file: Arc<File>, length: u64) -> io::Result<Self> {
        try_run(move || {
            let mut best = Self::at(&file, random_place(length))?;
            for _ in 1..CANDIDATES {
                let other = Self::at(&file, random_place(length))?;
                if variety(&other.bytes) > variety(&best.bytes) {
                    best = other;
                }
            }
            Ok(best)
        })
        .await
    }

    fn at(file: &File, range: Range<u64>) -> io::Result<Self> {
        let length = usize::try_from(range.end - range.start).unwrap_or_default();
        let mut bytes = vec![0; length];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match read_blocking(file, rest, range.start + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => done += count,
            }
        }
        Ok(Self { range, bytes })
    }
}

fn random_place(length: u64) -> Range<u64> {
    let last = length.saturating_sub(LENGTH);
    // The standard library seeds its hash maps at random, which makes a crate for this unnecessary.
    let random = RandomState::new().build_hasher().finish();
    let start = random % last.saturating_add(1);
    start..length.min(start + LENGTH)
}

/// How many different bytes there are.
fn variety(bytes: &[u8]) -> usize {
    let mut seen = [false; 256];
    for byte in bytes {
        seen[usize::from(*byte)] = true;
    }
    seen.into_iter().filter(|seen| *seen).count()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    async fn sample(bytes: &[u8]) -> Sample {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let length = bytes.len() as u64;
        Sample::of(Arc::new(file), length).await.unwrap()
    }

    #[tokio::test]
    async fn a_short_blob_is_its_own_sample() {
        assert_eq!(sample(b"short").await.bytes, b"short");
    }

    #[tokio::test]
    async fn a_sample_is_a_piece_that_cannot_be_guessed() {
        // Half of it is zeros.
        let mut bytes = vec![0; 400_000];
        for (place, byte) in bytes.iter_mut().enumerate().skip(200_000) {
            *byte = (place * place / 7) as u8;
        }
        let mut places = std::collections::HashSet::new();
        for _ in 0..20 {
            let Sample {
                range,
                bytes: piece,
            } = sample(&bytes).await;
            let (start, end) = (range.start as usize, range.end as usize);
            assert_eq!(bytes[start..end], piece);
            // One in 256 that all eight lie in the zeros.
            places.insert((start, variety(&piece) > 1));
        }
        assert!(places.len() > 15, "{places:?}");
        assert!(places.iter().filter(|(_, good)| *good).count() > 15);
    }
}
