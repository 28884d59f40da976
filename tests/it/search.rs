//! A search must never be answered with a page that is no result, and never carry credentials of a client.

use http::StatusCode;

use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, client, scene};

/// What dockerd sends when no user is logged in.
const NOT_LOGGED_IN: (&str, &str) = ("authorization", "Basic Og==");

async fn hub() -> FakeRegistry {
    let hub = FakeRegistry::docker_hub().start().await;
    hub.set_search(&["nginx", "acme/nginx", "redis"]);
    hub
}

async fn as_dockerd(mirror: &Mirror, path: &str) -> client::Response {
    let url = format!("{}{path}", mirror.url());
    client::get(&url, &[NOT_LOGGED_IN]).await.unwrap()
}

#[track_caller]
fn names(answer: &client::Response) -> Vec<String> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let results = answer.json()["results"].as_array().unwrap().clone();
    let name = |result: &serde_json::Value| result["name"].as_str().unwrap().to_owned();
    results.iter().map(name).collect()
}

/// What dockerd does for `docker search HOST/nginx`.
#[tokio::test]
async fn docker_search_finds_what_upstream_finds() {
    let hub = hub().await;
    hub.set_login("ci-bot", "secret");
    let config =
        MirrorConfig::for_upstream(&hub).toml("username = \"ci-bot\"\npassword = \"secret\"");
    let mirror = Mirror::start(config.tag_ttl("1h"));
    let ping = as_dockerd(&mirror, "/v1/_ping").await;
    assert_eq!(ping.status, StatusCode::OK);
    assert_eq!(ping.header("x-docker-registry-standalone"), Some("true"));
    assert!(ping.json().is_object());
    assert_eq!(hub.counts().requests(), 0);

    let found = as_dockerd(&mirror, "/v1/search?q=nginx&n=25").await;
    assert_eq!(names(&found), ["nginx", "acme/nginx"]);
    let again = as_dockerd(&mirror, "/v1/search?q=nginx&n=25").await;
    assert_eq!(again.body, found.body);
    assert_eq!(again.header("cache-status"), Some("pierglass; hit"));
    assert_eq!(hub.counts().requests(), 1);
    assert_eq!(hub.requests()[0].target, "/v1/search?q=nginx&n=25");
    assert_eq!(hub.requests()[0].header("authorization"), None);

    let one = as_dockerd(&mirror, "/v1/search?q=nginx&n=1").await;
    assert_eq!(names(&one), ["nginx"]);
    assert!(names(&as_dockerd(&mirror, "/v1/search?q=none").await).is_empty());
    let labels = [("kind", "search"), ("upstream", "docker.io")];
    let asked = mirror.metric("pierglass_upstream_requests_total", &labels);
    assert_eq!(asked.await, Some(3.0));
}

#[tokio::test]
async fn each_upstream_is_searched_by_its_name() {
    let (hub, quay) = (hub().await, FakeRegistry::start().await);
    quay.set_search(&["org/quay-only"]);
    let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
    let mirror = Mirror::start(config);
    for path in ["/v1/search?q=only&ns=quay.io", "/quay.io/v1/search?q=only"] {
        assert_eq!(names(&as_dockerd(&mirror, path).await), ["org/quay-only"]);
    }
    assert!(names(&as_dockerd(&mirror, "/v1/search?q=only").await).is_empty());
    assert_eq!(quay.counts().searches, 1);
    assert!(!quay.requests()[0].target.contains("ns="));
}

#[tokio::test]
async fn a_registry_without_search_is_said_to_have_none() {
    let (registry, mirror) = scene::start_with(|config| config.negative_ttl("0s"));
    let no_search = async || {
        let answer = as_dockerd(&mirror, "/v1/search?q=nginx").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["errors"][0]["code"], "UNSUPPORTED");
    };
    no_search().await;
    for fault in [Fault::Html(200), Fault::status(401), Fault::status(200)] {
        registry.fault(On::any().forever(), fault);
        no_search().await;
        registry.clear_faults();
    }
}

#[tokio::test]
async fn an_outage_is_not_said_to_be_a_registry_without_search() {
    let hub = hub().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub));
    for (fault, status) in [(Fault::status(500), 503), (Fault::status(429), 429)] {
        hub.fault(On::search(), fault);
        let answer = as_dockerd(&mirror, "/v1/search?q=nginx").await;
        assert_eq!(answer.status.as_u16(), status);
    }
    assert_eq!(
        names(&as_dockerd(&mirror, "/v1/search?q=redis").await),
        ["redis"]
    );
}
