//! A `Range` header, whatever it says, must never get other bytes, or another account of them, than RFC 9110 has it.
//!
//! The model below is written from the RFC's sections 13.1.5, 14.1.2, 14.2, 15.3.7 and 15.5.17 alone, as plainly as
//! possible, and is compared with the running program: blobs of all sizes around the interesting ones, stored, cold,
//! and in the middle of a slow transfer.

use std::cell::Cell;
use std::ops::Range;
use std::time::Duration;

use http::StatusCode;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::support::client::Response;
use crate::support::content::Content;
use crate::support::multipart::{content_range, parts};
use crate::support::{
    Client, FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, digest_of, until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// Where the mirror has the blob when it is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Stored,
    Cold,
    /// Cold, and upstream takes a while for it.
    Slow,
}

#[derive(Debug, Clone)]
enum Condition {
    None,
    /// The blob's entity tag, as it is or with something around it.
    Tag(&'static str, &'static str),
    Other(&'static str),
}

#[derive(Debug, Clone)]
struct Case {
    size: u64,
    state: State,
    range: String,
    condition: Condition,
}

/// What must be answered.
#[derive(Debug, PartialEq)]
enum Expected {
    Whole,
    One(Range<u64>),
    Many(Vec<Range<u64>>),
    Unsatisfiable,
    Refused,
}

/// RFC 9110, as a naive reader would write it down.
fn model(value: &str, condition_holds: bool, size: u64) -> Expected {
    // 13.1.5: a condition that fails makes the Range void. 14.2: so does one that is not understood.
    let Some(specs) = specs(value).filter(|_| condition_holds) else {
        return Expected::Whole;
    };
    // 14.2 lets a server refuse "many small ranges"; this one's limit is containers/image's own.
    if specs.len() > 1024 {
        return Expected::Refused;
    }
    let size_128 = u128::from(size);
    let mut found = Vec::new();
    for spec in &specs {
        // Positions are inclusive, and 14.1.2 cuts the last one to what there is.
        let (first, last) = match *spec {
            (Some(first), Some(last)) => (first, last),
            (Some(first), None) => (first, u128::MAX),
            (None, Some(0)) => continue,
            (None, Some(suffix)) => (size_128.saturating_sub(suffix), u128::MAX),
            (None, None) => unreachable!(),
        };
        if first < size_128 {
            let end = last.saturating_add(1).min(size_128);
            found.push(u64::try_from(first).unwrap()..u64::try_from(end).unwrap());
        }
    }
    match &found[..] {
        [] => Expected::Unsatisfiable,
        [one] => Expected::One(one.clone()),
        // 17.15: a client that asks for the same bytes again and again wants to do harm. Twice is what this one bears.
        _ if found.iter().map(|part| part.end - part.start).sum::<u64>() > 2 * size => {
            Expected::Refused
        }
        _ => Expected::Many(found),
    }
}

type Spec = (Option<u128>, Option<u128>);

/// `None` where section 14.1.1 and 14.1.2 know no such thing. Numbers larger than all else are as good as one another.
fn specs(value: &str) -> Option<Vec<Spec>> {
    let (unit, set) = value.trim_matches([' ', '\t']).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let position = |digits: &str| -> Option<Option<u128>> {
        match digits {
            "" => Some(None),
            _ if digits.chars().all(|c| c.is_ascii_digit()) => {
                Some(Some(digits.parse().unwrap_or(u128::MAX)))
            }
            _ => None,
        }
    };
    let mut specs = Vec::new();
    for element in set.split(',') {
        let element = element.trim_matches([' ', '\t']);
        // 5.6.1.2: a recipient ignores a reasonable number of empty elements.
        if element.is_empty() {
            continue;
        }
        let (first, last) = element.split_once('-')?;
        let spec = (position(first)?, position(last)?);
        let backwards = matches!(spec, (Some(first), Some(last)) if last < first);
        if spec == (None, None) || backwards {
            return None;
        }
        specs.push(spec);
    }
    (!specs.is_empty()).then_some(specs)
}

#[test]
fn the_model_knows_the_examples_of_the_rfc() {
    let many = |parts: &[Range<u64>]| Expected::Many(parts.to_vec());
    for (value, expected) in [
        ("bytes=0-499", Expected::One(0..500)),
        ("bytes=500-999", Expected::One(500..1000)),
        ("bytes=-500", Expected::One(9500..10000)),
        ("bytes=9500-", Expected::One(9500..10000)),
        ("bytes=0-0,-1", many(&[0..1, 9999..10000])),
        (
            "bytes= 0-999, 4500-5499, -1000",
            many(&[0..1000, 4500..5500, 9000..10000]),
        ),
        ("bytes=500-600,601-999", many(&[500..601, 601..1000])),
        ("bytes=500-700,601-999", many(&[500..701, 601..1000])),
        ("bytes=10000-", Expected::Unsatisfiable),
        ("bytes=2-1", Expected::Whole),
        ("seconds=1-2", Expected::Whole),
        ("bytes=0-,0-,0-", Expected::Refused),
    ] {
        assert_eq!(model(value, true, 10_000), expected, "{value}");
        assert_eq!(model(value, false, 10_000), Expected::Whole, "{value}");
    }
}

fn sizes() -> impl Strategy<Value = u64> {
    prop_oneof![
        1 => Just(0_u64),
        2 => 1..4_u64,
        4 => 4..2000_u64,
        // Around what is read from disk at a time.
        4 => 65_530..65_545_u64,
        3 => 65_545..200_000_u64,
    ]
}

/// One spec, of sense or not, about something `size` long.
fn spec(size: u64) -> impl Strategy<Value = String> {
    let position = prop_oneof![
        6 => 0..=size.saturating_add(3),
        3 => prop::sample::select(vec![0, 1, 65_535, 65_536, size.saturating_sub(1), size, size + 1]),
        1 => prop::sample::select(vec![u64::MAX - 1, u64::MAX, 1 << 63]),
    ];
    let length = prop_oneof![4 => 0..20_u64, 1 => 0..=size];
    prop_oneof![
        8 => (position.clone(), length).prop_map(|(first, length)| format!("{first}-{}", first.saturating_add(length))),
        2 => position.clone().prop_map(|first| format!("{first}-")),
        2 => position.clone().prop_map(|suffix| format!("-{suffix}")),
        2 => (position.clone(), position).prop_map(|(first, last)| format!("{first}-{last}")),
        1 => prop::sample::select(vec![
            "", " ", "\t", "-", "--", "a-b", "0", "0-1-2", "+0-1", "0-+1", "0x0-1", "0 - 1", "0-1;q=1", "١-٢", "*", "-0",
            "99999999999999999999999999999999999999999999-", "0-99999999999999999999999999999999999999999999",
            "-99999999999999999999999999999999999999999999", "000000000000000000000000000000-01",
        ]).prop_filter("a header is ASCII", |text| text.is_ascii()).prop_map(str::to_owned),
    ]
}

fn header(size: u64) -> impl Strategy<Value = String> {
    let sane = prop::sample::select(vec![
        "bytes=", "bytes=", "bytes=", "bytes=", "bytes=", "BYTES=",
    ]);
    let odd = prop::sample::select(vec![
        "bytes= ", "bytes", "bytes =", "byte=", "=", "bytes==", "bits=", "",
    ]);
    let unit = prop_oneof![12 => sane, 1 => odd];
    let comma = prop::sample::select(vec![",", ",", ", ", " ,\t", ",,"]);
    let few = prop::collection::vec(spec(size), 1..2);
    let some = prop::collection::vec(spec(size), 2..8);
    let many =
        (1020..1028_usize, 0..=size).prop_map(|(count, at)| vec![format!("{at}-{at}"); count]);
    let list = prop_oneof![8 => few, 8 => some, 1 => many];
    (unit, comma, list).prop_map(|(unit, comma, list)| format!("{unit}{}", list.join(comma)))
}

fn cases() -> impl Strategy<Value = Case> {
    let state =
        prop_oneof![4 => Just(State::Stored), 3 => Just(State::Cold), 1 => Just(State::Slow)];
    let condition = prop_oneof![
        8 => Just(Condition::None),
        2 => Just(Condition::Tag("", "")),
        1 => Just(Condition::Tag("W/", "")),
        1 => Just(Condition::Tag("", ", \"x\"")),
        1 => prop::sample::select(vec!["\"sha256:0\"", "\"\"", "*", "Wed, 21 Oct 2015 07:28:00 GMT", "x"])
            .prop_map(Condition::Other),
    ];
    (sizes(), state, condition).prop_flat_map(|(size, state, condition)| {
        header(size).prop_map(move |range| Case {
            size,
            state,
            range,
            condition: condition.clone(),
        })
    })
}

struct Scene {
    runtime: Runtime,
    registry: FakeRegistry,
    mirror: Mirror,
    client: Client,
    seed: Cell<u64>,
}

impl Scene {
    fn new() -> Scene {
        let runtime = Runtime::new().unwrap();
        let registry = FakeRegistry::builder().start_now();
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        Scene {
            runtime,
            registry,
            mirror,
            client: Client::new(),
            seed: Cell::new(0),
        }
    }

    /// A new blob, brought into the state that is wanted.
    async fn blob(&self, size: u64, state: State) -> (Vec<u8>, String) {
        self.seed.set(self.seed.get() + 1);
        let content = Content::generated(self.seed.get(), size);
        let bytes = content.read(0, usize::try_from(size).unwrap());
        let digest = self.registry.put_blob(REPO, bytes.clone());
        let url = self.mirror.blob_url(REPO, &digest);
        match state {
            State::Cold => {}
            State::Slow => {
                let once = On::blob().get().containing(&digest);
                let slow = Fault::Slow {
                    bytes_per_sec: 4_000_000,
                };
                self.registry.fault(once, slow);
            }
            State::Stored => {
                self.client.get(&url, &[]).await.unwrap();
                until("stored", async || {
                    let method = http::Method::HEAD;
                    let head = self.client.request(method, &url, &[]).await.unwrap();
                    head.header("cache-status") == Some("pierglass; hit")
                })
                .await;
            }
        }
        (bytes, url)
    }

    async fn check(&self, case: &Case) {
        let (bytes, url) = self.blob(case.size, case.state).await;
        let etag = format!("\"{}\"", digest_of(&bytes));
        let (condition, holds) = match &case.condition {
            Condition::None => (None, true),
            Condition::Tag(before, after) => (
                Some(format!("{before}{etag}{after}")),
                before.is_empty() && after.is_empty(),
            ),
            Condition::Other(text) => (Some((*text).to_owned()), false),
        };
        let mut headers = vec![("range", &*case.range)];
        headers.extend(condition.as_deref().map(|value| ("if-range", value)));
        let expected = model(&case.range, holds, case.size);
        // The second time as well: one answer of a kind is worth nothing if the next is of another.
        for _ in 0..2 {
            let answer = self.client.get(&url, &headers).await.unwrap();
            assert_answer(&answer, &expected, &bytes);
            assert_eq!(
                answer.header("etag").is_some(),
                expected != Expected::Refused
            );
            for (name, value) in [
                ("etag", &*etag),
                ("docker-content-digest", etag.trim_matches('"')),
            ] {
                assert!(
                    answer.header(name).is_none_or(|told| told == value),
                    "{name}"
                );
            }
        }
    }
}

#[track_caller]
fn assert_answer(answer: &Response, expected: &Expected, bytes: &[u8]) {
    let total = bytes.len() as u64;
    let of = |part: &Range<u64>| {
        &bytes[usize::try_from(part.start).unwrap()..usize::try_from(part.end).unwrap()]
    };
    let status = match expected {
        Expected::Whole => StatusCode::OK,
        Expected::One(_) | Expected::Many(_) => StatusCode::PARTIAL_CONTENT,
        Expected::Unsatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        Expected::Refused => StatusCode::BAD_REQUEST,
    };
    assert_eq!(answer.status, status, "{}", answer.text().len());
    let length = answer.body.len().to_string();
    assert_eq!(answer.header("content-length"), Some(&*length));
    if *expected != Expected::Refused {
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
    }
    let kind = "application/octet-stream";
    let range = answer.header("content-range");
    match expected {
        Expected::Whole => {
            assert!(answer.body == bytes, "other bytes");
            assert_eq!((range, answer.header("content-type")), (None, Some(kind)));
        }
        Expected::One(part) => {
            assert!(answer.body == of(part), "other bytes");
            assert_eq!(answer.header("content-type"), Some(kind));
            assert_eq!(
                content_range(range.unwrap()),
                (part.start, part.end - 1, total)
            );
        }
        Expected::Many(wanted) => {
            assert_eq!(
                range, None,
                "15.3.7.2: not in the header of a multipart answer"
            );
            let found = parts(answer);
            assert_eq!(found.len(), wanted.len());
            for (found, wanted) in found.iter().zip(wanted) {
                assert_eq!(found.range, (wanted.start, wanted.end - 1, total));
                assert_eq!(found.content_type, kind);
                assert!(found.bytes == of(wanted), "other bytes");
            }
        }
        Expected::Unsatisfiable => {
            assert_eq!(range, Some(&*format!("bytes */{total}")));
            assert!(answer.body.is_empty());
        }
        Expected::Refused => {
            assert_eq!(range, None);
            assert_eq!(answer.header("content-type"), Some("application/json"));
            assert!(answer.json()["errors"][0]["message"].is_string());
        }
    }
}

#[test]
fn any_range_is_answered_as_the_rfc_has_it() {
    let scene = Scene::new();
    let mut runner = TestRunner::new(Config {
        cases: 300,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases(), |case| {
        let work = async { tokio::time::timeout(PATIENCE, scene.check(&case)).await };
        scene.runtime.block_on(work).expect("an answer");
        Ok(())
    });
    assert!(!scene.mirror.output().contains("panicked"));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
