//! Any body: no panic, and a media type that can stand in a header.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::oci::manifest::{Manifest, media_type_of};

fuzz_target!(|bytes: &[u8]| {
    let _ = Manifest::parse(bytes);
    assert!(HeaderValue::from_str(&media_type_of(None, bytes)).is_ok());
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(HeaderValue::from_str(&media_type_of(Some(text), b"")).is_ok());
    }
});
