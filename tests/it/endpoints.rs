//! Several places to ask, and several to be there: one that fails must not cost a pull, and no secret may go where it
//! is not meant to.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::client::{download, get, head};
use crate::support::registry::Builder;
use crate::support::{FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, REPO, image, until};

/// An endpoint and the registry behind it, both with the same image.
async fn both() -> (FakeRegistry, FakeRegistry) {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    for registry in [&near, &home] {
        registry.put_image(REPO, Some("1.0"), &image(1));
    }
    (near, home)
}

fn through(endpoints: &[&FakeRegistry], home: &FakeRegistry) -> MirrorConfig {
    let urls: Vec<_> = endpoints.iter().map(|registry| registry.url()).collect();
    MirrorConfig::for_upstream(home)
        .toml(&format!("endpoints = {urls:?}\nheader_timeout = \"4s\""))
        .asking_each_time()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_are_asked_before_the_registry_itself() {
    let (near, home) = both().await;
    let mirror = Mirror::start(through(&[&near], &home));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.body, image(1).manifest);
    for blob in image(1).blobs() {
        let url = mirror.blob_url(REPO, &blob);
        assert_eq!(head(&url, &[]).await.unwrap().status, StatusCode::OK);
        download(&url, &[]).await.unwrap().assert_is(&blob);
    }
    assert_eq!(home.counts().requests(), 0);
    // A list of a place that may hold a part of everything is no list.
    let tags = format!("{}/v2/{REPO}/tags/list", mirror.url());
    assert_eq!(get(&tags, &[]).await.unwrap().status, StatusCode::OK);
    assert_eq!((near.counts().tag_lists, home.counts().tag_lists), (0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_endpoint_does_not_give_comes_from_the_next() {
    for fault in [
        Fault::status(404),
        Fault::status(401),
        Fault::status(403),
        Fault::status(429),
        Fault::status(500),
        Fault::status(503),
        Fault::Html(200),
        Fault::LyingDigestHeader,
        Fault::WrongBytes,
        Fault::Reset,
        Fault::RedirectLoop,
        Fault::Hang,
    ] {
        let (near, home) = both().await;
        let empty = FakeRegistry::start().await;
        let on = match fault {
            // Blobs are verified when they are whole; that is another test.
            Fault::WrongBytes | Fault::LyingDigestHeader | Fault::Html(_) => On::manifest(),
            _ => On::any(),
        };
        let fault_id = near.fault(on.forever(), fault.clone());
        let mirror = Mirror::start(through(&[&empty, &near], &home));
        let started = Instant::now();
        for url in [
            mirror.manifest_url(REPO, "1.0"),
            mirror.manifest_url(REPO, &image(1).digest),
            mirror.blob_url(REPO, &image(1).blobs()[0]),
        ] {
            let answer = get(&url, &[]).await.unwrap();
            let text = answer.text();
            assert_eq!(answer.status, StatusCode::OK, "{fault:?}: {text}");
        }
        let answer = mirror.head(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::OK, "{fault:?}");
        assert!(near.struck(fault_id) > 0);
        // Four seconds are for all of them together: one that hangs leaves the others their share.
        assert!(started.elapsed() < Duration::from_secs(15), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_registry_itself_says_what_is_not_there() {
    let (near, home) = both().await;
    let mirror = Mirror::start(through(&[&near], &home));
    let url = mirror.manifest_url(REPO, "typo");
    let answer = get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert!(near.counts().manifest_gets > 0);
    home.down();
    let answer = get(&url, &[]).await.unwrap();
    assert_eq!(
        answer.status,
        StatusCode::SERVICE_UNAVAILABLE,
        "no registry knows"
    );
    // Addresses are for the operator.
    assert!(!answer.text().contains(&home.authority()));
    mirror.wait_for_cause(&home.authority());
    // What the endpoint has needs no more than the endpoint.
    let url = mirror.manifest_url(REPO, "1.0");
    assert_eq!(get(&url, &[]).await.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_keeps_failing_has_a_circuit_of_its_own() {
    let (near, home) = both().await;
    near.fault(On::any().forever(), Fault::Hang);
    let config = through(&[&near], &home).toml("stale_after = \"20s\"");
    let mirror = Mirror::start(config);
    let url = mirror.manifest_url(REPO, "1.0");
    let name = "pierglass_upstream_circuit_openings_total";
    let near_host = near.authority();
    until("the endpoint is left alone", async || {
        assert_eq!(get(&url, &[]).await.unwrap().status, StatusCode::OK);
        mirror.metric(name, &[("endpoint", &*near_host)]).await >= Some(1.0)
    })
    .await;
    let home_host = home.authority();
    let opened = mirror.metric(name, &[("endpoint", &*home_host)]).await;
    assert_eq!(opened, Some(0.0));
    let up = mirror.metric("pierglass_upstream_up", &[]).await;
    assert_eq!(up, Some(1.0), "the registry itself answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_an_endpoint_cuts_goes_on_from_another() {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let digest = near.put_generated_blob(REPO, 1, 8 * MIB);
    home.put_generated_blob(REPO, 1, 8 * MIB);
    near.fault(On::blob().get().forever(), Fault::CutAfter(MIB));
    let mirror = Mirror::start(through(&[&near], &home));
    let got = download(&mirror.blob_url(REPO, &digest), &[]).await;
    got.unwrap().assert_is(&digest);
    let (from_near, from_home) = (near.counts(), home.counts());
    assert_eq!((from_near.blob_gets, from_home.blob_gets), (1, 1));
    assert!(from_near.bytes_sent + from_home.bytes_sent <= 8 * MIB + MIB / 2);
    let requests = home.requests();
    let range = requests.iter().find_map(|seen| seen.range());
    assert!(
        range.is_some_and(|range| range.starts_with("bytes=1048576-")),
        "{range:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_sent_a_wrong_blob_is_not_asked_for_it_again() {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let digest = near.put_generated_blob(REPO, 1, MIB);
    home.put_generated_blob(REPO, 1, MIB);
    near.fault(On::blob().get().forever(), Fault::WrongBytes);
    let mirror = Mirror::start(through(&[&near], &home));
    let url = mirror.blob_url(REPO, &digest);
    let wrong = download(&url, &[]).await.unwrap();
    assert!(wrong.error.is_some(), "no client gets it whole");
    download(&url, &[]).await.unwrap().assert_is(&digest);
    assert_eq!((near.counts().blob_gets, home.counts().blob_gets), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_blob_that_an_endpoint_breaks_off_cost_all_others_the_endpoint() {
    let (near, home) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let broken = near.put_generated_blob("attacker/a", 1, MIB);
    home.put_generated_blob("attacker/a", 1, MIB);
    let cut = On::blob().get().containing(&broken);
    near.fault(cut.forever(), Fault::CutAfter(1000));
    let mirror = Mirror::start(through(&[&near], &home));
    let url = mirror.blob_url("attacker/a", &broken);
    download(&url, &[]).await.unwrap().assert_is(&broken);
    near.reset_counts();
    home.reset_counts();
    for seed in 2..6 {
        let digest = near.put_generated_blob(REPO, seed, MIB);
        home.put_generated_blob(REPO, seed, MIB);
        mirror.pull_blob(REPO, &digest).await;
    }
    assert_eq!((near.counts().blob_gets, home.counts().blob_gets), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_endpoint_ever_sees_a_password() {
    const PASSWORD: &str = "hunter2-Pa55word";
    let near = FakeRegistry::builder()
        .basic("ci-bot", PASSWORD)
        .start()
        .await;
    let nearer = FakeRegistry::builder()
        .bearer(Some(("ci-bot", PASSWORD)))
        .start()
        .await;
    let home = FakeRegistry::builder()
        .basic("ci-bot", PASSWORD)
        .start()
        .await;
    home.put_image(REPO, Some("1.0"), &image(1));
    let login = format!("username = \"ci-bot\"\npassword = \"{PASSWORD}\"");
    let mirror = Mirror::start(through(&[&nearer, &near], &home).toml(&login));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.body, image(1).manifest);
    for endpoint in [&near, &nearer] {
        assert!(endpoint.counts().manifest_gets > 0);
        for seen in endpoint.requests() {
            assert_ne!(seen.authorization_scheme(), Some("Basic"), "{seen:?}");
            assert!(!seen.target.contains("ci-bot"), "{seen:?}");
        }
    }
}

// Several to be.

const BOTS: [(&str, &str); 3] = [("bot-1", "one"), ("bot-2", "two"), ("bot-3", "three")];

fn as_bots(registry: &FakeRegistry) -> MirrorConfig {
    let [first, rest @ ..] = BOTS;
    let mut text = format!("username = \"{}\"\npassword = \"{}\"\n", first.0, first.1);
    for (user, password) in rest {
        text += &format!(
            "[[upstream.\"docker.io\".more_credentials]]\nusername = \"{user}\"\npassword = \"{password}\"\n"
        );
    }
    MirrorConfig::for_upstream(registry)
        .toml(&text)
        .tag_ttl("0s")
        .negative_ttl("0s")
}

async fn for_bots(builder: Builder) -> FakeRegistry {
    let registry = builder.start().await;
    for (user, password) in BOTS {
        registry.add_login(user, password);
    }
    for number in 0..9 {
        registry.put_image(REPO, Some(&format!("{number}")), &image(number));
    }
    registry
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_quota_left_takes_over() {
    for builder in [
        FakeRegistry::builder().bearer(Some(BOTS[0])),
        FakeRegistry::builder().basic(BOTS[0].0, BOTS[0].1),
    ] {
        let registry = for_bots(builder).await;
        registry.set_rate_limit_of("bot-1", 100, 2);
        registry.set_rate_limit_of("bot-2", 100, 0);
        registry.set_rate_limit_of("bot-3", 100, 3);
        let mirror = Mirror::start(as_bots(&registry));
        for number in 0..5 {
            let url = mirror.manifest_url(REPO, &number.to_string());
            let answer = get(&url, &[]).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{number}: {}", answer.text());
        }
        // Two were given, one each was refused to find out, and neither user was asked again.
        let answer = mirror.manifest(REPO, "5").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        let refused = registry.counts().manifest_gets;
        let answer = mirror.manifest(REPO, "6").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(registry.counts().manifest_gets, refused);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_that_is_let_in_takes_over_from_one_that_is_not() {
    let registry = FakeRegistry::builder().bearer(Some(BOTS[1])).start().await;
    registry.put_image(REPO, Some("1"), &image(1));
    registry.put_image(REPO, Some("2"), &image(2));
    let mirror = Mirror::start(as_bots(&registry));
    let answer = mirror.manifest(REPO, "1").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let exchanges = registry.counts().token_gets;
    // It is remembered for a while who that was.
    let answer = mirror.manifest(REPO, "2").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(registry.counts().token_gets, exchanges);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_token_is_used_for_another_user() {
    let registry = for_bots(FakeRegistry::builder().bearer(Some(BOTS[0]))).await;
    for (user, _) in BOTS {
        registry.set_rate_limit_of(user, 100, 1);
    }
    let mirror = Mirror::start(as_bots(&registry));
    for number in 0..3 {
        let url = mirror.manifest_url(REPO, &number.to_string());
        assert_eq!(get(&url, &[]).await.unwrap().status, StatusCode::OK);
    }
    // Each asked for a token in its own name, with its own password.
    let requests = registry.requests();
    let exchanges: Vec<_> = requests
        .iter()
        .filter(|seen| seen.target.starts_with("/token"))
        .collect();
    assert_eq!(exchanges.len(), 3);
    for (exchange, (user, _)) in exchanges.iter().zip(BOTS) {
        assert!(exchange.target.contains(&format!("account={user}")));
    }
    let passwords: std::collections::BTreeSet<_> = exchanges
        .iter()
        .filter_map(|seen| seen.header("authorization"))
        .collect();
    assert_eq!(passwords.len(), 3);
    for (_, password) in BOTS {
        let log = mirror.output();
        assert!(!log.contains(&format!("\"{password}\"")));
    }
}
