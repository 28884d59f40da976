//! Any request target: what parses prints a path that parses to the same endpoint, and never one that climbs.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::oci::endpoint::{Prefix, Route};

fuzz_target!(|text: &str| {
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    let Ok(route) = Route::parse(path, query) else {
        return;
    };
    if let Prefix::BeforeV2(namespace) | Prefix::InRepository(namespace) = &route.prefix {
        assert!(!namespace.as_str().contains('/') && !namespace.as_str().contains(".."));
    }
    let printed = route.endpoint.path();
    assert!(
        !printed.contains("//") && !printed.contains("/.") && !printed.contains('%'),
        "{printed}"
    );
    let again = Route::parse(&printed, None).and_then(Route::keep_prefix);
    assert_eq!(again.map(|again| again.endpoint), Ok(route.endpoint));
});
