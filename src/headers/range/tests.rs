use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> Parsed {
    parse(&HeaderValue::from_str(text).unwrap())
}

fn resolved(text: &str, len: u64) -> Selection {
    match parsed(text) {
        Parsed::Ranges(set) => set.resolve(len),
        other => unreachable!("{text}: {other:?}"),
    }
}

#[test]
fn one_range() {
    for (text, len, part) in [
        ("bytes=0-0", 10, 0..1),
        ("bytes=0-", 10, 0..10),
        ("bytes=3-5", 10, 3..6),
        ("bytes=3-99", 10, 3..10),
        ("bytes=-3", 10, 7..10),
        ("bytes=-99", 10, 0..10),
        ("BYTES= ,\t3-5 ,", 10, 3..6),
        ("bytes=3-99999999999999999999999", 10, 3..10),
        ("bytes=20-30,0-1", 10, 0..2),
    ] {
        assert_eq!(resolved(text, len), Selection::One(part), "{text}");
    }
}

#[test]
fn several_keep_their_order_and_are_not_merged() {
    assert_eq!(
        resolved("bytes=8-,0-3,2-4,50-", 10),
        Selection::Many(vec![8..10, 0..4, 2..5])
    );
}

#[test]
fn what_does_not_exist_is_unsatisfiable() {
    for (text, len) in [
        ("bytes=10-", 10),
        ("bytes=-0", 10),
        ("bytes=0-", 0),
        ("bytes=-5", 0),
        ("bytes=99999999999999999999-", 10),
    ] {
        assert_eq!(resolved(text, len), Selection::Unsatisfiable, "{text}");
    }
}

#[test]
fn what_cannot_be_read_is_ignored() {
    for text in [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "items=0-1",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=1 -2",
        "bytes=+1-2",
        "bytes=-",
        "bytes=1--2",
        "bytes=0-1,x",
        "bytes =0-1",
    ] {
        assert_eq!(parsed(text), Parsed::Ignore, "{text}");
    }
}

#[test]
fn a_thousand_ranges_pass_and_more_do_not() {
    let list = |count| format!("bytes={}", vec!["0-1"; count].join(","));
    assert!(matches!(parsed(&list(1024)), Parsed::Ranges(_)));
    assert_eq!(parsed(&list(1025)), Parsed::TooMany);
}

#[test]
fn content_range_of_an_answer() {
    let parse = |text| parse_content_range(&HeaderValue::from_static(text));
    assert_eq!(parse("bytes 0-4/10"), Some((0..5, Some(10))));
    assert_eq!(parse("Bytes 0-4/*"), Some((0..5, None)));
    for nonsense in [
        "bytes */10",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "items 0-4/10",
        "bytes 0-4",
        "bytes 0-18446744073709551615/*",
        "bytes -4/10",
        "bytes=0-4/10",
    ] {
        assert_eq!(parse(nonsense), None, "{nonsense}");
    }
    assert_eq!(unsatisfied(7), "bytes */7");
}

#[test]
fn if_range_compares_strongly() {
    let matches = |text| if_range_matches(&HeaderValue::from_static(text), "\"a\"");
    assert!(matches("\"a\""));
    assert!(
        !matches("W/\"a\"")
            && !matches("\"b\"")
            && !matches("a")
            && !matches("Wed, 21 Oct 2015 07:28:00 GMT")
    );
    assert!(!if_range_matches(
        &HeaderValue::from_static("W/\"a\""),
        "W/\"a\""
    ));
}

/// One member of a range set, by the words of RFC 9110 14.1.2 and one byte at a time.
fn naive(spec: Spec, len: u64) -> Vec<u64> {
    let selected = |position: u64| match spec {
        Spec::From(first) => position >= first,
        Spec::FromTo(first, last) => position >= first && position <= last,
        Spec::Suffix(length) => position + length >= len,
    };
    (0..len).filter(|&position| selected(position)).collect()
}

fn printed(specs: &[Spec]) -> String {
    let mut text = String::from("bytes=");
    for spec in specs {
        match spec {
            Spec::From(first) => write!(text, "{first}-,"),
            Spec::FromTo(first, last) => write!(text, "{first}-{last},"),
            Spec::Suffix(length) => write!(text, "-{length},"),
        }
        .unwrap();
    }
    text
}

fn any_spec() -> impl Strategy<Value = Spec> {
    let small = 0..40_u64;
    prop_oneof![
        small.clone().prop_map(Spec::From),
        (small.clone(), small.clone()).prop_map(|(a, b)| Spec::FromTo(a.min(b), a.max(b))),
        small.prop_map(Spec::Suffix),
    ]
}

proptest! {
    #[test]
    fn a_set_selects_what_the_naive_model_selects(specs in prop::collection::vec(any_spec(), 1..6), len in 0..32_u64) {
        let expected: Vec<_> = specs.iter().map(|&spec| naive(spec, len)).filter(|part| !part.is_empty()).collect();
        let selection = resolved(&printed(&specs), len);
        prop_assert_eq!(matches!(selection, Selection::Many(_)), expected.len() > 1);
        let parts = match selection {
            Selection::One(part) => vec![part],
            Selection::Many(parts) => parts,
            Selection::Unsatisfiable => Vec::new(),
        };
        prop_assert_eq!(parts.into_iter().map(Vec::from_iter).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn any_numbers_stay_inside_the_representation(a: u64, b: u64, len: u64) {
        for text in [format!("bytes={a}-"), format!("bytes=-{a}"), format!("bytes={}-{}", a.min(b), a.max(b))] {
            if let Selection::One(part) = resolved(&text, len) {
                prop_assert!(part.start < part.end && part.end <= len);
                prop_assert_eq!(parse_content_range(&content_range(&part, len)), Some((part, Some(len))));
            }
        }
    }

    #[test]
    fn no_header_makes_it_panic(bytes: Vec<u8>, text in "(bytes)?[=, 0-9-]{0,60}") {
        for bytes in [bytes, text.into_bytes()] {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = parse(&value);
                let _ = parse_content_range(&value);
                let _ = if_range_matches(&value, "\"a\"");
            }
        }
    }
}
