//! HTTP/1.1, HTTP/2 and TLS must all lead to the same bytes, and what is none of them must be refused.

use std::time::Duration;

use http::StatusCode;
use tokio::net::TcpStream;

use crate::support::client::{Ending, Raw, raw};
use crate::support::mirror::log_field;
use crate::support::tls::{Certificate, get_h1, get_h2};
use crate::support::{
    FakeRegistry, Fault, Image, MIB, Mirror, MirrorConfig, On, digest_of, plain, scene,
};

const PATIENCE: Duration = Duration::from_secs(20);

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
    let (_registry, mirror, digest) = scene::stored_blob(1000, plain).await;
    let noise: Vec<u8> = (0..=255).cycle().take(5000).collect();
    let cases: [&[u8]; 8] = [
        b"\r\n\r\n\r\n\r\nGARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nhost m\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"GET /v2/\x00\xff HTTP/1.1\r\nhost: m\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &noise,
    ];
    for case in cases {
        let (answer, ending) = raw(mirror.authority(), case, PATIENCE).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_ne!(ending, Ending::Silent, "{answer}");
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(!panicked(&mirror));
    mirror.pull_blob("a/b", &digest).await;
}

/// A method that begins with `PR` was taken for HTTP/2: file managers and scanners saw bytes that are not HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_method_that_begins_as_http2_does_is_told_what_is_allowed() {
    let (registry, mirror) = scene::start();
    for method in ["PROPFIND", "PROPPATCH", "PRINT", "PRIX", "P"] {
        let request = format!("{method} /v2/ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        // Also in pieces that end within the letters the two have in common.
        let (start, rest) = request.split_at(method.len().min(3) - 1);
        let mut connection = Raw::connect(mirror.authority()).await;
        connection.send(start).await;
        connection.send(rest).await;
        let (answer, ending) = connection.read(PATIENCE).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_eq!(ending, Ending::Closed);
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
        assert!(
            answer.contains("\r\nAllow: GET, HEAD"),
            "{method}: {answer}"
        );
    }
    assert_eq!(registry.requests().len(), 0);
}

/// RFC 9112 3.2. A proxy before this mirror may have read the other `Host` of two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_for_one_host() {
    let (_registry, mirror) = scene::start();
    for (lines, status) in [
        ("HTTP/1.1\r\nHost: localhost", 200),
        ("HTTP/1.1\r\nHost:", 200),
        ("HTTP/1.0", 200),
        ("HTTP/1.0\r\nHost: localhost", 200),
        ("HTTP/1.1", 400),
        ("HTTP/1.1\r\nHost: localhost\r\nHost: localhost", 400),
        ("HTTP/1.1\r\nHost: localhost\r\nhost: 127.0.0.1", 400),
        ("HTTP/1.0\r\nHost: localhost\r\nHost:", 400),
    ] {
        for authority in [
            mirror.authority(),
            mirror.admin_url().trim_start_matches("http://"),
        ] {
            let request = format!("GET / {lines}\r\nConnection: close\r\n\r\n");
            let (answer, _) = raw(authority, request, PATIENCE).await;
            let answer = String::from_utf8_lossy(&answer);
            let told = answer.get(9..12);
            assert_eq!(told, Some(&*status.to_string()), "{lines}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_is_understood_without_asking() {
    let (registry, mirror) = scene::start();
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
    let (registry, mirror) = scene::start();
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
async fn tls_serves_both_versions_of_http() {
    let registry = FakeRegistry::start().await;
    let certificate = Certificate::new();
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).toml(&certificate.toml()));
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

/// It saw the bytes of a TLS alert, and no word of what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_at_a_tls_port_is_told_to_write_https() {
    let certificate = Certificate::new();
    let (_registry, mirror) = scene::start_with(|config| config.toml(&certificate.toml()));
    let (answer, ending) = raw(
        mirror.authority(),
        "GET /v2/ HTTP/1.1\r\nhost: m\r\n\r\n",
        Duration::from_secs(10),
    )
    .await;
    let answer = String::from_utf8_lossy(&answer);
    assert_ne!(ending, Ending::Silent);
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\nContent-Type: ")
            && answer.contains("https://"),
        "{answer}"
    );
}

/// containerd and docker know this answer: "server gave HTTP response to HTTPS client".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_at_a_plain_port_is_answered_in_http() {
    let (_registry, mirror) = scene::start();
    let hello = [22, 3, 1, 0, 4, 1, 0, 0, 0];
    let (answer, ending) = raw(mirror.authority(), hello, Duration::from_secs(10)).await;
    let answer = String::from_utf8_lossy(&answer);
    assert_ne!(ending, Ending::Silent);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

/// It left no trace in the log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_a_certificate_is_refused_and_logged() {
    let certificate = Certificate::new();
    let ca = format!(
        "{}client_ca = {:?}\n",
        certificate.toml(),
        certificate.certificate()
    );
    let (_registry, mirror) = scene::start_with(|config| config.toml(&ca));
    // A check whether the port is open is no handshake that failed.
    drop(TcpStream::connect(mirror.authority()).await.unwrap());
    let stream = certificate.connect(mirror.authority(), &[]).await;
    let url = format!("https://{}/v2/", mirror.authority());
    assert!(get_h1(stream, &url).await.is_err());
    let failed = |line: &serde_json::Value| {
        let message = log_field(line, "message").and_then(serde_json::Value::as_str);
        message == Some("a TLS handshake failed")
    };
    let line = mirror.wait_for_log(PATIENCE, failed);
    assert_eq!(log_field(&line, "client"), Some(&"127.0.0.1".into()));
    let error = log_field(&line, "error").and_then(serde_json::Value::as_str);
    assert!(error.is_some_and(|it| it.contains("certificate")), "{line}");
    assert_eq!(mirror.logs().iter().filter(|line| failed(line)).count(), 1);
}
