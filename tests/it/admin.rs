//! The admin API must answer in JSON whatever it is asked, and do nothing for a web page.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::support::client::{self, Response};
use crate::support::{FakeRegistry, Mirror, MirrorConfig};

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
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
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
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
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
    let registry = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
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
