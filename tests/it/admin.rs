//! The admin address: health and metrics must be told, and the API must answer in JSON whatever it is asked, and do
//! nothing for a web page.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::support::client::Response;
use crate::support::mirror::sum_of;
use crate::support::{Mirror, client, plain, scene};

const ADMIN: (&str, &str) = ("pierglass-admin", "1");

async fn ask(mirror: &Mirror, method: Method, path: &str, headers: &[(&str, &str)]) -> Response {
    let url = format!("{}{path}", mirror.admin_url());
    client::send(method, &url, headers, Bytes::new())
        .await
        .unwrap()
}

#[track_caller]
fn assert_refused(answer: &Response, status: StatusCode) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert!(answer.json()["error"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_page_can_change_nothing() {
    let (_registry, mirror) = scene::start();
    // What a form or an image can send, and what a script can if a page's own name leads here.
    let origin = ("origin", "http://evil.example");
    let own = mirror.admin_url();
    let pages: [&[(&str, &str)]; 4] = [
        &[],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[ADMIN, origin],
        &[ADMIN, ("origin", &own)],
    ];
    for headers in pages {
        for (method, path) in [
            (Method::POST, "/api/v1/pins?image=alpine"),
            (Method::DELETE, "/api/v1/pins?image=alpine"),
            (Method::POST, "/api/v1/verify?repair=true"),
        ] {
            let answer = ask(&mirror, method, path, headers).await;
            assert_refused(&answer, StatusCode::FORBIDDEN);
        }
    }
    let pins = ask(&mirror, Method::GET, "/api/v1/pins", &[]).await;
    assert_eq!(pins.json()["images"], serde_json::json!([]));
    assert!(pins.header("access-control-allow-origin").is_none());
    let preflight = ask(&mirror, Method::OPTIONS, "/api/v1/pins", &[origin]).await;
    assert!(preflight.status.is_client_error());
    assert!(preflight.header("access-control-allow-headers").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_answered_in_json() {
    let (_registry, mirror) = scene::start();
    for (method, path, status) in [
        (Method::GET, "/api/v1/nothing", StatusCode::NOT_FOUND),
        (Method::GET, "/api/", StatusCode::NOT_FOUND),
        (Method::PUT, "/api/v1/pins", StatusCode::METHOD_NOT_ALLOWED),
        (
            Method::GET,
            "/api/v1/verify",
            StatusCode::METHOD_NOT_ALLOWED,
        ),
        (
            Method::POST,
            "/api/v1/verify?repair=maybe",
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::POST,
            "/api/v1/verify?rate=fast",
            StatusCode::BAD_REQUEST,
        ),
        (Method::POST, "/api/v1/pins", StatusCode::BAD_REQUEST),
        (
            Method::POST,
            "/api/v1/pins?image=UPPER",
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::POST,
            "/api/v1/pins?image=quay.io/a/b",
            StatusCode::NOT_FOUND,
        ),
        (
            Method::DELETE,
            "/api/v1/pins?image=%ff%00",
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let words = format!("{method} {path}");
        let answer = ask(&mirror, method, path, &[ADMIN]).await;
        assert_refused(&answer, status);
        let told = answer.header("allow").is_some();
        assert_eq!(told, status == StatusCode::METHOD_NOT_ALLOWED, "{words}");
    }
    let ready = ask(&mirror, Method::POST, "/readyz", &[ADMIN]).await;
    assert_eq!(ready.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pinned_is_told_as_it_was_asked_for() {
    let (_registry, mirror) = scene::start();
    let path = "/api/v1/pins?image=alpine";
    let pinned = ask(&mirror, Method::POST, path, &[ADMIN]).await;
    assert_eq!(pinned.status, StatusCode::OK, "{}", pinned.text());
    let value = pinned.json();
    assert_eq!(value["image"], "docker.io/library/alpine:latest");
    assert_eq!(
        (&value["changed"], &value["fit"]),
        (&true.into(), &true.into())
    );
    let again = ask(&mirror, Method::POST, path, &[ADMIN]).await.json();
    assert_eq!(again["changed"], false);
    let list = ask(&mirror, Method::GET, "/api/v1/pins", &[]).await.json();
    assert_eq!(list["images"][0]["image"], value["image"]);
    assert_eq!(list["images"].as_array().unwrap().len(), 1);
    let gone = ask(&mirror, Method::DELETE, path, &[ADMIN]).await.json();
    assert_eq!(gone["changed"], true);
    let gone = ask(&mirror, Method::DELETE, path, &[ADMIN]).await.json();
    assert_eq!(gone["changed"], false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_address_tells_health_and_metrics() {
    let (_registry, mirror, _) = scene::stored_blob(1000, plain).await;
    let at = |path: &str| format!("{}{path}", mirror.admin_url());
    for (path, status) in [
        ("/metrics", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/", 200),
        ("/nowhere", 404),
        ("/v2/", 404),
    ] {
        let got = client::get(&at(path), &[]).await.unwrap();
        let head = client::head(&at(path), &[]).await.unwrap();
        assert_eq!((got.status, head.status), (got.status, got.status));
        assert_eq!(got.status.as_u16(), status, "{path}");
        assert!(!got.body.is_empty() && head.body.is_empty(), "{path}");
    }
    let posted = client::request(Method::POST, &at("/metrics"), &[]).await;
    let posted = posted.unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(posted.header("allow"), Some("GET, HEAD"));
    let metrics = client::get(&at("/metrics"), &[]).await.unwrap();
    let media_type = metrics.header("content-type").unwrap().to_owned();
    assert!(media_type.starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    let misses = [("kind", "blob"), ("outcome", "miss"), ("status", "200")];
    assert_eq!(
        sum_of(&text, "pierglass_requests_total", &misses),
        Some(1.0)
    );
    for name in [
        "pierglass_store_capacity_bytes",
        "pierglass_build_info",
        "process_resident_memory_bytes",
    ] {
        assert!(sum_of(&text, name, &[]).unwrap() > 0.0, "{name}");
    }
    // Health and metrics are not to be had where everybody pulls.
    let registry_side = client::get(&format!("{}/metrics", mirror.url()), &[]).await;
    assert_eq!(registry_side.unwrap().status, StatusCode::NOT_FOUND);
}
