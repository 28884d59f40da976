//! Requests over HTTP/1, byte by byte.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Scene};
use crate::support::client::{Raw, get};
use crate::support::{MIB, Mirror, until};

fn get_path(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_climbs() {
    let scene = Scene::new().await;
    let digest = &scene.digest;
    let hex = digest.strip_prefix("sha256:").unwrap();
    let long = "a".repeat(256);
    let cases = [
        // The slashes in excess say nothing, and the rest is no endpoint.
        (404, "//v2/a".to_owned()),
        (404, "//evil.example/v2/".to_owned()),
        (400, "//evil.example/%2e./v2/".to_owned()),
        (400, "/../v2/".to_owned()),
        (400, "/v2/../../etc/passwd".to_owned()),
        (400, format!("/v2/../blobs/{digest}")),
        (400, format!("/v2/a/../b/blobs/{digest}")),
        (400, format!("/v2/a/%2e/b/blobs/{digest}")),
        (400, format!("/v2/a/%2f/b/blobs/{digest}")),
        (400, format!("/v2/a%2f%2fb/blobs/{digest}")),
        (400, format!("/v2/a%252fb/blobs/{digest}")),
        (400, format!("/v2/a/%2e%2e/b/blobs/{digest}")),
        (400, format!("/v2/a/%2E%2e%2Fb/blobs/{digest}")),
        (400, format!("/v2/a%2f..%2fb/blobs/{digest}")),
        (400, format!("/v2/a/b%00/blobs/{digest}")),
        (400, format!("/v2/a/b%0d%0ax:%20y/blobs/{digest}")),
        (400, format!("/v2/a/b%/blobs/{digest}")),
        (400, format!("/v2/a/b%zz/blobs/{digest}")),
        (400, format!("/v2/a/b%ff/blobs/{digest}")),
        (400, format!("/v2/a/%c0%ae%c0%ae/blobs/{digest}")),
        (400, format!("/v2/a/ｂ/blobs/{digest}")),
        (400, format!("/v2/a/..%c0%af/blobs/{digest}")),
        (400, format!("/v2/a\\..\\b/blobs/{digest}")),
        (400, format!("/v2/a/_blobs/blobs/{digest}")),
        (400, format!("/v2/{long}/blobs/{digest}")),
        (400, format!("/v2/{}/blobs/{digest}", "a/".repeat(200))),
        (400, "/v2/a/b/blobs/sha256:../../../version".to_owned()),
        (400, format!("/v2/a/b/blobs/sha256:{hex}00")),
        (400, format!("/v2/a/b/blobs/sha256:{}", &hex[1..])),
        (400, format!("/v2/a/b/blobs/sha256:{hex}%00")),
        (
            400,
            "/v2/a/b/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
        ),
        (400, "/v2/a/b/manifests/..".to_owned()),
        (404, "/v2/a/b/manifests/.hidden".to_owned()),
        (400, "/v2/a/b/manifests/%2e%2e%2f1".to_owned()),
        (404, format!("/v2/a/b/manifests/{long}")),
        (400, format!("/v2/a/b/blobs/{digest}?ns=../..")),
        (400, format!("/v2/a/b/blobs/{digest}?ns=%00")),
        (404, format!("/v2/a/b/blobs/{digest}?ns=127.0.0.1:1")),
        (400, format!("/v2/a/b/blobs/{digest}?ns={long}")),
    ];
    for (status, path) in cases {
        let got = scene.status(get_path(&path)).await;
        assert_eq!(got, status, "{path}");
    }
    scene.assert_unharmed().await;
}

/// Requests, and the statuses that are right for them; 0 is an end without an answer.
const ODD: &[(&[u16], &str)] = &[
    // Not HTTP/1 at all, or not quite.
    (&[0, 400], "GET /v2/\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1 \r\nhost m\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1\r\nho st: m\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1\r\nhost : m\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1\r\n: m\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1\r\nx: a\0b\r\n\r\n"),
    (&[400], "GET /v2/\x01 HTTP/1.1\r\nhost: m\r\n\r\n"),
    (&[400], "GET /v2/ HTTP/1.1\r\nhost: m\r\n folded\r\n\r\n"),
    // Old, or spoken as to a proxy: both have to be understood (RFC 9112 3.2.2).
    (&[200], "GET /v2/ HTTP/1.0\r\n\r\n"),
    (
        &[200],
        "GET http://m/v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    (
        &[421],
        "GET http://elsewhere/v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    // Methods that are not for reading.
    (
        &[200],
        "OPTIONS /v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    (
        &[405],
        "TRACE /v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    (
        &[405],
        "BREW /v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    (
        &[200],
        "OPTIONS * HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    (
        &[404, 405],
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
    ),
    // No upgrade.
    (
        &[200],
        "GET /v2/ HTTP/1.1\r\nhost: m\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n",
    ),
    (
        &[200],
        "GET /v2/ HTTP/1.1\r\nhost: m\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    ),
    // Two lengths are an attempt to have two servers read two things.
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: 1, 2\r\n\r\nab",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: +1\r\n\r\na",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: -1\r\n\r\na",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ncontent-length: 99999999999999999999999\r\n\r\na",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ntransfer-encoding: xchunked\r\n\r\na",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.1\r\nhost: m\r\ntransfer-encoding: chunked, identity\r\n\r\na",
    ),
    (
        &[400],
        "POST /v2/ HTTP/1.0\r\nhost: m\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_the_right_status() {
    let scene = Scene::new().await;
    for (statuses, request) in ODD {
        let got = scene.status(request).await;
        assert!(statuses.contains(&got), "{got} for {request:?}");
    }
    scene.assert_unharmed().await;
}

/// What follows a request that two readers could divide in two ways must not be answered as one of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_smuggled_in_another() {
    let scene = Scene::new().await;
    let hidden = "GET /v2/_catalog HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n";
    for header in [
        format!(
            "content-length: {}\r\ntransfer-encoding: xchunked",
            hidden.len()
        ),
        format!(
            "transfer-encoding: \x0bchunked\r\ncontent-length: {}",
            hidden.len()
        ),
        format!("content-length: 0\r\ncontent-length: {}", hidden.len()),
        format!(
            "transfer-encoding : chunked\r\ncontent-length: {}",
            hidden.len()
        ),
        format!("content-length: {}", hidden.len()),
    ] {
        let request = format!("POST /v2/ HTTP/1.1\r\nhost: m\r\n{header}\r\n\r\n{hidden}");
        let mut connection = Raw::connect(scene.mirror.authority()).await;
        connection.send(&request).await;
        let (answer, _) = connection.read(Duration::from_millis(500)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 40"), "{header}: {answer}");
        assert!(!answer.contains("repositories"), "{header}: {answer}");
    }
    scene.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_and_targets_without_end_are_refused() {
    let scene = Scene::new().await;
    let cases = [
        ("GET /v2/ HTTP/1.1\r\nx: ", "y", "\r\n\r\n"),
        ("GET /v2/ HTTP/1.1\r\n", "x: y\r\n", "\r\n"),
        ("GET /v2/?", "n=1&", " HTTP/1.1\r\n\r\n"),
        ("GET /v2/", "a/", " HTTP/1.1\r\n\r\n"),
        ("", "G", " /v2/ HTTP/1.1\r\n\r\n"),
    ];
    for (start, piece, end) in cases {
        let before = scene.mirror.rss();
        let mut connection = Raw::connect(scene.mirror.authority()).await;
        connection.send(start).await;
        let filler = piece.repeat(16 * 1024 / piece.len());
        let mut answer = Vec::new();
        // A connection that is closed over unread bytes is reset, and the answer lost: look after each piece.
        for _ in 0..(MIB / filler.len() as u64 + 1) {
            if connection
                .stream()
                .write_all(filler.as_bytes())
                .await
                .is_err()
            {
                break;
            }
            answer = connection.read(Duration::from_millis(20)).await.0;
            if !answer.is_empty() {
                break;
            }
        }
        if answer.is_empty() {
            let _ = connection.stream().write_all(end.as_bytes()).await;
            answer = connection.read(PATIENCE).await.0;
        }
        let answer = String::from_utf8_lossy(&answer);
        let refused = ["400", "404", "414", "431"].map(|status| format!("HTTP/1.1 {status} "));
        assert!(
            answer.is_empty() || refused.iter().any(|status| answer.starts_with(status)),
            "{start}{piece}: {answer}"
        );
        assert!(scene.mirror.rss() < before + 4 * MIB, "{start}{piece}");
    }
    scene.assert_unharmed().await;
}

/// Sends a body without end; how much of it was taken, and what was answered.
async fn endless(mirror: &Mirror, header: &str, piece: &[u8]) -> (u64, String) {
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    writing.write_all(header.as_bytes()).await.unwrap();
    let reader = tokio::spawn(async move {
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reading.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    });
    let mut taken = 0;
    let write = async {
        while taken < 256 * MIB && writing.write_all(piece).await.is_ok() {
            taken += piece.len() as u64;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, write).await;
    drop(writing);
    (taken, reader.await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_are_not_read() {
    let scene = Scene::new().await;
    let blob = format!("/v2/a/b/blobs/{}", scene.digest);
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    for (status, target) in [
        ("405", "POST /v2/a/b/blobs/uploads/".to_owned()),
        ("405", "PUT /v2/a/b/manifests/1".to_owned()),
        ("405", "PATCH /v2/a/b/blobs/uploads/1".to_owned()),
        ("200", "GET /v2/".to_owned()),
        ("200", format!("HEAD {blob}")),
    ] {
        for (length, piece) in [
            ("content-length: 1000000000000", "x".repeat(0x8000)),
            ("transfer-encoding: chunked", chunk.clone()),
        ] {
            let before = scene.mirror.rss();
            let header = format!("{target} HTTP/1.1\r\nhost: m\r\n{length}\r\n\r\n");
            let (taken, answer) = endless(&scene.mirror, &header, piece.as_bytes()).await;
            // What the kernel took on both sides counts.
            assert!(taken < 32 * MIB, "{target}: {taken}");
            assert!(scene.mirror.rss() < before + 4 * MIB, "{target}");
            // It can be lost in the reset.
            let right = answer.starts_with(&format!("HTTP/1.1 {status} "));
            assert!(answer.is_empty() || right, "{target}: {answer}");
        }
        // A client that asks first is told before it sends anything.
        let header = format!(
            "{target} HTTP/1.1\r\nhost: m\r\nexpect: 100-continue\r\ncontent-length: 1000000\r\n\r\n"
        );
        let answer = scene.ask(header).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    scene.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_order() {
    let scene = Scene::new().await;
    let mut requests = String::new();
    for number in 0..500 {
        let path = if number % 2 == 0 { "/v2/" } else { "/nowhere" };
        requests.push_str(&format!("GET {path} HTTP/1.1\r\nhost: m\r\n\r\n"));
    }
    requests.push_str(&get_path("/v2/"));
    let answers = scene.ask(requests).await;
    let statuses: Vec<_> = answers
        .match_indices("HTTP/1.1 ")
        .map(|(at, start)| &answers[at + start.len()..][..3])
        .collect();
    assert_eq!(statuses.len(), 501);
    for (number, status) in statuses.iter().enumerate() {
        assert_eq!(*status, ["200", "404"][number % 2], "{number}");
    }
    scene.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_blobs_that_are_never_read_cost_little() {
    let scene = Scene::new().await;
    let request = format!(
        "GET /v2/a/b/blobs/{} HTTP/1.1\r\nhost: m\r\n\r\n",
        scene.digest
    );
    let (before, files) = (scene.mirror.rss(), scene.mirror.open_files());
    let mut all = Vec::new();
    for _ in 0..16 {
        let mut connection = Raw::connect(scene.mirror.authority()).await;
        connection.send(request.repeat(400)).await;
        all.push(connection);
    }
    scene.assert_served().await;
    assert!(scene.mirror.rss() < before + 16 * MIB);
    assert!(scene.mirror.open_files() <= files + 16 * 2 + 2);
    scene.assert_unharmed().await;
}

/// Many that never finish their header, beside one that pulls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slow_headers_end_and_disturb_no_other_client() {
    let scene = Scene::with(|config| config.top("header_timeout", "\"3s\"")).await;
    let files = scene.mirror.open_files();
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut connection = Raw::connect(scene.mirror.authority()).await;
        connection.send("GET /v2/ HTTP/1.1\r\nhost: m\r\nx:").await;
        slow.push(connection);
    }
    // They go on dripping for longer than they may.
    for _ in 0..8 {
        for connection in &mut slow {
            let _ = connection.stream().try_write(b" y");
        }
        scene.assert_served().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    until("they are gone", async || {
        scene.mirror.open_files() <= files + 2
    })
    .await;
    let url = format!("{}/v2/", scene.mirror.url());
    assert_eq!(get(&url, &[]).await.unwrap().status, StatusCode::OK);
    scene.assert_unharmed().await;
}
