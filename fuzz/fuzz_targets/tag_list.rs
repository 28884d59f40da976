//! Any pages of tags: no panic, and a sorted list of valid tags that is no longer than its pages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pierglass::oci::name::Tag;
use pierglass::oci::tags::TagList;

fuzz_target!(|pages: Vec<&[u8]>| {
    let mut list = TagList::default();
    let mut length = 0;
    for page in pages {
        if list.add(page).is_err() {
            return;
        }
        length += page.len();
    }
    let lines = list.into_lines();
    assert!(lines.len() <= length);
    let tags: Vec<_> = lines.lines().collect();
    assert!(tags.is_sorted_by(|one, next| one < next));
    assert!(tags.iter().all(|tag| tag.parse::<Tag>().is_ok()));
});
