//! Any `Retry-After` at any time: never longer than a day.

#![no_main]

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::fuzzing::retry_after;

fuzz_target!(|input: (u32, &[u8])| {
    let (seconds, bytes) = input;
    let Ok(value) = HeaderValue::from_bytes(bytes) else {
        return;
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.into());
    let pause = retry_after(value, now);
    assert!(pause.is_none_or(|pause| pause <= Duration::from_secs(24 * 3600)));
});
