//! Any `WWW-Authenticate` header: no panic, and a `Bearer` comes with the realm it was written with.

#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use pierglass::headers::challenge::{Challenge, parse};

fuzz_target!(|bytes: &[u8]| {
    // Lines, because the header may be repeated.
    let values: Vec<_> = bytes
        .split(|&b| b == b'\n')
        .filter_map(|line| HeaderValue::from_bytes(line).ok())
        .collect();
    let alone: Vec<_> = values.iter().flat_map(|value| parse([value])).collect();
    assert_eq!(
        parse(&values),
        alone,
        "one line changes the meaning of another"
    );
    for challenge in alone {
        let Challenge::Bearer { realm, .. } = challenge else {
            continue;
        };
        let quoted = realm.replace('\\', "\\\\").replace('"', "\\\"");
        let Ok(value) = HeaderValue::from_str(&format!("Bearer realm=\"{quoted}\"")) else {
            panic!("a realm that no header can carry: {realm:?}");
        };
        let again = parse([&value]);
        assert!(matches!(&again[..], [Challenge::Bearer { realm: back, .. }] if *back == realm));
    }
});
