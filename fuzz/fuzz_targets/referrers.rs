//! Any indexes: no panic, an index that reads back, no longer than they are, and a filter that only leaves out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::oci::referrers::Referrers;

fuzz_target!(|input: (Vec<&[u8]>, String)| {
    let (pages, artifact_type) = input;
    let empty = Referrers::default().into_bytes().len();
    let mut referrers = Referrers::default();
    let mut length = empty;
    for page in pages {
        if referrers.add(page, &[]).is_err() {
            return;
        }
        length += page.len();
    }
    let all = referrers.into_bytes();
    assert!(all.len() <= length);
    let mut again = Referrers::default();
    assert!(again.add(&all, &[]).is_ok());
    assert_eq!(again.into_bytes(), all);
    let mut some = Referrers::default();
    assert!(some.add(&all, &[artifact_type]).is_ok());
    assert!(some.into_bytes().len() <= all.len());
});
