//! A pull of what is stored must never need upstream, and no pull must ever get past the mirror.

use std::time::Duration;

use crate::busybox;
use crate::distribution::Distribution;
use crate::dockerd::Dockerd;
use crate::support::content::digest_of;
use crate::support::ledger::Seen;
use crate::support::mirror::log_field;
use crate::support::{FakeRegistry, Image, Index, Mirror, MirrorConfig, client};

/// Short, so that warm pulls revalidate tags: they may cost a HEAD, and never a GET.
const TAG_TTL: &str = "3s";
const LONGER: Duration = Duration::from_secs(4);
const SINGLE: &str = "library/single";
const MANY: &str = "library/many";

/// What the upstreams hold.
struct Held {
    single: Image,
    many: Index,
}

impl Held {
    fn new() -> Held {
        Held {
            single: busybox::image(busybox::native(), "single"),
            many: busybox::index(),
        }
    }

    /// Digests that only another architecture needs.
    fn foreign(&self) -> Vec<String> {
        let [foreign, native] = &self.many.images[..] else {
            panic!("two images")
        };
        let shared = native.blobs();
        let mut all = foreign.blobs();
        all.push(foreign.digest.clone());
        all.retain(|digest| !shared.contains(digest));
        assert!(all.len() >= 3, "{all:?}");
        all
    }

    fn by_digest(&self) -> String {
        format!("single@{}", self.single.digest)
    }

    fn pull_and_run_all(&self, docker: &Dockerd) {
        docker.docker(&["pull", "single:1"]);
        assert_eq!(docker.run("single:1", &["echo", "hello"]), "hello\n");
        docker.docker(&["pull", &self.by_digest()]);
        assert_eq!(
            docker.run(&self.by_digest(), &["cat", "/etc/mark"]),
            "single"
        );
        docker.docker(&["pull", "many:1"]);
        assert_eq!(docker.run("many:1", &["cat", "/etc/mark"]), "native");
        // What runs is what was stored: the configuration's digest is the image's id.
        let id = docker.docker(&["image", "inspect", "--format", "{{.Id}}", "single:1"]);
        assert_eq!(id.trim(), digest_of(&self.single.config));
    }
}

/// GETs of manifests and blobs among request lines.
fn gets(lines: &[String]) -> Vec<&String> {
    lines
        .iter()
        .filter(|line| line.starts_with("GET "))
        .collect()
}

/// Cold, warm, and with upstream gone.
async fn pulls_are_stored(
    held: &Held,
    mirror: &Mirror,
    requests: impl Fn() -> Vec<String>,
    stop_upstream: impl FnOnce(),
) {
    let docker = Dockerd::start(&[mirror.url()]);
    held.pull_and_run_all(&docker);
    let cold = requests();
    for digest in held.foreign() {
        assert!(
            !cold.iter().any(|line| line.contains(&digest)),
            "{digest} was not asked for:\n{cold:#?}"
        );
    }
    let layer = digest_of(&held.single.layers[1]);
    let fetched = gets(&cold)
        .iter()
        .filter(|line| line.ends_with(&format!("/blobs/{layer}")))
        .count();
    assert_eq!(fetched, 1, "{cold:#?}");

    docker.remove_images();
    held.pull_and_run_all(&docker);
    let warm = requests().split_off(cold.len());
    assert!(gets(&warm).is_empty(), "{warm:#?}");

    stop_upstream();
    tokio::time::sleep(LONGER).await;
    docker.remove_images();
    held.pull_and_run_all(&docker);
    let answer = client::get(&mirror.manifest_url(SINGLE, "1"), &[])
        .await
        .unwrap();
    assert_eq!(answer.body, held.single.manifest);
    let status = answer.header("cache-status").unwrap_or_default();
    assert!(status.contains("stale"), "Cache-Status: {status}");
    let stale = |line: &serde_json::Value| {
        log_field(line, "outcome").is_some_and(|outcome| outcome == "stale")
    };
    mirror.wait_for_log(Duration::from_secs(5), stale);
    assert_eq!(
        docker.escapes(),
        Vec::<String>::new(),
        "the daemon went past the mirror"
    );
}

/// The same lines as the real registry logs.
fn line_of(seen: &Seen) -> String {
    let path = seen.target.split('?').next().unwrap_or_default();
    format!("{} {path}", seen.method)
}

#[tokio::test]
async fn dockerd_pulls_from_docker_hub() {
    let held = Held::new();
    let hub = FakeRegistry::docker_hub().start().await;
    hub.put_image(SINGLE, Some("1"), &held.single);
    hub.put_index(MANY, Some("1"), &held.many);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub).tag_ttl(TAG_TTL));
    let requests = || {
        hub.requests()
            .iter()
            .filter(|seen| seen.method != "POST")
            .map(line_of)
            .collect::<Vec<_>>()
    };
    pulls_are_stored(&held, &mirror, requests, || hub.down()).await;
    let counts = hub.counts();
    assert!(
        counts.token_gets >= 1 && counts.blob_host_gets >= 4,
        "not much of a Docker Hub: {counts:?}"
    );
}

#[tokio::test]
async fn dockerd_pulls_from_a_real_registry() {
    let held = Held::new();
    let mut registry = Distribution::start();
    registry.put_image(SINGLE, Some("1"), &held.single).await;
    registry.put_index(MANY, "1", &held.many).await;
    let before = registry.requests().len();
    let mirror = Mirror::start(MirrorConfig::for_url(&registry.url()).tag_ttl(TAG_TTL));
    let registry = std::cell::RefCell::new(&mut registry);
    let requests = || registry.borrow().requests().split_off(before);
    pulls_are_stored(&held, &mirror, requests, || registry.borrow_mut().stop()).await;
}

/// Without the mirror nothing of the above is proved: the daemon does go elsewhere when refused, and is seen.
#[tokio::test]
async fn an_escape_is_noticed() {
    let hub = FakeRegistry::start().await;
    let docker = Dockerd::start(&[hub.url()]);
    let refused = docker.try_docker(&["pull", "nothing:1"]);
    assert!(!refused.status.success());
    assert!(hub.counts().manifest_heads >= 1, "the mirror was not asked");
    let escapes = docker.escapes();
    assert!(
        escapes
            .iter()
            .any(|line| line.starts_with("CONNECT registry-1.docker.io:443")),
        "{escapes:?}"
    );
}
