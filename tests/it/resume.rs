//! A transfer that breaks off must never cost a client its pull, nor upstream the bytes it has sent already.

use std::time::Duration;

use crate::support::client::download;
use crate::support::large::Large;
use crate::support::{
    FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, Redirect, plain, scene,
};

async fn resumes(mirror: &Mirror) -> f64 {
    let name = "pierglass_fill_resumes_total";
    mirror.metric(name, &[]).await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_cut_again_and_again_arrives_whole_and_costs_its_bytes_once() {
    let registry = FakeRegistry::builder()
        .bearer(None)
        .redirect_blobs(Redirect::Absolute307)
        .start()
        .await;
    let digest = registry.put_generated_blob(REPO, 1, 40 * MIB);
    let cut = registry.fault(On::blob().get().forever(), Fault::CutAfter(4 * MIB));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let all = (0..4).map(|_| async {
        let got = download(&mirror.blob_url(REPO, &digest), &[]).await;
        got.unwrap().assert_is(&digest);
    });
    futures_util::future::join_all(all).await;
    assert!(registry.struck(cut) >= 9, "{}", registry.struck(cut));
    assert!(resumes(&mirror).await >= 9.0);
    let sent = registry.counts().bytes_sent;
    assert!(sent <= 42 * MIB, "{sent} bytes for a blob of {}", 40 * MIB);
    // Each went on where the one before had stopped, with a signed URL of its own.
    let requests = registry.requests();
    let ranges = requests.iter().filter(|request| request.range().is_some());
    assert!(ranges.count() >= 9);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_ignores_range_is_read_past_what_is_there() {
    let (registry, mirror, digest) = scene::cold_blob(3 * MIB, plain);
    registry.fault(On::blob().get(), Fault::CutAfter(2 * MIB));
    registry.fault(On::blob().get(), Fault::IgnoreRange);
    let got = download(&mirror.blob_url(REPO, &digest), &[]).await;
    got.unwrap().assert_is(&digest);
    assert_eq!(resumes(&mirror).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_between_two_pieces_is_not_the_end() {
    let (registry, mirror, digest) = scene::cold_blob(3 * MIB, plain);
    registry.fault(On::blob().get(), Fault::CutAfter(MIB));
    registry.fault(On::blob().get(), Fault::status(503));
    let got = download(&mirror.blob_url(REPO, &digest), &[]).await;
    got.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_never_gets_ahead_is_given_up() {
    let (registry, mirror, digest) = scene::cold_blob(3 * MIB, plain);
    registry.fault(On::blob().get().forever(), Fault::CutAfter(64 * 1024));
    let url = mirror.blob_url(REPO, &digest);
    let got = tokio::time::timeout(Duration::from_secs(20), download(&url, &[])).await;
    let got = got.expect("it is given up in time").unwrap();
    assert!(got.error.is_some(), "a clean end after {} bytes", got.bytes);
    assert!(registry.counts().blob_gets <= 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_half_that_is_wrong_is_noticed() {
    let (registry, mirror, digest) = scene::cold_blob(3 * MIB, plain);
    registry.fault(On::blob().get(), Fault::CutAfter(MIB));
    registry.fault(On::blob().get(), Fault::WrongBytes);
    let got = download(&mirror.blob_url(REPO, &digest), &[])
        .await
        .unwrap();
    assert!(got.error.is_some(), "a complete wrong body");
    let again = download(&mirror.blob_url(REPO, &digest), &[]).await;
    again.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_blob_in_many_pieces_costs_its_bytes_once() {
    Large::start(128 * MIB, 8 * MIB).await.arrives_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_half_way_the_mirror_resumes_for_a_client_that_starts_again() {
    let mut large = Large::start(128 * MIB, 32 * MIB).await;
    large.dies_half_way().await;
    let again = download(&large.url(), &[]).await.unwrap();
    again.assert_is(&large.digest);
    assert!(large.cost() <= 1.1, "{} times the blob", large.cost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_half_way_the_mirror_resumes_for_a_client_that_resumes_too() {
    let mut large = Large::start(128 * MIB, 32 * MIB).await;
    let half = large.dies_half_way().await;
    let all = half.read(&large.url()).await;
    assert!(!all.broke, "after {} bytes", all.bytes);
    assert_eq!(all.digest(), large.digest);
    assert!(large.cost() <= 1.1, "{} times the blob", large.cost());
}
