//! Any answer to a search: no panic, and a page is none.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::fuzzing::is_search;

fuzz_target!(|bytes: &[u8]| {
    let starts = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    assert!(!is_search(bytes) || matches!(starts, Some(b'{' | b'[')));
});
