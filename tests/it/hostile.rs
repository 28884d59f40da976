//! Clients that mean harm, byte by byte and frame by frame: the right status or the end of their connection, bounded
//! memory, nothing asked upstream, nothing made on disk, and nothing of it felt by others.
//!
//! Targets of any bytes at all are in `any_request`; shares of clients in `fairness`; clients that are only slow or
//! silent in `server`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{Ending, Raw, download, get, raw};
use crate::support::disk::{blobs, eventually, files};
use crate::support::{FakeRegistry, Mirror, MirrorConfig, until};

const MIB: u64 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// A mirror that has one blob, and all that was on its disk and asked of upstream when the harm began.
struct Scene {
    registry: FakeRegistry,
    mirror: Mirror,
    digest: String,
    asked: usize,
    stored: BTreeSet<PathBuf>,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(|config| config).await
    }

    async fn with(change: impl FnOnce(MirrorConfig) -> MirrorConfig) -> Scene {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::start(change(MirrorConfig::for_upstream(&registry)));
        let digest = registry.put_generated_blob("a/b", 1, 8 * MIB);
        let url = mirror.blob_url("a/b", &digest);
        download(&url, &[]).await.unwrap().assert_is(&digest);
        let store = mirror.store_path();
        eventually(PATIENCE, "the commit", || {
            blobs(&store).contains(&digest) && files(&store.join("ingest")).is_empty()
        });
        let (asked, stored) = (registry.requests().len(), on_disk(&mirror));
        Scene {
            registry,
            mirror,
            digest,
            asked,
            stored,
        }
    }

    /// What comes back for these bytes; the connection must come to an end.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let (answer, ending) = raw(self.mirror.authority(), &bytes, PATIENCE).await;
        let asked = String::from_utf8_lossy(bytes.as_ref());
        let asked: String = asked.chars().take(200).collect();
        assert_ne!(ending, Ending::Silent, "{asked:?}");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The status of the answer; 0 for none.
    async fn status(&self, bytes: impl AsRef<[u8]>) -> u16 {
        let answer = self.ask(bytes).await;
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        status.unwrap_or(0)
    }

    async fn assert_served(&self) {
        let url = self.mirror.blob_url("a/b", &self.digest);
        download(&url, &[]).await.unwrap().assert_is(&self.digest);
    }

    /// Others are served, and nothing is left of it all.
    async fn assert_unharmed(&self) {
        self.assert_served().await;
        assert!(!self.mirror.output().contains("panicked"));
        let seen = self.registry.requests();
        assert_eq!(seen.len(), self.asked, "{:?}", seen.last());
        assert_eq!(on_disk(&self.mirror), self.stored);
    }
}

/// All files near the store: of the mirror's directory, not of the store alone, since a path may climb.
fn on_disk(mirror: &Mirror) -> BTreeSet<PathBuf> {
    let above = mirror.store_path().parent().unwrap().to_owned();
    files(&above).into_iter().collect()
}

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
        (404, "/".to_owned()),
        (400, "//v2/".to_owned()),
        (400, "/v2//".to_owned()),
        (400, "/../v2/".to_owned()),
        (400, "/v2/../../etc/passwd".to_owned()),
        (400, format!("/v2/../blobs/{digest}")),
        (400, format!("/v2/a/../b/blobs/{digest}")),
        (400, format!("/v2/a/./b/blobs/{digest}")),
        (400, format!("/v2/a//b/blobs/{digest}")),
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_the_right_status() {
    let scene = Scene::new().await;
    let cases: &[(&[u16], &str)] = &[
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
            "GET http://elsewhere/v2/ HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
        ),
        // Methods that are not for reading.
        (
            &[405],
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
            &[404, 405],
            "OPTIONS * HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
        ),
        (
            &[404, 405],
            "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n",
        ),
        // No upgrade of ours.
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
    for (statuses, request) in cases {
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
        // Who asks first is told before sending anything.
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

// HTTP/2, frame by frame (RFC 9113 4.1).

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// GET of a path, as a header block: `:method` and `:scheme` from the static table, the rest spelt out (RFC 7541 6).
fn header_block(path: &str) -> Vec<u8> {
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(0x04, path), (0x01, "m")] {
        block.push(index);
        assert!(value.len() < 127, "longer ones are written otherwise");
        block.push(u8::try_from(value.len()).unwrap());
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// A connection over which settings were exchanged as far as we care.
async fn h2(mirror: &Mirror) -> TcpStream {
    let mut stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let start = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    stream.write_all(&start).await.unwrap();
    stream
}

/// Writes again and again until the mirror has enough of it, or takes no more; how many bytes it took.
async fn flood(stream: &mut TcpStream, most: u64, mut next: impl FnMut(u32) -> Vec<u8>) -> u64 {
    let (mut taken, mut turn) = (0, 0);
    while taken < most {
        let bytes = next(turn);
        let write = stream.write_all(&bytes);
        match tokio::time::timeout(Duration::from_secs(3), write).await {
            Ok(Ok(())) => taken += bytes.len() as u64,
            Ok(Err(_)) | Err(_) => break,
        }
        turn += 1;
    }
    taken
}

/// Reads to the end of the connection.
async fn ends(stream: &mut TcpStream) {
    let mut sink = Vec::new();
    let read = stream.read_to_end(&mut sink);
    let ended = tokio::time::timeout(PATIENCE, read).await;
    assert!(ended.is_ok(), "the connection goes on");
}

/// CVE-2023-44487: a request and its cancellation, again and again; each could have started something.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_rapid_reset() {
    let scene = Scene::new().await;
    let before = scene.mirror.rss();
    let mut stream = h2(&scene.mirror).await;
    let cancel = 8_u32.to_be_bytes();
    let taken = flood(&mut stream, 64 * MIB, |turn| {
        let mut frames = Vec::new();
        for number in 0..100 {
            let id = 2 * (turn * 100 + number) + 1;
            let block = header_block(&format!("/v2/no/such/manifests/{id}"));
            frames.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block));
            frames.extend(frame(RST_STREAM, 0, id, &cancel));
        }
        frames
    })
    .await;
    ends(&mut stream).await;
    assert!(taken < 32 * MIB, "it was let go on: {taken}");
    assert!(scene.mirror.rss() < before + 16 * MIB);
    let asked = scene.registry.requests().len() - scene.asked;
    assert!(asked <= 1000, "{asked} questions upstream for nobody");
    scene.assert_served().await;
    assert!(!scene.mirror.output().contains("panicked"));
}

/// CVE-2024-27316: one header in frames without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_continuation_flood() {
    let scene = Scene::new().await;
    let before = scene.mirror.rss();
    let mut stream = h2(&scene.mirror).await;
    let start = frame(HEADERS, END_STREAM, 1, &header_block("/v2/"));
    stream.write_all(&start).await.unwrap();
    // Each is a header `x: yyy...` that is spelt out.
    let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let more = frame(CONTINUATION, 0, 1, &field.repeat(100));
    let taken = flood(&mut stream, 64 * MIB, |_| more.clone()).await;
    ends(&mut stream).await;
    assert!(taken < 32 * MIB, "it was let go on: {taken}");
    assert!(scene.mirror.rss() < before + 8 * MIB);
    scene.assert_unharmed().await;
}

/// What has to be answered, sent by a client that reads no answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_settings_and_ping_floods() {
    let scene = Scene::with(|config| config.top("idle_timeout", "\"2s\"")).await;
    for frames in [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]).repeat(1000),
        frame(PING, 0, 0, b"12345678").repeat(1000),
    ] {
        let before = scene.mirror.rss();
        let mut stream = h2(&scene.mirror).await;
        flood(&mut stream, 64 * MIB, |_| frames.clone()).await;
        let grown = scene.mirror.rss().saturating_sub(before);
        assert!(grown < 16 * MIB, "{grown}");
        scene.assert_served().await;
        drop(stream);
    }
    scene.assert_unharmed().await;
}

/// Frames that are wrong in themselves end the connection, whatever they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_frames_that_cannot_be() {
    let scene = Scene::with(|config| config.top("header_timeout", "\"2s\"")).await;
    let block = header_block("/v2/");
    let cases = [
        frame(DATA, 0, 1, b"for a stream that is not there"),
        frame(HEADERS, END_HEADERS | END_STREAM, 2, &block),
        frame(HEADERS, END_HEADERS | END_STREAM, 0, &block),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 200]),
        frame(CONTINUATION, END_HEADERS, 1, &block),
        frame(SETTINGS, 0, 0, b"five!"),
        frame(SETTINGS, 0, 1, &[]),
        frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
        frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        frame(PING, 0, 0, b"short"),
        frame(RST_STREAM, 0, 7, &[0; 4]),
        frame(DATA, 0, 0, &[0; 100_000]),
        frame(200, 255, 9, b"of a kind unknown"),
    ];
    for case in cases {
        let mut stream = h2(&scene.mirror).await;
        let _ = stream.write_all(&case).await;
        ends(&mut stream).await;
    }
    scene.assert_unharmed().await;
}

/// All the streams a connection may have, each with a blob of which nothing is taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_that_are_never_read() {
    let scene = Scene::with(|config| config.top("idle_timeout", "\"2s\"")).await;
    let (before, files) = (scene.mirror.rss(), scene.mirror.open_files());
    let block = header_block(&format!("/v2/a/b/blobs/{}", scene.digest));
    let mut all = Vec::new();
    for _ in 0..4 {
        let mut stream = h2(&scene.mirror).await;
        // Windows of nothing: not a byte of a body may be sent.
        let mut frames = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        for number in 0..128 {
            let flags = END_HEADERS | END_STREAM;
            frames.extend(frame(HEADERS, flags, 2 * number + 1, &block));
        }
        stream.write_all(&frames).await.unwrap();
        all.push(stream);
    }
    scene.assert_served().await;
    let grown = scene.mirror.rss().saturating_sub(before);
    assert!(grown < 96 * MIB, "{grown}");
    for stream in &mut all {
        ends(stream).await;
    }
    eventually(PATIENCE, "all files are closed", || {
        scene.mirror.open_files() <= files + 2
    });
    scene.assert_unharmed().await;
}

/// Many that never finish their header, beside one that pulls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slow_headers_end_and_disturb_nobody() {
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
