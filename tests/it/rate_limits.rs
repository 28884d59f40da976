//! Numbers in which upstream tells its limits: spans that are dates, rates that are no quota, and what makes no sense.

use http::StatusCode;

use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, image, scene, until};

const STALE: &str = "pierglass; hit; detail=stale";
const LIMITS: &str = "pierglass_upstream_rate_limits_total";

fn limited(retry_after: &str) -> Fault {
    let header = ("Retry-After".to_owned(), retry_after.to_owned());
    Fault::Status(429, "Too Many Requests".to_owned(), vec![header])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_after_that_is_a_unix_time_silenced_an_upstream_for_a_day() {
    for factor in [1, 1000, 1_000_000, 1_000_000_000] {
        let (registry, mirror, _) = scene::cold_image(|config| config.patient());
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let told = ((now + 3) * factor).to_string();
        let struck = registry.fault(On::any(), limited(&told));
        let answer = mirror.manifest(REPO, "1.0").await;
        // Three seconds are waited for.
        assert_eq!(answer.status, StatusCode::OK, "{told}: {}", answer.text());
        assert_eq!(registry.struck(struck), 1);
    }
}

/// GitLab's and GitHub's, which do not say it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_that_says_when_it_starts_again_was_guessed() {
    for prefix in ["", "X-"] {
        let (registry, mirror, _) = scene::cold_image(|config| config.patient());
        let headers = [("Remaining", "0"), ("Reset", "60")];
        let headers =
            headers.map(|(name, value)| (format!("{prefix}RateLimit-{name}"), value.to_owned()));
        let fault = Fault::Status(429, "Too Many Requests".to_owned(), headers.to_vec());
        let struck = registry.fault(On::any(), fault);
        // A guess is two seconds, which would be waited for.
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS, "{prefix}");
        assert_eq!(registry.struck(struck), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_by_the_minute_hid_moved_tags_for_six_hours() {
    // GitLab's, and that of the drafts of the IETF.
    for limit in ["60", "100, 100;w=60"] {
        let registry = FakeRegistry::start().await;
        registry.put_image(REPO, Some("1.0"), &image(1));
        let config = MirrorConfig::bare().upstream("registry.example", &registry);
        let mirror = Mirror::start(config.asking_each_time());
        let name = format!("registry.example/{REPO}");
        assert_eq!(mirror.manifest(&name, "1.0").await.status, StatusCode::OK);
        let headers = [
            ("RateLimit-Limit", limit),
            ("RateLimit-Remaining", "0"),
            ("Retry-After", "1"),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let fault = Fault::Status(429, String::new(), headers.to_vec());
        registry.fault(On::manifest(), fault);
        let answer = mirror.manifest(&name, "1.0").await;
        assert_eq!(answer.header("cache-status"), Some(STALE), "{limit}");
        registry.put_image(REPO, Some("1.0"), &image(2));
        until("the tag has moved", async || {
            let answer = mirror.manifest(&name, "1.0").await;
            answer.header("docker-content-digest") == Some(&*image(2).digest)
        })
        .await;
        let remaining = mirror.metric("pierglass_upstream_ratelimit_remaining", &[]);
        assert_eq!(remaining.await, None, "{limit}");
        let kinds = ["quota", "abuse"].map(|kind| [("kind", kind)]);
        let [quota, abuse] = [
            mirror.metric(LIMITS, &kinds[0]).await,
            mirror.metric(LIMITS, &kinds[1]).await,
        ];
        assert_eq!(
            (quota.unwrap_or_default(), abuse),
            (0.0, Some(1.0)),
            "{limit}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_ends_when_it_is_not_stated_any_more() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    registry.set_rate_limit(100, 10);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).patient());
    mirror.manifest(REPO, "1.0").await;
    registry.put_image(REPO, Some("1.0"), &image(2));
    let answer = mirror.manifest(REPO, "1.0").await;
    assert_eq!(answer.header("cache-status"), Some(STALE), "it is spared");
    // As after a password with a plan without limits.
    registry.lift_rate_limit();
    until("the tag has moved", async || {
        let answer = mirror.manifest(REPO, "1.0").await;
        answer.header("docker-content-digest") == Some(&*image(2).digest)
    })
    .await;
    let remaining = mirror.metric("pierglass_upstream_ratelimit_remaining", &[]);
    assert_eq!(remaining.await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_of_six_hundred_thousand_million_years_is_a_day() {
    let registry = FakeRegistry::docker_hub().start().await;
    registry.put_image(REPO, Some("1.0"), &image(1));
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).patient());
    let window = ";w=18446744073709551615";
    let headers = [
        ("RateLimit-Limit", format!("100{window}")),
        ("RateLimit-Remaining", format!("99{window}")),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value));
    let fault = Fault::Status(404, String::new(), headers.to_vec());
    let struck = registry.fault(On::manifest(), fault);
    let answer = mirror.manifest(REPO, "none").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(registry.struck(struck), 1);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
}
