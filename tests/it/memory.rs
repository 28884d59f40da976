//! Many ask at once for what is long: manifests, lists, parts of lists. That must cost no more memory than was set, hold
//! up no other request, and leave nothing behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::{FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, image};

const BUFFERED: u64 = 64 * MIB;

/// A manifest in a form of which a tree takes a hundred times as much as the text.
fn long_manifest(mib: u64) -> String {
    let items = "{\"\":0},".repeat(usize::try_from(mib * MIB / 7).unwrap());
    format!(r#"{{"mediaType":"{OCI_MANIFEST}","config":{{}},"layers":[],"x":[{items}0]}}"#)
}

fn json_answer(media_type: &str, body: String) -> Fault {
    Fault::Status(200, body, vec![("Content-Type".into(), media_type.into())])
}

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry)
        .top("max_buffered", &format!("{BUFFERED}"))
        .top("max_requests_per_client", "\"none\"")
        .tag_ttl("1h")
}

/// Asks, and reads the status of the answer; the rest is left in the way for a while.
async fn ask(authority: String, path: String) -> Option<u16> {
    let mut stream = TcpStream::connect(&authority).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0; 12];
    let read = tokio::time::timeout(Duration::from_secs(60), stream.read_exact(&mut head));
    read.await.ok()?.ok()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

/// A thousand connections, and those of the registry, are more files than a process usually may open.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_hostile_requests_stay_within_the_budget() {
    raise_file_limit();
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let long = registry.put_manifest(REPO, None, OCI_MANIFEST, long_manifest(3));
    for number in 0..400 {
        registry.tag(REPO, &format!("long-{number}"), &long);
    }
    let tags: Vec<_> = (0..200_000).map(|number| format!("tag-{number}")).collect();
    let tags = json!({"name": REPO, "tags": tags}).to_string();
    registry.fault(On::tags().forever(), json_answer("application/json", tags));
    let referrer =
        json!({"artifactType": "a/b", "digest": long, "size": 1, "mediaType": OCI_MANIFEST});
    let referrers: Vec<_> = (0..12_000).map(|_| &referrer).collect();
    let referrers = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers});
    registry.fault(
        On::referrers().forever(),
        json_answer(OCI_INDEX, referrers.to_string()),
    );
    let mirror = Mirror::start(config(&registry));
    let tags = format!("/v2/{REPO}/tags/list");
    let referrers = format!("/v2/{REPO}/referrers/{long}");
    let page = mirror.get(&format!("{tags}?n=2&last=tag-5")).await;
    assert_eq!(page.json()["tags"], json!(["tag-50", "tag-500"]));
    assert_eq!(mirror.get(&referrers).await.status, StatusCode::OK);
    // All but the end of each manifest comes at once.
    let stall = Fault::Stall(3 * MIB - 1000, Duration::from_secs(1));
    registry.fault(On::manifest().get().forever(), stall);

    let paths = (0..400)
        .map(|number| format!("/v2/{REPO}/manifests/long-{number}"))
        .chain((0..300).map(|_| tags.clone()))
        .chain((0..300).map(|_| format!("{referrers}?artifactType=a/b")));
    let asked: Vec<_> = paths
        .map(|path| tokio::spawn(ask(mirror.authority().to_owned(), path)))
        .collect();
    let mut longest = Duration::ZERO;
    while !asked.iter().all(tokio::task::JoinHandle::is_finished) {
        let started = Instant::now();
        assert_eq!(mirror.get("/v2/").await.status, StatusCode::OK);
        longest = longest.max(started.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut statuses = BTreeMap::new();
    for status in asked {
        *statuses
            .entry(status.await.unwrap().unwrap_or(0))
            .or_insert(0) += 1;
    }
    let peak = mirror.rss_peak() / MIB;
    assert!(
        statuses
            .keys()
            .all(|status| [200, 503, 504].contains(status))
    );
    assert!(statuses[&200] > 0 && statuses[&503] > 0, "{statuses:?}");
    // Each body twice (it, and what is made of it), and what a thousand connections take. As trees it were gigabytes.
    assert!(peak <= 2 * BUFFERED / MIB + 160, "{peak} MiB, {statuses:?}");
    assert!(longest < Duration::from_secs(5), "{longest:?}");
    registry.clear_faults();
    mirror.pull(REPO, "1.0", &image(1)).await;
    let found = mirror.manifest(REPO, &long).await;
    assert_eq!(found.status, StatusCode::OK, "{}", found.text().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_stalls_took_the_room_of_the_others() {
    let (slow, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let long = slow.put_manifest(REPO, None, OCI_MANIFEST, long_manifest(3));
    other.put_manifest(REPO, Some("1"), OCI_MANIFEST, long_manifest(3));
    let stalled = 2 * BUFFERED / MIB / 3;
    for number in 0..stalled {
        slow.tag(REPO, &format!("long-{number}"), &long);
    }
    let stall = Fault::Stall(3 * MIB - 1000, Duration::from_secs(60));
    let stall = slow.fault(On::manifest().get().forever(), stall);
    let mirror = Mirror::start(config(&other).upstream("quay.io", &slow));
    for number in 0..stalled {
        let path = format!("/v2/quay.io/{REPO}/manifests/long-{number}");
        tokio::spawn(ask(mirror.authority().to_owned(), path));
    }
    let started = Instant::now();
    while slow.struck(stall) < stalled && started.elapsed() < Duration::from_secs(4) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let found = mirror.manifest(REPO, "1").await;
    assert_eq!(found.status, StatusCode::OK, "{}", found.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_longer_than_clients_take_is_refused() {
    let registry = FakeRegistry::start().await;
    registry.put_manifest(REPO, Some("1"), OCI_MANIFEST, long_manifest(5));
    let announced = Mirror::start(config(&registry));
    let answer = announced.manifest(REPO, "1").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    let larger = config(&registry).top("max_manifest", "\"8MiB\"");
    let larger = Mirror::start(larger);
    let answer = larger.manifest(REPO, "1").await;
    assert_eq!(answer.status, StatusCode::OK);
    registry.fault(On::manifest().get().forever(), Fault::NoContentLength);
    let mirror = Mirror::start(config(&registry));
    let answer = mirror.manifest(REPO, "1").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}
