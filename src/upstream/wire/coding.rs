//! Content codings (RFC 9110 8.4): what a server says it did to a body, although nothing of the kind was asked for.
//!
//! Of a blob nothing is undone: its digest is of the bytes as they come, and the label is one that storage repeats from
//! an upload. What the mirror reads, manifests and lists and tokens, is decoded if it is encoded at all.

use std::io::Read;

use bytes::Bytes;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, HeaderValue};

use crate::memory::{Memory, work_on};
use crate::upstream::error::Error;

/// Words that storage has in place of a coding and that change no byte.
const NONE: [&str; 7] = [
    "",
    "identity",
    "none",
    "binary",
    "utf-8",
    "aws-chunked",
    "chunked",
];

#[derive(Debug, Clone, Default)]
pub(crate) enum Coding {
    #[default]
    Identity,
    Gzip,
    Deflate,
    /// One that is not known here, or several.
    Other(HeaderValue),
}

/// What the bytes are, whatever was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    /// `deflate` as RFC 9110 8.4.1.2 has it.
    Zlib,
    /// `deflate` as it was sent by those who took it for the name.
    Raw,
}

impl Coding {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::Identity;
        for value in headers.get_all(CONTENT_ENCODING) {
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            for word in text.split(',').map(str::trim) {
                found = match (word, found) {
                    (word, found) if NONE.contains(&word) => found,
                    ("gzip" | "x-gzip", Self::Identity) => Self::Gzip,
                    ("deflate", Self::Identity) => Self::Deflate,
                    _ => Self::Other(value.clone()),
                };
            }
        }
        found
    }

    /// Whether the length that was announced is that of the bytes.
    pub(crate) fn is_identity(&self) -> bool {
        matches!(self, Self::Identity)
    }

    /// What a body was before it was encoded, if that is at most `limit` bytes. It takes room in `memory`.
    pub(super) async fn decode(
        &self,
        bytes: Bytes,
        limit: usize,
        memory: &Memory,
    ) -> Result<Bytes, Error> {
        let Some(compression) = self.compression(&bytes)? else {
            return Ok(bytes);
        };
        // First its length alone, so that there is room for it before it is made: a few bytes can become many.
        let encoded = bytes.clone();
        let length = work_on(limit, move || compression.length(&encoded, limit)).await?;
        let held = memory.hold(length).await.map_err(Error::Busy)?;
        let decoded = work_on(length, move || compression.read(&bytes, length)).await?;
        Ok(held.with(decoded))
    }

    /// The same for few bytes.
    pub(super) fn decode_few(&self, bytes: Bytes, limit: usize) -> Result<Bytes, Error> {
        let Some(compression) = self.compression(&bytes)? else {
            return Ok(bytes);
        };
        let length = compression.length(&bytes, limit)?;
        Ok(compression.read(&bytes, length)?.into())
    }

    /// How to read the bytes; `None` if they are no different from what they stand for.
    fn compression(&self, bytes: &[u8]) -> Result<Option<Compression>, Error> {
        match self {
            Self::Identity => Ok(None),
            // RFC 1952 2.3.1. Without it the label is wrong.
            Self::Gzip => Ok(bytes
                .starts_with(&[0x1f, 0x8b])
                .then_some(Compression::Gzip)),
            Self::Deflate => Ok(match bytes {
                // RFC 1950 2.2.
                [first, second, ..]
                    if first & 0x0f == 8
                        && u16::from_be_bytes([*first, *second]).is_multiple_of(31) =>
                {
                    Some(Compression::Zlib)
                }
                // JSON, which no deflated stream begins like.
                [b'{' | b'[', ..] | [] => None,
                _ => Some(Compression::Raw),
            }),
            Self::Other(name) => Err(Error::wrong(format!(
                "upstream encodes the body as {name:?}, which was not asked for"
            ))),
        }
    }
}

impl Compression {
    fn length(self, encoded: &[u8], limit: usize) -> Result<usize, Error> {
        let mut reader = self.reader(encoded).take(limit as u64 + 1);
        let length = std::io::copy(&mut reader, &mut std::io::sink()).map_err(|_| broken())?;
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        match length > limit {
            true => Err(Error::too_long(limit)),
            false => Ok(length),
        }
    }

    fn read(self, encoded: &[u8], length: usize) -> Result<Vec<u8>, Error> {
        let mut decoded = Vec::with_capacity(length);
        let mut reader = self.reader(encoded).take(length as u64);
        reader.read_to_end(&mut decoded).map_err(|_| broken())?;
        Ok(decoded)
    }

    fn reader(self, encoded: &[u8]) -> Box<dyn Read + '_> {
        match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(encoded)),
            Self::Zlib => Box::new(ZlibDecoder::new(encoded)),
            Self::Raw => Box::new(DeflateDecoder::new(encoded)),
        }
    }
}

fn broken() -> Error {
    Error::wrong("upstream says that it compressed the body, and that cannot be undone")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use proptest::prelude::*;

    use super::*;

    fn coding(values: &[&str]) -> Coding {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_ENCODING, value.parse().unwrap());
        }
        Coding::of(&headers)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn memory() -> Arc<Memory> {
        Memory::new(crate::memory::Settings {
            buffered: 64 * 1024 * 1024,
            manifest: 1024 * 1024,
        })
    }

    #[test]
    fn labels_that_change_nothing_are_none() {
        for values in [
            &[][..],
            &[""],
            &["identity"],
            &["aws-chunked"],
            &["UTF-8"],
            &["binary, identity", "none"],
        ] {
            assert!(coding(values).is_identity(), "{values:?}");
        }
        assert!(matches!(coding(&["x-gzip,aws-chunked"]), Coding::Gzip));
        assert!(matches!(coding(&["GZIP"]), Coding::Gzip));
        assert!(matches!(coding(&["Deflate"]), Coding::Deflate));
        for values in [&["br"][..], &["zstd"], &["gzip, gzip"], &["gzip", "br"]] {
            assert!(matches!(coding(values), Coding::Other(_)), "{values:?}");
        }
    }

    #[tokio::test]
    async fn what_is_encoded_is_decoded_and_what_is_not_is_taken_as_it_is() {
        let json = b"{\"tags\":[\"1.0\"]}".repeat(100);
        let zlib = {
            let mut encoder = ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&json).unwrap();
            encoder.finish().unwrap()
        };
        let raw = {
            let mut encoder = DeflateEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(&json).unwrap();
            encoder.finish().unwrap()
        };
        let twice = [gzip(&json[..500]), gzip(&json[500..])].concat();
        for (label, body) in [
            ("gzip", gzip(&json)),
            ("gzip", twice),
            ("deflate", zlib),
            ("deflate", raw),
            ("gzip", json.clone()),
            ("deflate", json.clone()),
            ("identity", json.clone()),
        ] {
            let (coding, body) = (coding(&[label]), Bytes::from(body));
            let decoded = coding.decode(body.clone(), json.len(), &memory()).await;
            assert_eq!(decoded.unwrap(), json, "{label}");
            assert_eq!(
                coding.decode_few(body, json.len()).unwrap(),
                json,
                "{label}"
            );
        }
    }

    #[tokio::test]
    async fn a_bomb_is_refused_before_it_takes_room() {
        let bomb = Bytes::from(gzip(&vec![b' '; 4 * 1024 * 1024]));
        assert!(bomb.len() < 8192);
        let gzip = coding(&["gzip"]);
        let decoded = gzip.decode(bomb.clone(), 1024 * 1024, &memory()).await;
        assert!(matches!(decoded, Err(Error::Wrong(_))));
        assert!(matches!(
            gzip.decode_few(bomb, 65_536),
            Err(Error::Wrong(_))
        ));
    }

    #[test]
    fn one_that_breaks_off_and_one_that_is_not_known_are_errors() {
        let whole = gzip(&[7; 5000]);
        let torn = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
        assert!(coding(&["gzip"]).decode_few(torn, 9000).is_err());
        let error = coding(&["br"]).decode_few(Bytes::new(), 9).unwrap_err();
        assert!(error.to_string().contains("\"br\""), "{error}");
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body: Vec<u8>, label in "gzip|deflate|br|") {
            let _ = coding(&[&label]).decode_few(body.into(), 1000);
        }

        #[test]
        fn nothing_is_lost(body: Vec<u8>) {
            let decoded = coding(&["gzip"]).decode_few(gzip(&body).into(), body.len());
            prop_assert_eq!(decoded.unwrap(), body);
        }
    }
}
