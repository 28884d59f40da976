//! Takes `multipart/byteranges` (RFC 9110 14.6) apart, and forgives nothing.

use super::client::Response;

/// One part, as its header calls it and as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub content_type: String,
    /// The first and the last position, and the length of the whole.
    pub range: (u64, u64, u64),
    pub bytes: Vec<u8>,
}

/// The parts of an answer, in their order.
///
/// Each part's length is taken from its `Content-Range`, and the boundary must follow exactly there. It must not occur
/// anywhere else, because most clients look for it instead.
#[track_caller]
pub fn parts(answer: &Response) -> Vec<Part> {
    let kind = answer.header("content-type").unwrap_or_default();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("not multipart/byteranges: {kind}"));
    let simple = |byte: u8| byte.is_ascii_alphanumeric();
    assert!(
        (1..=70).contains(&boundary.len()) && boundary.bytes().all(simple),
        "needs quotes: {boundary}"
    );
    let delimiter = format!("\r\n--{boundary}");
    let mut rest = &answer.body[..];
    let mut parts = Vec::new();
    while let Some(after) = rest.strip_prefix(format!("{delimiter}\r\n").as_bytes()) {
        let (part, next) = part(after);
        parts.push(part);
        rest = next;
    }
    assert_eq!(
        String::from_utf8_lossy(&rest[..rest.len().min(200)]),
        format!("{delimiter}--\r\n"),
        "after {} parts",
        parts.len()
    );
    let found = answer
        .body
        .windows(delimiter.len())
        .filter(|window| *window == delimiter.as_bytes())
        .count();
    assert_eq!(found, parts.len() + 1, "the boundary occurs in the bytes");
    parts
}

#[track_caller]
fn part(text: &[u8]) -> (Part, &[u8]) {
    let end = text
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a part's header has an end");
    let header = std::str::from_utf8(&text[..end]).unwrap();
    let value = |name: &str| {
        let mut lines = header
            .split("\r\n")
            .filter_map(|line| line.split_once(": "))
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        let (_, value) = lines.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(lines.next().is_none(), "{name} twice");
        value
    };
    let range = content_range(value("content-range"));
    let (bytes, rest) = text[end + 4..].split_at(usize::try_from(range.1 - range.0 + 1).unwrap());
    let part = Part {
        content_type: value("content-type").to_owned(),
        range,
        bytes: bytes.to_vec(),
    };
    (part, rest)
}

/// `bytes FIRST-LAST/TOTAL`, all of them numbers.
#[track_caller]
pub fn content_range(value: &str) -> (u64, u64, u64) {
    let numbers = value.strip_prefix("bytes ").and_then(|rest| {
        let (range, total) = rest.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
    });
    let (first, last, total) = numbers.unwrap_or_else(|| panic!("no Content-Range: {value}"));
    assert!(first <= last && last < total, "{value}");
    (first, last, total)
}
