//! Where a registry may lead the mirror: never to this machine, its link or a cloud's metadata, unless it is there itself.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::loopback::any_port;
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, client, image, scene};

/// A proxy for plain HTTP that has one registry behind every name, and notes the targets.
struct Everywhere {
    url: String,
    targets: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Everywhere {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Everywhere {
    async fn before(registry: &FakeRegistry) -> Everywhere {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let targets = Arc::new(Mutex::new(Vec::new()));
        let (noted, behind) = (Arc::clone(&targets), registry.authority());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, behind.clone(), Arc::clone(&noted)));
            }
        });
        Everywhere { url, targets, task }
    }

    fn targets(&self) -> Vec<String> {
        self.targets.lock().unwrap().clone()
    }
}

async fn pass(mut client: TcpStream, behind: String, noted: Arc<Mutex<Vec<String>>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let (method, rest) = head.split_once(' ')?;
    let (target, rest) = rest.split_once(' ')?;
    noted.lock().unwrap().push(target.to_owned());
    let (_, path) = target.strip_prefix("http://")?.split_once('/')?;
    let (version, headers) = rest.split_once("\r\n")?;
    let mut server = TcpStream::connect(behind).await.ok()?;
    let request = format!("{method} /{path} {version}\r\nConnection: close\r\n{headers}");
    server.write_all(request.as_bytes()).await.ok()?;
    copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

fn redirect(location: &str) -> Fault {
    let header = ("Location".to_owned(), location.to_owned());
    Fault::Status(307, String::new(), vec![header])
}

fn challenge(realm: &str) -> Fault {
    let value = format!("Bearer realm=\"{realm}\",service=\"fake\"");
    Fault::Status(401, String::new(), vec![("WWW-Authenticate".into(), value)])
}

const METADATA: [&str; 8] = [
    "169.254.169.254",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "[fd00:ec2::254]",
    "[64:ff9b::a9fe:a9fe]",
    "[::ffff:169.254.169.254]",
    "metadata.google.internal",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_on_this_machine_led_to_the_credentials_of_the_machine() {
    let (registry, mirror, _) = scene::cold_image(|config| config.asking_each_time());
    for host in METADATA {
        let location = format!("http://{host}/latest/meta-data/");
        registry.fault(On::manifest(), redirect(&location));
        let started = Instant::now();
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(
            answer.status,
            StatusCode::BAD_GATEWAY,
            "{host}: {}",
            answer.text()
        );
        registry.fault(On::any(), challenge(&format!("http://{host}/token")));
        let answer = mirror.manifest(REPO, "1.0").await;
        assert!(!answer.status.is_success(), "{host}");
        assert!(
            started.elapsed() < Duration::from_secs(2),
            "{host}: it was dialled"
        );
    }
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    let log = mirror.log_of_failure("a cloud's metadata");
    assert!(log.contains("redirects"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_proxy_a_registry_led_to_the_proxys_own_network() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let proxy = Everywhere::before(&registry).await;
    let config = MirrorConfig::for_url("http://registry.public.example")
        .toml(&format!("proxy = \"{}\"", proxy.url))
        .asking_each_time();
    let mirror = Mirror::start(config);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    let local = [
        "127.0.0.1:8080",
        "localhost",
        "2130706433",
        "[::1]",
        "x.localhost",
    ];
    for host in METADATA.iter().chain(&local) {
        registry.fault(On::manifest(), redirect(&format!("http://{host}/secret")));
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::OK, "{host}: stale");
        let url = mirror.blob_url(REPO, &image(1).blobs()[0]);
        registry.fault(On::blob(), redirect(&format!("http://{host}/secret")));
        let answer = client::get(&url, &[("range", "bytes=0-60")]).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{host}");
        registry.fault(On::any(), challenge(&format!("http://{host}/secret")));
        mirror.manifest(REPO, "1.0").await;
        registry.clear_faults();
    }
    let targets = proxy.targets();
    let led = targets.iter().find(|target| target.contains("secret"));
    assert_eq!(led, None, "{targets:?}");
    // What is public is followed.
    registry.fault(
        On::manifest(),
        redirect(&format!(
            "http://cdn.public.example/v2/{REPO}/manifests/1.0"
        )),
    );
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    let cdn = |target: &String| target.starts_with("http://cdn.public.example/");
    assert!(proxy.targets().iter().any(cdn));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_operator_lists_may_be_anywhere() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let proxy = Everywhere::before(&registry).await;
    let config = MirrorConfig::for_url("http://registry.public.example")
        .toml(&format!("proxy = \"{}\"", proxy.url))
        .toml("redirects = [\"127.0.0.1:9000\"]")
        .asking_each_time();
    let mirror = Mirror::start(config);
    let path = format!("v2/{REPO}/manifests/1.0");
    for (host, status) in [
        ("127.0.0.1:9000", StatusCode::OK),
        ("127.0.0.1:9001", StatusCode::BAD_GATEWAY),
        ("127.0.0.2:9000", StatusCode::BAD_GATEWAY),
    ] {
        registry.fault(On::manifest(), redirect(&format!("http://{host}/{path}")));
        let tag = host.replace(':', "-");
        let answer = mirror.manifest("acme/other", &tag).await;
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_redirect_says_of_who_to_be_is_in_no_log() {
    let (registry, _) = scene::start();
    registry.put_image(REPO, Some("1.0"), &image(1));
    let config = MirrorConfig::for_upstream(&registry)
        .environment("PIERGLASS_LOG_LEVEL", "trace")
        .asking_each_time();
    let mirror = Mirror::start(config);
    let host = registry.authority();
    let path = format!("v2/{REPO}/manifests/1.0");
    let mut said = String::new();
    for fault in [
        redirect(&format!("http://me:hunter2@{host}/{path}")),
        redirect(&format!("//me:hunter2@{host}/{path}")),
        // Nothing listens there, and that is no host.
        redirect("http://me:hunter2@127.0.0.1:1/"),
        redirect("http://me:hunter2@/"),
        redirect("http://me:hunter2@a b/"),
        challenge(&format!("http://me:hunter2@{host}/token")),
        challenge("http://me:hunter2@127.0.0.1:1/token"),
        challenge("https://me:hunter2@192.0.2.1:99999/token"),
    ] {
        registry.fault(On::any(), fault);
        let answer = mirror.manifest(REPO, "1.0").await;
        said += &format!("{:?}{}", answer.headers, answer.text());
    }
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    said += &metrics.unwrap().text();
    let log = mirror.output();
    assert!(log.contains("TRACE"));
    for text in [&log, &said] {
        let line = text.lines().find(|line| line.contains("hunter2"));
        assert_eq!(line, None);
    }
}
