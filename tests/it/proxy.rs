//! Upstreams must be reached the way the operator said, and a silent one must never keep a client waiting for ever.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::client::download;
use crate::support::disk::blobs;
use crate::support::loopback::any_port;
use crate::support::tls::{Certificate, Front};
use crate::support::{
    FakeRegistry, Fault, Image, MIB, Mirror, MirrorConfig, On, REPO, TAG, client, plain, scene,
};

/// An HTTP proxy that remembers the heads of the requests it was sent.
struct Proxy {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    async fn start() -> Proxy {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let notes = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, notes.clone()));
            }
        });
        Proxy { url, seen, task }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// First lines of all requests.
    fn lines(&self) -> Vec<String> {
        let first = |head: &String| head.lines().next().unwrap().to_owned();
        self.seen().iter().map(first).collect()
    }
}

/// CONNECT as a tunnel; anything else as one request in absolute form (RFC 9112 3.2.2), after which the connection
/// ends.
async fn pass(mut client: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    seen.lock().unwrap().push(head.clone());
    let (method, rest) = head.split_once(' ')?;
    let (target, rest) = rest.split_once(' ')?;
    if method == "CONNECT" {
        let mut server = TcpStream::connect(target).await.ok()?;
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
        copy_bidirectional(&mut client, &mut server).await.ok()?;
        return Some(());
    }
    let (authority, path) = target.strip_prefix("http://")?.split_once('/')?;
    let mut server = TcpStream::connect(authority).await.ok()?;
    let (version, headers) = rest.split_once("\r\n")?;
    let request = format!("{method} /{path} {version}\r\nConnection: close\r\n{headers}");
    server.write_all(request.as_bytes()).await.ok()?;
    tokio::io::copy(&mut server, &mut client).await.ok()?;
    client.shutdown().await.ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_upstream_is_asked_through_the_proxy() {
    let image = Image::random(1, &[200_000]);
    let registry = scene::registry_with(FakeRegistry::builder(), &image);
    for by_key in [false, true] {
        let proxy = Proxy::start().await;
        let config = MirrorConfig::for_upstream(&registry);
        let config = if by_key {
            config.toml(&format!("proxy = \"{}\"", proxy.url))
        } else {
            config.environment("HTTP_PROXY", &proxy.url)
        };
        Mirror::start(config).pull(REPO, TAG, &image).await;
        let lines = proxy.lines();
        assert_eq!(lines.len(), 3, "{lines:?}");
        let expected = format!("GET {}/v2/{REPO}/manifests/{TAG} HTTP/1.1", registry.url());
        assert_eq!(lines[0], expected);
    }
}

/// A registry with an image, which can also be asked over TLS.
async fn registry_with_tls() -> (Image, FakeRegistry, Certificate, Front) {
    let image = Image::random(1, &[200_000]);
    let registry = scene::registry_with(FakeRegistry::builder(), &image);
    let certificate = Certificate::new();
    let front = Front::start(&certificate, registry.authority()).await;
    (image, registry, certificate, front)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_https_upstream_is_reached_through_a_tunnel() {
    let (image, _registry, certificate, front) = registry_with_tls().await;
    let ca_file = format!("ca_file = \"{}\"", certificate.certificate().display());
    let config = MirrorConfig::for_url(&format!("https://{}", front.address)).toml(&ca_file);
    for by_key in [false, true] {
        let proxy = Proxy::start().await;
        let config = if by_key {
            config.clone().toml(&format!("proxy = \"{}\"", proxy.url))
        } else {
            config.clone().environment("HTTPS_PROXY", &proxy.url)
        };
        Mirror::start(config).pull(REPO, TAG, &image).await;
        let lines = proxy.lines();
        let tunnel = format!("CONNECT {} HTTP/1.1", front.address);
        assert!(
            !lines.is_empty() && lines.iter().all(|line| *line == tunnel),
            "{lines:?}"
        );
    }
    // The same without a proxy, and refused without the certificate.
    Mirror::start(config).pull(REPO, TAG, &image).await;
    let distrusting = MirrorConfig::for_url(&format!("https://{}", front.address));
    let mirror = Mirror::start(distrusting);
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    mirror.wait_for_cause("certificate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_gets_the_credentials_in_its_url_and_upstream_does_not() {
    let (image, registry, certificate, front) = registry_with_tls().await;
    let proxy = Proxy::start().await;
    let url = proxy.url.replace("http://", "http://user:pass@");
    let ca_file = format!("ca_file = \"{}\"", certificate.certificate().display());
    for config in [
        MirrorConfig::for_url(&format!("https://{}", front.address)).toml(&ca_file),
        MirrorConfig::for_upstream(&registry),
    ] {
        let config = config
            .environment("HTTPS_PROXY", &url)
            .environment("HTTP_PROXY", &url);
        let mirror = Mirror::start(config);
        mirror.pull(REPO, TAG, &image).await;
        assert!(!mirror.output().contains("user:pass"));
    }
    let seen = proxy.seen();
    assert!(seen.len() > 3);
    for head in seen {
        let lower = head.to_ascii_lowercase();
        assert!(
            lower.contains("\r\nproxy-authorization: basic dxnlcjpwyxnz\r\n"),
            "{head}"
        );
    }
    let asked = registry.requests();
    assert!(
        asked
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_proxy_and_none_go_straight_to_the_upstream() {
    let image = Image::random(1, &[200_000]);
    let registry = scene::registry_with(FakeRegistry::builder(), &image);
    let proxy = Proxy::start().await;
    let config = || {
        MirrorConfig::for_upstream(&registry)
            .environment("HTTP_PROXY", &proxy.url)
            .environment("HTTPS_PROXY", &proxy.url)
    };
    let authority = registry.authority();
    let (host, _) = authority.split_once(':').unwrap();
    for config in [
        config().environment("NO_PROXY", &format!("example.com,{host}")),
        config().environment("NO_PROXY", "127.0.0.0/8"),
        config().environment("no_proxy", "*"),
        config().toml("proxy = \"none\""),
    ] {
        Mirror::start(config).pull(REPO, TAG, &image).await;
        assert_eq!(proxy.lines(), Vec::<String>::new());
    }
    let elsewhere = config().environment("NO_PROXY", "example.com,10.0.0.0/8");
    Mirror::start(elsewhere).pull(REPO, TAG, &image).await;
    assert_eq!(proxy.lines().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_says_nothing_costs_no_more_than_header_timeout() {
    let silent = TcpListener::bind(any_port()).await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let config = MirrorConfig::for_url("https://registry.invalid")
        .toml(&format!("proxy = \"{url}\"\nheader_timeout = \"1s\""));
    let mirror = Mirror::start(config);
    let started = Instant::now();
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(
        answer.status,
        StatusCode::GATEWAY_TIMEOUT,
        "{}",
        answer.text()
    );
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_never_answers_is_given_up_in_time() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob(REPO, 1, MIB);
    registry.fault(On::any().forever(), Fault::Hang);
    let config = MirrorConfig::for_upstream(&registry).toml("header_timeout = \"1s\"");
    let mirror = Mirror::start(config);
    let urls = [
        mirror.manifest_url(REPO, TAG),
        mirror.manifest_url(REPO, &digest),
        mirror.blob_url(REPO, &digest),
    ];
    let started = Instant::now();
    let asked = urls.iter().flat_map(|url| {
        [
            client::request(http::Method::GET, url, &[]),
            client::request(http::Method::HEAD, url, &[]),
        ]
    });
    for answer in futures_util::future::join_all(asked).await {
        assert_eq!(answer.unwrap().status, StatusCode::GATEWAY_TIMEOUT);
    }
    let took = started.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_stalls_is_aborted_and_not_ended() {
    let registry = FakeRegistry::start().await;
    for (size, max_size, framing) in [
        (MIB, "1GiB", Fault::Stall(MIB / 16, Duration::from_secs(60))),
        (
            9 * MIB,
            "4MiB",
            Fault::Stall(MIB / 2, Duration::from_secs(60)),
        ),
    ] {
        let digest = registry.put_generated_blob(REPO, size, size);
        let stalled = registry.fault(On::blob().get().forever(), framing);
        let mirror = Mirror::start(
            MirrorConfig::for_upstream(&registry)
                .toml("idle_timeout = \"1s\"")
                .max_size(max_size),
        );
        let started = Instant::now();
        let answer = download(&mirror.blob_url(REPO, &digest), &[])
            .await
            .unwrap();
        let took = started.elapsed();
        assert!(
            answer.error.is_some(),
            "a clean end after {} bytes",
            answer.bytes
        );
        assert!(answer.bytes < size);
        // It may be resumed a few times before it is given up.
        assert!(took > Duration::from_millis(900), "{took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert!(registry.struck(stalled) > 0);
        assert!(!blobs(&mirror.store_path()).contains(&digest));
        registry.clear_faults();
        let again = download(&mirror.blob_url(REPO, &digest), &[]).await;
        again.unwrap().assert_is(&digest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_port_is_told_at_once() {
    let (registry, mirror, digest) = scene::cold_blob(MIB, plain);
    registry.down();
    for url in [
        mirror.manifest_url(REPO, TAG),
        mirror.blob_url(REPO, &digest),
    ] {
        let started = Instant::now();
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
        assert!(answer.header("retry-after").is_some());
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    registry.up();
    mirror.pull_blob(REPO, &digest).await;
}

/// The first bytes that a client sends to a listener, which does not answer.
async fn first_bytes(listener: TcpListener) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).await.unwrap();
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_tls_was_told_its_password_in_clear() {
    for upstream in ["http://registry.invalid", "https://registry.invalid"] {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let url = format!("https://user:pass@{}", listener.local_addr().unwrap());
        let config = MirrorConfig::for_url(upstream)
            .timeouts("1s")
            .environment("HTTPS_PROXY", &url)
            .environment("HTTP_PROXY", &url);
        let mirror = Mirror::start(config);
        let (received, _) = tokio::join!(first_bytes(listener), mirror.manifest(REPO, TAG));
        // A TLS record with a handshake (RFC 8446 5.1).
        assert_eq!(received.first(), Some(&0x16), "{upstream}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_tls_is_spoken_to_over_it() {
    let (image, registry, certificate, front) = registry_with_tls().await;
    let proxy = Proxy::start().await;
    let behind = proxy.url.replace("http://", "");
    let at_proxy = Certificate::new();
    let secured = Front::start(&at_proxy, behind).await;
    let both = tempfile::NamedTempFile::new().unwrap();
    let pem = [certificate.certificate(), at_proxy.certificate()].map(std::fs::read);
    let [first, second] = pem.map(Result::unwrap);
    std::fs::write(&both, [first, second].concat()).unwrap();
    let ca_file = format!("ca_file = \"{}\"", both.path().display());
    let url = format!("https://user:pass@{}", secured.address);
    for upstream in [format!("https://{}", front.address), registry.url()] {
        let config = MirrorConfig::for_url(&upstream)
            .toml(&ca_file)
            .environment("HTTPS_PROXY", &url)
            .environment("HTTP_PROXY", &url);
        let mirror = Mirror::start(config);
        mirror.pull(REPO, TAG, &image).await;
        assert!(!mirror.output().contains("user:pass"));
    }
    let seen = proxy.seen();
    assert!(seen.iter().any(|head| head.starts_with("CONNECT ")));
    assert!(seen.iter().any(|head| head.starts_with("GET http://")));
    for head in seen {
        let lower = head.to_ascii_lowercase();
        assert!(lower.contains("basic dxnlcjpwyxnz"), "{head}");
    }
}

/// A SOCKS 5 server (RFC 1928, RFC 1929) that leads every name to one address, and notes who asked for what.
async fn socks(listener: TcpListener, behind: String, seen: Arc<Mutex<Vec<String>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(socks_connection(stream, behind.clone(), seen.clone()));
    }
}

async fn socks_connection(
    mut client: TcpStream,
    behind: String,
    seen: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let exactly = async |client: &mut TcpStream, length: u8| {
        let mut bytes = vec![0; length.into()];
        client.read_exact(&mut bytes).await.map(|_| bytes)
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let methods = exactly(&mut client, 2).await?[1];
    let offered = exactly(&mut client, methods).await?;
    let mut user = "nobody".to_owned();
    if offered.contains(&2) {
        client.write_all(&[5, 2]).await?;
        let length = exactly(&mut client, 2).await?[1];
        user = text(exactly(&mut client, length).await?);
        let length = exactly(&mut client, 1).await?[0];
        user += &format!(":{}", text(exactly(&mut client, length).await?));
        client.write_all(&[1, 0]).await?;
    } else {
        client.write_all(&[5, 0]).await?;
    }
    let target = match exactly(&mut client, 4).await?[3] {
        3 => {
            let length = exactly(&mut client, 1).await?[0];
            text(exactly(&mut client, length).await?)
        }
        _ => format!("{:?}", exactly(&mut client, 4).await?),
    };
    let port = exactly(&mut client, 2).await?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    seen.lock().unwrap().push(format!("{user} {target} {port}"));
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    let mut server = TcpStream::connect(behind).await?;
    copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socks_proxy_is_spoken_to_in_its_own_protocol() {
    let image = Image::random(1, &[200_000]);
    let registry = scene::registry_with(FakeRegistry::builder(), &image);
    let listener = TcpListener::bind(any_port()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let task = tokio::spawn(socks(listener, registry.authority(), Arc::clone(&seen)));
    let named = MirrorConfig::for_url("http://registry.example");
    for config in [
        named
            .clone()
            .environment("ALL_PROXY", &format!("socks5h://user:pass@{address}")),
        named.toml(&format!("proxy = \"socks5h://{address}\"")),
        MirrorConfig::for_url("http://127.0.0.3:81")
            .toml(&format!("proxy = \"socks5://{address}\"")),
    ] {
        let mirror = Mirror::start(config);
        mirror.pull(REPO, TAG, &image).await;
        assert!(!mirror.output().contains("user:pass"));
    }
    task.abort();
    let seen = seen.lock().unwrap().clone();
    for expected in [
        "user:pass registry.example 80",
        "nobody registry.example 80",
        "nobody [127, 0, 0, 3] 81",
    ] {
        assert!(
            seen.iter().any(|seen| seen == expected),
            "{expected}: {seen:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_failed_was_taken_for_the_registry() {
    let gone = TcpListener::bind(any_port()).await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    for upstream in ["http://registry.invalid", "https://registry.invalid"] {
        for proxy in ["http", "https", "socks5h"] {
            let url = format!("{proxy}://user:pass@{address}");
            let config = MirrorConfig::for_url(upstream).environment("ALL_PROXY", &url);
            let mirror = Mirror::start(config);
            let answer = mirror.manifest(REPO, TAG).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            let named = format!("the proxy {proxy}://{address}");
            let log = mirror.log_of_failure(&named);
            assert!(!log.contains("user:pass"), "{log}");
        }
    }
}

#[test]
fn a_proxy_that_cannot_be_spoken_to_is_refused_at_the_start() {
    let config = MirrorConfig::for_url("http://registry.invalid");
    let by_variable = config
        .clone()
        .environment("HTTPS_PROXY", "quic://user:pass@127.0.0.1:1");
    let (status, text) = Mirror::fail_to_start(&by_variable);
    assert_eq!(status.code(), Some(64));
    assert!(
        text.contains("HTTPS_PROXY") && !text.contains("user:pass"),
        "{text}"
    );
    let by_key = config.toml("proxy = \"quic://127.0.0.1:1\"");
    let (status, text) = Mirror::fail_to_start(&by_key);
    assert_eq!(status.code(), Some(64));
    assert!(text.contains("proxy") && text.contains("socks5h"), "{text}");
    // Where it does not count it may say what it likes.
    let elsewhere = by_variable.toml("proxy = \"none\"");
    Mirror::start(elsewhere);
}
