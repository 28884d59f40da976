//! An upstream that keeps failing must be left alone for a while, must cost stored content nothing meanwhile, and must
//! be found again soon after it is back.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::{
    FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, Redirect, client, image, scene, until,
};

const STALE: &str = "pierglass; hit; detail=stale";
const STATE: &str = "pierglass_upstream_circuit_state";
const OPENINGS: &str = "pierglass_upstream_circuit_openings_total";

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry)
        .patient()
        .timeouts("1s")
}

async fn circuit(mirror: &Mirror, registry: &FakeRegistry) -> f64 {
    let labels = [("endpoint", &*registry.authority())];
    mirror.metric(STATE, &labels).await.unwrap()
}

async fn openings(mirror: &Mirror, registry: &FakeRegistry) -> f64 {
    let labels = [("endpoint", &*registry.authority())];
    mirror.metric(OPENINGS, &labels).await.unwrap()
}

/// Asks for what is not there until the circuit opens.
async fn open(mirror: &Mirror, registry: &FakeRegistry) {
    let mut number = 0;
    until("the circuit opens", async || {
        number += 1;
        mirror.manifest(REPO, &format!("cold-{number}")).await;
        openings(mirror, registry).await >= 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_upstream_is_left_alone_and_stored_tags_do_not_wait_for_it() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient().timeouts("1s"));
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    assert_eq!(circuit(&mirror, &registry).await, 0.0);
    registry.fault(On::any().forever(), Fault::Hang);
    open(&mirror, &registry).await;

    // A second of silence is what one question costs, and stale_after are twenty; now there is no waiting for either.
    let (mut at_once, mut slowest) = (0, Duration::ZERO);
    for _ in 0..20 {
        let asked = registry.counts().requests();
        let started = Instant::now();
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("cache-status"), Some(STALE));
        if registry.counts().requests() == asked {
            at_once += 1;
            slowest = slowest.max(started.elapsed());
        }
    }
    assert!(at_once >= 10, "{at_once} of 20 without a question");
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    assert!(circuit(&mirror, &registry).await > 0.0);

    // What is not stored is an error of a kind, and the log says all there is to say.
    let mut seen = None;
    until("a question was not asked", async || {
        let answer = mirror.manifest(REPO, "cold").await;
        let left_alone = answer.text().contains("is not asked");
        seen = left_alone.then_some(answer);
        left_alone
    })
    .await;
    let answer = seen.unwrap();
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT, "it is silent");
    assert!(!answer.text().contains(&registry.authority()));
    let text = mirror.wait_for_cause("has been left alone for");
    for words in [
        "docker.io",
        &registry.authority(),
        "sent no response header",
        "tried",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(answer.header("retry-after").is_some());
    let up = mirror.metric("pierglass_upstream_up", &[]).await;
    assert_eq!(up, Some(0.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_back_is_noticed_and_each_is_said_once() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient().timeouts("1s"));
    registry.down();
    open(&mirror, &registry).await;
    for _ in 0..50 {
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    registry.up();
    let started = Instant::now();
    until("it answers again", async || {
        mirror.manifest(REPO, "1.0").await.status == StatusCode::OK
    })
    .await;
    // It was open for two seconds at first; fifty requests in no time were one probe at most.
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(circuit(&mirror, &registry).await, 0.0);
    assert_eq!(openings(&mirror, &registry).await, 1.0);
    let log = mirror.output();
    let lines = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(lines("keeps failing and is left alone"), 1);
    assert_eq!(lines("it answers again"), 1);
    assert_eq!(mirror.metric("pierglass_upstream_up", &[]).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blob_that_is_always_500_shuts_nothing_out() {
    let registry = FakeRegistry::start().await;
    let broken = registry.put_blob(REPO, "broken");
    registry.put_image(REPO, Some("1.0"), &image(1));
    let fault = registry.fault(On::blob().containing(&broken).forever(), Fault::status(500));
    let mirror = Mirror::start(config(&registry));
    let url = mirror.blob_url(REPO, &broken);
    for _ in 0..30 {
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(registry.struck(fault) >= 30);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    assert_eq!(openings(&mirror, &registry).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_upstream_says_clearly_opens_nothing() {
    for status in [404, 401, 403, 400] {
        let registry = FakeRegistry::start().await;
        registry.fault(On::any().forever(), Fault::status(status));
        let mirror = Mirror::start(config(&registry));
        for number in 0..20 {
            mirror.manifest(REPO, &format!("t{number}")).await;
        }
        assert_eq!(openings(&mirror, &registry).await, 0.0, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_blobs_come_from_is_not_the_registry() {
    let registry = FakeRegistry::builder()
        .redirect_blobs(Redirect::Absolute307)
        .start()
        .await;
    let mirror = Mirror::start(config(&registry));
    let blobs: Vec<_> = (0..12_u8)
        .map(|n| registry.put_blob(REPO, vec![n]))
        .collect();
    let fault = registry.fault(On::blob().forever(), Fault::status(500));
    for blob in &blobs {
        let answer = client::get(&mirror.blob_url(REPO, blob), &[]).await;
        assert_eq!(answer.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert!(registry.struck(fault) >= 12);
    assert_eq!(openings(&mirror, &registry).await, 0.0);
    registry.put_image(REPO, Some("1.0"), &image(1));
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_upstream_feels_nothing_of_it() {
    let (bad, good) = (FakeRegistry::start().await, FakeRegistry::start().await);
    good.put_image(REPO, Some("1.0"), &image(1));
    let mirror = Mirror::start(config(&bad).upstream("quay.io", &good));
    bad.fault(On::any().forever(), Fault::status(503));
    open(&mirror, &bad).await;
    let answer = mirror.manifest(&format!("quay.io/{REPO}"), "1.0").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(circuit(&mirror, &good).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_server_that_hangs_is_left_alone_by_itself() {
    let registry = FakeRegistry::builder().bearer(None).start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let mirror = Mirror::start(config(&registry));
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    registry.fault(On::token().forever(), Fault::Hang);
    // Of other repositories, so that other tokens are needed.
    let token = format!("{} token", registry.authority());
    let labels = [("endpoint", &*token)];
    let mut number = 0;
    until("the realm's circuit opens", async || {
        number += 1;
        mirror.manifest(&format!("acme/other{number}"), "1").await;
        mirror.metric(OPENINGS, &labels).await >= Some(1.0)
    })
    .await;
    // A token that is at hand is as good as ever.
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(
        answer.header("cache-status"),
        Some("pierglass; hit; detail=revalidated")
    );
    assert_eq!(openings(&mirror, &registry).await, 0.0);
}

/// Asks for `count` things of a repository, each of which fails.
async fn ask_for_broken(mirror: &Mirror, repository: &str, count: u32) {
    for number in 0..count {
        let answer = mirror
            .manifest(repository, &format!("broken-{number}"))
            .await;
        assert!(answer.status.is_server_error(), "{}", answer.status);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_questions_that_were_answered_500_shut_an_upstream_out() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient().timeouts("5s"));
    let fault = registry.fault(
        On::manifest().containing("broken").forever(),
        Fault::status(500),
    );
    // Five paths of one repository, five repositories, and a client that does not stop.
    ask_for_broken(&mirror, "attacker/a", 5).await;
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    for number in 0..5 {
        ask_for_broken(&mirror, &format!("attacker/b{number}"), 1).await;
    }
    for _ in 0..12 {
        ask_for_broken(&mirror, "attacker/a", 5).await;
        ask_for_broken(&mirror, "attacker/c", 5).await;
        assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
        let other = mirror.manifest("acme/none", "1.0").await;
        assert_eq!(other.status, StatusCode::NOT_FOUND, "it is asked");
    }
    assert_eq!(openings(&mirror, &registry).await, 0.0);
    // What is broken is left alone itself.
    assert!(registry.struck(fault) < 60, "{}", registry.struck(fault));
    let name = "pierglass_upstream_repository_circuit_openings_total";
    assert!(mirror.metric(name, &[]).await >= Some(2.0));
    assert!(mirror.output().contains("attacker/a"));
    assert_eq!(mirror.metric("pierglass_upstream_up", &[]).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_hangs_shut_an_upstream_out() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient().timeouts("1s"));
    registry.fault(On::manifest().repo("attacker/a").forever(), Fault::Hang);
    for _ in 0..3 {
        let asked = (0..4).map(|number| {
            let url = mirror.manifest_url("attacker/a", &format!("t{number}"));
            tokio::spawn(async move { client::get(&url, &[]).await.unwrap().status })
        });
        for status in futures_util::future::join_all(asked).await {
            assert_eq!(status.unwrap(), StatusCode::GATEWAY_TIMEOUT);
        }
        assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    }
    assert_eq!(openings(&mirror, &registry).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_back_is_found_though_what_is_asked_first_is_broken() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient().timeouts("1s"));
    registry.fault(
        On::manifest().repo("attacker/a").forever(),
        Fault::status(500),
    );
    registry.down();
    open(&mirror, &registry).await;
    registry.up();
    // Only the broken repository is asked for. That it is broken says nothing of the registry.
    until("it is closed again", async || {
        mirror.manifest("attacker/a", "t").await;
        circuit(&mirror, &registry).await == 0.0
    })
    .await;
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_that_no_token_was_given_for_shut_a_realm_out() {
    for status in [500, 300, 409, 484, 501] {
        let registry = FakeRegistry::builder().bearer(None).start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        registry.fault(
            On::token().containing("attacker").forever(),
            Fault::status(status),
        );
        let mirror = Mirror::start(config(&registry));
        for number in 0..8 {
            ask_for_broken(&mirror, &format!("attacker/a{number}"), 1).await;
        }
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::OK, "{status}");
        let token = format!("{} token", registry.authority());
        let opened = mirror.metric(OPENINGS, &[("endpoint", &*token)]).await;
        assert_eq!(opened, Some(0.0), "{status}");
    }
}
