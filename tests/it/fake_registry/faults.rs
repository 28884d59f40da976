//! Each fault happens, as often as it should and to whom it should.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::{SIZE, bearer, part, token, with_blob};
use crate::support::client::{Ending, raw};
use crate::support::{FakeRegistry, Fault, Image, On, client, generated_digest};

#[tokio::test]
async fn bodies_that_are_cut_do_not_end_cleanly() {
    let (registry, url, digest) = with_blob().await;
    for fault in [Fault::CutAfter(100_000), Fault::CutChunked(100_000)] {
        let id = registry.fault(On::blob(), fault.clone());
        // A HEAD must not use up what is meant for a body.
        client::head(&url, &[]).await.unwrap();
        assert_eq!(registry.struck(id), 0);
        let cut = client::download(&url, &[]).await.unwrap();
        assert_eq!((cut.status, cut.bytes), (StatusCode::OK, 100_000));
        assert!(cut.error.is_some(), "{fault:?} ended cleanly");
        assert_eq!(cut.digest, part(1, 0, 100_000));
        let chunked = matches!(fault, Fault::CutChunked(_));
        assert_eq!(cut.header("content-length"), (!chunked).then_some("300000"));
        assert!(
            client::get(&url, &[]).await.is_ok(),
            "{fault:?} struck twice"
        );
        assert_eq!(registry.struck(id), 1);
    }
    registry.fault(On::blob(), Fault::CutAfter(1000));
    assert!(client::get(&url, &[]).await.is_err());
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
}

#[tokio::test]
async fn a_short_body_can_end_cleanly() {
    let (registry, url, _) = with_blob().await;
    registry.fault(On::blob(), Fault::ShortClose(5000));
    let short = client::download(&url, &[]).await.unwrap();
    assert_eq!((short.bytes, short.error.as_deref()), (5000, None));
    assert_eq!(
        (
            short.header("content-length"),
            short.header("transfer-encoding")
        ),
        (None, None)
    );
    registry.fault(On::blob(), Fault::NoContentLength);
    let whole = client::download(&url, &[]).await.unwrap();
    whole.assert_is(&generated_digest(1, SIZE));
    assert_eq!(
        (
            whole.header("content-length"),
            whole.header("transfer-encoding")
        ),
        (None, Some("chunked"))
    );
}

#[tokio::test]
async fn wrong_bytes_lengths_and_digests_are_well_formed_answers() {
    let (registry, url, digest) = with_blob().await;
    registry.fault(On::blob(), Fault::WrongBytes);
    let wrong = client::get(&url, &[]).await.unwrap();
    let right = client::get(&url, &[]).await.unwrap();
    let differing: Vec<_> = (0..right.body.len())
        .filter(|at| right.body[*at] != wrong.body[*at])
        .collect();
    assert_eq!((wrong.body.len(), differing), (300_000, vec![299_992]));
    registry.fault(On::blob().times(2), Fault::WrongLength(-7));
    registry.fault(On::blob(), Fault::WrongLength(9));
    assert_eq!(
        client::head(&url, &[])
            .await
            .unwrap()
            .header("content-length"),
        Some("299993")
    );
    assert_eq!(
        client::get(&url, &[]).await.unwrap().body,
        right.body[..299_993]
    );
    let longer = client::get(&url, &[]).await.unwrap().body;
    assert_eq!(longer, [&right.body[..], &[0; 9]].concat());
    registry.fault(On::blob(), Fault::LyingDigestHeader);
    let lie = client::get(&url, &[]).await.unwrap();
    assert_ne!(lie.header("docker-content-digest"), Some(&*digest));
    assert_eq!(lie.body, right.body);
    registry.fault(On::blob(), Fault::IgnoreRange);
    let all = client::get(&url, &[("range", "bytes=5-")]).await.unwrap();
    assert_eq!((all.status, all.body.len()), (StatusCode::OK, 300_000));
}

#[tokio::test]
async fn slowness_takes_its_time() {
    let (registry, url, digest) = with_blob().await;
    let pause = Duration::from_millis(400);
    registry.fault(On::blob(), Fault::DelayHeaders(pause));
    let late = client::download(&url, &[]).await.unwrap();
    assert!(late.headers_after >= pause, "{late:?}");
    registry.fault(On::blob(), Fault::Stall(100_000, pause));
    let stalled = client::download(&url, &[]).await.unwrap();
    assert!(
        stalled.first_byte_after.unwrap() < pause && stalled.took >= pause,
        "{stalled:?}"
    );
    registry.fault(
        On::blob(),
        Fault::Slow {
            bytes_per_sec: 600_000,
        },
    );
    let slow = client::download(&url, &[]).await.unwrap();
    assert!(slow.took >= Duration::from_millis(400), "{slow:?}");
    for download in [late, stalled, slow] {
        download.assert_is(&digest);
    }
}

#[tokio::test]
async fn the_link_is_shared_by_all_connections() {
    let (registry, url, digest) = with_blob().await;
    registry.set_rate(1_000_000);
    let start = Instant::now();
    let (one, two) = tokio::join!(client::download(&url, &[]), client::download(&url, &[]));
    // Together 600 kB: alone each would have taken 0.3 s.
    assert!(
        start.elapsed() >= Duration::from_millis(550),
        "{:?}",
        start.elapsed()
    );
    one.unwrap().assert_is(&digest);
    two.unwrap().assert_is(&digest);
    registry.set_rate(0);
    let free = client::download(&url, &[]).await.unwrap();
    assert!(free.took < Duration::from_millis(300), "{free:?}");
}

#[tokio::test]
async fn a_hang_is_silent_and_a_reset_is_not() {
    let (registry, url, _) = with_blob().await;
    let hang = registry.fault(On::any(), Fault::Hang);
    let path = url.strip_prefix(&registry.url()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (bytes, ending) = raw(&registry.authority(), &request, Duration::from_millis(300)).await;
    assert_eq!(
        (bytes.len(), ending, registry.struck(hang)),
        (0, Ending::Silent, 1)
    );
    registry.fault(On::any(), Fault::Reset);
    let (bytes, ending) = raw(&registry.authority(), &request, Duration::from_secs(5)).await;
    assert_eq!((bytes.len(), ending), (0, Ending::Reset));
}

#[tokio::test]
async fn other_answers_are_given_instead() {
    let (registry, url, _) = with_blob().await;
    let headers = vec![("Retry-After".to_owned(), "7".to_owned())];
    registry.fault(
        On::blob(),
        Fault::Status(429, "Too Many Requests (HAP429).".into(), headers),
    );
    let busy = client::get(&url, &[]).await.unwrap();
    assert_eq!(
        (busy.status.as_u16(), busy.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(busy.text(), "Too Many Requests (HAP429).");
    registry.fault(On::blob(), Fault::Html(502));
    let page = client::get(&url, &[]).await.unwrap();
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (502, Some("text/html"))
    );
    registry.fault(On::blob().forever(), Fault::RedirectLoop);
    let mut target = url;
    for _ in 0..3 {
        let moved = client::get(&target, &[]).await.unwrap();
        assert_eq!(moved.status, StatusCode::TEMPORARY_REDIRECT);
        let next = format!("{}{}", registry.url(), moved.header("location").unwrap());
        assert_ne!(next, target);
        target = next;
    }
    registry.clear_faults();
    assert_eq!(
        client::get(&target, &[]).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn faults_strike_whom_they_are_meant_for() {
    let registry = FakeRegistry::docker_hub().start().await;
    let image = Image::random(1, &[10]);
    registry.put_image("a/b", Some("1"), &image);
    registry.put_image("a/c", Some("1"), &image);
    let manifest = |repo: &str| format!("{}/v2/{repo}/manifests/1", registry.url());
    let meant = registry.fault(
        On::manifest().get().repo("a/b").skip(1).times(2),
        Fault::status(503),
    );
    // The challenge comes first and uses up nothing.
    assert_eq!(
        client::get(&manifest("a/b"), &[])
            .await
            .unwrap()
            .status
            .as_u16(),
        401
    );
    let scope = "repository:a/b:pull%20repository:a/c:pull";
    let authorization = bearer(&token(&registry, scope, &[]).await);
    let headers: client::Headers<'_> = &[("authorization", &authorization)];
    let status = async |method: Method, url: String| {
        client::request(method, &url, headers)
            .await
            .unwrap()
            .status
            .as_u16()
    };
    assert_eq!(status(Method::GET, manifest("a/c")).await, 200);
    assert_eq!(status(Method::HEAD, manifest("a/b")).await, 200);
    for expected in [200, 503, 503, 200] {
        assert_eq!(status(Method::GET, manifest("a/b")).await, expected);
    }
    assert_eq!(registry.struck(meant), 2);
    registry.fault(On::token(), Fault::Html(500));
    assert_eq!(token(&registry, scope, &[]).await.status.as_u16(), 500);
    // A blob fault strikes where the bytes are, a redirect fault strikes where they are not.
    let blob = format!("{}/v2/a/b/blobs/{}", registry.url(), image.blobs()[1]);
    registry.fault(On::redirect(), Fault::status(502));
    registry.fault(On::blob(), Fault::CutAfter(3));
    assert_eq!(status(Method::GET, blob.clone()).await, 502);
    let moved = client::get(&blob, headers).await.unwrap();
    let cut = client::download(moved.header("location").unwrap(), &[])
        .await
        .unwrap();
    assert_eq!((cut.bytes, cut.error.is_some()), (3, true));
}
