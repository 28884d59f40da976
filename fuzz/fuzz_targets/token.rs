//! Any answer of a realm: no panic, and only an object is a token.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::fuzzing::is_token;

fuzz_target!(|bytes: &[u8]| {
    let starts = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    assert!(!is_token(bytes) || matches!(starts, Some(b'{' | b'[')));
});
