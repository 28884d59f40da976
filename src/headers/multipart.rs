//! `multipart/byteranges` (RFC 9110 14.6): several parts of a representation in one body.
//!
//! One part for each range, in the order they were asked for, none merged: clients count them and match
//! them by position (containers/image looks at nothing else).

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

pub(crate) struct Multipart {
    boundary: String,
    media_type: &'static str,
    total: u64,
}

impl Multipart {
    /// A frame for parts of something `total` bytes long. `seed` makes the boundary: letters and digits
    /// that are unlikely in the parts, of which no more than 40 are used.
    pub(crate) fn new(seed: &str, media_type: &'static str, total: u64) -> Self {
        let seed = seed.chars().filter(char::is_ascii_alphanumeric).take(40);
        let boundary = seed.chain("pierglass".chars()).collect();
        Self {
            boundary,
            media_type,
            total,
        }
    }

    pub(crate) fn content_type(&self) -> HeaderValue {
        let text = format!("multipart/byteranges; boundary={}", self.boundary);
        // Letters and digits: always a valid header.
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("multipart/byteranges"))
    }

    /// What comes before the bytes of `part`.
    pub(crate) fn part(&self, part: &Range<u64>) -> String {
        let Self {
            boundary,
            media_type,
            total,
        } = self;
        let last = part.end.saturating_sub(1);
        let first = part.start;
        format!(
            "\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: bytes {first}-{last}/{total}\r\n\r\n"
        )
    }

    /// What comes after the last part.
    pub(crate) fn end(&self) -> Bytes {
        Bytes::from(format!("\r\n--{}--\r\n", self.boundary))
    }

    /// The length of the whole with these parts.
    pub(crate) fn length(&self, parts: &[Range<u64>]) -> u64 {
        let part = |part: &Range<u64>| {
            (self.part(part).len() as u64).saturating_add(part.end.saturating_sub(part.start))
        };
        parts
            .iter()
            .map(part)
            .fold(self.end().len() as u64, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_framed_as_the_rfc_shows_it() {
        let multipart = Multipart::new("0f-0f", "application/octet-stream", 10);
        let parts = [0..2, 7..10];
        let data = b"0123456789";
        let mut body = Vec::new();
        for part in &parts {
            body.extend_from_slice(multipart.part(part).as_bytes());
            body.extend_from_slice(&data[part.start as usize..part.end as usize]);
        }
        body.extend_from_slice(&multipart.end());
        assert_eq!(body.len() as u64, multipart.length(&parts));
        let expected = "\r\n--0f0fpierglass\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
            \r\n--0f0fpierglass\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 7-9/10\r\n\r\n789\
            \r\n--0f0fpierglass--\r\n";
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(
            multipart.content_type(),
            "multipart/byteranges; boundary=0f0fpierglass"
        );
    }
}
