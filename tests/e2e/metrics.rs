//! Metrics must never be text that only our own tests can read.

use std::process::Stdio;

use crate::programs::{self, text};
use crate::prometheus::Prometheus;
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig, client};

/// A mirror that has served something, so that there is something to count.
async fn used_mirror() -> (FakeRegistry, Mirror) {
    let hub = FakeRegistry::docker_hub().start().await;
    let image = Image::random(1, &[10_000]);
    hub.put_image("library/single", Some("1"), &image);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub));
    for url in [
        mirror.manifest_url("library/single", "1"),
        mirror.blob_url("library/single", &image.blobs()[1]),
    ] {
        for _ in 0..2 {
            assert!(client::get(&url, &[]).await.unwrap().status.is_success());
        }
    }
    (hub, mirror)
}

#[tokio::test]
async fn promtool_finds_nothing_to_blame() {
    let (_hub, mirror) = used_mirror().await;
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[])
        .await
        .unwrap();
    assert!(metrics.text().contains("pierglass_requests_total{"));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &metrics.body).unwrap();
    let output = programs::run("promtool", "prometheus", |command| {
        command
            .args(["check", "metrics"])
            .stdin(Stdio::from(file.reopen().unwrap()));
    });
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(text(&output), "");
}

#[tokio::test]
async fn prometheus_scrapes_the_mirror() {
    let (_hub, mirror) = used_mirror().await;
    let authority = mirror.admin_url();
    let mut prometheus = Prometheus::start(authority.trim_start_matches("http://"));
    let target = prometheus.target().await;
    assert_eq!(target["health"], "up", "{target:#}");
    let requests = prometheus
        .query("sum(pierglass_requests_total{upstream=\"docker.io\"})")
        .await;
    assert_eq!(requests.as_deref(), Some("4"));
}
