//! A web page must not make this machine's mirror fetch, tell or show anything, and no other client must notice that.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpStream;

use crate::support::client::{Ending, raw};
use crate::support::disk::blobs;
use crate::support::mirror::log_field;
use crate::support::tls::get_h2;
use crate::support::{Mirror, client, plain, scene};

const PATIENCE: Duration = Duration::from_secs(20);

/// What browsers send with requests that a page of another site makes.
const CROSS_SITE: &[&[(&str, &str)]] = &[
    &[("sec-fetch-site", "cross-site")],
    &[
        ("sec-fetch-site", "same-site"),
        ("sec-fetch-mode", "no-cors"),
    ],
    &[("origin", "http://evil.example")],
    &[("origin", "null")],
];

/// DNS rebinding: the page's own name leads to a loopback address, so its browser lets it read the answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_whose_name_leads_to_loopback_read_private_images_and_metrics() {
    let no_names = |config: crate::support::MirrorConfig| config.top("allowed_hosts", "[]");
    let (registry, mirror, image) = scene::stored_image(no_names).await;
    for url in [
        mirror.manifest_url(scene::REPO, scene::TAG),
        mirror.blob_url(scene::REPO, &image.blobs()[0]),
        format!("{}/v2/_catalog", mirror.url()),
        format!("{}/", mirror.url()),
        format!("{}/metrics", mirror.admin_url()),
        format!("{}/api/v1/pins", mirror.admin_url()),
        format!("{}/readyz", mirror.admin_url()),
    ] {
        for host in [
            "evil.example",
            "evil.example:5000",
            "192.0.2.1:5000",
            "localhost.evil.example",
        ] {
            let answer = client::get(&url, &[("host", host)]).await.unwrap();
            let words = answer.text();
            assert_eq!(
                answer.status,
                StatusCode::MISDIRECTED_REQUEST,
                "{url} {host}: {words}"
            );
            assert!(words.contains("allowed_hosts"), "{words}");
        }
        for host in ["localhost:5000", "a.localhost", "127.0.0.1", "[::1]:5000"] {
            let answer = client::get(&url, &[("host", host)]).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK, "{url} {host}");
        }
    }
    let change = format!("{}/api/v1/pins?image=alpine", mirror.admin_url());
    let headers = [("host", "evil.example"), ("pierglass-admin", "1")];
    let answer = client::request(Method::POST, &change, &headers)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    // HTTP/2 gives the host as a part of the target.
    let stream = TcpStream::connect(mirror.authority()).await.unwrap();
    let path = format!("/v2/{}/manifests/{}", scene::REPO, scene::TAG);
    let answers = get_h2(stream, &[format!("http://evil.example{path}")]).await;
    assert_eq!(
        answers[0].as_ref().unwrap().status,
        StatusCode::MISDIRECTED_REQUEST
    );
    // A browser that takes the mirror for its proxy.
    let absolute = format!(
        "GET http://evil.example{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    );
    assert!(said(&mirror, &absolute).await.starts_with("HTTP/1.1 421 "));
    assert_eq!(registry.requests().len(), 0);
    // The operator is told once, and not for each request.
    let warnings = mirror.logs().into_iter().filter(|line| {
        let message = log_field(line, "message").and_then(serde_json::Value::as_str);
        log_field(line, "level") == Some(&"WARN".into())
            && message.is_some_and(|it| it.contains("allowed_hosts"))
    });
    // One for each of the two addresses.
    assert_eq!(warnings.count(), 2);
}

async fn said(mirror: &Mirror, request: &str) -> String {
    let (answer, ending) = raw(mirror.authority(), request, PATIENCE).await;
    assert_eq!(ending, Ending::Closed);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_site_started_transfers() {
    let (registry, mirror, digest) = scene::cold_blob(100_000, plain);
    registry.put_image(scene::REPO, Some(scene::TAG), &scene::image(1));
    for headers in CROSS_SITE {
        for url in [
            mirror.blob_url(scene::REPO, &digest),
            mirror.manifest_url(scene::REPO, scene::TAG),
            format!("{}/v2/{}/tags/list", mirror.url(), scene::REPO),
            format!("{}/v1/search?q=nginx", mirror.url()),
            format!("{}/api/v1/pins", mirror.admin_url()),
            format!("{}/metrics", mirror.admin_url()),
        ] {
            let answer = client::get(&url, headers).await.unwrap();
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{url} {headers:?}");
            assert!(answer.header("access-control-allow-origin").is_none());
        }
    }
    assert_eq!(registry.requests().len(), 0);
    assert!(blobs(&mirror.store_path()).is_empty());
    // As any program has it, also one of a browser that a person types the address into.
    let url = mirror.blob_url(scene::REPO, &digest);
    let typed = client::get(&url, &[("sec-fetch-site", "none")])
        .await
        .unwrap();
    assert_eq!(typed.status, StatusCode::OK);
}

/// Prometheus' page of targets links to the metrics; a link shows nothing to the page that has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_may_follow_a_link_to_figures_and_not_to_content() {
    let (_registry, mirror, digest) = scene::stored_blob(1000, plain).await;
    let link = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
    ];
    for (url, status) in [
        (format!("{}/metrics", mirror.admin_url()), 200),
        (format!("{}/", mirror.url()), 200),
        (format!("{}/api/v1/pins", mirror.admin_url()), 403),
        (mirror.blob_url(scene::REPO, &digest), 403),
    ] {
        let answer = client::get(&url, &link).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{url}");
    }
}

/// A manifest of the type `text/html` was a page of the mirror's own site, with its scripts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_answer_is_a_page_in_a_browser() {
    let (_registry, mirror, image) = scene::stored_image(plain).await;
    for url in [
        format!("{}/v2/", mirror.url()),
        format!("{}/", mirror.url()),
        format!("{}/nowhere", mirror.url()),
        format!("{}/v2/_catalog", mirror.url()),
        mirror.manifest_url(scene::REPO, scene::TAG),
        mirror.manifest_url(scene::REPO, "missing"),
        mirror.blob_url(scene::REPO, &image.blobs()[0]),
        format!("{}/metrics", mirror.admin_url()),
        format!("{}/nowhere", mirror.admin_url()),
        format!("{}/api/v1/pins", mirror.admin_url()),
        format!("{}/api/v1/nothing", mirror.admin_url()),
    ] {
        for method in [Method::GET, Method::HEAD, Method::PUT] {
            let answer = client::request(method.clone(), &url, &[]).await.unwrap();
            let header = |name| answer.header(name).map(str::to_owned);
            assert_eq!(
                header("x-content-type-options").as_deref(),
                Some("nosniff"),
                "{method} {url}"
            );
            let policy = header("content-security-policy");
            assert_eq!(
                policy.as_deref(),
                Some("default-src 'none'; sandbox"),
                "{method} {url}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_names_are_a_setting_and_no_name_is_an_old_program() {
    let named = |config: crate::support::MirrorConfig| {
        config.top(
            "allowed_hosts",
            "[\"mirror.internal\", \"proxy.example:5000\"]",
        )
    };
    let (_registry, mirror, digest) = scene::stored_blob(1000, named).await;
    let url = mirror.blob_url(scene::REPO, &digest);
    for (host, status) in [
        ("mirror.internal", 200),
        ("Mirror.Internal:5000", 200),
        ("proxy.example:5000", 200),
        ("proxy.example:5001", 421),
        ("other.internal", 421),
    ] {
        let answer = client::get(&url, &[("host", host)]).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{host}");
    }
    let old = said(&mirror, "GET /v2/ HTTP/1.0\r\n\r\n").await;
    assert!(
        old.starts_with("HTTP/1.0 200 ") || old.starts_with("HTTP/1.1 200 "),
        "{old}"
    );
}

/// On another address than a loopback one, clients use whatever name leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_for_other_machines_is_known_by_any_name() {
    let everywhere =
        |config: crate::support::MirrorConfig| config.environment("PIERGLASS_LISTEN", "0.0.0.0:0");
    let (_registry, mirror, digest) = scene::stored_blob(1000, everywhere).await;
    let url = mirror.blob_url(scene::REPO, &digest);
    let answer = client::get(&url, &[("host", "mirror.example:5000")])
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_opens_the_address_is_told_what_it_is() {
    let (_registry, mirror) = scene::start();
    let page = mirror.get("/").await;
    assert_eq!(page.status, StatusCode::OK);
    for word in ["Pierglass", "registry-mirrors"] {
        assert!(page.text().contains(word), "{}", page.text());
    }
    let posted = client::request(Method::POST, &format!("{}/", mirror.url()), &[]).await;
    assert!(posted.unwrap().status.is_client_error());
}
