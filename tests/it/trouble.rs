//! A disk that fails must cost no client its pull: what the store cannot do, upstream does.

use std::fs::OpenOptions;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::client::{Downloading, download};
use crate::support::content::Content;
use crate::support::disk::{blob_file, blobs, eventually};
use crate::support::{
    FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, client, digest_of, scene,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn rescues(mirror: &Mirror) -> f64 {
    let name = "pierglass_body_rescues_total";
    mirror.metric(name, &[]).await.unwrap_or(0.0)
}

async fn stored(registry: &FakeRegistry, mirror: &Mirror, seed: u64, size: u64) -> String {
    let digest = registry.put_generated_blob(REPO, seed, size);
    mirror.store_blob(REPO, &digest).await;
    digest
}

fn truncate(mirror: &Mirror, digest: &str, length: u64) {
    let path = blob_file(&mirror.store_path(), digest);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(length).unwrap();
}

/// Asks over HTTP/2, where bytes are copied and the client's window says how far the mirror is ahead of it, and
/// truncates the blob's file once 2 MiB were read. What came in all.
async fn truncated_meanwhile(mirror: &Mirror, digest: &str, range: Option<&str>) -> Vec<u8> {
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let io = TokioIo::new(stream);
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = handshake.unwrap();
    tokio::spawn(connection);
    let mut request = Request::get(mirror.blob_url(REPO, digest));
    if let Some(range) = range {
        request = request.header("range", range);
    }
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let mut all = Vec::new();
    let mut cut = false;
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame.unwrap().into_data() {
            all.extend_from_slice(&bytes);
        }
        if !cut && all.len() as u64 > 2 * MIB {
            truncate(mirror, digest, MIB);
            cut = true;
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_truncated_while_it_is_sent_goes_on_from_upstream() {
    let (registry, mirror) = scene::start();
    let digest = stored(&registry, &mirror, 1, 16 * MIB).await;
    let got = truncated_meanwhile(&mirror, &digest, None).await;
    assert_eq!(digest_of(&got), digest);
    assert_eq!(rescues(&mirror).await, 1.0);
    // It is fetched again, and then served from here.
    let url = mirror.blob_url(REPO, &digest);
    download(&url, &[]).await.unwrap().assert_is(&digest);
    let file = blob_file(&mirror.store_path(), &digest);
    eventually("the commit", || {
        file.metadata().is_ok_and(|file| file.len() == 16 * MIB)
    });
    registry.down();
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_cut_off_goes_on_from_upstream() {
    let (registry, mirror) = scene::start();
    let digest = stored(&registry, &mirror, 2, 16 * MIB).await;
    let got = truncated_meanwhile(&mirror, &digest, Some("bytes=1000-9999999")).await;
    let expected = Content::generated(2, 16 * MIB).read(1000, 9_999_000);
    assert_eq!(digest_of(&got), digest_of(&expected));
    assert_eq!(rescues(&mirror).await, 1.0);
}

/// What the kernel sends from the file by itself ends where the file does, and nothing can be put in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_truncated_under_sendfile_is_never_whole_and_right_the_next_time() {
    let (registry, mirror) = scene::start();
    let digest = stored(&registry, &mirror, 1, 64 * MIB).await;
    let url = mirror.blob_url(REPO, &digest);
    let slow = Downloading {
        bytes_per_sec: Some(32 * MIB),
        ..Downloading::default()
    };
    let reading = tokio::spawn(async move { slow.run(&url, &[]).await });
    let hits = [("outcome", "hit")];
    while mirror
        .metric("pierglass_response_bytes_total", &hits)
        .await
        .is_none_or(|bytes| bytes == 0.0)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    truncate(&mirror, &digest, MIB);
    let got = reading.await.unwrap().unwrap();
    if got.error.is_none() {
        got.assert_is(&digest);
    }
    mirror.pull_blob(REPO, &digest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rescue_that_brings_other_bytes_is_never_a_whole_body() {
    let (registry, mirror) = scene::start_with(|config| config.max_size("20MiB"));
    let digest = registry.put_generated_blob(REPO, 3, 40 * MIB);
    // Of unknown length it outgrows the store; what follows is wrong.
    registry.fault(On::blob().get(), Fault::NoContentLength);
    registry.fault(On::blob().get().forever(), Fault::WrongBytes);
    let got = download(&mirror.blob_url(REPO, &digest), &[])
        .await
        .unwrap();
    assert!(got.error.is_some(), "{} bytes came", got.bytes);
    assert!(rescues(&mirror).await >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_removed_under_the_mirror_is_created_again_and_logged_once() {
    let (registry, mirror) = scene::start();
    let first = stored(&registry, &mirror, 4, MIB).await;
    mirror.wait_until_at_rest().await;
    std::fs::remove_dir_all(mirror.store_path()).unwrap();
    mirror.pull_blob(REPO, &first).await;
    let store = mirror.store_path();
    eventually("the store", || blobs(&store).contains(&first));
    let second = stored(&registry, &mirror, 5, MIB).await;
    registry.down();
    for digest in [&first, &second] {
        mirror.pull_blob(REPO, digest).await;
    }
    assert_eq!(mirror.metric("pierglass_store_blobs", &[]).await, Some(2.0));
    let bytes = mirror.metric("pierglass_store_bytes", &[]).await.unwrap() as u64;
    assert!(bytes >= mirror.du() && bytes < 3 * MIB, "{bytes}");
    let told = mirror.output().matches("begun again").count();
    assert_eq!(told, 1, "{}", mirror.output());
    let ready = client::get(&format!("{}/readyz", mirror.admin_url()), &[]).await;
    assert_eq!(ready.unwrap().text(), "ready\n");
    // The lock went with the directory: a second process must still be kept out.
    let second = MirrorConfig::for_upstream(&registry).store_path(&store);
    let (_, said) = Mirror::fail_to_start(&second);
    assert!(said.contains("in use by another pierglass"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_no_directory_any_more_is_logged_once_and_heals() {
    let (registry, mirror) = scene::start();
    stored(&registry, &mirror, 6, MIB).await;
    mirror.wait_until_at_rest().await;
    let store = mirror.store_path();
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::write(&store, b"in the way").unwrap();
    for seed in 10..20 {
        let digest = registry.put_generated_blob(REPO, seed, 2 * MIB);
        let url = mirror.blob_url(REPO, &digest);
        let got = download(&url, &[]).await.unwrap();
        got.assert_is(&digest);
        assert_eq!(got.header("cache-status"), Some("pierglass; fwd=bypass"));
    }
    let trouble = "pierglass_store_trouble";
    assert_eq!(mirror.metric(trouble, &[]).await, Some(1.0));
    let readyz = format!("{}/readyz", mirror.admin_url());
    let ready = client::get(&readyz, &[]).await.unwrap();
    assert_eq!(ready.status.as_u16(), 200);
    assert!(ready.text().contains("store: "), "{}", ready.text());
    let told = mirror.output().matches("cannot be written;").count();
    assert_eq!(told, 1, "{}", mirror.output());
    std::fs::remove_file(&store).unwrap();
    mirror.wait_for_log(PATIENCE, |line| {
        line.to_string().contains("can be written again")
    });
    assert_eq!(mirror.metric(trouble, &[]).await, Some(0.0));
    let digest = stored(&registry, &mirror, 21, MIB).await;
    registry.down();
    mirror.pull_blob(REPO, &digest).await;
    assert!(!mirror.output().contains("panicked"), "{}", mirror.output());
}
