//! Whatever upstream says or does not say, a client has a clear answer in bounded time, and nothing of it is kept.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::client::{Response, download, get};
use crate::support::disk::blobs;
use crate::support::{
    FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, Redirect, image, scene, until,
};

/// `header_timeout` here, and what a busy machine may add to it.
const LIMIT: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(8);

fn limited(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry)
        .timeouts(&format!("{}s", LIMIT.as_secs()))
        .asking_each_time()
}

/// An error in the words of the API that names the upstream, and nothing of what upstream sent.
#[track_caller]
fn assert_clear(answer: &Response, started: Instant, what: &str) {
    assert!(answer.status.is_server_error(), "{what}: {}", answer.status);
    let took = started.elapsed();
    assert!(took < SOON, "{what}: {took:?}");
    let json = answer.json();
    let message = json["errors"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("docker.io: "), "{what}: {message}");
    assert!(
        message.len() > "docker.io: ".len() + 10,
        "{what}: {message}"
    );
    assert!(!message.contains('<'), "{what}: {message}");
}

fn kinds(mirror: &Mirror) -> [String; 3] {
    [
        mirror.manifest_url(REPO, "1.0"),
        mirror.blob_url(REPO, &image(1).blobs()[0]),
        format!("{}/v2/{REPO}/tags/list", mirror.url()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_do_not_end_or_make_no_sense_end_in_clear_words() {
    let endless = |status, drip| Fault::EndlessBody { status, drip };
    for fault in [
        Fault::EndlessHeader,
        endless(500, true),
        endless(500, false),
        endless(503, true),
        Fault::RedirectLoop,
        Fault::Html(500),
    ] {
        let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
        let struck = registry.fault(On::any().forever(), fault.clone());
        let mirror = Mirror::start(limited(&registry));
        for url in kinds(&mirror) {
            let started = Instant::now();
            let answer = get(&url, &[]).await.unwrap();
            assert_clear(&answer, started, &format!("{fault:?} {url}"));
        }
        assert!(registry.struck(struck) >= 3);
        registry.clear_faults();
        until("it is served after all", async || {
            let url = mirror.manifest_url(REPO, "1.0");
            get(&url, &[]).await.unwrap().body == image(1).manifest
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_does_not_end_is_a_refusal_all_the_same() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let mirror = Mirror::start(limited(&registry));
    let url = mirror.manifest_url(REPO, "1.0");
    for (status, expected) in [(404, 404), (403, 403), (429, 429)] {
        for drip in [true, false] {
            registry.fault(On::any(), Fault::EndlessBody { status, drip });
            let started = Instant::now();
            let answer = get(&url, &[]).await.unwrap();
            assert_eq!(answer.status.as_u16(), expected, "{}", answer.text());
            assert!(started.elapsed() < SOON);
            if status == 429 {
                // It holds for two seconds, which this client's two seconds do not cover.
                return;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_in_the_place_of_an_answer_is_no_answer() {
    for fault in [
        Fault::Html(200),
        Fault::EndlessBody {
            status: 200,
            drip: true,
        },
        Fault::EndlessBody {
            status: 200,
            drip: false,
        },
    ] {
        let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
        let mirror = Mirror::start(limited(&registry));
        let [manifest, _, tags] = kinds(&mirror);
        for (on, url) in [(On::manifest(), &manifest), (On::tags(), &tags)] {
            registry.fault(on.forever(), fault.clone());
            let started = Instant::now();
            let answer = get(url, &[]).await.unwrap();
            assert_clear(&answer, started, &format!("{fault:?} {url}"));
            registry.clear_faults();
            assert_eq!(
                get(url, &[]).await.unwrap().status,
                StatusCode::OK,
                "{fault:?} {url}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_token_is_told_as_that() {
    for fault in [
        Fault::Html(200),
        Fault::Html(500),
        Fault::EndlessBody {
            status: 200,
            drip: true,
        },
        Fault::EndlessBody {
            status: 200,
            drip: false,
        },
        Fault::EndlessBody {
            status: 500,
            drip: true,
        },
        Fault::EndlessHeader,
        Fault::RedirectLoop,
        Fault::Status(200, "{}".into(), Vec::new()),
        Fault::Status(200, String::new(), Vec::new()),
        Fault::Hang,
    ] {
        let registry = FakeRegistry::builder().bearer(None).start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        // What may pass is asked for again, twice; a redirect is followed.
        let times = match fault {
            Fault::RedirectLoop => 4,
            Fault::Html(_) | Fault::Status(..) | Fault::EndlessBody { status: 500, .. } => 3,
            _ => 1,
        };
        let struck = registry.fault(On::token().times(times), fault.clone());
        let mirror = Mirror::start(limited(&registry));
        let started = Instant::now();
        let url = mirror.manifest_url(REPO, "1.0");
        let answer = get(&url, &[]).await.unwrap();
        assert_clear(&answer, started, &format!("{fault:?}"));
        assert!(registry.struck(struck) > 0);
        assert_eq!(get(&url, &[]).await.unwrap().status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_not_asked_for_is_not_taken() {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob(REPO, 1, 3_000_000);
    let mirror = Mirror::start(limited(&registry));
    let url = mirror.blob_url(REPO, &digest);
    let part = |range: &str| {
        let header = vec![("Content-Range".to_owned(), range.to_owned())];
        Fault::Status(206, "x".repeat(10), header)
    };
    // All of it was asked for.
    for range in ["bytes 0-9/3000000", "bytes 5-14/3000000", "nonsense", ""] {
        registry.fault(On::blob().get(), part(range));
        let started = Instant::now();
        let answer = get(&url, &[]).await.unwrap();
        assert_clear(&answer, started, range);
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{range}");
        assert!(blobs(&mirror.store_path()).is_empty());
    }
    // The rest was asked for.
    let wrong = [
        "bytes 0-9/3000000",
        "bytes 2000000-9999999/3000000",
        "bytes 1000000-1000009/5",
        "bytes 9-3/3000000",
        "bytes */3000000",
    ];
    for (seed, range) in (2..).zip(wrong) {
        let digest = registry.put_generated_blob(REPO, seed, 3_000_000);
        registry.fault(On::blob().get(), Fault::CutAfter(1_000_000));
        let struck = registry.fault(On::blob().get(), part(range));
        // It is asked for once more, and then it is right.
        let got = download(&mirror.blob_url(REPO, &digest), &[])
            .await
            .unwrap();
        got.assert_is(&digest);
        assert_eq!(registry.struck(struck), 1, "{range}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_at_all_is_nothing() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let mirror = Mirror::start(limited(&registry));
    let nothing = Fault::Status(200, String::new(), Vec::new());
    registry.fault(On::any().forever(), nothing);
    let [manifest, blob, tags] = kinds(&mirror);
    for url in [&manifest, &tags] {
        let started = Instant::now();
        let answer = get(url, &[]).await.unwrap();
        assert_clear(&answer, started, url);
    }
    let got = download(&blob, &[]).await.unwrap();
    assert!(got.error.is_some() || !got.status.is_success());
    assert!(blobs(&mirror.store_path()).is_empty());
    registry.clear_faults();
    // A blob that was wrong twice, which one request finds out, is left alone for 5 s.
    until("it is asked for again", async || {
        let right = download(&blob, &[]).await.unwrap();
        right.status == StatusCode::OK && right.digest == image(1).blobs()[0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_in_a_moment_is_not_the_clients() {
    for fault in [
        Fault::status(500),
        Fault::status(502),
        Fault::Html(503),
        Fault::status(504),
        Fault::status(408),
        Fault::status(421),
        Fault::status(425),
        Fault::status(449),
        // Cloudflare's.
        Fault::Html(520),
        Fault::Reset,
    ] {
        let builder = FakeRegistry::builder().redirect_blobs(Redirect::Absolute307);
        let registry = builder.start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        let [manifest, blob, tags] = kinds(&mirror);
        for (on, url) in [
            (On::manifest(), manifest),
            // At the host that blobs are redirected to, as Quay's is now and then.
            (On::blob(), blob),
            (On::tags(), tags),
        ] {
            let struck = registry.fault(on.times(2), fault.clone());
            let answer = get(&url, &[]).await.unwrap();
            let text = answer.text();
            assert_eq!(answer.status, StatusCode::OK, "{fault:?} {url}: {text}");
            assert_eq!(registry.struck(struck), 2, "{fault:?} {url}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_pass_is_asked_for_three_times_and_no_more() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let struck = registry.fault(On::manifest().forever(), Fault::status(503));
    let url = mirror.manifest_url(REPO, "1.0");
    let answer = get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(registry.struck(struck), 3);
    // What it cannot do it cannot do a moment later.
    registry.clear_faults();
    for status in [501, 505] {
        let struck = registry.fault(On::manifest().forever(), Fault::status(status));
        get(&url, &[]).await.unwrap();
        assert_eq!(registry.struck(struck), 1, "{status}");
        registry.clear_faults();
    }
    // And where something is stored, no client waits for a second try.
    registry.clear_faults();
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).tag_ttl("0s"));
    let url = mirror.manifest_url(REPO, "1.0");
    get(&url, &[]).await.unwrap();
    let struck = registry.fault(On::manifest().forever(), Fault::status(503));
    let answer = get(&url, &[]).await.unwrap();
    assert_eq!(
        answer.header("cache-status"),
        Some("pierglass; hit; detail=stale")
    );
    assert_eq!(registry.struck(struck), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_refusals_of_a_registry_came_out_as_outages() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    for status in [400, 402, 406, 414, 418, 451] {
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        for (on, url) in [On::manifest(), On::blob(), On::tags()]
            .into_iter()
            .zip(kinds(&mirror))
        {
            // A list of tags is asked for once more, without `n`, where that may be what is refused.
            let struck = registry.fault(on.forever(), Fault::status(status));
            let first = get(&url, &[]).await.unwrap();
            assert_eq!(first.status, StatusCode::FORBIDDEN, "{status} {url}");
            assert_eq!(first.json()["errors"][0]["code"], "DENIED");
            let asked = registry.struck(struck);
            assert!(asked <= 2, "{status} {url}: {asked}");
            let again = get(&url, &[]).await.unwrap();
            assert_eq!(again.status, StatusCode::FORBIDDEN, "{status} {url}");
            assert_eq!(registry.struck(struck), asked, "{status} {url}: remembered");
            registry.clear_faults();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_without_end_ends_within_the_clients_patience() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    for number in 0..2000 {
        registry.tag(REPO, &format!("t{number}"), &image(1).digest);
    }
    registry.set_page(1);
    // Each page in time, all of them never.
    let slow = Fault::DelayHeaders(Duration::from_millis(300));
    registry.fault(On::tags().forever(), slow);
    let mirror = Mirror::start(limited(&registry));
    let started = Instant::now();
    let url = format!("{}/v2/{REPO}/tags/list", mirror.url());
    let answer = get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    // containerd gives a header thirty seconds.
    assert!(started.elapsed() < Duration::from_secs(28));
    assert!(answer.text().contains("docker.io"), "{}", answer.text());
    mirror.wait_for_cause("list");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trickle_held_room_and_clients_for_ever() {
    let idle = "idle_timeout = \"300ms\"";
    let (registry, mirror, digest) = scene::cold_blob(4 * MIB, |config| config.toml(idle));
    // First as fast as can be, so that something is worth keeping.
    registry.fault(On::blob().get(), Fault::CutAfter(2 * MIB));
    let trickle = Fault::Slow { bytes_per_sec: 400 };
    registry.fault(On::blob().get().forever(), trickle);
    let url = mirror.blob_url(REPO, &digest);
    let torn = tokio::time::timeout(Duration::from_secs(60), download(&url, &[])).await;
    assert!(torn.expect("it ends").unwrap().error.is_some());
    until("the transfer is over", async || {
        mirror.metric("pierglass_fills_in_flight", &[]).await == Some(0.0)
    })
    .await;
    registry.clear_faults();
    registry.reset_counts();
    download(&url, &[]).await.unwrap().assert_is(&digest);
    let sent = registry.counts().bytes_sent;
    assert!(
        sent < 3 * MIB,
        "{sent} bytes, although half of it was there"
    );
}
