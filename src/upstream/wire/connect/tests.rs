use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::metrics::Metrics;
use crate::upstream::error::Error as UpstreamError;
use crate::upstream::wire::http::Http;

use super::*;

fn http(proxy: Proxy) -> Http {
    let second = Duration::from_secs(1);
    let settings = ConnectionSettings {
        ca_file: None,
        proxy,
        timeouts: Timeouts {
            connect: second,
            headers: 5 * second,
            idle: second,
        },
    };
    let metrics = Arc::new(Metrics::new().unwrap());
    Http::new("r.example", true, &settings, metrics).unwrap()
}

/// Answers everything with 200 and keeps connections open; counts them.
async fn server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut part = [0; 4096];
                while stream.read(&mut part).await.unwrap_or(0) > 0 {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            });
        }
    });
    (port, count)
}

async fn ask(http: &Http, uri: &str, reach: Reach) -> Result<Zone, UpstreamError> {
    let uri: Uri = uri.parse().unwrap();
    let request = http::Request::get(uri.clone()).body(Full::default());
    let until = Instant::now() + Duration::from_secs(5);
    let response = http.send(request.unwrap(), "test", reach, until).await?;
    Ok(http.zone(&uri, &response))
}

#[tokio::test]
async fn a_name_that_leads_to_this_machine_is_not_connected_to() {
    let (port, count) = server().await;
    let http = http(Proxy::Direct);
    let public = Reach::Beside(Zone::Public);
    for host in [
        "127-0-0-1.test",
        "127.0.0.1",
        "[::ffff:127.0.0.1]",
        "127.1",
        "localhost",
    ] {
        let uri = format!("http://{host}:{port}/");
        let error = ask(&http, &uri, public).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Wrong(_)), "{host}: {error}");
        assert!(error.to_string().contains("redirects"), "{error}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // A registry that is on this machine may lead there.
    let uri = format!("http://127-0-0-1.test:{port}/");
    let beside = Reach::Beside(Zone::Loopback);
    assert_eq!(ask(&http, &uri, beside).await.unwrap(), Zone::Loopback);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_that_the_operator_allowed_serves_no_registrys_word() {
    let (port, count) = server().await;
    let http = http(Proxy::Direct);
    let uri = format!("http://127-0-0-1.test:{port}/");
    ask(&http, &uri, Reach::Anywhere).await.unwrap();
    let error = ask(&http, &uri, Reach::Beside(Zone::Public)).await;
    assert!(matches!(error, Err(UpstreamError::Wrong(_))), "{error:?}");
    ask(&http, &uri, Reach::Anywhere).await.unwrap();
    assert_eq!(
        count.load(Ordering::SeqCst),
        1,
        "it is kept for its own kind"
    );
}

#[tokio::test]
async fn addresses_where_clouds_serve_credentials_are_not_connected_to() {
    let http = http(Proxy::Direct);
    for host in [
        "169-254-169-254.test",
        "169.254.169.254",
        "100-100-100-200.test",
        "168-63-129-16.test",
        "192-0-0-192.test",
        "[fd00:ec2::254]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
        "[::169.254.169.254]",
        "metadata.google.internal",
        "100-64-0-1.test",
        "0-0-0-0.test",
    ] {
        for zone in [Zone::Public, Zone::Private, Zone::Loopback] {
            let started = Instant::now();
            let uri = format!("http://{host}/latest/meta-data");
            let error = ask(&http, &uri, Reach::Beside(zone)).await.unwrap_err();
            assert!(matches!(error, UpstreamError::Wrong(_)), "{host}: {error}");
            assert!(started.elapsed() < Duration::from_millis(900), "{host}");
        }
    }
}

#[tokio::test]
async fn through_a_proxy_what_is_local_is_refused_by_its_name() {
    let (port, count) = server().await;
    let proxy = format!("http://127.0.0.1:{port}").parse().unwrap();
    let http = http(Proxy::Url(proxy));
    let public = Reach::Beside(Zone::Public);
    for host in [
        "localhost",
        "a.localhost",
        "127.0.0.1",
        "2130706433",
        "169.254.169.254",
    ] {
        let error = ask(&http, &format!("http://{host}/"), public).await;
        assert!(
            matches!(error, Err(UpstreamError::Wrong(_))),
            "{host}: {error:?}"
        );
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // The proxy is on this machine; the registry behind it is not.
    let zone = ask(&http, "http://registry.example/", Reach::Anywhere).await;
    assert_eq!(zone.unwrap(), Zone::Public);
}

#[tokio::test]
async fn a_proxy_that_fails_is_named_without_its_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for (proxy, registry) in [
        ("http", "http"),
        ("http", "https"),
        ("https", "http"),
        ("https", "https"),
        ("socks5", "https"),
        ("socks5h", "http"),
        ("socks4a", "http"),
    ] {
        let url = format!("{proxy}://me:hunter2@127.0.0.1:{port}")
            .parse()
            .unwrap();
        let http = http(Proxy::Url(url));
        let uri = format!("{registry}://192-0-2-1.test/");
        let error = ask(&http, &uri, Reach::Anywhere)
            .await
            .unwrap_err()
            .to_string();
        let named = format!("the proxy {proxy}://127.0.0.1:{port}");
        assert!(error.contains(&named), "{error}");
        assert!(
            error.contains("refused") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
