//! Tokens, passwords, signed URLs and the quota are checked.

use std::time::Duration;

use http::StatusCode;

use super::{SIZE, bearer, token};
use crate::support::{FakeRegistry, Image, Redirect, client};

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
