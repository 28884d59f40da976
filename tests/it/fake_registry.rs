//! A fault that does not happen must never let a test pass: each one is proved here against a client that hides nothing.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use crate::support::client::{self, Downloading, Ending, Raw, raw};
use crate::support::content::Content;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::loopback;
use crate::support::mirror::sum_of;
use crate::support::{
    Client, FakeRegistry, Fault, Image, Index, Mirror, MirrorConfig, On, Redirect, digest_of,
    generated_digest, until,
};

const SIZE: u64 = 300_000;

/// An open registry with one generated blob in `a/b`, the blob's URL and digest.
async fn with_blob() -> (FakeRegistry, String, String) {
    let registry = FakeRegistry::start().await;
    let digest = registry.put_generated_blob("a/b", 1, SIZE);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    (registry, url, digest)
}

fn part(seed: u64, from: u64, len: usize) -> String {
    digest_of(&Content::generated(seed, SIZE).read(from, len))
}

#[tokio::test]
async fn generated_content_is_the_same_however_it_is_cut() {
    let content = Content::generated(7, SIZE);
    let whole = content.read(0, 300_000);
    assert_eq!(content.digest(), digest_of(&whole));
    assert_eq!(generated_digest(7, SIZE), digest_of(&whole));
    assert_eq!(content.read(65_530, 70_000), whole[65_530..135_530]);
    assert_ne!(generated_digest(8, SIZE), digest_of(&whole));
    // Two blocks differ, or a transposed block would go unnoticed.
    assert_ne!(whole[..65_536], whole[65_536..131_072]);
}

#[tokio::test]
async fn blobs_belong_to_their_repository_and_have_ranges() {
    let (registry, url, digest) = with_blob().await;
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
    let other = format!("{}/v2/a/c/blobs/{digest}", registry.url());
    let missing = client::get(&other, &[]).await.unwrap();
    assert_eq!(missing.status, StatusCode::NOT_FOUND);
    assert_eq!(missing.json()["errors"][0]["code"], "BLOB_UNKNOWN");

    let cases = [
        ("bytes=10-19", "bytes 10-19/300000", part(1, 10, 10)),
        (
            "bytes=299990-",
            "bytes 299990-299999/300000",
            part(1, 299_990, 10),
        ),
        (
            "bytes=-5",
            "bytes 299995-299999/300000",
            part(1, 299_995, 5),
        ),
        (
            "bytes=70000-999999999",
            "bytes 70000-299999/300000",
            part(1, 70_000, 230_000),
        ),
    ];
    for (range, content_range, expected) in cases {
        let answer = client::get(&url, &[("range", range)]).await.unwrap();
        assert_eq!(answer.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(answer.header("content-range"), Some(content_range));
        assert_eq!(digest_of(&answer.body), expected, "{range}");
    }
    let beyond = client::get(&url, &[("range", "bytes=300000-")])
        .await
        .unwrap();
    assert_eq!(beyond.status, StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.header("content-range"), Some("bytes */300000"));

    let counts = registry.counts();
    assert_eq!(
        (counts.blob_gets, counts.bytes_sent),
        (7, SIZE + 10 + 10 + 5 + 230_000)
    );
    assert_eq!(registry.requests()[2].range(), Some("bytes=10-19"));
    registry.delete_blob("a/b", &digest);
    assert_eq!(
        client::get(&url, &[]).await.unwrap().status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn manifests_are_served_by_tag_and_digest() {
    let registry = FakeRegistry::start().await;
    let index = Index::of(&[Image::random(1, &[1000, 2000]), Image::random(2, &[500])]);
    let digest = registry.put_index("a/b", Some("1.0"), &index);
    let url = |reference: &str| format!("{}/v2/a/b/manifests/{reference}", registry.url());
    for reference in ["1.0", &digest] {
        let got = client::get(&url(reference), &[]).await.unwrap();
        let head = client::head(&url(reference), &[]).await.unwrap();
        for answer in [&got, &head] {
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
            assert_eq!(
                answer.header("content-length"),
                Some(&*index.bytes.len().to_string())
            );
        }
        assert_eq!((got.body, head.body.len()), (index.bytes.clone(), 0));
    }
    let etag = format!("\"{digest}\"");
    let known = client::get(&url("1.0"), &[("if-none-match", &etag)])
        .await
        .unwrap();
    assert_eq!(
        (known.status, known.body.len()),
        (StatusCode::NOT_MODIFIED, 0)
    );
    for blob in index.images.iter().flat_map(Image::blobs) {
        let url = format!("{}/v2/a/b/blobs/{blob}", registry.url());
        client::download(&url, &[]).await.unwrap().assert_is(&blob);
    }
    registry.tag("a/b", "2.0", &index.images[0].digest);
    let child = client::get(&url("2.0"), &[]).await.unwrap();
    assert_eq!(child.header("content-type"), Some(OCI_MANIFEST));
    registry.untag("a/b", "2.0");
    let gone = client::get(&url("2.0"), &[]).await.unwrap();
    assert_eq!(gone.json()["errors"][0]["code"], "MANIFEST_UNKNOWN");
    let counts = registry.counts();
    assert_eq!(
        (
            counts.manifest_gets,
            counts.manifest_heads,
            counts.blob_gets
        ),
        (5, 2, 5)
    );
    registry.reset_counts();
    assert_eq!(registry.counts().requests(), 0);
}

#[tokio::test]
async fn tags_and_referrers_are_listed() {
    let registry = FakeRegistry::start().await;
    let image = Image::random(1, &[10]);
    for tag in ["a", "b", "c"] {
        registry.put_image("r", Some(tag), &image);
    }
    let url = registry.url();
    let page = client::get(&format!("{url}/v2/r/tags/list?n=2"), &[])
        .await
        .unwrap();
    assert_eq!(page.json()["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(
        page.header("link"),
        Some("</v2/r/tags/list?last=b&n=2>; rel=\"next\"")
    );
    let last = client::get(&format!("{url}/v2/r/tags/list?last=b&n=2"), &[])
        .await
        .unwrap();
    assert_eq!(
        (last.json()["tags"].clone(), last.header("link")),
        (serde_json::json!(["c"]), None)
    );

    let signature = serde_json::json!({
        "schemaVersion": 2, "artifactType": "test/signature", "config": {"mediaType": "x"}, "layers": [],
        "subject": {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": image.manifest.len()},
    });
    let digest = registry.put_manifest("r", None, OCI_MANIFEST, signature.to_string());
    let referrers = format!("{url}/v2/r/referrers/{}", image.digest);
    let all = client::get(&referrers, &[]).await.unwrap();
    assert_eq!(all.json()["manifests"][0]["digest"], digest);
    let none = client::get(&format!("{referrers}?artifactType=other"), &[])
        .await
        .unwrap();
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
}

async fn token(
    registry: &FakeRegistry,
    scope: &str,
    headers: client::Headers<'_>,
) -> client::Response {
    let url = format!("{}?service=fake&scope={scope}", registry.token_url());
    client::get(&url, headers).await.unwrap()
}

fn bearer(answer: &client::Response) -> String {
    format!("Bearer {}", answer.json()["token"].as_str().unwrap())
}

#[tokio::test]
async fn bearer_tokens_have_a_scope_an_end_and_a_user() {
    let life = Duration::from_secs(1);
    let registry = FakeRegistry::builder()
        .bearer(Some(("ci", "secret")))
        .token_life(life)
        .start()
        .await;
    let image = Image::random(1, &[10]);
    registry.put_image("a/b", Some("1"), &image);
    registry.put_image("a/c", Some("1"), &image);
    let url = format!("{}/v2/a/b/manifests/1", registry.url());

    let refused = client::get(&url, &[]).await.unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    let expected = format!(
        "Bearer realm=\"{}\",service=\"fake\",scope=\"repository:a/b:pull\"",
        registry.token_url()
    );
    assert_eq!(refused.header("www-authenticate"), Some(&*expected));
    assert_ne!(registry.token_url(), format!("{}/token", registry.url()));

    let scope = "repository:a/b:pull";
    // "ci:secret" and "ci:wrong"
    assert_eq!(
        token(&registry, scope, &[]).await.status,
        StatusCode::UNAUTHORIZED
    );
    let wrong = token(&registry, scope, &[("authorization", "Basic Y2k6d3Jvbmc=")]).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let given = token(&registry, scope, &[("authorization", "Basic Y2k6c2VjcmV0")]).await;
    assert_eq!(given.json()["expires_in"], 1);
    let authorization = bearer(&given);
    let headers: client::Headers<'_> = &[("authorization", &authorization)];
    assert_eq!(
        client::get(&url, headers).await.unwrap().status,
        StatusCode::OK
    );
    let other = client::get(&url.replace("a/b", "a/c"), headers)
        .await
        .unwrap();
    assert!(
        other
            .header("www-authenticate")
            .unwrap()
            .ends_with("error=\"insufficient_scope\"")
    );
    tokio::time::sleep(life).await;
    let late = client::get(&url, headers).await.unwrap();
    assert!(
        late.header("www-authenticate")
            .unwrap()
            .ends_with("error=\"invalid_token\"")
    );
    assert_eq!(registry.counts().token_gets, 3);
    assert_eq!(registry.requests()[3].authorization_scheme(), Some("Basic"));
}

#[tokio::test]
async fn tokens_can_be_revoked_and_basic_needs_its_password() {
    let registry = FakeRegistry::builder().bearer(None).start().await;
    registry.put_image("a/b", Some("1"), &Image::random(1, &[10]));
    let url = format!("{}/v2/a/b/manifests/1", registry.url());
    let authorization = bearer(&token(&registry, "repository:a/b:pull", &[]).await);
    let headers: client::Headers<'_> = &[("authorization", &authorization)];
    assert_eq!(
        client::get(&url, headers).await.unwrap().status,
        StatusCode::OK
    );
    registry.revoke_tokens();
    assert_eq!(
        client::get(&url, headers).await.unwrap().status,
        StatusCode::UNAUTHORIZED
    );

    let registry = FakeRegistry::builder().basic("ci", "secret").start().await;
    let ping = format!("{}/v2/", registry.url());
    let refused = client::get(&ping, &[("authorization", "Basic Y2k6d3Jvbmc=")])
        .await
        .unwrap();
    assert_eq!(
        refused.header("www-authenticate"),
        Some("Basic realm=\"fake registry\"")
    );
    let passed = client::get(&ping, &[("authorization", "Basic Y2k6c2VjcmV0")])
        .await
        .unwrap();
    assert_eq!(passed.status, StatusCode::OK);
    registry.set_login("ci", "changed");
    let refused = client::get(&ping, &[("authorization", "Basic Y2k6c2VjcmV0")])
        .await
        .unwrap();
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn redirected_blobs_want_their_signature_and_nothing_else() {
    let life = Duration::from_millis(300);
    let registry = FakeRegistry::builder()
        .redirect_blobs(Redirect::Absolute307)
        .signature_life(life)
        .start()
        .await;
    let digest = registry.put_generated_blob("a/b", 1, SIZE);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    let moved = client::get(&url, &[]).await.unwrap();
    assert_eq!(moved.status, StatusCode::TEMPORARY_REDIRECT);
    let target = moved.header("location").unwrap();
    assert!(
        target.starts_with(registry.blob_host_url()) && registry.blob_host_url() != registry.url()
    );
    client::download(target, &[])
        .await
        .unwrap()
        .assert_is(&digest);
    let both = client::get(target, &[("authorization", "Bearer x")])
        .await
        .unwrap();
    assert_eq!(both.status, StatusCode::BAD_REQUEST);
    assert!(both.text().contains("Only one auth mechanism allowed"));
    let forged = client::get(&format!("{target}0"), &[]).await.unwrap();
    assert_eq!(forged.status, StatusCode::FORBIDDEN);
    tokio::time::sleep(life).await;
    assert_eq!(
        client::get(target, &[]).await.unwrap().status,
        StatusCode::FORBIDDEN
    );
    let counts = registry.counts();
    assert_eq!(
        (counts.blob_gets, counts.blob_host_gets, counts.bytes_sent),
        (1, 4, SIZE)
    );

    let registry = FakeRegistry::builder()
        .redirect_blobs(Redirect::Relative)
        .start()
        .await;
    let digest = registry.put_generated_blob("a/b", 1, SIZE);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    let moved = client::get(&url, &[]).await.unwrap();
    let target = moved.header("location").unwrap();
    assert!(target.starts_with('/'));
    let part = client::get(
        &format!("{}{target}", registry.url()),
        &[("range", "bytes=0-9")],
    )
    .await
    .unwrap();
    assert_eq!(
        (part.status, part.body.len()),
        (StatusCode::PARTIAL_CONTENT, 10)
    );
}

#[tokio::test]
async fn the_quota_counts_manifest_gets_only() {
    let registry = FakeRegistry::builder().rate_limit(2).start().await;
    let image = Image::random(1, &[10]);
    registry.put_image("a/b", Some("1"), &image);
    let url = format!("{}/v2/a/b/manifests/1", registry.url());
    let blob = format!("{}/v2/a/b/blobs/{}", registry.url(), image.blobs()[0]);
    for remaining in ["1;w=21600", "0;w=21600"] {
        let got = client::get(&url, &[]).await.unwrap();
        assert_eq!(
            (got.status, got.header("ratelimit-remaining")),
            (StatusCode::OK, Some(remaining))
        );
        assert_eq!(got.header("ratelimit-limit"), Some("2;w=21600"));
        let head = client::head(&url, &[]).await.unwrap();
        assert_eq!(head.header("ratelimit-remaining"), Some(remaining));
        assert_eq!(
            client::get(&blob, &[])
                .await
                .unwrap()
                .header("ratelimit-limit"),
            None
        );
    }
    let over = client::get(&url, &[]).await.unwrap();
    assert_eq!(over.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(over.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    assert!(over.text().contains("pull rate limit"));
    registry.set_rate_limit(100, 50);
    let again = client::get(&url, &[]).await.unwrap();
    assert_eq!(again.header("ratelimit-remaining"), Some("49;w=21600"));
}

#[tokio::test]
async fn bodies_that_are_cut_do_not_end_cleanly() {
    let (registry, url, digest) = with_blob().await;
    for fault in [Fault::CutAfter(100_000), Fault::CutChunked(100_000)] {
        let id = registry.fault(On::blob(), fault.clone());
        // A HEAD must not use up what is meant for a body.
        client::head(&url, &[]).await.unwrap();
        assert_eq!(registry.struck(id), 0);
        let cut = client::download(&url, &[]).await.unwrap();
        assert_eq!((cut.status, cut.bytes), (StatusCode::OK, 100_000));
        assert!(cut.error.is_some(), "{fault:?} ended cleanly");
        assert_eq!(cut.digest, part(1, 0, 100_000));
        let chunked = matches!(fault, Fault::CutChunked(_));
        assert_eq!(cut.header("content-length"), (!chunked).then_some("300000"));
        assert!(
            client::get(&url, &[]).await.is_ok(),
            "{fault:?} struck twice"
        );
        assert_eq!(registry.struck(id), 1);
    }
    registry.fault(On::blob(), Fault::CutAfter(1000));
    assert!(client::get(&url, &[]).await.is_err());
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
}

#[tokio::test]
async fn a_short_body_can_end_cleanly() {
    let (registry, url, _) = with_blob().await;
    registry.fault(On::blob(), Fault::ShortClose(5000));
    let short = client::download(&url, &[]).await.unwrap();
    assert_eq!((short.bytes, short.error.as_deref()), (5000, None));
    assert_eq!(
        (
            short.header("content-length"),
            short.header("transfer-encoding")
        ),
        (None, None)
    );
    registry.fault(On::blob(), Fault::NoContentLength);
    let whole = client::download(&url, &[]).await.unwrap();
    whole.assert_is(&generated_digest(1, SIZE));
    assert_eq!(
        (
            whole.header("content-length"),
            whole.header("transfer-encoding")
        ),
        (None, Some("chunked"))
    );
}

#[tokio::test]
async fn wrong_bytes_lengths_and_digests_are_well_formed_answers() {
    let (registry, url, digest) = with_blob().await;
    registry.fault(On::blob(), Fault::WrongBytes);
    let wrong = client::get(&url, &[]).await.unwrap();
    let right = client::get(&url, &[]).await.unwrap();
    let differing: Vec<_> = (0..right.body.len())
        .filter(|at| right.body[*at] != wrong.body[*at])
        .collect();
    assert_eq!((wrong.body.len(), differing), (300_000, vec![299_992]));
    registry.fault(On::blob().times(2), Fault::WrongLength(-7));
    registry.fault(On::blob(), Fault::WrongLength(9));
    assert_eq!(
        client::head(&url, &[])
            .await
            .unwrap()
            .header("content-length"),
        Some("299993")
    );
    assert_eq!(
        client::get(&url, &[]).await.unwrap().body,
        right.body[..299_993]
    );
    let longer = client::get(&url, &[]).await.unwrap().body;
    assert_eq!(longer, [&right.body[..], &[0; 9]].concat());
    registry.fault(On::blob(), Fault::LyingDigestHeader);
    let lie = client::get(&url, &[]).await.unwrap();
    assert_ne!(lie.header("docker-content-digest"), Some(&*digest));
    assert_eq!(lie.body, right.body);
    registry.fault(On::blob(), Fault::IgnoreRange);
    let all = client::get(&url, &[("range", "bytes=5-")]).await.unwrap();
    assert_eq!((all.status, all.body.len()), (StatusCode::OK, 300_000));
}

#[tokio::test]
async fn slowness_takes_its_time() {
    let (registry, url, digest) = with_blob().await;
    let pause = Duration::from_millis(400);
    registry.fault(On::blob(), Fault::DelayHeaders(pause));
    let late = client::download(&url, &[]).await.unwrap();
    assert!(late.headers_after >= pause, "{late:?}");
    registry.fault(On::blob(), Fault::Stall(100_000, pause));
    let stalled = client::download(&url, &[]).await.unwrap();
    assert!(
        stalled.first_byte_after.unwrap() < pause && stalled.took >= pause,
        "{stalled:?}"
    );
    registry.fault(
        On::blob(),
        Fault::Slow {
            bytes_per_sec: 600_000,
        },
    );
    let slow = client::download(&url, &[]).await.unwrap();
    assert!(slow.took >= Duration::from_millis(400), "{slow:?}");
    for download in [late, stalled, slow] {
        download.assert_is(&digest);
    }
}

#[tokio::test]
async fn the_link_is_shared_by_all_connections() {
    let (registry, url, digest) = with_blob().await;
    registry.set_rate(1_000_000);
    let start = Instant::now();
    let (one, two) = tokio::join!(client::download(&url, &[]), client::download(&url, &[]));
    // Together 600 kB: alone each would have taken 0.3 s.
    assert!(
        start.elapsed() >= Duration::from_millis(550),
        "{:?}",
        start.elapsed()
    );
    one.unwrap().assert_is(&digest);
    two.unwrap().assert_is(&digest);
    registry.set_rate(0);
    let free = client::download(&url, &[]).await.unwrap();
    assert!(free.took < Duration::from_millis(300), "{free:?}");
}

#[tokio::test]
async fn a_hang_is_silent_and_a_reset_is_not() {
    let (registry, url, _) = with_blob().await;
    let hang = registry.fault(On::any(), Fault::Hang);
    let path = url.strip_prefix(&registry.url()).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let (bytes, ending) = raw(&registry.authority(), &request, Duration::from_millis(300)).await;
    assert_eq!(
        (bytes.len(), ending, registry.struck(hang)),
        (0, Ending::Silent, 1)
    );
    registry.fault(On::any(), Fault::Reset);
    let (bytes, ending) = raw(&registry.authority(), &request, Duration::from_secs(5)).await;
    assert_eq!((bytes.len(), ending), (0, Ending::Reset));
}

#[tokio::test]
async fn other_answers_are_given_instead() {
    let (registry, url, _) = with_blob().await;
    let headers = vec![("Retry-After".to_owned(), "7".to_owned())];
    registry.fault(
        On::blob(),
        Fault::Status(429, "Too Many Requests (HAP429).".into(), headers),
    );
    let busy = client::get(&url, &[]).await.unwrap();
    assert_eq!(
        (busy.status.as_u16(), busy.header("retry-after")),
        (429, Some("7"))
    );
    assert_eq!(busy.text(), "Too Many Requests (HAP429).");
    registry.fault(On::blob(), Fault::Html(502));
    let page = client::get(&url, &[]).await.unwrap();
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (502, Some("text/html"))
    );
    registry.fault(On::blob().forever(), Fault::RedirectLoop);
    let mut target = url;
    for _ in 0..3 {
        let moved = client::get(&target, &[]).await.unwrap();
        assert_eq!(moved.status, StatusCode::TEMPORARY_REDIRECT);
        let next = format!("{}{}", registry.url(), moved.header("location").unwrap());
        assert_ne!(next, target);
        target = next;
    }
    registry.clear_faults();
    assert_eq!(
        client::get(&target, &[]).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn faults_strike_whom_they_are_meant_for() {
    let registry = FakeRegistry::docker_hub().start().await;
    let image = Image::random(1, &[10]);
    registry.put_image("a/b", Some("1"), &image);
    registry.put_image("a/c", Some("1"), &image);
    let manifest = |repo: &str| format!("{}/v2/{repo}/manifests/1", registry.url());
    let meant = registry.fault(
        On::manifest().get().repo("a/b").skip(1).times(2),
        Fault::status(503),
    );
    // The challenge comes first and uses up nothing.
    assert_eq!(
        client::get(&manifest("a/b"), &[])
            .await
            .unwrap()
            .status
            .as_u16(),
        401
    );
    let scope = "repository:a/b:pull%20repository:a/c:pull";
    let authorization = bearer(&token(&registry, scope, &[]).await);
    let headers: client::Headers<'_> = &[("authorization", &authorization)];
    let status = async |method: Method, url: String| {
        client::request(method, &url, headers)
            .await
            .unwrap()
            .status
            .as_u16()
    };
    assert_eq!(status(Method::GET, manifest("a/c")).await, 200);
    assert_eq!(status(Method::HEAD, manifest("a/b")).await, 200);
    for expected in [200, 503, 503, 200] {
        assert_eq!(status(Method::GET, manifest("a/b")).await, expected);
    }
    assert_eq!(registry.struck(meant), 2);
    registry.fault(On::token(), Fault::Html(500));
    assert_eq!(token(&registry, scope, &[]).await.status.as_u16(), 500);
    // A blob fault strikes where the bytes are, a redirect fault strikes where they are not.
    let blob = format!("{}/v2/a/b/blobs/{}", registry.url(), image.blobs()[1]);
    registry.fault(On::redirect(), Fault::status(502));
    registry.fault(On::blob(), Fault::CutAfter(3));
    assert_eq!(status(Method::GET, blob.clone()).await, 502);
    let moved = client::get(&blob, headers).await.unwrap();
    let cut = client::download(moved.header("location").unwrap(), &[])
        .await
        .unwrap();
    assert_eq!((cut.bytes, cut.error.is_some()), (3, true));
}

#[tokio::test]
async fn down_is_refused_and_up_is_the_same_port() {
    let (registry, url, digest) = with_blob().await;
    registry.fault(On::blob(), Fault::Stall(100_000, Duration::from_secs(60)));
    let cut = tokio::spawn({
        let url = url.clone();
        async move { client::download(&url, &[]).await.unwrap() }
    });
    let mut idle = Raw::connect(&registry.url()).await;
    while registry.connections() < 2 || registry.counts().bytes_sent < 100_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    registry.down();
    assert!(
        cut.await.unwrap().error.is_some(),
        "a connection outlived its registry"
    );
    assert_ne!(idle.read(Duration::from_secs(5)).await.1, Ending::Silent);
    let refused = client::get(&url, &[]).await.unwrap_err();
    assert!(refused.contains("refused"), "{refused}");
    registry.up();
    client::download(&url, &[])
        .await
        .unwrap()
        .assert_is(&digest);
}

/// A request counted as the mirror's came from a client of an earlier listener on the same port.
#[tokio::test]
async fn what_is_asked_at_a_listener_that_is_gone_reaches_no_other() {
    let host = |authority: &str| authority.split_once(':').unwrap().0.to_owned();
    let (gone, registry) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let addresses = [
        host(&gone.authority()),
        host(&registry.authority()),
        host(mirror.authority()),
        host(&loopback::free_port().to_string()),
    ];
    let different: HashSet<_> = addresses.iter().collect();
    assert_eq!(different.len(), addresses.len(), "{addresses:?}");
    let url = format!("{}/v2/", gone.url());
    drop(gone);
    until("it is refused", async || {
        client::get(&url, &[]).await.is_err()
    })
    .await;
}

#[tokio::test]
async fn connections_are_kept() {
    let (registry, url, _) = with_blob().await;
    let pooled = Client::new();
    for _ in 0..5 {
        assert_eq!(pooled.get(&url, &[]).await.unwrap().body.len(), 300_000);
        assert_eq!(registry.connections(), 1);
    }
    registry.fault(On::blob(), Fault::CutAfter(10));
    assert!(pooled.get(&url, &[]).await.is_err());
    assert_eq!(pooled.get(&url, &[]).await.unwrap().body.len(), 300_000);
}

#[tokio::test]
async fn the_client_can_leave_early_and_read_slowly() {
    let registry = FakeRegistry::start().await;
    let size = 64 << 20;
    let digest = registry.put_generated_blob("a/b", 3, size);
    let url = format!("{}/v2/a/b/blobs/{digest}", registry.url());
    let early = Downloading {
        abort_after: Some(1 << 20),
        ..Downloading::default()
    };
    let left = early.run(&url, &[]).await.unwrap();
    assert!(
        left.bytes >= 1 << 20 && left.bytes < size && left.error.is_none(),
        "{left:?}"
    );
    while registry.connections() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        registry.counts().bytes_sent < size,
        "the registry sent it all"
    );
    let slowly = Downloading {
        abort_after: Some(500_000),
        bytes_per_sec: Some(1_000_000),
    };
    assert!(slowly.run(&url, &[]).await.unwrap().took >= Duration::from_millis(450));
}

#[test]
fn metrics_are_summed_over_the_labels_asked_for() {
    let text = "# HELP x_total sum\nx_total{a=\"1\",b=\"2\"} 3\nx_total{b=\"2\",a=\"9\"} 4\nx_total_more 5\nplain 6\n";
    assert_eq!(sum_of(text, "x_total", &[]), Some(7.0));
    assert_eq!(sum_of(text, "x_total", &[("a", "9")]), Some(4.0));
    assert_eq!(
        sum_of(text, "x_total", &[("b", "2"), ("a", "1")]),
        Some(3.0)
    );
    assert_eq!(sum_of(text, "x_total", &[("a", "2")]), None);
    assert_eq!(sum_of(text, "plain", &[]), Some(6.0));
}
