//! No client, however silent, slow or malformed, may cost the others anything; and an end must never cut a pull short.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::client::{self, Downloading, Ending, Raw, download, raw};
use crate::support::disk::{blobs, eventually};
use crate::support::mirror::{log_field, sum_of};
use crate::support::tls::{Certificate, get_h1, get_h2};
use crate::support::{FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, digest_of, until};

const PATIENCE: Duration = Duration::from_secs(20);
const MIB: u64 = 1024 * 1024;

/// A mirror with one blob stored, and the blob.
async fn with_blob(
    size: u64,
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Mirror, String) {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(change(MirrorConfig::for_upstream(&registry)));
    let digest = registry.put_generated_blob("a/b", 1, size);
    let url = mirror.blob_url("a/b", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
    committed(&mirror, &digest);
    (registry, mirror, digest)
}

/// Waits until the next pull of it is a hit: its bytes are complete a moment before.
fn committed(mirror: &Mirror, digest: &str) {
    let store = mirror.store_path();
    eventually(PATIENCE, "the commit", || blobs(&store).contains(digest));
}

async fn ready(mirror: &Mirror) -> StatusCode {
    let url = format!("{}/readyz", mirror.admin_url());
    client::get(&url, &[]).await.unwrap().status
}

/// What `/v2/` says to a header with this much in it, sent in pieces until there is an answer: a connection that is
/// closed over unread bytes is reset, and the answer lost.
async fn with_header_of(mirror: &Mirror, length: usize) -> String {
    let mut connection = Raw::connect(mirror.authority()).await;
    connection
        .send("GET /v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\nx-filler: ")
        .await;
    let filler = "x".repeat(length);
    for piece in filler.as_bytes().chunks(16 * 1024) {
        connection.send(piece).await;
        let (answer, _) = connection.read(Duration::from_millis(20)).await;
        if !answer.is_empty() {
            return String::from_utf8(answer).unwrap();
        }
    }
    connection.send("\r\n\r\n").await;
    let (answer, _) = connection.read(PATIENCE).await;
    String::from_utf8(answer).unwrap()
}

fn panicked(mirror: &Mirror) -> bool {
    mirror.output().contains("panicked")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_running_pull_finish() {
    let (registry, mut mirror, digest) = with_blob(4 * MIB, |config| config).await;
    let cold = registry.put_generated_blob("a/b", 2, 2 * MIB);
    registry.set_rate(MIB);
    let slow = Downloading {
        bytes_per_sec: Some(2 * MIB),
        ..Downloading::default()
    };
    let (warm_url, cold_url) = (
        mirror.blob_url("a/b", &digest),
        mirror.blob_url("a/b", &cold),
    );
    let warm_pull = tokio::spawn(async move { slow.run(&warm_url, &[]).await });
    let cold_pull = tokio::spawn(async move { download(&cold_url, &[]).await });
    let deadline = Instant::now() + PATIENCE;
    while mirror
        .metric("pierglass_fills_in_flight", &[])
        .await
        .is_none_or(|fills| fills < 1.0)
    {
        assert!(Instant::now() < deadline, "no fill");
    }
    assert_eq!(ready(&mirror).await, StatusCode::OK);
    let idle = TcpStream::connect(mirror.authority()).await.unwrap();
    mirror.signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while ready(&mirror).await != StatusCode::SERVICE_UNAVAILABLE {
        assert!(Instant::now() < deadline);
    }
    eventually(PATIENCE, "the port is closed", || {
        std::net::TcpStream::connect(mirror.authority()).is_err()
    });
    assert!(!warm_pull.is_finished() && !cold_pull.is_finished());
    warm_pull.await.unwrap().unwrap().assert_is(&digest);
    cold_pull.await.unwrap().unwrap().assert_is(&cold);
    let finished = Instant::now();
    assert_eq!(mirror.wait().code(), Some(0));
    // Neither the idle connection nor drain_timeout was waited for.
    assert!(finished.elapsed() < Duration::from_secs(5));
    drop(idle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_hold_up_the_end() {
    let (_registry, mut mirror, digest) = with_blob(1000, |config| config).await;
    let _silent = TcpStream::connect(mirror.authority()).await.unwrap();
    let mut half = Raw::connect(mirror.authority()).await;
    half.send("P").await;
    let kept = client::Client::new();
    kept.get(&mirror.blob_url("a/b", &digest), &[])
        .await
        .unwrap();
    let started = Instant::now();
    assert_eq!(mirror.term_and_wait().code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_timeout_ends_a_pull_that_takes_too_long() {
    let registry = FakeRegistry::start().await;
    let config = MirrorConfig::for_upstream(&registry).top("drain_timeout", "\"1s\"");
    let mut mirror = Mirror::start(config);
    let digest = registry.put_generated_blob("a/b", 1, 2 * MIB);
    registry.set_rate(100_000);
    let url = mirror.blob_url("a/b", &digest);
    let pull = tokio::spawn(async move { download(&url, &[]).await });
    eventually(PATIENCE, "the pull", || {
        registry.counts().bytes_sent > 20_000
    });
    let started = Instant::now();
    let status = mirror.term_and_wait();
    let took = started.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(5),
        "{took:?}"
    );
    let pull = pull.await.unwrap();
    assert!(pull.is_err() || pull.is_ok_and(|pull| pull.error.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_the_limit_wait_for_a_place() {
    let (_registry, mirror, digest) =
        with_blob(1000, |config| config.top("max_connections", "2")).await;
    let url = mirror.blob_url("a/b", &digest);
    let request = format!("GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nhost: m\r\n\r\n");
    let mut first = Raw::connect(mirror.authority()).await;
    let mut second = Raw::connect(mirror.authority()).await;
    for connection in [&mut first, &mut second] {
        connection.send(&request).await;
        let (answer, ending) = connection.read(Duration::from_millis(300)).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        assert_eq!(ending, Ending::Silent);
    }
    let mut third = tokio::spawn(async move { download(&url, &[]).await });
    let waited = tokio::time::timeout(Duration::from_millis(500), &mut third).await;
    assert!(waited.is_err(), "a third connection was served");
    // The admin address has places of its own.
    assert_eq!(ready(&mirror).await, StatusCode::OK);
    drop(first);
    third.await.unwrap().unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_complete_header_is_closed() {
    let (_registry, mirror, digest) = with_blob(1000, |config| {
        let config = config.top("header_timeout", "\"1s\"");
        config.top("idle_timeout", "\"1s\"")
    })
    .await;
    let head = format!("GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nhost: m\r\n");
    let cases = [
        "",
        "P",
        "G",
        "PR",
        &head,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let closed = cases.map(|words| {
        let authority = mirror.authority();
        async move {
            let started = Instant::now();
            let (_, ending) = raw(authority, words, PATIENCE).await;
            (words, ending, started.elapsed())
        }
    });
    let closed = futures_util::future::join_all(closed).await;
    // And one that sends a byte now and then is no better.
    let mut dripping = Raw::connect(mirror.authority()).await;
    let started = Instant::now();
    for byte in head.as_bytes() {
        use tokio::io::AsyncWriteExt as _;
        if dripping.stream().write_all(&[*byte]).await.is_err() {
            break;
        }
        let (_, ending) = dripping.read(Duration::from_millis(50)).await;
        if ending != Ending::Silent {
            break;
        }
    }
    assert!(started.elapsed() < Duration::from_secs(4), "dripping");
    for (words, ending, took) in closed {
        assert_ne!(ending, Ending::Silent, "{words:?}");
        assert!(
            took > Duration::from_millis(800) && took < Duration::from_secs(8),
            "{words:?} after {took:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_stops_reading_is_cut_off_and_holds_nothing() {
    let (_registry, mirror, digest) =
        with_blob(32 * MIB, |config| config.top("idle_timeout", "\"1s\"")).await;
    let files = mirror.open_files();
    let mut stuck = Vec::new();
    for _ in 0..10 {
        let mut connection = Raw::connect(mirror.authority()).await;
        let request = format!("GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nhost: m\r\n\r\n");
        connection.send(request).await;
        stuck.push(connection);
    }
    // A client that reads, however slowly, is none of them.
    let slow = Downloading {
        bytes_per_sec: Some(12 * MIB),
        ..Downloading::default()
    };
    let slow = slow.run(&mirror.blob_url("a/b", &digest), &[]).await;
    slow.unwrap().assert_is(&digest);
    eventually(PATIENCE, "the stuck ones are gone", || {
        mirror.open_files() <= files
    });
    let broken: Vec<_> = mirror
        .logs()
        .into_iter()
        .filter(|line| {
            log_field(line, "bytes")
                .and_then(Value::as_u64)
                .is_some_and(|bytes| bytes < 32 * MIB)
        })
        .filter(|line| log_field(line, "message").and_then(Value::as_str) == Some("request"))
        .collect();
    assert_eq!(broken.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_headers_are_accepted_and_longer_ones_refused() {
    let mirror = Mirror::start(MirrorConfig::bare());
    for length in [10, 20_000, 32 * 1024] {
        let answer = with_header_of(&mirror, length).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{length}: {answer}");
    }
    let answer = with_header_of(&mirror, 1_000_000).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_http_is_refused() {
    let (_registry, mirror, digest) = with_blob(1000, |config| config).await;
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let cases: [&[u8]; 9] = [
        b"\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost m\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET /v2/\x00\xff HTTP/1.1\r\nhost: m\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"PRINT / HTTP/1.1\r\n\r\n",
        &noise,
    ];
    for case in cases {
        let (answer, ending) = raw(mirror.authority(), case, PATIENCE).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_ne!(ending, Ending::Silent, "{answer}");
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(!panicked(&mirror));
    let url = mirror.blob_url("a/b", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_understood_without_asking() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let image = Image::random(1, &[3_000_000, 500_000]);
    registry.put_image("a/b", Some("1"), &image);
    let mut urls = vec![mirror.manifest_url("a/b", "1")];
    urls.extend(image.blobs().iter().map(|it| mirror.blob_url("a/b", it)));
    for _ in ["cold", "warm"] {
        let stream = TcpStream::connect(mirror.authority()).await.unwrap();
        let answers = get_h2(stream, &urls).await;
        let digests: Vec<_> = answers
            .into_iter()
            .map(|answer| digest_of(&answer.unwrap().body))
            .collect();
        assert_eq!(digests[0], image.digest);
        assert_eq!(digests[1..], image.blobs());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_blob_does_not_end_cleanly_over_http2() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let digest = registry.put_generated_blob("a/b", 1, 2 * MIB);
    let spoilt = On::blob().get().containing(&digest).forever();
    registry.fault(spoilt, Fault::WrongBytes);
    let good = registry.put_generated_blob("a/b", 2, 2 * MIB);
    let urls = [
        mirror.blob_url("a/b", &digest),
        mirror.blob_url("a/b", &good),
    ];
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let answers = get_h2(stream, &urls).await;
    let whole = answers[0]
        .as_ref()
        .is_ok_and(|answer| answer.status == StatusCode::OK);
    assert!(!whole, "a wrong blob came whole");
    // The other pull on the same connection is none the worse.
    assert_eq!(digest_of(&answers[1].as_ref().unwrap().body), good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_at_once() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let digest = registry.put_generated_blob("a/b", 1, 2 * MIB);
    registry.set_rate(50_000);
    let url = mirror.blob_url("a/b", &digest);
    let pull = tokio::spawn(async move { download(&url, &[]).await });
    eventually(PATIENCE, "the pull", || {
        registry.counts().bytes_sent > 10_000
    });
    mirror.signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while ready(&mirror).await == StatusCode::OK {
        assert!(Instant::now() < deadline);
    }
    let started = Instant::now();
    assert_eq!(mirror.term_and_wait().code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(5));
    let pull = pull.await.unwrap();
    assert!(pull.is_err() || pull.is_ok_and(|pull| pull.error.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_serves_both_versions_of_http() {
    let registry = FakeRegistry::start().await;
    let certificate = Certificate::new();
    let config = MirrorConfig::for_upstream(&registry).toml(&certificate.toml());
    let mirror = Mirror::start(config);
    let digest = registry.put_generated_blob("a/b", 1, 2 * MIB);
    let url = format!("https://{}/v2/a/b/blobs/{digest}", mirror.authority());
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = certificate.connect(mirror.authority(), offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        let answer = if chosen == Some(b"h2") {
            get_h2(stream, std::slice::from_ref(&url)).await.remove(0)
        } else {
            get_h1(stream, &url).await
        };
        assert_eq!(digest_of(&answer.unwrap().body), digest);
    }
    // Plain http on this port is no way in.
    let (answer, _) = raw(mirror.authority(), "GET /v2/ HTTP/1.1\r\n\r\n", PATIENCE).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tls_handshake_is_closed() {
    let certificate = Certificate::new();
    let config = MirrorConfig::bare()
        .top("header_timeout", "\"1s\"")
        .toml(&certificate.toml());
    let mirror = Mirror::start(config);
    for words in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let started = Instant::now();
        let (_, ending) = raw(mirror.authority(), words, PATIENCE).await;
        assert_ne!(ending, Ending::Silent);
        assert!(started.elapsed() < Duration::from_secs(8));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_chose_http2_and_says_no_more_is_closed() {
    let certificate = Certificate::new();
    let config = MirrorConfig::bare().top("header_timeout", "\"1s\"");
    let plain = Mirror::start(config.clone());
    let secure = Mirror::start(config.toml(&certificate.toml()));
    let (_, ending) = raw(plain.authority(), "PRI * HTTP/2.0", PATIENCE).await;
    assert_ne!(ending, Ending::Silent);
    let mut stream = certificate.connect(secure.authority(), &["h2"]).await;
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("closed")
        .ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_connections_cost_little_memory() {
    let (_registry, mirror, digest) = with_blob(MIB, |config| config).await;
    let before = mirror.rss_peak();
    let mut idle = Vec::new();
    for _ in 0..1000 {
        let mut connection = Raw::connect(mirror.authority()).await;
        connection
            .send("GET /v2/ HTTP/1.1\r\nhost: m\r\n\r\n")
            .await;
        idle.push(connection);
    }
    for connection in &mut idle {
        let mut first = [0; 12];
        connection.stream().read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
    }
    let grown = mirror.rss_peak() - before;
    assert!(grown < 48 * MIB, "{grown} bytes for 1000 connections");
    let open = mirror.metric("pierglass_connections", &[]).await.unwrap();
    assert!(open >= 1000.0, "{open}");
    let url = mirror.blob_url("a/b", &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
    drop(idle);
    let deadline = Instant::now() + PATIENCE;
    while mirror.metric("pierglass_connections", &[]).await.unwrap() > 2.0 {
        assert!(Instant::now() < deadline, "connections are still counted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_address_tells_health_and_metrics() {
    let (_registry, mirror, _) = with_blob(1000, |config| config).await;
    let at = |path: &str| format!("{}{path}", mirror.admin_url());
    for (path, status) in [
        ("/metrics", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/", 200),
        ("/nowhere", 404),
        ("/v2/", 404),
    ] {
        let got = client::get(&at(path), &[]).await.unwrap();
        let head = client::head(&at(path), &[]).await.unwrap();
        assert_eq!((got.status, head.status), (got.status, got.status));
        assert_eq!(got.status.as_u16(), status, "{path}");
        assert!(!got.body.is_empty() && head.body.is_empty(), "{path}");
    }
    let posted = client::request(http::Method::POST, &at("/metrics"), &[]).await;
    let posted = posted.unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(posted.header("allow"), Some("GET, HEAD"));
    let metrics = client::get(&at("/metrics"), &[]).await.unwrap();
    let media_type = metrics.header("content-type").unwrap().to_owned();
    assert!(media_type.starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    let misses = [("kind", "blob"), ("outcome", "miss"), ("status", "200")];
    assert_eq!(
        sum_of(&text, "pierglass_requests_total", &misses),
        Some(1.0)
    );
    for name in [
        "pierglass_store_capacity_bytes",
        "pierglass_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(sum_of(&text, name, &[]).unwrap() > 0.0, "{name}");
    }
    // Health and metrics are not to be had where everybody pulls.
    let registry_side = client::get(&format!("{}/metrics", mirror.url()), &[]).await;
    assert_eq!(registry_side.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_leaves_one_line_in_the_log() {
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let digest = registry.put_generated_blob("a/b", 1, 100_000);
    let path = format!("/v2/a/b/blobs/{digest}");
    let at = |path: &str| format!("{}{path}", mirror.url());
    client::get(&at(&path), &[]).await.unwrap();
    committed(&mirror, &digest);
    client::head(&at(&path), &[]).await.unwrap();
    client::get(&at("/v2/"), &[]).await.unwrap();
    client::get(&at("/v2/a/b/manifests/none"), &[])
        .await
        .unwrap();
    client::request(http::Method::PUT, &at("/v2/a/b/manifests/1"), &[])
        .await
        .unwrap();
    let expected = [
        ("GET", &*path, 200, "docker.io", "blob", "miss", 100_000),
        ("HEAD", &path, 200, "docker.io", "blob", "hit", 0),
        ("GET", "/v2/", 200, "none", "base", "hit", 2),
        (
            "GET",
            "/v2/a/b/manifests/none",
            404,
            "docker.io",
            "manifest",
            "error",
            0,
        ),
        (
            "PUT",
            "/v2/a/b/manifests/1",
            405,
            "none",
            "manifest",
            "error",
            0,
        ),
    ];
    let lines = || {
        let is_request =
            |line: &Value| log_field(line, "message").and_then(Value::as_str) == Some("request");
        mirror
            .logs()
            .into_iter()
            .filter(is_request)
            .collect::<Vec<_>>()
    };
    eventually(PATIENCE, "the last line", || {
        lines().len() >= expected.len()
    });
    let lines = lines();
    assert_eq!(lines.len(), expected.len());
    for (line, (method, path, status, upstream, kind, outcome, bytes)) in lines.iter().zip(expected)
    {
        let field = |name| log_field(line, name).cloned().unwrap_or_default();
        assert_eq!(field("client"), "127.0.0.1", "{line}");
        assert_eq!(
            (field("method"), field("path")),
            (method.into(), path.into())
        );
        assert_eq!(field("status"), status, "{line}");
        assert_eq!(field("upstream"), upstream, "{line}");
        assert_eq!(field("kind"), kind, "{line}");
        assert_eq!(field("outcome"), outcome, "{line}");
        assert!(field("ms").is_u64(), "{line}");
        if status == 200 {
            assert_eq!(field("bytes"), bytes, "{line}");
        } else {
            assert!(field("error").is_string(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_logged_with_what_it_took() {
    let (_registry, mirror, digest) = with_blob(32 * MIB, |config| config).await;
    let leaving = Downloading {
        abort_after: Some(MIB),
        ..Downloading::default()
    };
    let url = mirror.blob_url("a/b", &digest);
    let taken = leaving.run(&url, &[]).await.unwrap();
    let line = mirror.wait_for_log(PATIENCE, |line| {
        let bytes = log_field(line, "bytes").and_then(Value::as_u64);
        let outcome = log_field(line, "outcome").and_then(Value::as_str);
        outcome == Some("hit") && bytes != Some(32 * MIB)
    });
    let bytes = log_field(&line, "bytes").and_then(Value::as_u64).unwrap();
    assert!(bytes >= taken.bytes && bytes < 32 * MIB, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_pulls_finish_within_the_drain() {
    let registry = FakeRegistry::start().await;
    let mut mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let digest = registry.put_generated_blob("a/b", 1, 2 * MIB);
    registry.set_rate(2 * MIB);
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(mirror.blob_url("a/b", &digest));
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = tokio::spawn(answer.into_body().collect());
    mirror.signal(Signal::TERM);
    let bytes = body.await.unwrap().unwrap().to_bytes();
    assert_eq!(digest_of(&bytes), digest);
    let finished = Instant::now();
    assert_eq!(mirror.wait().code(), Some(0));
    assert!(finished.elapsed() < Duration::from_secs(5));
}

/// Connections that clients have open, that of the one who asks included.
async fn connections(mirror: &Mirror) -> f64 {
    let open = mirror.metric("pierglass_connections", &[]).await;
    open.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_client_that_stops_reading_kept_its_connection_for_ever() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob("a/b", 77, 8 * 1024 * 1024);
    let config = MirrorConfig::for_upstream(&registry)
        .top("header_timeout", "\"1s\"")
        .top("idle_timeout", "\"1s\"");
    let mirror = Mirror::start(config);
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    // It goes on answering pings.
    tokio::spawn(connection);
    let request = http::Request::get(mirror.blob_url("a/b", &digest)).body(Empty::<Bytes>::new());
    let unread = sender.send_request(request.unwrap()).await.unwrap();
    until("its connection is closed", async || {
        connections(&mirror).await <= 1.0
    })
    .await;
    drop(unread);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_http2_connection_ends_and_a_busy_one_does_not() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob("a/b", 78, 4 * 1024 * 1024);
    registry.set_rate(1024 * 1024);
    let config = MirrorConfig::for_upstream(&registry)
        .top("header_timeout", "\"1s\"")
        .top("idle_timeout", "\"1s\"");
    let mirror = Mirror::start(config);
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    // Four seconds of a slow transfer outlast both limits.
    let answer = get_h2(stream, &[mirror.blob_url("a/b", &digest)])
        .await
        .remove(0);
    assert_eq!(answer.unwrap().body.len(), 4 * 1024 * 1024);
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    until("the idle one is closed", async || {
        connections(&mirror).await <= 1.0
    })
    .await;
    drop(sender);
}
