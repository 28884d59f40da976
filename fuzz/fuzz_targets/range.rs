//! Any `Range` header, any length: every part lies inside the representation and prints as it parses.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::headers::range::{Parsed, Selection, content_range, parse, parse_content_range};

fuzz_target!(|input: (u64, &[u8])| {
    let (len, bytes) = input;
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let _ = parse_content_range(&value);
    let Parsed::Ranges(set) = parse(&value) else {
        return;
    };
    let parts = match set.resolve(len) {
        Selection::One(part) => vec![part],
        Selection::Many(parts) => parts,
        Selection::Unsatisfiable => return,
    };
    assert!(!parts.is_empty() && parts.len() <= 1024);
    for part in parts {
        assert!(part.start < part.end && part.end <= len);
        let printed = content_range(&part, len);
        assert_eq!(parse_content_range(&printed), Some((part, Some(len))));
    }
});
