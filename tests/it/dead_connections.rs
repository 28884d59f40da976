//! Connections to upstream that lead nowhere any more, though new ones work.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::loopback::any_port;
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, image, until};

/// What a NAT that forgot a connection does with what comes over it.
#[derive(Clone, Copy)]
enum Forgotten {
    Swallow,
    Close,
}

/// A NAT in front of a registry.
struct Nat {
    url: String,
    restarts: Arc<AtomicU64>,
    opened: Arc<AtomicU64>,
    /// Connections that were used after they had been forgotten.
    lost: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Drop for Nat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Nat {
    async fn before(registry: &FakeRegistry, forgotten: Forgotten) -> Nat {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let [restarts, opened, lost] = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let (now, count, behind) = (restarts.clone(), opened.clone(), registry.authority());
        let noted = lost.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&behind).await else {
                    continue;
                };
                let (client, server) = (client.into_split(), server.into_split());
                let born = now.load(Ordering::SeqCst);
                let way = |from, to| pass(from, to, born, now.clone(), noted.clone(), forgotten);
                tokio::spawn(way(client.0, server.1));
                tokio::spawn(way(server.0, client.1));
            }
        });
        Nat {
            url,
            restarts,
            opened,
            lost,
            task,
        }
    }

    fn restart(&self) {
        self.restarts.fetch_add(1, Ordering::SeqCst);
    }

    fn lost(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    fn opened(&self) -> u64 {
        self.opened.load(Ordering::SeqCst)
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: u64,
    restarts: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    forgotten: Forgotten,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if restarts.load(Ordering::SeqCst) != born {
            lost.fetch_add(1, Ordering::SeqCst);
            match forgotten {
                // Both ends stay open.
                Forgotten::Swallow => std::future::pending().await,
                Forgotten::Close => return,
            }
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A mirror with so many idle connections through a NAT to a registry of `image(1)` under any tag.
async fn idle_connections(
    forgotten: Forgotten,
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Nat, Mirror) {
    const COUNT: u64 = 8;
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    for number in 0..40 {
        registry.tag(REPO, &format!("t{number}"), &image(1).digest);
    }
    let nat = Nat::before(&registry, forgotten).await;
    let mirror = Mirror::start(change(MirrorConfig::for_url(&nat.url)));
    let slow = Fault::DelayHeaders(Duration::from_millis(500));
    let slow = registry.fault(On::manifest().times(COUNT), slow);
    pull(&mirror, 0..COUNT).await;
    assert_eq!(registry.struck(slow), COUNT);
    assert!(nat.opened() >= 2, "{}", nat.opened());
    registry.reset_counts();
    (registry, nat, mirror)
}

/// Pulls tags at the same time.
async fn pull(mirror: &Mirror, tags: std::ops::Range<u64>) {
    let pulls = tags.map(|number| async move {
        let answer = mirror.manifest(REPO, &format!("t{number}")).await;
        let words = answer.text();
        assert_eq!(answer.status, StatusCode::OK, "t{number}: {words}");
    });
    join_all(pulls).await;
}

async fn openings(mirror: &Mirror) -> f64 {
    let name = "pierglass_upstream_circuit_openings_total";
    mirror.metric(name, &[]).await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nat_that_restarted_cost_a_minute_of_timeouts() {
    let (registry, nat, mirror) = idle_connections(Forgotten::Swallow, |config| config).await;
    nat.restart();
    for number in 8..20 {
        pull(&mirror, number..number + 1).await;
    }
    assert_eq!(
        registry.counts().manifest_gets,
        12,
        "each came through once"
    );
    // The first pull found out for all: no other one was sent into a hole first.
    assert_eq!(nat.lost(), 1);
    assert_eq!(openings(&mirror).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_that_were_under_way_at_the_same_time_are_all_saved_by_one_of_them() {
    let (registry, nat, mirror) = idle_connections(Forgotten::Swallow, |config| config).await;
    nat.restart();
    pull(&mirror, 8..16).await;
    assert_eq!(registry.counts().manifest_gets, 8);
    assert_eq!(openings(&mirror).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_closed_when_they_are_used_are_no_outage() {
    let (_registry, nat, mirror) = idle_connections(Forgotten::Close, |config| config).await;
    nat.restart();
    for number in 8..14 {
        pull(&mirror, number..number + 1).await;
    }
    assert_eq!(nat.lost(), 1);
    assert_eq!(openings(&mirror).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_tag_is_fresh_again_after_one_stale_answer() {
    let config = |config: MirrorConfig| config.asking_each_time();
    let (registry, nat, mirror) = idle_connections(Forgotten::Swallow, config).await;
    nat.restart();
    pull(&mirror, 0..1).await;
    until("it is confirmed", async || {
        let answer = mirror.manifest(REPO, "t0").await;
        assert_eq!(answer.status, StatusCode::OK);
        answer.header("cache-status") == Some("pierglass; hit; detail=revalidated")
    })
    .await;
    assert!(registry.counts().manifest_heads >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_slow_is_asked_twice_only_once() {
    let registry = FakeRegistry::start().await;
    for tag in ["a", "b", "c"] {
        registry.put_image(REPO, Some(tag), &image(1));
    }
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let slow = Fault::DelayHeaders(Duration::from_secs(4));
    registry.fault(On::manifest().forever(), slow);
    for (tag, asked) in [("a", 1), ("b", 3), ("c", 4)] {
        let answer = mirror.manifest(REPO, tag).await;
        assert_eq!(answer.status, StatusCode::OK);
        // On a new connection it is the registry that is silent; on the old one that had to be tried.
        assert_eq!(registry.counts().manifest_gets, asked, "{tag}");
    }
}
