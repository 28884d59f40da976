//! Any body: no panic, a media type that can stand in a header, and a digest it goes by.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::oci::digest::Digest;
use pierglass::oci::manifest::{Manifest, is_digest_of, media_type_of};

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse(bytes);
    assert!(is_digest_of(&Digest::of(bytes), bytes));
    let _ = is_digest_of(&Digest::of(b""), bytes);
    assert!(HeaderValue::from_str(&media_type_of(None, bytes)).is_ok());
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(HeaderValue::from_str(&media_type_of(Some(text), b"")).is_ok());
    }
});
