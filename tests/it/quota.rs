//! A limit of upstream must not become a limit of the clients: told apart by kind, honoured, and not run into.

use std::time::{Duration, Instant};

use http::StatusCode;

use crate::support::{
    Client, FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, client, image, scene, until,
};

const STALE: &str = "pierglass; hit; detail=stale";
const LIMITS: &str = "pierglass_upstream_rate_limits_total";

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry).patient()
}

/// A 429 in Docker Hub's words of one kind or the other.
fn limited(quota: bool, retry_after: Option<&str>) -> Fault {
    let message =
        "You have reached your pull rate limit. https://www.docker.com/increase-rate-limit";
    let body = match quota {
        true => serde_json::json!({"errors": [{"code": "TOOMANYREQUESTS", "message": message}]})
            .to_string(),
        false => "Too Many Requests (HAP429)".to_owned(),
    };
    let header = retry_after.map(|value| ("Retry-After".to_owned(), value.to_owned()));
    Fault::Status(429, body, header.into_iter().collect())
}

/// How long upstream is not asked, in seconds. Clients wait no longer than 2 s for that: the rest is in words.
fn retry_after(answer: &client::Response) -> u64 {
    let told: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&told), "{told}");
    let text = answer.text();
    let (_, words) = text.split_once("; ask again in ").unwrap_or_default();
    let (seconds, _) = words.split_once(" s").unwrap_or_default();
    seconds.parse().unwrap_or(told)
}

async fn limits(mirror: &Mirror, kind: &str) -> f64 {
    let count = mirror.metric(LIMITS, &[("kind", kind)]).await;
    count.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spent_quota_holds_manifests_alone() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    registry.put_image(REPO, Some("2.0"), &image(2));
    registry.set_rate_limit(100, 0);
    let mirror = Mirror::start(config(&registry));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(answer.text().contains("pull quota"), "{}", answer.text());
    assert!((1..=600).contains(&retry_after(&answer)));
    assert_eq!(
        (
            limits(&mirror, "quota").await,
            limits(&mirror, "abuse").await
        ),
        (1.0, 0.0)
    );
    // It said so: it is not asked for another.
    registry.reset_counts();
    assert_eq!(
        mirror.manifest(REPO, "2.0").await.status,
        StatusCode::TOO_MANY_REQUESTS
    );
    assert_eq!(registry.counts().manifest_gets, 0);
    // Blobs and HEADs are free.
    let blob = client::get(&mirror.blob_url(REPO, &image(1).blobs()[0]), &[]).await;
    assert_eq!(blob.unwrap().status, StatusCode::OK);
    assert_eq!(mirror.head(REPO, "2.0").await.status, StatusCode::OK);
    // A HEAD tells that there is something again, however long the hold was to last.
    registry.set_rate_limit(100, 50);
    assert_eq!(mirror.head(REPO, "1.0").await.status, StatusCode::OK);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn abuse_holds_everything() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient());
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    let fault = registry.fault(On::any().forever(), limited(false, Some("60")));
    assert_eq!(
        mirror.manifest(REPO, "1.0").await.header("cache-status"),
        Some(STALE)
    );
    assert_eq!(registry.struck(fault), 1);
    assert_eq!(
        (
            limits(&mirror, "quota").await,
            limits(&mirror, "abuse").await
        ),
        (0.0, 1.0)
    );
    // `/v2/` tells that it is not about that repository alone.
    let other = mirror.manifest("acme/other", "1.0").await;
    assert_eq!(other.status, StatusCode::TOO_MANY_REQUESTS);
    registry.reset_counts();
    // Stored: served. Not stored: refused, with what is left of the minute.
    assert_eq!(
        mirror.manifest(REPO, "1.0").await.header("cache-status"),
        Some(STALE)
    );
    let url = mirror.blob_url(REPO, &image(1).blobs()[0]);
    for answer in [
        mirror.manifest(REPO, "2.0").await,
        mirror.manifest("acme/third", "1.0").await,
        client::get(&url, &[]).await.unwrap(),
    ] {
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert!((30..=60).contains(&retry_after(&answer)));
    }
    let head = mirror.head(REPO, "2.0").await;
    assert_eq!(head.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(head.header("retry-after"), Some("2"));
    assert_eq!(registry.counts().requests(), 0, "it said a minute");
    let until = "pierglass_upstream_held_until_timestamp_seconds";
    let until = mirror.metric(until, &[("kind", "abuse")]).await.unwrap();
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((until - now.as_secs_f64()) > 10.0);
    assert!((until - now.as_secs_f64()) < 61.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_limit_is_waited_for_instead_of_passed_on() {
    let date = || {
        let at = std::time::SystemTime::now() + Duration::from_secs(4);
        httpdate::fmt_http_date(at)
    };
    for (quota, told) in [
        (true, Some("1".to_owned())),
        (false, Some("1".to_owned())),
        (false, Some("date".to_owned())),
        // Nonsense, as GHCR sends it, and nothing at all: two seconds of our own.
        (false, Some("445µs".to_owned())),
        (false, None),
    ] {
        let registry = FakeRegistry::start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        let mirror = Mirror::start(config(&registry));
        let date = date();
        let said = told.as_deref().map(|told| told.replace("date", &date));
        let fault = registry.fault(On::any(), limited(quota, said.as_deref()));
        let started = Instant::now();
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::OK, "{told:?}: {}", answer.text());
        assert_eq!(registry.struck(fault), 1);
        assert_eq!(registry.counts().manifest_gets, 2);
        let asked: Vec<_> = registry.requests().iter().map(|seen| seen.at).collect();
        let pause = asked[1] - asked[0];
        assert!(pause >= Duration::from_millis(900), "{told:?}: {pause:?}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_limit_is_passed_on_with_what_is_left_of_it() {
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    registry.fault(On::any(), limited(false, Some("17")));
    let mirror = Mirror::start(config(&registry));
    let first = mirror.manifest(REPO, "1.0").await;
    assert_eq!(first.status, StatusCode::TOO_MANY_REQUESTS);
    assert!((16..=17).contains(&retry_after(&first)));
    until("less is left", async || {
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        retry_after(&answer) < retry_after(&first)
    })
    .await;
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_tag_does_not_wait_for_a_limit_to_end() {
    for quota in [true, false] {
        let registry = FakeRegistry::start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        let mirror = Mirror::start(config(&registry));
        mirror.manifest(REPO, "1.0").await;
        registry.fault(On::manifest().forever(), limited(quota, Some("3")));
        let started = Instant::now();
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.header("cache-status"), Some(STALE));
        // stale_after is twenty seconds: it was the refusal that decided.
        assert!(started.elapsed() < Duration::from_secs(3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blob_hosts_limit_is_neither_the_registrys_nor_the_clients() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let blobs = image(1).blobs();
    registry.fault(On::blob(), limited(false, Some("60")));
    let mirror = Mirror::start(config(&registry));
    let url = mirror.blob_url(REPO, &blobs[0]);
    // The registry names another URL.
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(registry.counts().blob_host_gets, 2);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    assert_eq!(limits(&mirror, "abuse").await, 0.0);
}

/// Five images, pulled by tag a thousand times over many times the life of a tag.
async fn pull_a_thousand_times(moving: bool) {
    const BUDGET: u64 = 10;
    let registry = FakeRegistry::docker_hub().start().await;
    registry.set_rate_limit(BUDGET, BUDGET);
    let push = |number: usize, version: u64| {
        let image = image(version * 100 + number as u64);
        registry.put_image(&format!("acme/app{number}"), Some("1.0"), &image);
    };
    (0..5).for_each(|number| push(number, 0));
    let config = MirrorConfig::for_upstream(&registry).tag_ttl("20ms");
    let mirror = Mirror::start(config.toml("stale_after = \"20s\""));
    let client = Client::new();
    for pull in 0..1000_usize {
        let number = pull % 5;
        if moving && pull % 50 == 49 {
            push(number, pull as u64);
        }
        let repo = format!("acme/app{number}");
        // By HEAD and then by digest, as containerd and Docker do, and by GET, as others do.
        let url = mirror.manifest_url(&repo, "1.0");
        let mut reference = "1.0".to_owned();
        if pull % 2 == 0 {
            let answer = client.request(http::Method::HEAD, &url, &[]).await.unwrap();
            assert_eq!(
                answer.status,
                StatusCode::OK,
                "pull {pull}: {}",
                answer.text()
            );
            reference = answer.header("docker-content-digest").unwrap().to_owned();
        }
        let url = mirror.manifest_url(&repo, &reference);
        let answer = client.get(&url, &[]).await.unwrap();
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "pull {pull}: {}",
            answer.text()
        );
    }
    let counts = registry.counts();
    let left = registry.quota_left().unwrap();
    assert!(left > 0, "the budget is spent: {counts:?}");
    assert!(
        counts.manifest_heads > 20,
        "over many lives of a tag: {counts:?}"
    );
    let (gets, pulled) = (counts.manifest_gets, BUDGET - left);
    assert!(
        gets <= pulled + 1,
        "nothing was refused but the first, for a token"
    );
    if moving {
        let stale = [("outcome", "stale")];
        let stale = mirror.metric("pierglass_requests_total", &stale).await;
        assert!(stale > Some(0.0), "what is old is called so");
        // An image that was not pulled yet is what the rest was kept for.
        registry.put_image(REPO, Some("new"), &image(7));
        assert_eq!(mirror.manifest(REPO, "new").await.status, StatusCode::OK);
    } else {
        assert_eq!(pulled, 5, "each image once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pulls_of_five_images_cost_five() {
    pull_a_thousand_times(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_pulls_of_five_images_that_move_do_not_spend_ten() {
    pull_a_thousand_times(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_image_costs_no_quota() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let mirror = Mirror::start(config(&registry));
    let pull = async || {
        assert_eq!(mirror.head(REPO, "1.0").await.status, StatusCode::OK);
        let image = image(1);
        assert_eq!(
            mirror.manifest(REPO, &image.digest).await.status,
            StatusCode::OK
        );
        assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
        for blob in image.blobs() {
            let got = client::download(&mirror.blob_url(REPO, &blob), &[]).await;
            got.unwrap().assert_is(&blob);
        }
    };
    pull().await;
    registry.reset_counts();
    let left = registry.quota_left();
    for _ in 0..20 {
        pull().await;
    }
    let counts = registry.counts();
    assert_eq!(
        (
            counts.manifest_gets,
            counts.blob_gets,
            counts.blob_host_gets
        ),
        (0, 0, 0)
    );
    assert_eq!(registry.quota_left(), left);
    // tag_ttl is zero, so each was asked about; that is free.
    assert_eq!(counts.manifest_heads, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_tag_waits_for_the_quota_and_then_moves() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let mirror = Mirror::start(config(&registry));
    mirror.manifest(REPO, "1.0").await;
    registry.set_rate_limit(100, 20);
    registry.put_image(REPO, Some("1.0"), &image(2));
    for _ in 0..3 {
        for answer in [
            mirror.head(REPO, "1.0").await,
            mirror.manifest(REPO, "1.0").await,
        ] {
            assert_eq!(answer.header("cache-status"), Some(STALE));
            assert_eq!(
                answer.header("docker-content-digest"),
                Some(&*image(1).digest)
            );
        }
    }
    assert_eq!(registry.quota_left(), Some(20));
    registry.set_rate_limit(100, 90);
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image(2).digest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_reserve_a_moved_tag_is_fetched_to_the_last_pull() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    registry.set_rate_limit(100, 2);
    let mirror = Mirror::start(config(&registry).toml("quota_reserve = \"0%\""));
    mirror.manifest(REPO, "1.0").await;
    registry.put_image(REPO, Some("1.0"), &image(2));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image(2).digest)
    );
    assert_eq!(registry.quota_left(), Some(0));
    // Spent. What is stored is served, and says so.
    registry.put_image(REPO, Some("1.0"), &image(3));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.header("cache-status"), Some(STALE));
    assert_eq!(
        answer.header("docker-content-digest"),
        Some(&*image(2).digest)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_day_of_one_repository_held_all_of_a_registry() {
    let (registry, mirror, _) = scene::cold_image(|config| config.patient());
    let fault = registry.fault(
        On::manifest().repo("attacker/a").forever(),
        limited(false, Some("86400")),
    );
    let answer = mirror.manifest("attacker/a", "1.0").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(retry_after(&answer) <= 300, "{}", retry_after(&answer));
    for _ in 0..3 {
        assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
        mirror.pull_blobs(REPO, &image(1)).await;
        let answer = mirror.manifest("attacker/a", "2.0").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    }
    assert_eq!(registry.struck(fault), 1, "it is held itself");
    // A second one, with another limit.
    registry.fault(
        On::manifest().repo("attacker/b").forever(),
        limited(false, None),
    );
    mirror.manifest("attacker/b", "1.0").await;
    let other = mirror.manifest("acme/none", "1.0").await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quota_of_a_registry_behind_one_repository_held_all_pulls() {
    let registry = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    // As a registry that is a proxy of Docker Hub in one project repeats it.
    let fault = limited(true, Some("21600"));
    registry.fault(On::manifest().repo("hub-proxy/nginx").forever(), fault);
    let config = MirrorConfig::bare().upstream("registry.example", &registry);
    let mirror = Mirror::start(config);
    let name = |repository: &str| format!("registry.example/{repository}");
    let answer = mirror.manifest(&name("hub-proxy/nginx"), "1").await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
    let answer = mirror.manifest(&name(REPO), "1.0").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realms_limit_for_one_scope_held_all_of_a_registry() {
    let registry = FakeRegistry::builder().bearer(None).start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let fault = registry.fault(
        On::token().containing("attacker").forever(),
        limited(false, Some("86400")),
    );
    let mirror = Mirror::start(config(&registry));
    for _ in 0..3 {
        let answer = mirror.manifest("attacker/a", "1.0").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert!(retry_after(&answer) <= 300);
    }
    assert_eq!(registry.struck(fault), 1);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
}
