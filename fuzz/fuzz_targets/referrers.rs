//! Any indexes: no panic, an index that reads back, no longer than they are, and a filter that only leaves out.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::oci::referrers::Referrers;

fuzz_target!(|input: (Vec<&[u8]>, String)| {
    let (pages, artifact_type) = input;
    let empty = Referrers::default().into_text().len();
    let mut referrers = Referrers::default();
    let mut length = empty;
    for page in pages {
        if referrers.add(page, &[]).is_err() {
            return;
        }
        length += page.len();
    }
    let all = referrers.into_text();
    assert!(all.len() <= length);
    let mut again = Referrers::default();
    assert!(again.add(all.as_bytes(), &[]).is_ok());
    assert_eq!(again.into_text(), all);
    let mut some = Referrers::default();
    assert!(some.add(all.as_bytes(), &[artifact_type]).is_ok());
    assert!(some.into_text().len() <= all.len());
});
