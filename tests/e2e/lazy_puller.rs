//! A client that reads a little of a large blob must never wait for the rest of it.
//!
//! This is how stargz and its kin start a container before its layers are there: a probe, the length, the footer, the
//! table it points to, then small reads here and there. Requests and answers as in stargz' `fs/remote`.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::probe;
use crate::support::content::Content;
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, Redirect, client, until};

const REPO: &str = "acme/app";
const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;
const RATE: u64 = 20 * MIB;
/// What upstream takes before it sends anything.
const DELAY: Duration = Duration::from_millis(50);
const READ: u64 = 50_000;

struct Puller {
    url: String,
    content: Content,
    /// Requests upstream that one of the mirror's costs: 2 where blobs are redirected.
    trips: u32,
}

/// How long one read took, and what it was.
struct Timed {
    what: String,
    took: Duration,
    bound: Duration,
}

impl Puller {
    /// Reads ranges in one request, and knows what they must be.
    async fn read(&self, what: &str, ranges: &[Range<u64>]) -> Timed {
        let words: Vec<_> = ranges
            .iter()
            .map(|range| format!("{}-{}", range.start, range.end - 1))
            .collect();
        let header = format!("bytes={}", words.join(","));
        let mut answer = probe::ask("GET", &self.url, Some(&header)).await;
        assert_eq!(answer.status, 206, "{what}");
        let body = answer.all().await;
        let took = answer.took();
        let kind = answer
            .header("content-type")
            .expect("Content-Type")
            .to_owned();
        match ranges {
            [range] => {
                let told = format!(
                    "bytes {}-{}/{}",
                    range.start,
                    range.end - 1,
                    self.content.len()
                );
                assert_eq!(answer.header("content-range"), Some(&*told));
                assert!(body == self.expected(range), "{what}: other bytes");
            }
            _ => self.assert_parts(&kind, &body, ranges),
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        // The link is shared with the fill: a read gets half of it.
        let transfer = Duration::from_secs_f64(2.0 * bytes as f64 / RATE as f64);
        Timed {
            what: what.to_owned(),
            took,
            bound: DELAY * self.trips * 3 + transfer,
        }
    }

    fn expected(&self, range: &Range<u64>) -> Vec<u8> {
        let len = usize::try_from(range.end - range.start).unwrap();
        self.content.read(range.start, len)
    }

    /// stargz takes parts one by one and believes their `Content-Range`.
    fn assert_parts(&self, kind: &str, body: &[u8], ranges: &[Range<u64>]) {
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .expect(kind)
            .trim_matches('"');
        let mut rest = body;
        for range in ranges {
            let end = rest
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
                .expect("the end of a part's head")
                + 4;
            let head = String::from_utf8_lossy(&rest[..end]).to_lowercase();
            assert!(head.contains(&format!("--{}", boundary.to_lowercase())));
            let told = format!(
                "content-range: bytes {}-{}/{}",
                range.start,
                range.end - 1,
                self.content.len()
            );
            assert!(head.contains(&told), "{head}");
            let expected = self.expected(range);
            assert!(rest[end..].starts_with(&expected), "other bytes: {told}");
            rest = &rest[end + expected.len()..];
        }
        assert_eq!(
            String::from_utf8_lossy(rest).trim(),
            format!("--{boundary}--")
        );
    }
}

/// Scattered places, the same each time.
fn places(size: u64, count: u64) -> impl Iterator<Item = Range<u64>> {
    (1..=count).map(move |number| {
        let start = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (size - READ);
        start..start + READ
    })
}

/// Everything a lazy puller does before its container runs; the blob is cold.
async fn start_lazily(puller: &Puller) -> Vec<Timed> {
    let size = puller.content.len();
    let mut all = Vec::new();
    all.push(puller.read("probe", std::slice::from_ref(&(0..2))).await);

    let head = probe::ask("HEAD", &puller.url, None).await;
    assert_eq!((head.status, head.length()), (200, size));
    all.push(Timed {
        what: "HEAD".into(),
        took: head.took(),
        bound: DELAY * puller.trips * 3,
    });

    let footer = size - 64 * KIB..size;
    all.push(puller.read("footer", std::slice::from_ref(&footer)).await);
    let table = footer.start - MIB..footer.start;
    all.push(puller.read("table", std::slice::from_ref(&table)).await);
    for place in places(size, 30) {
        all.push(puller.read("read", std::slice::from_ref(&place)).await);
    }
    for count in [2, 6] {
        let mut several: Vec<_> = places(size, 40).skip(30).take(count).collect();
        several.sort_by_key(|range| range.start);
        all.push(puller.read(&format!("{count} at once"), &several).await);
    }
    all
}

fn report(all: &[Timed]) {
    let mut reads: Vec<_> = all
        .iter()
        .filter(|timed| timed.what == "read")
        .map(|timed| timed.took)
        .collect();
    reads.sort_unstable();
    let (median, worst) = (reads[reads.len() / 2], reads[reads.len() - 1]);
    for timed in all.iter().filter(|timed| timed.what != "read") {
        println!("{}: {:.0?} of {:.0?}", timed.what, timed.took, timed.bound);
    }
    println!(
        "{} reads: median {median:.0?}, worst {worst:.0?}",
        reads.len()
    );
}

#[track_caller]
fn assert_in_time(all: &[Timed]) {
    for timed in all {
        // Half as much again, for a machine that does other things.
        let bound = timed.bound * 3 / 2;
        assert!(
            timed.took <= bound,
            "{} took {:?}, bound {:?}",
            timed.what,
            timed.took,
            timed.bound
        );
    }
}

async fn cold(registry: &FakeRegistry, size: u64, trips: u32) -> (Mirror, Puller) {
    let digest = registry.put_generated_blob(REPO, 9, size);
    let mirror = Mirror::start(MirrorConfig::for_upstream(registry));
    registry.set_rate(RATE);
    registry.fault(On::blob().forever(), Fault::DelayHeaders(DELAY));
    registry.fault(On::redirect().forever(), Fault::DelayHeaders(DELAY));
    let url = mirror.blob_url(REPO, &digest);
    let content = Content::generated(9, size);
    (
        mirror,
        Puller {
            url,
            content,
            trips,
        },
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_reads_of_a_gibibyte_do_not_wait_for_it() {
    let registry = FakeRegistry::start().await;
    let (mirror, puller) = cold(&registry, GIB, 1).await;
    let start = Instant::now();
    let all = start_lazily(&puller).await;
    report(&all);
    println!("all in {:.2?}", start.elapsed());
    assert_in_time(&all);
    // The fill went on behind them all the time.
    let flying = mirror.metric("pierglass_fills_in_flight", &[]).await;
    assert_eq!(flying, Some(1.0));
    let wanted: u64 = 2 + 64 * KIB + MIB + 38 * READ;
    let arrived = (start.elapsed().as_secs_f64() * RATE as f64) as u64;
    let sent = registry.counts().bytes_sent;
    println!(
        "{} MiB sent by upstream, {} MiB read ahead of the fill at most",
        sent / MIB,
        wanted / MIB
    );
    assert!(sent <= arrived + MIB, "faster than the link: {sent}");
    let whole = registry
        .requests()
        .iter()
        .filter(|seen| seen.method == "GET" && seen.range().is_none())
        .count();
    assert_eq!(whole, 1, "one transfer");
}

/// Docker Hub's way: each request upstream is one to the registry and one to where it redirects to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redirect_costs_one_more_trip_and_no_more() {
    let registry = FakeRegistry::builder()
        .bearer(None)
        .redirect_blobs(Redirect::Absolute307)
        .start()
        .await;
    let (_mirror, puller) = cold(&registry, GIB, 2).await;
    let all = start_lazily(&puller).await;
    report(&all);
    assert_in_time(&all);
}

/// In no order, twice, side by side, one after another, near the fill and far from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_come_in_the_order_asked_for() {
    let registry = FakeRegistry::start().await;
    let (_mirror, puller) = cold(&registry, 256 * MIB, 1).await;
    let far = |at: u64| 200 * MIB + at..200 * MIB + at + READ;
    puller.read("probe", std::slice::from_ref(&(0..2))).await;
    for several in [
        vec![far(MIB), far(0), far(0), far(READ), 0..10],
        vec![far(0), 0..10, far(10), 10..20, far(2 * READ)],
        vec![far(3 * READ), 100 * MIB..103 * MIB, far(0), far(1)],
    ] {
        puller.read("several", &several).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fill_completes_behind_the_reads() {
    const SIZE: u64 = 256 * MIB;
    let registry = FakeRegistry::start().await;
    let (_mirror, puller) = cold(&registry, SIZE, 1).await;
    let all = start_lazily(&puller).await;
    report(&all);
    assert_in_time(&all);
    until("the blob is stored", async || {
        let head = client::head(&puller.url, &[]).await.unwrap();
        head.header("cache-status") == Some("pierglass; hit")
    })
    .await;
    let sent = registry.counts().bytes_sent;
    println!("{:.3} times the blob upstream", sent as f64 / SIZE as f64);
    assert!(sent <= SIZE + 8 * MIB, "{sent}");
    // Now all of it is here.
    registry.down();
    let digest = puller.url.rsplit('/').next().unwrap();
    let whole = client::download(&puller.url, &[]).await.unwrap();
    whole.assert_is(digest);
    for timed in start_lazily(&puller).await {
        assert!(timed.took < Duration::from_secs(1), "{}", timed.what);
    }
}
