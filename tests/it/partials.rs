//! What upstream has sent is never asked for twice, not even across a crash of the mirror or an outage that lasts.

use std::time::Duration;

use http::StatusCode;

use crate::support::client::{Downloading, download};
use crate::support::content::Content;
use crate::support::disk::{Watch, blob_file, eventually, files};
use crate::support::{
    FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, Redirect, digest_of, plain, scene,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn partials(mirror: &Mirror) -> Vec<std::path::PathBuf> {
    files(&mirror.store_path().join("partial"))
}

/// A mirror that was killed in the middle of a blob of `size` bytes, and that blob.
async fn killed_half_way(registry: &FakeRegistry, size: u64) -> (Mirror, String) {
    let digest = registry.put_generated_blob(REPO, 7, size);
    let mut mirror = Mirror::start(MirrorConfig::for_upstream(registry));
    let cut = Downloading {
        abort_after: Some(size / 2),
        ..Downloading::default()
    };
    registry.fault(On::blob().get(), Fault::Stall(size / 2 + 100_000, PATIENCE));
    let _ = cut.run(&mirror.blob_url(REPO, &digest), &[]).await;
    mirror.kill9();
    registry.clear_faults();
    (mirror, digest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_killed_half_way_resumes_where_it_was() {
    let registry = FakeRegistry::builder()
        .bearer(None)
        .redirect_blobs(Redirect::Absolute307)
        .start()
        .await;
    let size = 64 * MIB;
    let (mut mirror, digest) = killed_half_way(&registry, size).await;
    mirror.restart();
    let url = mirror.blob_url(REPO, &digest);
    let all = (0..3).map(|_| download(&url, &[]));
    for got in futures_util::future::join_all(all).await {
        got.unwrap().assert_is(&digest);
    }
    let sent = registry.counts().bytes_sent;
    assert!(
        sent <= size + size / 10,
        "{sent} bytes for a blob of {size}"
    );
    let store = mirror.store_path();
    mirror.wait_until_stored(&[&digest]);
    assert!(partials(&mirror).is_empty());
    assert!(files(&store.join("ingest")).is_empty());
    registry.down();
    download(&url, &[]).await.unwrap().assert_is(&digest);
    let (bytes, du) = (
        mirror.metric("pierglass_store_bytes", &[]).await.unwrap() as u64,
        mirror.du(),
    );
    assert!(
        bytes >= du && bytes < size + MIB,
        "{bytes} counted, {du} on disk"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_that_was_given_up_is_resumed_when_upstream_is_back() {
    let (registry, mirror) = scene::start();
    let size = 32 * MIB;
    let digest = registry.put_generated_blob(REPO, 1, size);
    registry.fault(On::blob().get(), Fault::CutAfter(20 * MIB));
    registry.fault(On::blob().get().forever(), Fault::status(500));
    let url = mirror.blob_url(REPO, &digest);
    let torn = download(&url, &[]).await.unwrap();
    assert!(torn.error.is_some(), "{} bytes came", torn.bytes);
    assert_eq!(partials(&mirror).len(), 1);
    registry.clear_faults();
    // A circuit that opened meanwhile closes by itself.
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let again = download(&url, &[]).await.unwrap();
        if again.status == StatusCode::OK {
            again.assert_is(&digest);
            break;
        }
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let sent = registry.counts().bytes_sent;
    assert!(sent <= size + MIB, "{sent} bytes for a blob of {size}");
    assert!(partials(&mirror).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_that_was_damaged_costs_one_pull_and_not_the_next() {
    let registry = FakeRegistry::start().await;
    let (mut mirror, digest) = killed_half_way(&registry, 8 * MIB).await;
    // As a crash of the machine can leave it: its length right, its bytes not written.
    let left = files(&mirror.store_path().join("ingest"));
    assert_eq!(left.len(), 1, "{left:?}");
    let mut bytes = std::fs::read(&left[0]).unwrap();
    bytes[2_000_000..2_100_000].fill(0);
    std::fs::write(&left[0], bytes).unwrap();
    mirror.restart();
    let url = mirror.blob_url(REPO, &digest);
    let torn = download(&url, &[]).await.unwrap();
    assert!(torn.error.is_some() && torn.bytes < 8 * MIB);
    assert!(partials(&mirror).is_empty(), "what is wrong was kept");
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_machine_leaves_nothing_to_go_on_with() {
    let registry = FakeRegistry::start().await;
    let (mut mirror, digest) = killed_half_way(&registry, 8 * MIB).await;
    // Once as a partial, once as what was being written.
    mirror.restart();
    assert_eq!(partials(&mirror).len(), 1);
    mirror.kill9();
    let left = partials(&mirror).remove(0);
    let name = format!("99.docker.io.{}", digest.replace(':', "-"));
    let written = mirror.store_path().join("ingest").join(name);
    std::fs::copy(&left, &written).unwrap();
    for path in [&left, &written] {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[2_000_000..2_100_000].fill(0);
        std::fs::write(path, bytes).unwrap();
    }
    std::fs::write(mirror.store_path().join("boot"), "another").unwrap();
    mirror.restart();
    assert!(partials(&mirror).is_empty());
    let url = mirror.blob_url(REPO, &digest);
    let range = [("range", "bytes=2000000-2099999")];
    let part = download(&url, &range).await.unwrap();
    let expected = Content::generated(7, 8 * MIB).read(2_000_000, 100_000);
    assert_eq!(part.digest, digest_of(&expected));
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_longer_than_the_blob_is_thrown_away() {
    let (_registry, mut mirror, digest) = scene::cold_blob(3 * MIB, plain);
    mirror.kill9();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let partial = mirror.store_path().join("partial/docker.io");
    std::fs::create_dir_all(&partial).unwrap();
    let path = partial.join(format!("sha256-{hex}"));
    std::fs::write(&path, vec![1; 5 * MIB as usize]).unwrap();
    mirror.restart();
    mirror.pull_blob(REPO, &digest).await;
    eventually("it is thrown away", || !path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_without_ranges_is_read_past_what_a_crash_left() {
    let registry = FakeRegistry::start().await;
    let (mut mirror, digest) = killed_half_way(&registry, 8 * MIB).await;
    registry.fault(On::blob().get().forever(), Fault::IgnoreRange);
    mirror.restart();
    mirror.pull_blob(REPO, &digest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_upstream_sent_is_not_taken_for_what_another_has() {
    let (first, second) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let digest = first.put_generated_blob(REPO, 7, 8 * MIB);
    second.put_generated_blob(REPO, 7, 8 * MIB);
    let config = MirrorConfig::for_upstream(&first).upstream("other.example", &second);
    let mirror = Mirror::start(config);
    first.fault(On::blob().get(), Fault::CutAfter(4 * MIB));
    first.fault(On::blob().get().forever(), Fault::status(500));
    let torn = download(&mirror.blob_url(REPO, &digest), &[])
        .await
        .unwrap();
    assert!(torn.error.is_some());
    mirror
        .pull_blob(&format!("other.example/{REPO}"), &digest)
        .await;
    let asked = second.requests();
    assert!(asked.iter().all(|request| request.range().is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partials_count_against_the_limit_and_are_evicted() {
    let (registry, mut mirror) = scene::start_with(|config| config.max_size("40MiB"));
    let watch = Watch::start(&mirror.store_path(), 40 * MIB);
    for seed in 0..8 {
        let digest = registry.put_generated_blob(REPO, seed, 16 * MIB);
        registry.fault(On::blob().get(), Fault::CutAfter(12 * MIB));
        registry.fault(On::blob().get().times(3), Fault::status(403));
        let torn = download(&mirror.blob_url(REPO, &digest), &[])
            .await
            .unwrap();
        assert!(torn.error.is_some());
        registry.clear_faults();
        if seed == 4 {
            mirror.restart();
        }
    }
    let kept = partials(&mirror).len();
    assert!((1..=3).contains(&kept), "{kept} partials of 12 MiB in 40");
    let whole = registry.put_generated_blob(REPO, 100, 30 * MIB);
    mirror.pull_blob(REPO, &whole).await;
    let file = blob_file(&mirror.store_path(), &whole);
    eventually("the commit", || file.exists());
    assert!(watch.most() <= 40 * MIB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_of_unknown_length_that_breaks_goes_on_too() {
    let (registry, mirror, digest) = scene::cold_blob(6 * MIB, plain);
    registry.fault(On::blob().get(), Fault::CutChunked(4 * MIB));
    mirror.pull_blob(REPO, &digest).await;
    let sent = registry.counts().bytes_sent;
    assert!(sent <= 7 * MIB, "{sent} bytes for a blob of {}", 6 * MIB);
}
