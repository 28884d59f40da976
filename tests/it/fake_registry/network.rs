//! Addresses and connections, and the client on the other end of them.

use std::collections::HashSet;
use std::time::Duration;

use super::with_blob;
use crate::support::client::{Downloading, Ending, Raw};
use crate::support::mirror::sum_of;
use crate::support::{
    Client, FakeRegistry, Fault, Mirror, MirrorConfig, On, client, loopback, until,
};

#[tokio::test]
async fn down_is_refused_and_up_is_the_same_port() {
    let (registry, url, digest) = with_blob().await;
    registry.fault(On::blob(), Fault::Stall(100_000, Duration::from_secs(60)));
    let cut = tokio::spawn({
        let url = url.clone();
        async move { client::download(&url, &[]).await.unwrap() }
    });
    let mut idle = Raw::connect(&registry.url()).await;
    while registry.connections() < 2 || registry.counts().bytes_sent < 100_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    registry.down();
    assert!(
        cut.await.unwrap().error.is_some(),
        "a connection outlived its registry"
    );
    assert_ne!(idle.read(Duration::from_secs(5)).await.1, Ending::Silent);
    let refused = client::get(&url, &[]).await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    registry.up();
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
}

/// A request counted as the mirror's came from a client of an earlier listener on the same port.
#[tokio::test]
async fn what_is_asked_at_a_listener_that_is_gone_reaches_no_other() {
    let host = |authority: &str| authority.split_once(':').unwrap().0.to_owned();
    let (gone, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let addresses = [
        host(&gone.authority()),
        host(&registry.authority()),
        host(mirror.authority()),
        host(&loopback::free_port().to_string()),
    ];
    let different: HashSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len(), "{addresses:?}");
    let url = format!("{}/v2/", gone.url());
    drop(gone);
    until("it is refused", async || {
        client::get(&url, &[]).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn connections_are_kept() {
    let (registry, url, _) = with_blob().await;
    let pooled = Client::new();
    for _ in 0..5 {
        assert_eq!(pooled.get(&url, &[]).await.unwrap().body.len(), 300_000);
        assert_eq!(registry.connections(), 1);
    }
    registry.fault(On::blob(), Fault::CutAfter(10));
    assert!(pooled.get(&url, &[]).await.is_err());
    assert_eq!(pooled.get(&url, &[]).await.unwrap().body.len(), 300_000);
}

#[tokio::test]
async fn the_client_can_leave_early_and_read_slowly() {
    let registry = FakeRegistry::start().await;
    let size = 64 << 20;
    let digest = registry.put_generated_blob("a/b", 3, size);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    let early = Downloading {
        abort_after: Some(1 << 20),
        ..Downloading::default()
    };
    let left = early.run(&url, &[]).await.unwrap();
    assert!(
        left.bytes >= 1 << 20 && left.bytes < size && left.error.is_none(),
        "{left:?}"
    );
    while registry.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        registry.counts().bytes_sent < size,
        "the registry sent it all"
    );
    let slowly = Downloading {
        abort_after: Some(500_000),
        bytes_per_sec: Some(1_000_000),
    };
    assert!(slowly.run(&url, &[]).await.unwrap().took >= Duration::from_millis(450));
}

#[test]
fn metrics_are_summed_over_the_labels_asked_for() {
    let text = "# HELP x_total sum\nx_total{a=\"1\",b=\"2\"} 3\nx_total{b=\"2\",a=\"9\"} 4\nx_total_more 5\nplain 6\n";
    assert_eq!(sum_of(text, "x_total", &[]), Some(7.0));
    assert_eq!(sum_of(text, "x_total", &[("a", "9")]), Some(4.0));
    assert_eq!(
        sum_of(text, "x_total", &[("b", "2"), ("a", "1")]),
        Some(3.0)
    );
    assert_eq!(sum_of(text, "x_total", &[("a", "2")]), None);
    assert_eq!(sum_of(text, "plain", &[]), Some(6.0));
}
