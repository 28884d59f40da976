//! Challenges, realms and tokens as registries write them, and several of them on the way to one thing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;
use serde_json::json;

use crate::support::wire::{Reply, Request};
use crate::support::{Mirror, MirrorConfig, REPO, Scripted, TAG, client, digest_of, image};

const USER: &str = "ci-bot";
const PASSWORD: &str = "hunter2-Pa55word";
pub const OWN: &str = "repository:a/b:pull";

pub fn token(name: &str) -> Reply {
    Reply::json(200, &json!({"token": name, "expires_in": 300}))
}

pub fn denied() -> Reply {
    Reply::error(403, "DENIED", "requested access to the resource is denied")
}

/// A realm that gives this token to everybody.
pub fn realm(name: &'static str) -> Scripted {
    Scripted::start(move |_, _| token(name))
}

pub fn shows(request: &Request, token: &str) -> bool {
    request.header("authorization") == Some(&format!("Bearer {token}"))
}

/// A registry that gives the image to clients that show this token, and names a realm to others.
fn registry_of(name: &'static str, realm: &Scripted) -> Scripted {
    let challenge = format!("Bearer realm=\"{}/token\",service=\"{name}\"", realm.url());
    Scripted::start(move |_, request| match shows(request, name) {
        true => Reply::manifest(&image(1)),
        false => Reply::challenge(&challenge),
    })
}

pub fn redirect(to: &str) -> Reply {
    Reply::empty(307).with("Location", to)
}

/// One that sends those who show this token on to another one.
fn gate_to(url: String, name: &'static str, realm: &Scripted) -> Scripted {
    let challenge = format!("Bearer realm=\"{}/token\",service=\"{name}\"", realm.url());
    Scripted::start(move |_, request| match shows(request, name) {
        true => redirect(&format!("{url}{}", request.target)),
        false => Reply::challenge(&challenge),
    })
}

pub fn mirror_of(registry: &Scripted) -> Mirror {
    Mirror::start(MirrorConfig::for_url(&registry.url()).patient())
}

pub fn as_user(url: &str) -> MirrorConfig {
    let login = format!("username = \"{USER}\"\npassword = \"{PASSWORD}\"");
    MirrorConfig::for_url(url).toml(&login).patient()
}

#[track_caller]
pub fn assert_pulled(answer: &client::Response) {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(answer.body, image(1).manifest);
}

/// Nothing that one server was sent as authorization was sent to another.
fn assert_nothing_carried_over(servers: &[&Scripted]) {
    let shown: Vec<Vec<String>> = servers
        .iter()
        .map(|server| {
            let requests = server.requests();
            let shown = requests.iter().filter_map(|it| it.header("authorization"));
            shown.map(str::to_owned).collect()
        })
        .collect();
    for (number, of_one) in shown.iter().enumerate() {
        for of_another in &shown[number + 1..] {
            for header in of_one {
                assert!(!of_another.contains(header), "{header}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gate_with_a_challenge_of_its_own_hid_the_registry_behind_it() {
    let (realm_a, realm_b) = (realm("a"), realm("b"));
    let b = registry_of("b", &realm_b);
    let a = gate_to(b.url(), "a", &realm_a);
    let mirror = Mirror::start(as_user(&a.url()));
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    let requests = [&a, &realm_a, &b, &realm_b].map(|server| server.requests().len());
    assert_eq!(requests, [2, 1, 2, 1]);
    assert_nothing_carried_over(&[&a, &realm_a, &b, &realm_b]);
    let passwords = realm_a.requests()[0].header("authorization").is_some();
    assert!(passwords && realm_b.requests()[0].header("authorization").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_origins_may_each_ask_for_a_token() {
    let realms = [realm("a"), realm("b"), realm("c")];
    let c = registry_of("c", &realms[2]);
    let b = gate_to(c.url(), "b", &realms[1]);
    let a = gate_to(b.url(), "a", &realms[0]);
    let mirror = mirror_of(&a);
    let head = mirror.head(REPO, TAG).await;
    assert_eq!(head.status, StatusCode::OK);
    assert_eq!(
        head.header("docker-content-digest"),
        Some(&*image(1).digest)
    );
    assert_pulled(&mirror.manifest(REPO, &image(1).digest).await);
    let exchanges = realms.each_ref().map(|realm| realm.requests().len());
    assert_eq!(exchanges, [1, 1, 1]);
    assert_nothing_carried_over(&[&a, &b, &c]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_host_behind_redirects_is_not_for_another_that_names_the_same_realm() {
    let (realm_a, shared) = (realm("a"), realm("c"));
    let names_it = format!("Bearer realm=\"{}/token\",service=\"c\"", shared.url());
    let thief = Scripted::start(move |_, _| Reply::challenge(&names_it));
    let c = registry_of("c", &shared);
    let (to_c, to_thief) = (c.url(), thief.url());
    let challenge = format!("Bearer realm=\"{}/token\"", realm_a.url());
    let a = Scripted::start(move |_, request| match shows(request, "a") {
        true if request.target.contains("stolen") => redirect(&format!("{to_thief}/v2/x")),
        true => redirect(&format!("{to_c}{}", request.target)),
        false => Reply::challenge(&challenge),
    });
    let mirror = mirror_of(&a);
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    assert_eq!(shared.requests().len(), 1);
    let answer = mirror.manifest(REPO, "stolen").await;
    assert!(!answer.status.is_success());
    // It was given one, but not that one.
    assert_eq!(shared.requests().len(), 2);
}

/// Any number of realms, each named by the host that the one before led to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_names_another_realm_each_time_is_not_followed_for_ever() {
    let count = Arc::new(AtomicU64::new(0));
    let registry = Scripted::start(
        move |url, request| match request.target.starts_with("/v2/") {
            true => {
                let number = count.fetch_add(1, Ordering::SeqCst);
                Reply::challenge(&format!("Bearer realm=\"{url}/token/{number}\""))
            }
            false => token("t"),
        },
    );
    let mirror = mirror_of(&registry);
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let asked = registry.requests().len();
    assert!(asked <= 12, "{asked}");
}

/// How the realm was asked: the scopes of each exchange.
fn scopes(registry: &Scripted) -> Vec<Vec<String>> {
    let requests = registry.requests().into_iter();
    let exchanges = requests.filter(|it| it.path() == "/token");
    exchanges.map(|it| it.query("scope")).collect()
}

/// A registry that asks for `stated` in its challenge, and takes tokens that have all of `needed`. Its realm refuses
/// a request for one of `refused`.
fn asking_for(stated: &'static str, needed: &'static [&str], refused: &'static [&str]) -> Scripted {
    Scripted::start(move |url, request| {
        if request.path() == "/token" {
            let scopes = request.query("scope");
            return match scopes.iter().any(|scope| refused.contains(&&**scope)) {
                true => denied(),
                false => token(&scopes.join("+")),
            };
        }
        let shown = request.header("authorization").unwrap_or_default();
        match !shown.is_empty() && needed.iter().all(|scope| shown.contains(scope)) {
            true => Reply::manifest(&image(1)),
            false => Reply::challenge(&format!("Bearer realm=\"{url}/token\",scope=\"{stated}\"")),
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_placeholder_for_a_scope_was_asked_for_instead_of_the_repository() {
    const PLACEHOLDER: &str = "repository:user/image:pull";
    for stated in [
        PLACEHOLDER,
        "aws",
        "repository:a/b:push",
        "registry:catalog:*",
    ] {
        for refused in [&[][..], &[PLACEHOLDER, "aws"]] {
            let registry = asking_for(stated, &[OWN], refused);
            let mirror = mirror_of(&registry);
            assert_pulled(&mirror.manifest(REPO, TAG).await);
            assert_pulled(&mirror.manifest(REPO, TAG).await);
            assert_eq!(scopes(&registry), [[OWN]], "{stated}");
            assert_eq!(registry.count("/v2/"), 3, "{stated}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_scopes_of_a_challenge_were_one() {
    const BASE: &str = "repository:o/base:pull";
    let registry = asking_for(
        "repository:a/b:pull  repository:o/base:pull",
        &[OWN, BASE],
        &[],
    );
    let mirror = mirror_of(&registry);
    for _ in 0..3 {
        assert_pulled(&mirror.manifest(REPO, TAG).await);
    }
    assert_eq!(scopes(&registry), [[OWN, BASE]], "asked for once");
    assert_eq!(registry.count("/v2/"), 4, "refused once");
}

/// Where the registry calls the repository by another name than its clients do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_challenge_asks_for_is_asked_for_where_the_own_scope_is_not_enough() {
    const INNER: &str = "repository:docker-local/a/b:pull";
    for refused in [&[][..], &[OWN]] {
        let registry = asking_for(INNER, &[INNER], refused);
        let mirror = mirror_of(&registry);
        for _ in 0..3 {
            assert_pulled(&mirror.manifest(REPO, TAG).await);
        }
        let asked = scopes(&registry);
        let last = asked.last().map(|scopes| scopes.concat());
        assert_eq!(last.as_deref(), Some(INNER));
        assert!(asked.len() <= 3, "{asked:?}");
        let before = registry.count("/v2/");
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/v2/"), before + 1, "it is remembered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_taken_as_realms_write_them() {
    for answer in [
        r#"{"token":"t","expires_in":"300"}"#,
        r#"{"token":"t","expires_in":3599.75}"#,
        r#"{"token":"t","expires_in":"3599.75"}"#,
        r#"{"token":"t","expires_in":-1}"#,
        r#"{"token":"t","expires_in":null,"issued_at":0}"#,
        r#"{"token":"t","expires_in":"soon"}"#,
        r#"{"token":"t","access_token":""}"#,
        r#"{"token":"","access_token":"t"}"#,
        r#"{"token":null,"access_token":"t","expires_in":1e99}"#,
    ] {
        let registry = Scripted::start(move |url, request| match request.path() {
            "/token" => Reply::new(201, "text/plain", answer.to_owned().into()),
            _ if shows(request, "t") => Reply::manifest(&image(1)),
            _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\"")),
        });
        let mirror = mirror_of(&registry);
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/token"), 1, "{answer}");
    }
}

/// ghcr.io refuses an ended access token even for what is public.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_public_was_refused_with_a_wrong_password() {
    let bearer = Scripted::start(|url, request| match request.path() {
        "/token" if request.header("authorization").is_some() => denied(),
        "/token" => token("t"),
        _ if shows(request, "t") => Reply::manifest(&image(1)),
        _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\",scope=\"{OWN}\"")),
    });
    // Gitea and others take no password as well.
    let basic = Scripted::start(|_, request| match request.header("authorization") {
        Some(_) => Reply::challenge("Basic realm=\"x\""),
        None if request.target.contains("/private/") => Reply::challenge("Basic realm=\"x\""),
        None => Reply::manifest(&image(1)),
    });
    for (registry, private) in [(&bearer, "x/y"), (&basic, "private/y")] {
        let mirror = Mirror::start(as_user(&registry.url()));
        // What makes it show the password.
        mirror.manifest(private, TAG).await;
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        let shown = |request: &Request| {
            let header = request.header("authorization").unwrap_or_default();
            header.starts_with("Basic ")
        };
        let count = registry.requests().iter().filter(|it| shown(it)).count();
        assert!((1..=2).contains(&count), "{count}");
        assert!(mirror.output().contains("the registry refused user ci-bot"));
    }
    let mirror = Mirror::start(as_user(&bearer.url()));
    assert_pulled(&mirror.manifest(REPO, TAG).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn challenges_are_read_as_they_were_meant() {
    for challenge in [
        "Basic realm=/",
        "Basic realm=Sonatype Nexus Repository Manager",
        "Basic realm=\"D\u{e9}p\u{f4}ts\"",
        "Basic  realm=\"x\"",
        "Negotiate YII=, Basic realm='x'",
        "Bearer  realm=\"{url}/token\"",
        "Bearer realm=\"{url}/token\",scope=repository:a/b:pull,push,service=x",
        "Bearer realm={url}/token",
        "bearer realm=\"{url}/token\" service=\"x\" scope=\"repository:a/b:pull\"",
        "Bearer realm=\"{url}/token\"; service=\"x\"",
    ] {
        let registry = Scripted::start(move |url, request| {
            let shown = request.header("authorization").unwrap_or_default();
            let good = match request.path() {
                "/token" => return token("t"),
                _ if challenge.contains("Basic") => shown.starts_with("Basic "),
                _ => shown == "Bearer t",
            };
            match good {
                true => Reply::manifest(&image(1)),
                false => Reply::challenge(&challenge.replace("{url}", url)),
            }
        });
        let mirror = Mirror::start(as_user(&registry.url()));
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/v2/"), 2, "{challenge}");
    }
}

/// What has a challenge at `/v2/` alone, and another answer for those who come without credentials elsewhere.
fn challenging_at_base(status: u16, challenge: &'static str) -> Scripted {
    Scripted::start(move |url, request| {
        let shown = request.header("authorization").is_some();
        match request.path() {
            "/token" => token("t"),
            "/v2/" if !shown => Reply::challenge(&challenge.replace("{url}", url)),
            _ if shown => Reply::manifest(&image(1)),
            _ => Reply::error(status, "UNKNOWN", "who are you?"),
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_was_not_shown_where_only_the_base_asks_for_it() {
    for status in [400, 401, 403, 404] {
        for challenge in [
            "Basic realm=\"x\"",
            "Bearer realm=\"{url}/token\",scope=\"repository:user/image:pull\"",
        ] {
            let registry = challenging_at_base(status, challenge);
            let mirror = Mirror::start(as_user(&registry.url()));
            assert_pulled(&mirror.manifest(REPO, TAG).await);
            assert_pulled(&mirror.manifest(REPO, TAG).await);
            assert_eq!(registry.count("/v2/a/b/manifests"), 3, "{status}");
        }
    }
    // Everybody gets a token there, too.
    let registry = challenging_at_base(403, "Bearer realm=\"{url}/token\"");
    assert_pulled(&mirror_of(&registry).manifest(REPO, TAG).await);
}

/// It says how to ask with each answer, or at `/v2/`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_that_cannot_be_answered_hid_one_that_can() {
    const BASIC: &str = "Basic realm=\"x\"";
    for (stated, at_base, questions) in [
        ("Negotiate", BASIC, 3),
        ("Bearer service=\"x\"", "Bearer realm=\"{url}/token\"", 3),
        ("Bearer realm=\"null://x/token\"", BASIC, 3),
        (
            "Bearer realm=\"null://x/token\", Basic realm=\"x\"",
            "Negotiate",
            2,
        ),
        (
            "Bearer realm=\"/token\", Bearer realm=\"{url}/token\"",
            "Negotiate",
            2,
        ),
    ] {
        let registry = Scripted::start(move |url, request| {
            let shown = request.header("authorization").is_some();
            match request.path() {
                "/token" => token("t"),
                "/v2/" => Reply::challenge(&at_base.replace("{url}", url)),
                _ if shown => Reply::manifest(&image(1)),
                _ => Reply::challenge(&stated.replace("{url}", url)),
            }
        });
        let mirror = Mirror::start(as_user(&registry.url()));
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/v2/"), questions, "{stated}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_is_no_reason_to_ask_for_a_challenge_each_time() {
    let registry = Scripted::start(|_, request| match request.path() {
        "/v2/" => Reply::json(200, &json!({})),
        _ => Reply::error(404, "NAME_UNKNOWN", "no such thing"),
    });
    let mirror = Mirror::start(as_user(&registry.url()));
    for number in 0..5 {
        let answer = mirror.manifest(&format!("a/b{number}"), TAG).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
    }
    let bases = registry
        .requests()
        .iter()
        .filter(|it| it.target == "/v2/")
        .count();
    assert_eq!(bases, 1);
    let mirror = mirror_of(&registry);
    registry.forget_requests();
    assert_eq!(
        mirror.manifest(REPO, TAG).await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(registry.requests().len(), 1);
}

/// It is trouble of that URL, and not a refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_with_a_realm_that_gives_nothing_refused_a_blob_for_everybody() {
    let storage = Scripted::start(|url, request| match request.path() {
        "/good" => Reply::new(200, "binary/octet-stream", "layer".to_owned().into()),
        "/token" => denied(),
        _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\"")),
    });
    let (to, count) = (storage.url(), AtomicU64::new(0));
    let registry = Scripted::start(move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
        0 => redirect(&format!("{to}/expired")),
        _ => redirect(&format!("{to}/good")),
    });
    let mirror = mirror_of(&registry);
    mirror.pull_blob(REPO, &digest_of(b"layer")).await;
    assert_eq!(registry.requests().len(), 2);
}
