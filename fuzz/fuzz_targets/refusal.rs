//! Any body of an error: a short line is made of it, which can stand in a log.

#![no_main]

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use pierglass::fuzzing::refusal;

fuzz_target!(|input: (u16, &[u8])| {
    let (status, body) = input;
    let Ok(status) = StatusCode::from_u16(status) else {
        return;
    };
    let words = refusal(status, body);
    assert!(!words.chars().any(char::is_control) && words.chars().count() <= 300);
});
