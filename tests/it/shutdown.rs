//! The end of the program must never cut a pull short, nor wait for a client that is idle.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::support::client::{Downloading, Raw, download};
use crate::support::disk::eventually;
use crate::support::{MIB, client, digest_of, plain, scene};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_a_running_pull_finish() {
    let (registry, mut mirror, digest) = scene::stored_blob(4 * MIB, plain).await;
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
    assert_eq!(mirror.ready().await, StatusCode::OK);
    let idle = TcpStream::connect(mirror.authority()).await.unwrap();
    mirror.signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while mirror.ready().await != StatusCode::SERVICE_UNAVAILABLE {
        assert!(Instant::now() < deadline);
    }
    eventually("the port is closed", || {
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
    let (_registry, mut mirror, digest) = scene::stored_blob(1000, plain).await;
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
    let (registry, mut mirror, digest) =
        scene::cold_blob(2 * MIB, |config| config.top("drain_timeout", "\"1s\""));
    registry.set_rate(100_000);
    let url = mirror.blob_url("a/b", &digest);
    let pull = tokio::spawn(async move { download(&url, &[]).await });
    eventually("the pull", || registry.counts().bytes_sent > 20_000);
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
async fn a_second_signal_ends_at_once() {
    let (registry, mut mirror, digest) = scene::cold_blob(2 * MIB, plain);
    registry.set_rate(50_000);
    let url = mirror.blob_url("a/b", &digest);
    let pull = tokio::spawn(async move { download(&url, &[]).await });
    eventually("the pull", || registry.counts().bytes_sent > 10_000);
    mirror.signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while mirror.ready().await == StatusCode::OK {
        assert!(Instant::now() < deadline);
    }
    let started = Instant::now();
    assert_eq!(mirror.term_and_wait().code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(5));
    let pull = pull.await.unwrap();
    assert!(pull.is_err() || pull.is_ok_and(|pull| pull.error.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_pulls_finish_within_the_drain() {
    let (registry, mut mirror, digest) = scene::cold_blob(2 * MIB, plain);
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
