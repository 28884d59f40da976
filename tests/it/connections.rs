//! No connection, however many there are and however silent or slow, may cost the others anything or stay for ever.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::support::client::{Downloading, Ending, Raw, download, raw};
use crate::support::disk::eventually;
use crate::support::mirror::log_field;
use crate::support::tls::{Certificate, get_h2};
use crate::support::{FakeRegistry, MIB, Mirror, MirrorConfig, plain, scene, until};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_the_limit_wait_for_a_place() {
    let (_registry, mirror, digest) =
        scene::stored_blob(1000, |config| config.top("max_connections", "2")).await;
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
    assert_eq!(mirror.ready().await, StatusCode::OK);
    drop(first);
    third.await.unwrap().unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_complete_header_is_closed() {
    let (_registry, mirror, digest) = scene::stored_blob(1000, |config| {
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
        scene::stored_blob(32 * MIB, |config| config.top("idle_timeout", "\"1s\"")).await;
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
    eventually("the stuck ones are gone", || mirror.open_files() <= files);
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
async fn a_thousand_idle_connections_cost_little_memory() {
    let (_registry, mirror, digest) = scene::stored_blob(MIB, plain).await;
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
    mirror.pull_blob("a/b", &digest).await;
    drop(idle);
    let deadline = Instant::now() + PATIENCE;
    while mirror.metric("pierglass_connections", &[]).await.unwrap() > 2.0 {
        assert!(Instant::now() < deadline, "connections are still counted");
    }
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

/// Connections that clients have open, that of the client that asks included.
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
    let (registry, mirror, digest) = scene::cold_blob(4 * 1024 * 1024, |config| {
        config
            .top("header_timeout", "\"1s\"")
            .top("idle_timeout", "\"1s\"")
    });
    registry.set_rate(1024 * 1024);
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
