//! A secret must never go anywhere but to its own upstream: not to another host, not to a client, not into a log or a
//! metric; and clients must never be made to send theirs.

use std::time::Duration;

use http::StatusCode;

use crate::support::registry::Builder;
use crate::support::{
    FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, REPO, Redirect, client, scene, until,
};

const USER: &str = "ci-bot";
const PASSWORD: &str = "hunter2-Pa55word";
/// base64 of user and password, as Basic has it.
const BASIC: &str = "Y2ktYm90Omh1bnRlcjItUGE1NXdvcmQ=";

fn two_layers() -> Image {
    Image::random(1, &[50_000, 100])
}

fn serving(builder: Builder) -> FakeRegistry {
    scene::registry_with(builder, &two_layers())
}

fn as_user(registry: &FakeRegistry) -> MirrorConfig {
    MirrorConfig::for_upstream(registry)
        .toml(&format!("username = \"{USER}\"\npassword = \"{PASSWORD}\""))
}

#[track_caller]
fn assert_pulled(answer: &client::Response) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.body, two_layers().manifest);
    assert_eq!(answer.header("www-authenticate"), None);
}

async fn by_digest(mirror: &Mirror) -> client::Response {
    let url = mirror.manifest_url(REPO, &two_layers().digest);
    client::get(&url, &[]).await.unwrap()
}

/// All blobs of the image at once, by clients of their own.
async fn pull_blobs_at_once(mirror: &Mirror) {
    let pulls: Vec<_> = two_layers()
        .blobs()
        .into_iter()
        .map(|digest| {
            let url = mirror.blob_url(REPO, &digest);
            tokio::spawn(async move {
                let download = client::download(&url, &[]).await.unwrap();
                download.assert_is(&digest);
            })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap();
    }
}

#[tokio::test]
async fn many_requests_share_one_exchange() {
    let registry = serving(FakeRegistry::builder().bearer(Some((USER, PASSWORD))));
    registry.fault(On::token(), Fault::DelayHeaders(Duration::from_millis(300)));
    let mirror = Mirror::start(as_user(&registry));
    let (manifest, ()) = tokio::join!(by_digest(&mirror), pull_blobs_at_once(&mirror));
    assert_pulled(&manifest);
    assert_eq!(registry.counts().token_gets, 1);
    // A token is of a repository; of another one it is another token.
    registry.put_image("acme/other", Some("1.0"), &two_layers());
    let url = mirror.manifest_url("acme/other", "1.0");
    assert_pulled(&client::get(&url, &[]).await.unwrap());
    assert_eq!(registry.counts().token_gets, 2);
    // The exchange was made as the user, with the scope of pulling.
    let exchange = registry
        .requests()
        .into_iter()
        .find(|seen| seen.target.starts_with("/token"))
        .unwrap();
    assert_eq!(
        exchange.header("authorization"),
        Some(&*format!("Basic {BASIC}"))
    );
    let asked = exchange.target.replace("%3A", ":").replace("%2F", "/");
    assert!(
        asked.contains(&format!("repository:{REPO}:pull")),
        "{asked}"
    );
    assert!(!exchange.target.contains(PASSWORD));
}

#[tokio::test]
async fn an_anonymous_token_is_enough_where_it_is() {
    let registry = serving(FakeRegistry::docker_hub());
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    assert_pulled(&by_digest(&mirror).await);
    pull_blobs_at_once(&mirror).await;
    assert_eq!(registry.counts().token_gets, 1);
    for seen in registry.requests() {
        assert_ne!(seen.authorization_scheme(), Some("Basic"), "{seen:?}");
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_it_is_refused() {
    let builder = FakeRegistry::builder()
        .bearer(None)
        .token_life(Duration::from_secs(2));
    let registry = serving(builder);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).tag_ttl("0s"));
    let url = mirror.manifest_url(REPO, "1.0");
    // One after another, over more than the life of a token: only the first is ever challenged.
    until("a second token was needed", async || {
        assert_pulled(&client::get(&url, &[]).await.unwrap());
        registry.counts().token_gets >= 2
    })
    .await;
    assert_pulled(&client::get(&url, &[]).await.unwrap());
    let unauthorized: Vec<_> = registry
        .requests()
        .into_iter()
        .filter(|seen| seen.target.contains("/manifests/") && seen.authorization_scheme().is_none())
        .collect();
    assert_eq!(unauthorized.len(), 1, "the first of all");
    let refused = mirror
        .metric(
            "pierglass_upstream_requests_total",
            &[("kind", "manifest"), ("status", "401")],
        )
        .await;
    assert_eq!(refused, Some(1.0), "the first of all");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once() {
    let registry = serving(FakeRegistry::builder().bearer(Some((USER, PASSWORD))));
    let mirror = Mirror::start(as_user(&registry));
    assert_pulled(&by_digest(&mirror).await);
    registry.reset_counts();
    registry.revoke_tokens();
    pull_blobs_at_once(&mirror).await;
    let counts = registry.counts();
    assert_eq!(
        counts.token_gets, 1,
        "one exchange for all who were refused"
    );
    assert!(
        counts.blob_gets <= 2 * 3,
        "each is tried once more: {counts:?}"
    );

    // A registry that refuses every token is not asked for ever.
    registry.reset_counts();
    let refuse = vec![(
        "WWW-Authenticate".to_owned(),
        format!(
            "Bearer realm=\"{}\",service=\"fake\",error=\"invalid_token\"",
            registry.token_url()
        ),
    )];
    registry.fault(
        On::manifest().forever(),
        Fault::Status(401, String::new(), refuse),
    );
    let url = mirror.manifest_url(REPO, "other");
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let counts = registry.counts();
    assert_eq!((counts.manifest_gets, counts.token_gets), (2, 1));
}

#[tokio::test]
async fn a_changed_password_file_is_picked_up() {
    for builder in [
        FakeRegistry::builder().basic(USER, "old"),
        FakeRegistry::builder().bearer(Some((USER, "old"))),
    ] {
        let registry = serving(builder);
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        std::fs::write(&file, "old\n").unwrap();
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).tag_ttl("0s").toml(
            &format!(
                "username = \"{USER}\"\npassword_file = \"{}\"",
                file.display()
            ),
        ));
        let url = mirror.manifest_url(REPO, "1.0");
        assert_pulled(&client::get(&url, &[]).await.unwrap());
        registry.set_login(USER, "new");
        registry.revoke_tokens();
        std::fs::write(&file, "new\n").unwrap();
        let answer = client::get(&url, &[]).await.unwrap();
        assert_pulled(&answer);
        assert_eq!(
            answer.header("cache-status"),
            Some("pierglass; hit; detail=revalidated"),
            "upstream let it in"
        );
    }
}

#[tokio::test]
async fn a_wrong_password_is_the_operators_problem_and_not_the_clients() {
    for builder in [
        FakeRegistry::builder().basic(USER, "right"),
        FakeRegistry::builder().bearer(Some((USER, "right"))),
    ] {
        let registry = serving(builder);
        let mirror = Mirror::start(as_user(&registry));
        let blob = mirror.blob_url(REPO, &two_layers().blobs()[0]);
        for url in [&mirror.manifest_url(REPO, "1.0"), &blob] {
            let answer = client::get(url, &[]).await.unwrap();
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            assert_eq!(answer.json()["errors"][0]["code"], "DENIED");
            assert_eq!(answer.header("www-authenticate"), None);
        }
    }
}

#[tokio::test]
async fn a_challenge_that_cannot_be_met_is_not_relayed() {
    let registry = serving(FakeRegistry::builder());
    let mirror = Mirror::start(as_user(&registry).negative_ttl("0s"));
    for challenge in [
        None,
        Some("Negotiate"),
        Some("Digest realm=\"x\", nonce=\"y\""),
        Some("Bearer"),
    ] {
        let headers = challenge
            .map(|challenge| ("WWW-Authenticate".to_owned(), challenge.to_owned()))
            .into_iter()
            .collect();
        let refusal = Fault::Status(401, String::new(), headers);
        registry.fault(On::any().forever(), refusal);
        for url in [
            mirror.manifest_url(REPO, "1.0"),
            mirror.blob_url(REPO, &two_layers().blobs()[0]),
        ] {
            let answer = client::get(&url, &[]).await.unwrap();
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{challenge:?}");
            assert_eq!(answer.json()["errors"][0]["code"], "DENIED");
            assert_eq!(answer.header("www-authenticate"), None);
        }
        registry.clear_faults();
    }
    for seen in registry.requests() {
        assert_eq!(seen.header("authorization"), None, "it was not asked for");
    }
}

#[tokio::test]
async fn what_a_client_sends_as_credentials_goes_nowhere() {
    let registry = serving(FakeRegistry::builder());
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    let headers = [("authorization", "Basic Og=="), ("cookie", "a=b")];
    let url = mirror.manifest_url(REPO, "1.0");
    assert_pulled(&client::get(&url, &headers).await.unwrap());
    for seen in registry.requests() {
        assert_eq!(seen.header("authorization"), None);
        assert_eq!(seen.header("cookie"), None);
    }
}

#[tokio::test]
async fn a_redirect_takes_no_token_to_another_host() {
    for (redirect, scheme_there) in [
        (Redirect::Absolute307, None),
        (Redirect::Relative, Some("Bearer")),
    ] {
        let builder = FakeRegistry::builder()
            .bearer(Some((USER, PASSWORD)))
            .redirect_blobs(redirect);
        let registry = serving(builder);
        let mirror = Mirror::start(as_user(&registry));
        pull_blobs_at_once(&mirror).await;
        let signed: Vec<_> = registry
            .requests()
            .into_iter()
            .filter(|seen| seen.target.starts_with("/signed/"))
            .collect();
        assert_eq!(signed.len(), 3);
        for seen in signed {
            assert_eq!(seen.authorization_scheme(), scheme_there, "{redirect:?}");
        }
    }
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let registry = serving(FakeRegistry::builder());
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
    registry.fault(On::any().forever(), Fault::RedirectLoop);
    for url in [
        mirror.manifest_url(REPO, "1.0"),
        mirror.blob_url(REPO, &two_layers().blobs()[0]),
    ] {
        registry.reset_counts();
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
        assert!(answer.json()["errors"][0]["code"].is_string());
        let requests = registry.counts().requests();
        assert!((2..=10).contains(&requests), "{requests} requests");
    }
}

#[tokio::test]
async fn a_realm_on_a_foreign_host_never_sees_the_password() {
    let registry = serving(FakeRegistry::builder().bearer(Some((USER, PASSWORD))));
    // The token server by another name, which is as foreign as a host can be here.
    let authority = registry.authority();
    let (host, _) = authority.split_once(':').unwrap();
    let other = format!("[::ffff:{host}]");
    let foreign = registry.token_url().replace(host, &other);
    let mirror = Mirror::start(as_user(&registry));
    registry.fault(On::any(), challenge(&foreign));
    let answer = by_digest(&mirror).await;
    assert!(!answer.status.is_success());
    assert_ne!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.header("www-authenticate"), None);
    assert_eq!(registry.counts().token_gets, 0);

    // Listed by the operator it is asked: the trap above was a real one.
    let mirror = Mirror::start(as_user(&registry).toml(&format!("realms = [\"{other}\"]")));
    registry.fault(On::any(), challenge(&foreign));
    by_digest(&mirror).await;
    assert_eq!(registry.counts().token_gets, 1);
}

fn challenge(realm: &str) -> Fault {
    let value = format!("Bearer realm=\"{realm}\",service=\"fake\"");
    Fault::Status(401, String::new(), vec![("WWW-Authenticate".into(), value)])
}

/// A portal or a proxy in the way may say anything once.
#[tokio::test]
async fn one_challenge_that_could_not_be_met_locked_its_upstream_out() {
    let registry = serving(FakeRegistry::builder().bearer(Some((USER, PASSWORD))));
    let mirror = Mirror::start(as_user(&registry));
    registry.fault(On::any(), challenge("http://192.0.2.1/token"));
    assert!(!by_digest(&mirror).await.status.is_success());
    assert_pulled(&by_digest(&mirror).await);
}

#[tokio::test]
async fn a_realm_that_moved_locked_its_upstream_out() {
    let builder = FakeRegistry::builder()
        .bearer(Some((USER, PASSWORD)))
        .token_life(Duration::from_secs(1));
    let registry = serving(builder);
    let mirror = Mirror::start(as_user(&registry).tag_ttl("0s").negative_ttl("0s"));
    let old = format!("{}?old=1", registry.token_url());
    registry.fault(On::any(), challenge(&old));
    let url = mirror.manifest_url(REPO, "1.0");
    assert_pulled(&client::get(&url, &[]).await.unwrap());
    let gone = registry.fault(
        On::token().containing("old=1").forever(),
        Fault::status(404),
    );
    until(
        "the token has ended and the old realm was asked",
        async || {
            client::get(&url, &[]).await.unwrap();
            registry.struck(gone) > 0
        },
    )
    .await;
    let answer = client::get(&url, &[]).await.unwrap();
    assert_pulled(&answer);
    let status = answer.header("cache-status");
    assert_eq!(status, Some("pierglass; hit; detail=revalidated"));
}

#[tokio::test]
async fn no_secret_is_ever_written_down() {
    let registry = serving(
        FakeRegistry::builder()
            .bearer(Some((USER, PASSWORD)))
            .redirect_blobs(Redirect::Absolute307),
    );
    let config = as_user(&registry)
        .tag_ttl("0s")
        .negative_ttl("0s")
        .environment("PIERGLASS_LOG_LEVEL", "trace");
    let mirror = Mirror::start(config);
    let tag = mirror.manifest_url(REPO, "1.0");
    let mut said = String::new();
    // A body that breaks off has its words, too.
    let mut note = |answer: Result<client::Response, String>| match answer {
        Ok(answer) => said += &format!("{:?}{}", answer.headers, answer.text()),
        Err(error) => said += &error,
    };
    note(client::get(&tag, &[]).await);
    pull_blobs_at_once(&mirror).await;
    // Everything that goes wrong has words for it.
    let blob = mirror.blob_url(REPO, &format!("sha256:{}", "1".repeat(64)));
    for fault in [
        Fault::status(500),
        Fault::status(401),
        Fault::status(403),
        Fault::Reset,
        Fault::RedirectLoop,
        Fault::Html(200),
    ] {
        registry.revoke_tokens();
        for on in [On::token(), On::manifest(), On::redirect(), On::any()] {
            registry.fault(on, fault.clone());
            note(client::get(&tag, &[]).await);
            note(client::get(&blob, &[]).await);
            registry.clear_faults();
        }
    }
    registry.set_login(USER, "another");
    registry.revoke_tokens();
    note(client::get(&tag, &[]).await);
    let metrics = format!("{}/metrics", mirror.admin_url());
    note(client::get(&metrics, &[]).await);
    let log = mirror.output();
    assert!(log.contains("TRACE"), "everything was logged");
    let tokens: Vec<_> = registry
        .requests()
        .iter()
        .filter_map(|seen| {
            seen.header("authorization")?
                .strip_prefix("Bearer ")
                .map(str::to_owned)
        })
        .collect();
    let signatures: Vec<_> = registry
        .requests()
        .iter()
        .filter_map(|seen| Some(seen.target.split_once("signature=")?.1.to_owned()))
        .collect();
    assert!(!tokens.is_empty() && !signatures.is_empty());
    let secrets = [PASSWORD.to_owned(), BASIC.to_owned()];
    for secret in secrets.iter().chain(&tokens).chain(&signatures) {
        for text in [&log, &said] {
            let line = text.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret}");
        }
    }
}
