//! A list of tags must never be made up, cut short or lost to an outage, and upstream must not be asked for it more
//! often than for a tag.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::support::disk::record_file;
use crate::support::{
    FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, REPO, client, scene, until,
};

const STALE: &str = "pierglass; hit; detail=stale";

fn config(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry).impatient()
}

/// A registry whose repository has these tags.
async fn registry_with(tags: &[&str]) -> FakeRegistry {
    let registry = FakeRegistry::start().await;
    put(&registry, tags);
    registry
}

fn put(registry: &FakeRegistry, tags: &[&str]) {
    let image = Image::random(1, &[100]);
    registry.put_image(REPO, None, &image);
    for tag in tags {
        registry.tag(REPO, tag, &image.digest);
    }
}

async fn list(mirror: &Mirror, query: &str) -> client::Response {
    mirror.get(&format!("/v2/{REPO}/tags/list{query}")).await
}

#[track_caller]
fn assert_lists(answer: &client::Response, tags: &[&str]) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.json(), json!({"name": REPO, "tags": tags}));
}

#[tokio::test]
async fn a_list_is_fetched_once_and_served_while_it_is_fresh() {
    let registry = registry_with(&["v2", "latest", "V1", "v10"]).await;
    let mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    let sorted = ["V1", "latest", "v10", "v2"];
    let answer = list(&mirror, "").await;
    assert_lists(&answer, &sorted);
    let stored = Some("pierglass; fwd=uri-miss; stored");
    assert_eq!(answer.header("cache-status"), stored);
    for query in ["", "?n=10000", "?last=A"] {
        let answer = list(&mirror, query).await;
        assert_lists(&answer, &sorted);
        assert_eq!(answer.header("link"), None);
        let status = answer.header("cache-status").unwrap();
        assert!(status.starts_with("pierglass; hit; ttl=3"), "{status}");
    }
    assert_eq!(registry.counts().tag_lists, 1);
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test]
async fn a_head_says_what_a_get_says() {
    let registry = registry_with(&["1", "2"]).await;
    let mirror = Mirror::start(config(&registry));
    let url = format!("{}/v2/{REPO}/tags/list?n=1", mirror.url());
    let head = client::head(&url, &[]).await.unwrap();
    let get = client::get(&url, &[]).await.unwrap();
    assert_eq!(head.status, StatusCode::OK);
    for name in ["content-type", "content-length", "link"] {
        assert!(get.header(name).is_some());
        assert_eq!(head.header(name), get.header(name), "{name}");
    }
    assert_eq!(registry.counts().tag_lists, 1);
}

#[tokio::test]
async fn pages_follow_their_links_to_the_end() {
    let tags: Vec<String> = (0..25).map(|number| format!("t{number:02}")).collect();
    let texts: Vec<&str> = tags.iter().map(String::as_str).collect();
    let registry = registry_with(&texts).await;
    let mirror = Mirror::start(config(&registry).upstream("quay.io", &registry));
    for path in [
        format!("/v2/{REPO}/tags/list?n=10"),
        format!("/v2/{REPO}/tags/list?ns=quay.io&n=10"),
        format!("/v2/quay.io/{REPO}/tags/list?n=10"),
        format!("/quay.io/v2/{REPO}/tags/list?n=10"),
    ] {
        let (mut found, mut next, mut pages) = (Vec::new(), Some(path.clone()), 0);
        while let Some(path) = next {
            let answer = mirror.get(&path).await;
            let page = answer.json()["tags"].as_array().unwrap().clone();
            found.extend(page);
            let link = answer.header("link").map(|link| {
                let target = link.strip_prefix('<').unwrap();
                target.strip_suffix(">; rel=\"next\"").unwrap().to_owned()
            });
            next = link;
            pages += 1;
        }
        assert_eq!(json!(found), json!(tags), "{path}");
        assert_eq!(pages, 3, "{path}");
    }
    // Once for each upstream: what is stored is cut into pages, not what upstream gives.
    assert_eq!(registry.counts().tag_lists, 2);
}

#[tokio::test]
async fn upstreams_pages_are_one_list() {
    let tags: Vec<String> = (0..95).map(|number| format!("t{number:02}")).collect();
    let texts: Vec<&str> = tags.iter().map(String::as_str).collect();
    let registry = registry_with(&texts).await;
    registry.set_page(10);
    let mirror = Mirror::start(config(&registry));
    assert_lists(&list(&mirror, "").await, &texts);
    assert_eq!(registry.counts().tag_lists, 10);
    assert!(registry.requests()[0].target.ends_with("?n=1000"));
}

#[tokio::test]
async fn a_list_whose_second_page_fails_is_no_list() {
    let registry = registry_with(&["1", "2", "3"]).await;
    registry.set_page(2);
    let mirror = Mirror::start(config(&registry));
    // Each page is asked for three times.
    registry.fault(On::tags().skip(1).times(3), Fault::status(500));
    assert_eq!(
        list(&mirror, "").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_lists(&list(&mirror, "").await, &["1", "2", "3"]);
}

fn json_page(status: u16, body: &str) -> Fault {
    let headers = vec![("Content-Type".into(), "application/json".into())];
    Fault::Status(status, body.into(), headers)
}

/// JSON that stands in for a page, as gateways and registries in maintenance send it.
#[tokio::test]
async fn json_without_tags_was_an_empty_list() {
    for (status, body) in [
        (200, "{}"),
        (200, r#"{"message":"maintenance"}"#),
        (200, r#"{"errors":[{"code":"UNAVAILABLE"}]}"#),
        (200, r#"{"tags":[],"errors":[{"code":"TOOMANYREQUESTS"}]}"#),
        (200, r#"{"name":"r"}"#),
        (202, r#"{"tags":[]}"#),
        (204, ""),
    ] {
        for (page, query) in [("first", "n="), ("second", "last=")] {
            let registry = registry_with(&["1", "2", "3"]).await;
            registry.set_page(2);
            let mirror = Mirror::start(config(&registry).asking_each_time());
            let wrong = || {
                let page = On::tags().containing(query).forever();
                registry.fault(page, json_page(status, body));
            };
            wrong();
            let cold = list(&mirror, "").await;
            assert_eq!(cold.status, StatusCode::BAD_GATEWAY, "{page}: {body}");
            registry.clear_faults();
            assert_lists(&list(&mirror, "").await, &["1", "2", "3"]);
            wrong();
            for _ in 0..2 {
                let stored = list(&mirror, "").await;
                assert_lists(&stored, &["1", "2", "3"]);
                assert_eq!(stored.header("cache-status"), Some(STALE), "{page}: {body}");
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_is_not_there_took_the_stored_list_away() {
    for status in [404, 400, 401, 403, 410] {
        let registry = registry_with(&["1", "2", "3"]).await;
        registry.set_page(2);
        let mirror = Mirror::start(config(&registry).asking_each_time());
        let second = On::tags().containing("last=").forever();
        registry.fault(second, Fault::status(status));
        let cold = list(&mirror, "").await;
        assert_eq!(cold.status, StatusCode::BAD_GATEWAY, "{status}");
        registry.clear_faults();
        assert_lists(&list(&mirror, "").await, &["1", "2", "3"]);
        registry.fault(
            On::tags().containing("last=").forever(),
            Fault::status(status),
        );
        for _ in 0..2 {
            let stored = list(&mirror, "").await;
            assert_lists(&stored, &["1", "2", "3"]);
            assert_eq!(stored.header("cache-status"), Some(STALE), "{status}");
        }
    }
}

#[tokio::test]
async fn links_as_registries_write_them() {
    let path = format!("/v2/{REPO}/tags/list");
    for link in [
        format!("<{path}?last=2>; rel='next'"),
        format!("<{path}?last=2>"),
        format!("< {path}?last=2 >; rel=\"next\""),
    ] {
        let registry = registry_with(&["1", "2", "3"]).await;
        let headers = vec![
            ("Content-Type".into(), "application/json".into()),
            ("Link".into(), link.clone()),
        ];
        registry.fault(
            On::tags().containing("n=1000").forever(),
            Fault::Status(200, json!({"tags": ["1", "2"]}).to_string(), headers),
        );
        let mirror = Mirror::start(config(&registry));
        assert_lists(&list(&mirror, "").await, &["1", "2", "3"]);
        assert_eq!(registry.counts().tag_lists, 2, "{link}");
    }
}

#[tokio::test]
async fn a_registry_that_takes_no_n_is_asked_without() {
    // Quay says 413 to a thousand.
    for status in [400, 405, 406, 413, 414, 416, 422, 431, 451] {
        let registry = registry_with(&["1", "2"]).await;
        let fault = registry.fault(On::tags().containing("n=").forever(), Fault::status(status));
        let mirror = Mirror::start(config(&registry));
        assert_lists(&list(&mirror, "").await, &["1", "2"]);
        assert_eq!(registry.struck(fault), 1);
        assert_eq!(registry.counts().tag_lists, 2);
    }
}

/// Lets the page with that query, or the first one, have these tags and name the page with another query as the next.
fn put_page(registry: &FakeRegistry, query: &str, tags: &[&str], next: &str) {
    let headers = vec![
        ("Content-Type".into(), "application/json".into()),
        (
            "Link".into(),
            format!("</v2/{REPO}/tags/list?{next}>; rel=\"next\""),
        ),
    ];
    let body = json!({"name": REPO, "tags": tags}).to_string();
    let page = Fault::Status(200, body, headers);
    registry.fault(On::tags().containing(query).forever(), page);
}

#[tokio::test]
async fn a_last_page_that_names_one_before_it_made_it_no_list() {
    for (first, second) in [
        // Itself; itself, from the first page on; the first.
        ("token=2", "token=2"),
        ("n=1000", "n=1000"),
        ("token=2", "n=1000"),
    ] {
        let registry = registry_with(&[]).await;
        put_page(&registry, "n=1000", &["1", "2"], first);
        put_page(&registry, "token=2", &["3"], second);
        let mirror = Mirror::start(config(&registry));
        let (tags, pages): (&[_], _) = match first {
            "n=1000" => (&["1", "2"], 1),
            _ => (&["1", "2", "3"], 2),
        };
        assert_lists(&list(&mirror, "").await, tags);
        assert_eq!(registry.counts().tag_lists, pages, "{first}, {second}");
    }
}

#[tokio::test]
async fn pages_that_bring_nothing_are_skipped_until_there_are_too_many() {
    // Empty ones, and ones that say again what the first one said, under ever new names.
    for idle in [&[][..], &["1"]] {
        let registry = registry_with(&[]).await;
        put_page(&registry, "n=1000", &["1"], "token=100");
        for number in 100..103 {
            put_page(
                &registry,
                &format!("token={number}"),
                idle,
                &format!("token={}", number + 1),
            );
        }
        put_page(&registry, "token=103", &["2"], "token=104");
        for number in 104..130 {
            put_page(
                &registry,
                &format!("token={number}"),
                idle,
                &format!("token={}", number + 1),
            );
        }
        let mirror = Mirror::start(config(&registry));
        assert_lists(&list(&mirror, "").await, &["1", "2"]);
        assert_eq!(
            registry.counts().tag_lists,
            15,
            "ten after the last that brought any"
        );
    }
}

#[tokio::test]
async fn odd_parameters_are_answered_as_the_specification_says() {
    let registry = registry_with(&["a", "b"]).await;
    let mirror = Mirror::start(config(&registry));
    let none = list(&mirror, "?n=0").await;
    assert_lists(&none, &[]);
    assert_eq!(none.header("link"), None);
    assert_lists(&list(&mirror, "?last=aa").await, &["b"]);
    assert_lists(&list(&mirror, "?last=zz&n=1").await, &[]);
    for query in ["?n=-1", "?n=ten"] {
        let answer = list(&mirror, query).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert_eq!(
            answer.json()["errors"][0]["code"],
            "PAGINATION_NUMBER_INVALID"
        );
    }
}

#[tokio::test]
async fn a_stored_list_outlives_outages_and_restarts() {
    let registry = registry_with(&["1", "2"]).await;
    let mut mirror = Mirror::start(config(&registry).tag_ttl("0s"));
    assert_lists(&list(&mirror, "").await, &["1", "2"]);
    let again = list(&mirror, "").await;
    let revalidated = Some("pierglass; hit; detail=revalidated");
    assert_eq!(again.header("cache-status"), revalidated);
    for fault in [
        Fault::status(500),
        Fault::status(401),
        Fault::Html(200),
        Fault::Reset,
        Fault::Hang,
    ] {
        let id = registry.fault(On::any().forever(), fault.clone());
        // The last question may still be under way, because it is asked again after a 500 or a reset.
        until("upstream is asked", async || {
            assert_lists(&list(&mirror, "").await, &["1", "2"]);
            registry.struck(id) > 0
        })
        .await;
        let answer = list(&mirror, "").await;
        assert_lists(&answer, &["1", "2"]);
        assert_eq!(answer.header("cache-status"), Some(STALE), "{fault:?}");
        registry.clear_faults();
    }
    // A limit is remembered, as silence is, and neither must stand in for the other here.
    mirror.restart();
    let limited = registry.fault(On::any().forever(), Fault::status(429));
    let answer = list(&mirror, "").await;
    assert_eq!(answer.header("cache-status"), Some(STALE));
    assert_eq!(registry.struck(limited), 1);
    registry.clear_faults();
    registry.down();
    mirror.restart();
    let answer = list(&mirror, "?last=1").await;
    assert_lists(&answer, &["2"]);
    assert_eq!(answer.header("cache-status"), Some(STALE));
    registry.up();
    put(&registry, &["3"]);
    until("the new tag is listed", async || {
        list(&mirror, "").await.json()["tags"] == json!(["1", "2", "3"])
    })
    .await;
}

#[tokio::test]
async fn nothing_is_listed_that_upstream_did_not_list() {
    let registry = registry_with(&["1"]).await;
    let mirror = Mirror::start(config(&registry).negative_ttl("0s"));
    for (fault, status) in [
        (Fault::status(503), 503),
        (Fault::status(403), 403),
        (Fault::Html(200), 502),
        (Fault::Hang, 504),
        (Fault::status(429), 429),
    ] {
        registry.fault(On::any().forever(), fault.clone());
        let answer = list(&mirror, "").await;
        assert_eq!(answer.status.as_u16(), status, "{fault:?}");
        assert!(answer.json()["errors"][0]["code"].is_string());
        registry.clear_faults();
    }
    registry.down();
    let mirror = Mirror::start(config(&registry));
    assert_eq!(
        list(&mirror, "").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

/// A load balancer without a registry behind it. One that has dropped the repository still answers `/v2/`.
#[tokio::test]
async fn a_moment_in_which_everything_was_404_took_the_lists_away() {
    for everything in [Fault::status(404), Fault::Html(404)] {
        let registry = registry_with(&["1", "2"]).await;
        let mirror = Mirror::start(config(&registry).asking_each_time());
        assert_lists(&list(&mirror, "").await, &["1", "2"]);
        registry.fault(On::any().forever(), everything);
        for _ in 0..2 {
            let answer = list(&mirror, "").await;
            assert_lists(&answer, &["1", "2"]);
            assert_eq!(answer.header("cache-status"), Some(STALE));
        }
        registry.clear_faults();
        registry.fault(On::tags().forever(), Fault::status(404));
        assert_eq!(list(&mirror, "").await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn an_unknown_repository_is_asked_about_once() {
    let (registry, mirror) = scene::start_with(|config| config.impatient());
    for _ in 0..5 {
        let answer = list(&mirror, "").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.json()["errors"][0]["code"], "NAME_UNKNOWN");
    }
    assert_eq!(registry.counts().requests(), 1);
}

#[tokio::test]
async fn thirty_clients_on_one_cold_list_are_one_request() {
    let registry = registry_with(&["1"]).await;
    let slow = Fault::DelayHeaders(Duration::from_millis(500));
    registry.fault(On::tags(), slow);
    let mirror = Mirror::start(config(&registry));
    let url = format!("{}/v2/{REPO}/tags/list", mirror.url());
    let clients: Vec<_> = (0..30)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { client::get(&url, &[]).await.unwrap() })
        })
        .collect();
    for client in clients {
        assert_lists(&client.await.unwrap(), &["1"]);
    }
    assert_eq!(registry.counts().tag_lists, 1);
    let labels = [("kind", "tags"), ("outcome", "joined")];
    let joined = mirror.metric("pierglass_requests_total", &labels).await;
    assert_eq!(joined, Some(29.0));
}

#[tokio::test]
async fn a_damaged_list_is_fetched_again() {
    let registry = registry_with(&["1", "2"]).await;
    let mut mirror = Mirror::start(config(&registry).tag_ttl("1h"));
    list(&mirror, "").await;
    let file = record_file(&mirror.store_path(), REPO, "tags");
    let whole = std::fs::read(&file).unwrap();
    mirror.kill9();
    std::fs::write(&file, &whole[..whole.len() - 2]).unwrap();
    mirror.restart();
    assert_lists(&list(&mirror, "").await, &["1", "2"]);
    assert_eq!(registry.counts().tag_lists, 2);
}
