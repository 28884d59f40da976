//! HTTP/2, frame by frame (RFC 9113 4.1).

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Scene};
use crate::support::disk::eventually;
use crate::support::{MIB, Mirror};

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
async fn rapid_reset() {
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
    assert!(
        asked <= 1000,
        "{asked} questions upstream that no client waits for"
    );
    scene.assert_served().await;
    assert!(!scene.mirror.output().contains("panicked"));
}

/// CVE-2024-27316: one header in frames without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continuation_flood() {
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
async fn settings_and_ping_floods() {
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
async fn frames_that_cannot_be() {
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
async fn streams_that_are_never_read() {
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
    eventually("all files are closed", || {
        scene.mirror.open_files() <= files + 2
    });
    scene.assert_unharmed().await;
}
