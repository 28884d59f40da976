//! A request, of whatever bytes, must never make the mirror fail, nor ask an upstream for what no registry is named
//! for.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use crate::support::client::{Ending, Raw, get, raw};
use crate::support::disk::files;
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig};

/// A registry that is not configured.
const STRANGER: &str = "unknown.example";
const PATIENCE: Duration = Duration::from_secs(10);

struct Scene {
    runtime: Runtime,
    registry: FakeRegistry,
    mirror: Mirror,
}

impl Scene {
    fn new() -> Scene {
        let runtime = Runtime::new().unwrap();
        let registry = FakeRegistry::builder().start_now();
        registry.put_image("library/a", Some("1"), &Image::random(1, &[100]));
        let mirror =
            Mirror::start(MirrorConfig::for_upstream(&registry).upstream("quay.io", &registry));
        Scene {
            runtime,
            registry,
            mirror,
        }
    }

    /// The status of the answer to one request line, sent as it is.
    fn ask(&self, line: &[u8]) -> u16 {
        let mut request = line.to_vec();
        request.extend_from_slice(b" HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n");
        let exchange = raw(self.mirror.authority(), &request, PATIENCE);
        let (answer, ending) = self.runtime.block_on(exchange);
        assert_ne!(ending, Ending::Silent);
        let text = String::from_utf8_lossy(&answer);
        let status = text
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok());
        status.unwrap_or_else(|| panic!("no answer: {text:?}"))
    }

    /// Still the same process, well, and without a panic on its record.
    fn assert_alive(&self) {
        let url = self.mirror.manifest_url("a", "1");
        let answer = self.runtime.block_on(get(&url, &[])).unwrap();
        assert_eq!(answer.status, 200);
        assert!(!self.mirror.output().contains("panicked"));
    }

    /// Whatever was asked of us, an upstream was only asked for what can be in a registry, under no other name than its
    /// own.
    fn assert_upstream_was_asked_sensibly(&self) {
        let seen = self.registry.requests();
        for seen in &seen {
            let target = &seen.target;
            assert!(
                matches!(&*seen.method, "GET" | "HEAD"),
                "{} {target}",
                seen.method
            );
            let rest = target
                .strip_prefix("/v2/")
                .unwrap_or_else(|| panic!("{target}"));
            let sane = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
            let path = rest.split('?').next().unwrap();
            assert!(path.chars().all(sane), "{target}");
            let climbs = path.split('/').any(|part| matches!(part, "" | "." | ".."));
            assert!(!climbs, "{target}");
            assert!(!target.contains("ns="), "{target}");
        }
    }

    fn run<T: std::fmt::Debug>(
        &self,
        cases: u32,
        strategy: impl Strategy<Value = T>,
        test: impl Fn(T) -> Result<(), TestCaseError>,
    ) {
        let config = Config {
            cases,
            max_shrink_iters: 200,
            failure_persistence: None,
            ..Config::default()
        };
        if let Err(failure) = TestRunner::new(config).run(&strategy, test) {
            panic!("{failure}");
        }
    }
}

/// Pieces that mean something, and pieces that mean harm.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let words = [
        "v2",
        "v1",
        "a",
        "library",
        "manifests",
        "blobs",
        "uploads",
        "tags",
        "list",
        "referrers",
        "_catalog",
        "_ping",
        "search",
        "1",
        "latest",
        "docker.io",
        "quay.io",
        STRANGER,
        "localhost:5000",
        "localhost%3A5000",
        "[::1]:5000",
        "..",
        ".",
        "",
        "%2e%2e",
        "%2E",
        "%2f",
        "%2F..%2f",
        "%00",
        "%0d%0aHost:%20x",
        "%",
        "%zz",
        "%ff",
        "%c3%28",
        "%ef%bb%bf",
        "%u2024",
        "a@b",
        "a:b@c.d",
        "x:y:z",
        "~",
        "\\..\\",
        "*",
        ";x",
        "sha256:",
        "sha512:00",
        "a.b_c",
        "http:",
        "-",
        "__",
        "a--b",
        "A",
    ];
    let known = words.map(|word| word.as_bytes().to_vec()).to_vec();
    prop_oneof![
        12 => prop::sample::select(known),
        2 => Just(digest.into_bytes()),
        2 => "\\PC{0,12}".prop_map(String::into_bytes),
        2 => prop::collection::vec(any::<u8>(), 0..12),
        1 => ("[a-z.%/]", 1..5000_usize).prop_map(|(text, count)| text.repeat(count).into_bytes()),
        1 => (60_000..70_000_usize).prop_map(|count| vec![b'a'; count]),
    ]
}

/// Not a byte that would end the line, or it would be another request.
fn one_line(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.retain(|byte| !matches!(byte, b'\r' | b'\n'));
    bytes
}

fn target() -> impl Strategy<Value = Vec<u8>> {
    let path = prop::collection::vec(piece(), 0..8).prop_map(|pieces| pieces.join(&b'/'));
    let query = prop::option::of((
        prop::sample::select(vec![
            "ns=", "n=", "last=", "q=", "ns", "%6es=", "&&ns=", "digest=",
        ]),
        piece(),
        prop::option::of(piece()),
    ));
    let start = prop::sample::select(vec![
        "/",
        "/",
        "/",
        "/v2/",
        "/v2/",
        "/v2/a/",
        "//",
        "http://m/",
        "http://",
        "",
        "*",
    ]);
    (start, path, query).prop_map(|(start, path, query)| {
        let mut target = start.as_bytes().to_vec();
        target.extend(path);
        if let Some((key, value, more)) = query {
            target.push(b'?');
            target.extend_from_slice(key.as_bytes());
            target.extend(value);
            if let Some(more) = more {
                target.extend_from_slice(b"&ns=");
                target.extend(more);
            }
        }
        one_line(target)
    })
}

/// A whole request that is nearly one: lines that are right, wrong, doubled, cut or torn, in any order, and a body or
/// not.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        prop::sample::select(vec![
            "GET /v2/ HTTP/1.1",
            "HEAD /v2/a/manifests/1 HTTP/1.0",
            "POST /v2/a/blobs/uploads/ HTTP/1.1",
            "host: m",
            "host:",
            "content-length: 5",
            "content-length: 0x5",
            "Content-Length : 5",
            "transfer-encoding: chunked",
            "transfer-encoding: gzip, chunked",
            "connection: close",
            "connection: keep-alive, upgrade",
            "expect: 100-continue",
            "range: bytes=0-,-1,5-2",
            "if-none-match: \"",
            " folded",
            ": no name",
            "",
            "5",
            "hello",
            "ffffffffffffffffff",
            "PRI * HTTP/2.0",
        ])
        .prop_map(|line| line.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..40),
        (prop::collection::vec(any::<u8>(), 1..8), 1..2000_usize)
            .prop_map(|(piece, count)| piece.repeat(count)),
    ];
    let end = prop::sample::select(vec!["\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n\r\n", "\0"]);
    prop::collection::vec((line, end), 0..12).prop_map(|lines| {
        let bytes = lines.into_iter().flat_map(|(mut line, end)| {
            line.extend_from_slice(end.as_bytes());
            line
        });
        bytes.collect()
    })
}

#[test]
fn no_bytes_make_it_fail() {
    let scene = Scene::new();
    // What is stored by the pulls of the test itself is there before.
    scene.assert_alive();
    let above = scene.mirror.store_path().parent().unwrap().to_owned();
    let before = files(&above);
    scene.run(400, nearly_http(), |bytes| {
        let exchange = async {
            let mut connection = Raw::connect(scene.mirror.authority()).await;
            // It may be refused before all of it is sent.
            let _ = connection.stream().write_all(&bytes).await;
            let _ = connection.stream().shutdown().await;
            connection.read(PATIENCE).await
        };
        let (answer, ending) = scene.runtime.block_on(exchange);
        prop_assert_ne!(ending, Ending::Silent);
        let text = String::from_utf8_lossy(&answer);
        prop_assert!(!text.contains("HTTP/1.1 5"), "{}", text);
        Ok(())
    });
    assert_eq!(files(&above), before);
    scene.assert_upstream_was_asked_sensibly();
    scene.assert_alive();
}

#[test]
fn no_target_makes_it_fail() {
    let scene = Scene::new();
    let methods = vec![
        "GET", "GET", "GET", "GET", "HEAD", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS",
        "TRACE", "CONNECT", "get", "X",
    ];
    let requests = (prop::sample::select(methods), target());
    scene.run(600, requests, |(method, target)| {
        let line = [method.as_bytes(), &target].join(&b' ');
        let status = scene.ask(&line);
        prop_assert!((200..500).contains(&status), "{}", status);
        Ok(())
    });
    scene.assert_upstream_was_asked_sensibly();
    scene.assert_alive();
}

/// Well-formed but for one thing: the registry is not configured.
fn of_a_stranger() -> impl Strategy<Value = String> {
    let stranger = prop_oneof![
        Just(STRANGER.to_owned()),
        Just("UNKNOWN.Example".to_owned()),
        Just("localhost:5001".to_owned()),
        Just("localhost%3A5001".to_owned()),
        Just("127.0.0.1:80".to_owned()),
        Just("169.254.169.254".to_owned()),
        Just("quay.io:443".to_owned()),
        Just("quay.io.".to_owned()),
        Just("quay.io.unknown.example".to_owned()),
        "[a-z]{1,8}\\.[a-z]{2,5}".prop_filter("not configured", |name| {
            !["docker.io", "quay.io"].contains(&&**name)
        }),
    ];
    let digest = format!("sha256:{}", "0".repeat(64));
    let last = prop::sample::select(vec![
        "manifests/1".to_owned(),
        format!("manifests/{digest}"),
        format!("blobs/{digest}"),
        "tags/list".to_owned(),
        format!("referrers/{digest}"),
    ]);
    (stranger, "[a-z]{1,5}(/[a-z]{1,5}){0,2}", last, 0..6_u8).prop_map(
        |(host, repo, last, form)| match form {
            0 => format!("/v2/{host}/{repo}/{last}"),
            1 => format!("/{host}/v2/{repo}/{last}"),
            2 => format!("/{host}/{repo}/{last}"),
            3 => format!("/v2/{repo}/{last}?ns={host}"),
            4 => format!("/v2/{repo}/{last}?n=1&ns={host}&ns=docker.io"),
            _ => format!("/docker.io/v2/{repo}/{last}?ns={host}"),
        },
    )
}

#[test]
fn a_registry_that_is_not_configured_is_never_asked_for() {
    let scene = Scene::new();
    scene.run(300, of_a_stranger(), |target| {
        let status = scene.ask(format!("GET {target}").as_bytes());
        prop_assert!(matches!(status, 400 | 404), "{}", status);
        prop_assert_eq!(scene.registry.counts().requests(), 0);
        Ok(())
    });
    assert_eq!(scene.registry.connections(), 0);
    scene.assert_alive();
}
