//! Content digests: the name, and the proof, of every blob and manifest.
//!
//! OCI image-spec, descriptor.md "Digests": `algorithm:encoded`. Two algorithms are registered, and
//! only those are accepted, because a digest that cannot be computed cannot be verified.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// A digest of a registered algorithm, held as raw bytes.
///
/// A store remembers a million of these. So they are bytes and not hex, and the rare long one is in a
/// box, which keeps the common one at 40 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// SHA-256, the usual one.
    Sha256([u8; 32]),
    /// SHA-512, which the specification also registers.
    Sha512(Box<[u8; 64]>),
}

/// A digest algorithm registered by the OCI image-spec.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    /// `sha256`, RFC 6234.
    Sha256,
    /// `sha512`, RFC 6234.
    Sha512,
}

/// Why a text is not a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestError {
    /// It looks like a digest, but of an algorithm that cannot be computed here.
    UnknownAlgorithm,
    /// There is no `algorithm:` in front, or what follows is not that algorithm's lower-case hex.
    Malformed,
}

impl Digest {
    /// The SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::digest(bytes).into())
    }

    /// The algorithm that made this digest.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The encoded part, lower-case, without the algorithm.
    pub(crate) fn hex(&self) -> String {
        let digits = |byte: &u8| [hex_digit(byte >> 4), hex_digit(byte & 15)];
        // As bytes: a text looks at each character that it is given.
        let digits = self.bytes().iter().flat_map(digits).collect();
        String::from_utf8(digits).unwrap_or_default()
    }

    /// A fresh hasher of this digest's own algorithm: feed it the content, then compare.
    pub(crate) fn hasher(&self) -> Hasher {
        Hasher::new(self.algorithm())
    }

    /// Whether it is that of the one content without a byte.
    pub(crate) fn is_of_nothing(&self) -> bool {
        self.hasher().finish() == *self
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes.as_slice(),
        }
    }
}

impl Algorithm {
    /// The algorithm's name as it stands before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Malformed)?;
        match algorithm {
            "sha256" => from_hex(hex).map(Self::Sha256),
            "sha512" => from_hex(hex).map(|bytes| Self::Sha512(Box::new(bytes))),
            _ if is_algorithm(algorithm) => return Err(DigestError::UnknownAlgorithm),
            _ => None,
        }
        .ok_or(DigestError::Malformed)
    }
}

/// The grammar of `algorithm`, so that `http://x` is called malformed and `blake3:...` unknown.
fn is_algorithm(text: &str) -> bool {
    let component = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    text.split(['+', '.', '_', '-']).all(component)
}

fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (hex_value(*high)? << 4) | hex_value(*low)?;
    }
    Some(bytes)
}

/// Upper-case is refused: the specification says `[a-f0-9]`, and one content must not have two
/// names.
fn hex_value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn hex_digit(value: u8) -> u8 {
    if value < 10 {
        b'0' + value
    } else {
        b'a' + value - 10
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())?;
        f.write_str(":")?;
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAlgorithm => "unknown digest algorithm: only sha256 and sha512 can be verified",
            Self::Malformed => "malformed digest: expected sha256: and 64, or sha512: and 128, lower-case hexadecimal digits",
        })
    }
}

impl std::error::Error for DigestError {}

/// Computes a [`Digest`] from content that arrives in pieces. A clone carries on from the same
/// point on its own.
#[derive(Clone, Debug)]
pub struct Hasher(HashState);

#[derive(Clone, Debug)]
enum HashState {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => HashState::Sha256(Sha256::new()),
            Algorithm::Sha512 => HashState::Sha512(Sha512::new()),
        })
    }

    /// Takes in the next piece of the content.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            HashState::Sha256(state) => state.update(bytes),
            HashState::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub(crate) fn finish(self) -> Digest {
        match self.0 {
            HashState::Sha256(state) => Digest::Sha256(state.finalize().into()),
            HashState::Sha512(state) => Digest::Sha512(Box::new(state.finalize().into())),
        }
    }
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_contents_have_known_digests() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        let long = Hasher::new(Algorithm::Sha512).finish();
        assert!(
            long.to_string()
                .starts_with("sha512:cf83e1357eefb8bdf1542850d66d8007")
        );
        assert_eq!(long.to_string().parse(), Ok(long.clone()));
        assert_eq!(long.hasher().finish(), long);
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        for unknown in [
            "blake3:00",
            "sha384:ab",
            "md5:",
            "multihash+base58:Qm",
            "sha:x",
        ] {
            assert_eq!(
                unknown.parse::<Digest>(),
                Err(DigestError::UnknownAlgorithm),
                "{unknown}"
            );
        }
        let hex = &EMPTY[7..];
        let wrong = [
            hex.to_owned(),
            EMPTY.to_uppercase(),
            format!("sha512:{hex}"),
            format!("{EMPTY}0"),
        ];
        for malformed in
            wrong
                .iter()
                .map(String::as_str)
                .chain(["", ":", "sha256:", "SHA256:00", "a/b:c"])
        {
            assert_eq!(
                malformed.parse::<Digest>(),
                Err(DigestError::Malformed),
                "{malformed}"
            );
        }
        assert_eq!(
            format!("sha256:{}", hex.to_uppercase()).parse::<Digest>(),
            Err(DigestError::Malformed)
        );
    }

    #[test]
    fn a_million_of_them_fit_in_forty_megabytes() {
        assert_eq!(size_of::<Digest>(), 40);
    }

    #[test]
    fn in_json_it_is_a_string() {
        let digest: Digest = serde_json::from_str(&format!("\"{EMPTY}\"")).unwrap();
        assert_eq!(
            serde_json::to_string(&digest).unwrap(),
            format!("\"{EMPTY}\"")
        );
        assert!(serde_json::from_str::<Digest>("\"sha256:\"").is_err());
    }

    proptest! {
        #[test]
        fn what_is_printed_parses_back(bytes: Vec<u8>, cut: prop::sample::Index, long: bool) {
            let algorithm = if long { Algorithm::Sha512 } else { Algorithm::Sha256 };
            let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
            let mut hasher = Hasher::new(algorithm);
            hasher.update(head);
            let mut copy = hasher.clone();
            copy.update(tail);
            hasher.update(tail);
            let digest = hasher.finish();
            prop_assert_eq!(&copy.finish(), &digest);
            prop_assert!(long || digest == Digest::of(&bytes));
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
        }

        #[test]
        fn only_the_canonical_spelling_parses(text in "\\PC*|sha(256|512):[0-9a-fA-F]{64}") {
            if let Ok(digest) = text.parse::<Digest>() {
                prop_assert_eq!(digest.to_string(), text);
            }
        }
    }
}
