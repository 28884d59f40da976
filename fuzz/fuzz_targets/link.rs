//! Any `Link` headers: no panic, and a query that is a part of one of them.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::headers::link::next_query;

fuzz_target!(|bytes: &[u8]| {
    let values: Vec<_> = bytes
        .split(|&b| b == b'\n')
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let Some(query) = next_query(&values) else {
        return;
    };
    assert!(!query.is_empty() && !query.contains(['#', '>']));
    let texts = values.iter().filter_map(|value| value.to_str().ok());
    assert!(texts.into_iter().any(|text| text.contains(&query)));
});
