//! A tag that was ever served must never be lost to an upstream that is away, and upstream must never be asked more
//! often than the configuration says.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::image::OCI_MANIFEST;
use crate::support::{
    Client, FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, REPO, client, image, scene, until,
};

const STALE: &str = "pierglass; hit; detail=stale";
const REVALIDATED: &str = "pierglass; hit; detail=revalidated";

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry).impatient()
}

/// A registry with one tagged image, and a mirror that asks about the tag each time.
fn asking_each_time() -> (FakeRegistry, Mirror, Image) {
    scene::cold_image(|config| config.impatient().tag_ttl("0s"))
}

#[track_caller]
fn assert_serves(answer: &client::Response, image: &Image) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.body, image.manifest);
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
}

/// Manifest GETs and HEADs that upstream saw.
fn asked(registry: &FakeRegistry) -> (u64, u64) {
    let counts = registry.counts();
    (counts.manifest_gets, counts.manifest_heads)
}

#[tokio::test]
async fn a_fresh_tag_costs_upstream_nothing() {
    let (registry, mirror, image) = scene::cold_image(|config| config.impatient().tag_ttl("1h"));
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    assert_eq!(asked(&registry), (1, 0));

    registry.reset_counts();
    for _ in 0..5 {
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_serves(&answer, &image);
        let status = answer.header("cache-status").unwrap();
        assert!(status.starts_with("pierglass; hit; ttl=3"), "{status}");
        assert_eq!(mirror.head(REPO, "1.0").await.status, StatusCode::OK);
        assert_serves(&mirror.manifest(REPO, &image.digest).await, &image);
    }
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test]
async fn an_unchanged_tag_costs_one_conditional_head() {
    let (registry, mirror, image) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    registry.reset_counts();
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_serves(&answer, &image);
    assert_eq!(answer.header("cache-status"), Some(REVALIDATED));
    assert_eq!(asked(&registry), (0, 1));
    let etag = format!("\"{}\"", image.digest);
    assert_eq!(
        registry.requests()[0].header("if-none-match"),
        Some(&*etag),
        "the HEAD is conditional"
    );
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test]
async fn a_moved_tag_costs_one_get() {
    let (registry, mirror, _) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    let moved = image(2);
    registry.put_image(REPO, Some("1.0"), &moved);
    registry.reset_counts();
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_serves(&answer, &moved);
    assert_eq!(
        answer.header("cache-status"),
        Some("pierglass; fwd=uri-miss; stored")
    );
    assert_eq!(asked(&registry), (1, 1));
    // Moved back: what is stored already is not fetched again.
    registry.tag(REPO, "1.0", &image(1).digest);
    registry.reset_counts();
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image(1));
    assert_eq!(asked(&registry).1, 1);
}

#[tokio::test]
async fn a_cold_head_costs_a_head_alone_and_names_what_can_be_fetched() {
    let (registry, mirror, image) = scene::cold_image(|config| config.impatient());
    let answer = mirror.head(REPO, "1.0").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(answer.header("content-type"), Some(OCI_MANIFEST));
    assert_eq!(
        answer.header("content-length"),
        Some(&*image.manifest.len().to_string())
    );
    assert_eq!(asked(&registry), (0, 1));
    assert_serves(&mirror.manifest(REPO, &image.digest).await, &image);
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    assert_eq!(asked(&registry), (1, 1));
}

#[tokio::test]
async fn a_head_by_digest_of_something_cold_costs_a_head_alone() {
    let registry = FakeRegistry::start().await;
    let image = image(1);
    registry.put_image(REPO, None, &image);
    let mirror = Mirror::start(config(&registry));
    let answer = mirror.head(REPO, &image.digest).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(
        answer.header("content-length"),
        Some(&*image.manifest.len().to_string())
    );
    assert_eq!(asked(&registry), (0, 1));
}

#[tokio::test]
async fn a_stored_tag_outlives_every_kind_of_outage() {
    let (registry, mirror, image) = asking_each_time();
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    for status in [500, 502, 503, 401, 403] {
        let fault = registry.fault(On::any().forever(), Fault::status(status));
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_serves(&answer, &image);
        assert_eq!(answer.header("cache-status"), Some(STALE), "{status}");
        let answer = mirror.head(REPO, "1.0").await;
        assert_eq!(answer.header("cache-status"), Some(STALE), "{status}");
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.digest));
        assert!(registry.struck(fault) >= 2, "{status}: upstream was asked");
        registry.clear_faults();
    }
    let fault = registry.fault(On::any().forever(), Fault::Reset);
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    assert!(registry.struck(fault) >= 1);
    registry.clear_faults();
    registry.down();
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_serves(&answer, &image);
    assert_eq!(answer.header("cache-status"), Some(STALE));
    // And when it is back, it counts again.
    registry.up();
    until("revalidated", async || {
        mirror.manifest(REPO, "1.0").await.header("cache-status") == Some(REVALIDATED)
    })
    .await;
}

#[tokio::test]
async fn a_silent_upstream_delays_a_stored_tag_no_longer_than_stale_after() {
    let (registry, mirror, image) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    let fault = registry.fault(On::any().forever(), Fault::Hang);
    let start = Instant::now();
    let answer = mirror.manifest(REPO, "1.0").await;
    let took = start.elapsed();
    assert_serves(&answer, &image);
    assert_eq!(answer.header("cache-status"), Some(STALE));
    // 300 ms are configured, and 1 s until the silence is an error; the rest is for a busy machine.
    assert!(took >= Duration::from_millis(250), "{took:?}");
    assert!(took < Duration::from_millis(950), "{took:?}");
    assert_eq!(registry.struck(fault), 1);
}

#[tokio::test]
async fn a_tag_older_than_max_stale_is_not_served() {
    let (registry, mirror, image) =
        scene::cold_image(|config| config.impatient().tag_ttl("0s").max_stale("1s"));
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    registry.down();
    let start = Instant::now();
    let mut stale_served = 0;
    until("too stale", async || {
        let answer = mirror.manifest(REPO, "1.0").await;
        if answer.status == StatusCode::OK {
            stale_served += 1;
            return false;
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.json()["errors"][0]["code"], "UNAVAILABLE");
        true
    })
    .await;
    assert!(stale_served > 0 && start.elapsed() >= Duration::from_millis(800));
    // Content never expires.
    assert_serves(&mirror.manifest(REPO, &image.digest).await, &image);
}

#[tokio::test]
async fn a_tag_that_upstream_dropped_is_forgotten() {
    let (registry, mirror, image) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    registry.untag(REPO, "1.0");
    let gone = mirror.manifest(REPO, "1.0").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert_eq!(gone.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    // Forgotten: an outage does not bring it back.
    registry.down();
    assert_ne!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    assert_serves(&mirror.manifest(REPO, &image.digest).await, &image);
}

#[tokio::test]
async fn a_moment_in_which_everything_was_404_took_the_tags_away() {
    let (registry, mirror, image) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    registry.fault(On::any().forever(), Fault::status(404));
    for _ in 0..2 {
        let stale = mirror.manifest(REPO, "1.0").await;
        assert_serves(&stale, &image);
        assert_eq!(
            stale.header("cache-status"),
            Some("pierglass; hit; detail=stale")
        );
    }
    registry.clear_faults();
    registry.down();
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
    registry.up();
    // Where lists are not given out, what the tag pointed to tells that the repository lives.
    registry.fault(On::tags().forever(), Fault::status(404));
    registry.untag(REPO, "1.0");
    let deadline = Instant::now() + Duration::from_secs(20);
    while mirror.manifest(REPO, "1.0").await.status != StatusCode::NOT_FOUND {
        assert!(Instant::now() < deadline, "it is never gone");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_host_that_says_404_to_everything_takes_no_tag_away() {
    for nothing in [Fault::status(404), Fault::Html(404)] {
        let (registry, mirror, image) = asking_each_time();
        mirror.manifest(REPO, "1.0").await;
        registry.fault(On::any().forever(), nothing);
        for _ in 0..2 {
            let answer = mirror.manifest(REPO, "1.0").await;
            assert_serves(&answer, &image);
            let status = answer.header("cache-status").unwrap();
            assert_eq!(status, "pierglass; hit; detail=stale");
        }
        // A repository that answers has lost just this tag.
        registry.clear_faults();
        registry.untag(REPO, "1.0");
        assert_eq!(
            mirror.manifest(REPO, "1.0").await.status,
            StatusCode::NOT_FOUND
        );
    }
}

#[tokio::test]
async fn a_typo_in_a_loop_asks_upstream_once() {
    let (registry, mirror) = scene::start_with(|config| config.impatient());
    for _ in 0..10 {
        let answer = mirror.manifest(REPO, "typo").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    }
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test]
async fn a_tag_that_comes_into_being_is_found_after_negative_ttl() {
    let (registry, mirror) = scene::start_with(|config| config.impatient().negative_ttl("300ms"));
    assert_eq!(
        mirror.manifest(REPO, "1.0").await.status,
        StatusCode::NOT_FOUND
    );
    let image = image(1);
    registry.put_image(REPO, Some("1.0"), &image);
    let start = Instant::now();
    until("the tag is there", async || {
        mirror.manifest(REPO, "1.0").await.status == StatusCode::OK
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image);
}

#[tokio::test]
async fn thirty_clients_on_one_cold_tag_are_one_get() {
    let registry = FakeRegistry::start().await;
    let image = image(1);
    registry.put_image(REPO, Some("1.0"), &image);
    let slow = Fault::DelayHeaders(Duration::from_millis(500));
    registry.fault(On::manifest().get(), slow);
    let mirror = Mirror::start(config(&registry));
    let url = mirror.manifest_url(REPO, "1.0");
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { client::get(&url, &[]).await.unwrap() })
        })
        .collect();
    let mut joined = 0;
    for client in clients {
        let answer = client.await.unwrap();
        assert_serves(&answer, &image);
        if answer.header("cache-status") == Some("pierglass; fwd=uri-miss; collapsed") {
            joined += 1;
        }
    }
    assert_eq!(asked(&registry), (1, 0));
    assert_eq!(joined, 29);
}

#[tokio::test]
async fn nothing_is_called_unknown_unless_upstream_said_so() {
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let digest = image(1).digest;
    let blob = image(1).blobs().remove(0);
    // One for each: a limit of upstream, or its silence, is remembered.
    let fresh = || {
        let mirror = Mirror::start(config(&registry).negative_ttl("0s"));
        let urls = [
            mirror.manifest_url(REPO, "1.0"),
            mirror.manifest_url(REPO, &digest),
            mirror.blob_url(REPO, &blob),
        ];
        (mirror, urls)
    };
    let cases = [
        (Fault::status(500), 503, "UNAVAILABLE"),
        (Fault::status(502), 503, "UNAVAILABLE"),
        (Fault::status(503), 503, "UNAVAILABLE"),
        (Fault::Html(503), 503, "UNAVAILABLE"),
        (Fault::Reset, 503, "UNAVAILABLE"),
        (Fault::Hang, 504, "UNAVAILABLE"),
        (Fault::status(429), 429, "TOOMANYREQUESTS"),
        (Fault::status(401), 403, "DENIED"),
        (Fault::status(403), 403, "DENIED"),
    ];
    for (fault, status, code) in cases {
        let (_mirror, urls) = fresh();
        let id = registry.fault(On::any().forever(), fault.clone());
        for url in &urls {
            let head = client::head(url, &[]).await.unwrap();
            assert_eq!(head.status.as_u16(), status, "HEAD {url} {fault:?}");
            let answer = client::get(url, &[]).await.unwrap();
            assert_eq!(answer.status.as_u16(), status, "GET {url} {fault:?}");
            assert_eq!(answer.json()["errors"][0]["code"], code, "{url} {fault:?}");
        }
        // Who said a minute ago that it is limited, or is silent again and again, is not asked each time.
        let least = match fault {
            Fault::Hang => 3,
            _ if status == 429 => 1,
            _ => 6,
        };
        assert!(registry.struck(id) >= least, "{fault:?}");
        registry.clear_faults();
    }
    let (_mirror, urls) = fresh();
    registry.down();
    for url in &urls {
        let answer = client::get(url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    registry.up();
    for url in &urls {
        until("served again", async || {
            client::get(url, &[]).await.unwrap().status == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test]
async fn a_spent_quota_says_when_to_come_back() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    registry.set_rate_limit(100, 0);
    let mirror = Mirror::start(config(&registry));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(answer.header("retry-after").is_some());
    // What upstream says about it is passed on in words: podman stands still for as long as the header says.
    let told = Fault::Status(
        429,
        String::new(),
        vec![("Retry-After".into(), "17".into())],
    );
    registry.fault(On::manifest(), told);
    let mirror = Mirror::start(config(&registry));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.header("retry-after"), Some("2"));
    let words = answer.text();
    assert!(words.contains("; ask again in 17 s"), "{words}");
}

#[tokio::test]
async fn a_moved_tag_known_by_head_alone_still_has_the_manifest_it_had() {
    let (registry, mirror, image1) = asking_each_time();
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image1);
    let moved = image(2);
    registry.put_image(REPO, Some("1.0"), &moved);
    let answer = mirror.head(REPO, "1.0").await;
    assert_eq!(answer.header("docker-content-digest"), Some(&*moved.digest));
    registry.down();
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_serves(&answer, &image1);
    assert_eq!(answer.header("cache-status"), Some(STALE));
}

/// containerd and dockerd ask with HEAD and then for the digest they were told; a digest that cannot be had is an
/// outage.
#[tokio::test]
async fn a_head_during_an_outage_named_a_manifest_that_could_not_be_fetched() {
    let (registry, mirror, image1) = asking_each_time();
    assert_serves(&mirror.manifest(REPO, "1.0").await, &image1);
    registry.put_image(REPO, Some("1.0"), &image(2));
    mirror.head(REPO, "1.0").await;
    registry.down();
    let answer = mirror.head(REPO, "1.0").await;
    assert_eq!(answer.header("cache-status"), Some(STALE));
    let named = answer.header("docker-content-digest").unwrap().to_owned();
    assert_serves(&mirror.manifest(REPO, &named).await, &image1);
}

/// Replicas of a registry agree in the end; until then the tag may be known where the manifest is not.
#[tokio::test]
async fn a_tag_was_forgotten_because_its_new_manifest_was_not_there_yet() {
    let (registry, mirror, _) = asking_each_time();
    mirror.manifest(REPO, "1.0").await;
    let moved = image(2);
    registry.put_image(REPO, Some("1.0"), &moved);
    let fault = registry.fault(
        On::manifest().containing(&moved.digest).forever(),
        Fault::status(404),
    );
    assert_serves(&mirror.manifest(REPO, "1.0").await, &moved);
    assert!(registry.struck(fault) > 0);
}

/// containerd, given a bare digest, asks for a blob first and for a manifest then.
#[tokio::test]
async fn a_digest_that_is_no_blob_was_taken_for_no_manifest() {
    let (_registry, mirror, image) = scene::cold_image(|config| config.impatient());
    let blob = client::get(&mirror.blob_url(REPO, &image.digest), &[]).await;
    assert_eq!(blob.unwrap().status, StatusCode::NOT_FOUND);
    assert_serves(&mirror.manifest(REPO, &image.digest).await, &image);
    // And the other way round.
    let config = image.blobs().remove(0);
    let manifest = mirror.manifest(REPO, &config).await;
    assert_eq!(manifest.status, StatusCode::NOT_FOUND);
    let blob = client::get(&mirror.blob_url(REPO, &config), &[]).await;
    assert_eq!(blob.unwrap().status, StatusCode::OK);
}

/// A client that looked for a manifest just before it was stored, and for its transfer just after that, found neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_came_at_the_very_end_started_a_second_get() {
    const MANIFESTS: u64 = 60;
    let (registry, mirror) = scene::start_with(|config| config.impatient());
    let client = Client::new();
    for seed in 0..MANIFESTS {
        let image = image(seed);
        let tag = format!("t{seed}");
        registry.put_image(REPO, Some(&tag), &image);
        let reference = if seed % 2 == 0 { tag } else { image.digest };
        let url = mirror.manifest_url(REPO, &reference);
        let askers: Vec<_> = (0..24)
            .map(|_| {
                let (client, url) = (client.clone(), url.clone());
                // Asking all the time until it is stored, some of them ask at the wrong moment.
                tokio::spawn(async move {
                    loop {
                        let answer = client.get(&url, &[]).await.unwrap();
                        assert_eq!(answer.status, StatusCode::OK);
                        let status = answer.header("cache-status").unwrap();
                        if status.starts_with("pierglass; hit") {
                            break;
                        }
                    }
                })
            })
            .collect();
        for asker in askers {
            asker.await.unwrap();
        }
    }
    assert_eq!(asked(&registry), (MANIFESTS, 0));
}
