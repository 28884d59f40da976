//! A transfer is shared by the repositories that have the blob. One that does not have it, or whose upstream is slow to
//! say so, must not keep it from the others.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::client::{Download, download, get};
use crate::support::{Fault, MIB, Mirror, On, plain, scene, until};

const GOOD: &str = "good/app";
/// How long upstream takes over what is invented.
const SLOW: Duration = Duration::from_secs(6);

/// A pull in a task of its own.
fn pull(mirror: &Mirror, repo: &str, digest: &str) -> tokio::task::JoinHandle<Download> {
    let url = mirror.blob_url(repo, digest);
    tokio::spawn(async move { download(&url, &[]).await.unwrap() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_names_withheld_a_cold_blob_from_all() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(GOOD, 1, MIB);
    let slow = On::blob().containing("/invented/").forever();
    registry.fault(slow, Fault::DelayHeaders(SLOW));
    let invented: Vec<_> = (0..40)
        .map(|number| {
            let url = mirror.blob_url(&format!("invented/r{number}"), &digest);
            tokio::spawn(async move { get(&url, &[]).await.unwrap().status })
        })
        .collect();
    until("all of them wait for upstream", async || {
        registry.counts().blob_gets == 40
    })
    .await;
    let started = Instant::now();
    mirror.pull_blob(GOOD, &digest).await;
    assert!(
        started.elapsed() < SLOW / 2,
        "after {:?}",
        started.elapsed()
    );
    let requests = registry.requests();
    let good = requests.iter().filter(|seen| seen.target.contains(GOOD));
    assert_eq!(good.count(), 1, "upstream was asked once");
    for invented in invented {
        assert_eq!(invented.await.unwrap(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_whose_upstream_hangs_delays_no_other() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(GOOD, 1, MIB);
    registry.put_generated_blob("hangs/app", 1, MIB);
    registry.fault(On::blob().containing("/hangs/").forever(), Fault::Hang);
    let hanging = pull(&mirror, "hangs/app", &digest);
    until("it hangs", async || registry.counts().blob_gets == 1).await;
    let started = Instant::now();
    mirror.pull_blob(GOOD, &digest).await;
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "after {took:?}");
    hanging.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repositories_that_ask_at_the_same_moment_share_one_transfer() {
    const SIZE: u64 = 24 * MIB;
    let (registry, mirror, digest) = scene::cold_blob(SIZE, plain);
    for number in 0..4 {
        registry.put_generated_blob(&format!("also/r{number}"), 1, SIZE);
    }
    let late = On::blob().containing("/also/").forever();
    registry.fault(late, Fault::DelayHeaders(Duration::from_millis(300)));
    registry.set_rate(SIZE / 4);
    let first = pull(&mirror, scene::REPO, &digest);
    let others: Vec<_> = (0..4)
        .map(|number| pull(&mirror, &format!("also/r{number}"), &digest))
        .collect();
    first.await.unwrap().assert_is(&digest);
    for other in others {
        let other = other.await.unwrap();
        other.assert_is(&digest);
        let status = other.header("cache-status");
        assert_eq!(status, Some("pierglass; fwd=uri-miss; collapsed"));
    }
    mirror.wait_until_stored(&[&digest]);
    // Of the others, no more than what was on its way when they joined.
    let received = mirror.metric("pierglass_upstream_bytes_total", &[]).await;
    assert!(received.unwrap() < (SIZE + SIZE / 2) as f64, "{received:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invented_name_does_not_take_away_what_an_earlier_transfer_left() {
    const SIZE: u64 = 16 * MIB;
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(GOOD, 1, SIZE);
    registry.fault(On::blob().get(), Fault::CutAfter(12 * MIB));
    registry.fault(On::blob().get().times(3), Fault::status(403));
    let url = mirror.blob_url(GOOD, &digest);
    assert!(download(&url, &[]).await.unwrap().error.is_some());
    registry.clear_faults();
    registry.reset_counts();
    let slow = On::blob().containing("/invented/").forever();
    registry.fault(slow, Fault::DelayHeaders(SLOW));
    let invented = pull(&mirror, "invented/name", &digest);
    until("it waits for upstream", async || {
        registry.counts().blob_gets == 1
    })
    .await;
    let started = Instant::now();
    mirror.pull_blob(GOOD, &digest).await;
    assert!(started.elapsed() < SLOW, "after {:?}", started.elapsed());
    let sent = registry.counts().bytes_sent;
    assert!(sent <= 5 * MIB, "{sent} bytes, although 12 MiB were there");
    assert_eq!(invented.await.unwrap().status, StatusCode::NOT_FOUND);
}
