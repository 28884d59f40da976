//! A gibibyte must never be paid for twice: not when upstream cuts it to pieces, not when the mirror dies over it.

use std::time::Instant;

use crate::support::client::download;
use crate::support::large::Large;

const MIB: u64 = 1024 * 1024;
const SIZE: u64 = 1024 * MIB;
const PIECE: u64 = 64 * MIB;

fn report(what: &str, large: &Large, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    println!(
        "{what}: upstream sent {:.4} of the blob, {seconds:.1} s",
        large.cost()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_that_is_cut_every_64_mib_costs_a_gibibyte() {
    let large = Large::start(SIZE, PIECE).await;
    let since = Instant::now();
    large.arrives_whole().await;
    report("cut every 64 MiB", &large, since);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_killed_at_half_a_gibibyte_fetches_the_other_half() {
    let mut large = Large::start(SIZE, PIECE).await;
    let since = Instant::now();
    large.dies_half_way().await;
    let again = download(&large.url(), &[]).await.unwrap();
    again.assert_is(&large.digest);
    report("killed at a half, client starts again", &large, since);
    assert!(large.cost() <= 1.1, "{} times the blob", large.cost());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_on_after_the_kill_gets_the_other_half() {
    let mut large = Large::start(SIZE, PIECE).await;
    let since = Instant::now();
    let half = large.dies_half_way().await;
    let all = half.read(&large.url()).await;
    assert!(!all.broke, "after {} bytes", all.bytes);
    report("killed at a half, client goes on", &large, since);
    assert_eq!(all.digest(), large.digest);
    assert!(large.cost() <= 1.1, "{} times the blob", large.cost());
}
