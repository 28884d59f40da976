//! A web page must not make this machine's mirror fetch, tell or show anything, and no other client must notice that.

use std::time::Duration;

use http::{Method, StatusCode};
use tokio::net::TcpStream;

use crate::support::client::{Ending, Response, raw};
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

const UI: &str = "http://ui.example:8080";

fn with_ui(config: crate::support::MirrorConfig) -> crate::support::MirrorConfig {
    config.top("allowed_origins", &format!("[\"{UI}\"]"))
}

/// joxit/docker-registry-ui and others read a registry from a page of another origin.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_ui_whose_origin_is_written_down_can_read() {
    let (_registry, mirror, image) = scene::stored_image(with_ui).await;
    let page = [
        ("origin", UI),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "cors"),
        (
            "accept",
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json",
        ),
    ];
    for (path, status) in [
        ("/v2/".to_owned(), 200),
        ("/v2/_catalog?n=1000".to_owned(), 200),
        (format!("/v2/{}/tags/list", scene::REPO), 200),
        (format!("/v2/{}/manifests/{}", scene::REPO, scene::TAG), 200),
        (
            format!("/v2/{}/blobs/{}", scene::REPO, image.blobs()[0]),
            200,
        ),
        // A page has to read refusals as well.
        (format!("/v2/{}/manifests/none", scene::REPO), 404),
        ("/v2/Capital/tags/list".to_owned(), 400),
    ] {
        for method in [Method::GET, Method::HEAD] {
            let url = format!("{}{path}", mirror.url());
            let answer = client::request(method, &url, &page).await.unwrap();
            assert_eq!(answer.status.as_u16(), status, "{path}");
            assert_eq!(answer.header("access-control-allow-origin"), Some(UI));
            assert_eq!(answer.header("access-control-allow-credentials"), None);
            assert_eq!(answer.header("vary"), Some("Origin"), "{path}");
            let exposed = answer.header("access-control-expose-headers").unwrap();
            for name in ["Docker-Content-Digest", "Link", "WWW-Authenticate"] {
                assert!(exposed.split(", ").any(|it| it == name), "{exposed}");
            }
        }
    }
    // What a cache in front keeps of another client's question must not be taken for the page's.
    let answer = mirror.get("/v2/").await;
    assert_eq!(answer.header("vary"), Some("Origin"));
    assert_eq!(answer.header("access-control-allow-origin"), None);
}

/// `Accept` of more than 128 bytes is no header that a page may send unasked (Fetch standard).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_asks_once_before_a_page_reads() {
    let (registry, mirror, _image) = scene::cold_image(with_ui);
    let url = mirror.manifest_url(scene::REPO, scene::TAG);
    let asking = [
        ("origin", UI),
        ("sec-fetch-site", "cross-site"),
        ("access-control-request-method", "GET"),
        ("access-control-request-headers", "accept,x-requested-with"),
        ("access-control-request-private-network", "true"),
    ];
    let answer = client::request(Method::OPTIONS, &url, &asking)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    for (name, value) in [
        ("access-control-allow-origin", UI),
        ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
        ("access-control-allow-headers", "accept,x-requested-with"),
        ("access-control-allow-private-network", "true"),
        ("access-control-max-age", "7200"),
        ("vary", "Origin"),
        ("content-length", "0"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    // Asked by a page that is not written down.
    let asking = [
        ("origin", "http://evil.example"),
        ("access-control-request-method", "GET"),
    ];
    let answer = client::request(Method::OPTIONS, &url, &asking)
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("access-control-allow-methods"), None);
    assert_eq!(registry.requests().len(), 0);
}

/// One page that may read opens the door to no other, not to the admin side, and not to another name for this address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_may_read_lets_no_other_in() {
    let (registry, mirror, _image) = scene::cold_image(with_ui);
    let url = mirror.manifest_url(scene::REPO, scene::TAG);
    let refused = |answer: &Response, status: u16, what: &str| {
        assert_eq!(answer.status.as_u16(), status, "{what}");
        assert_eq!(answer.header("access-control-allow-origin"), None, "{what}");
    };
    for origin in [
        "http://evil.example",
        "null",
        "https://ui.example:8080",
        "http://ui.example",
        "http://ui.example:8080.evil.example",
        "http://a.ui.example:8080",
    ] {
        let answer = client::get(&url, &[("origin", origin)]).await.unwrap();
        refused(&answer, 403, origin);
    }
    let both = [("origin", UI), ("origin", "http://evil.example")];
    refused(&client::get(&url, &both).await.unwrap(), 403, "two");
    // Without an origin a page reads nothing, but its request would be made.
    let image = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "no-cors"),
    ];
    refused(&client::get(&url, &image).await.unwrap(), 403, "no-cors");
    for path in ["/metrics", "/api/v1/pins", "/"] {
        let url = format!("{}{path}", mirror.admin_url());
        let answer = client::get(&url, &[("origin", UI)]).await.unwrap();
        refused(&answer, 403, path);
    }
    let rebound = [("origin", UI), ("host", "evil.example")];
    let answer = client::get(&url, &rebound).await.unwrap();
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    let posted = client::request(Method::POST, &url, &[("origin", UI)])
        .await
        .unwrap();
    assert_eq!(posted.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(registry.requests().len(), 0);
}

/// HAProxy's `option httpchk` asks `OPTIONS /` and takes 405 for the end of a server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_done_can_be_asked() {
    let (registry, mirror) = scene::start();
    for target in ["/", "*", "/v2/", "/v2/a/b/manifests/1"] {
        let request = format!("OPTIONS {target} HTTP/1.0\r\n\r\n");
        let answer = said(&mirror, &request).await;
        assert_eq!(answer.get(9..12), Some("200"), "{target}: {answer}");
        assert!(
            answer.contains("\r\nAllow: GET, HEAD, OPTIONS\r\n"),
            "{answer}"
        );
        assert!(!answer.contains("Access-Control"), "{answer}");
        assert!(!answer.contains("Vary"), "{answer}");
    }
    assert_eq!(registry.requests().len(), 0);
}
