//! Realms: what they refuse, and how they fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::StatusCode;

use crate::challenges::{
    OWN, as_user, assert_pulled, denied, mirror_of, realm, redirect, shows, token,
};
use crate::support::tls::{Certificate, Front};
use crate::support::wire::{Delivery, Fate, Reply};
use crate::support::{Mirror, MirrorConfig, REPO, Scripted, TAG, image};

/// nvcr.io: a client whose token is refused is sent to a realm that grants nothing.
async fn another_realm_once_a_token_is_refused(
    broken_realm: impl Fn() -> Reply + Send + Sync + 'static,
    requests: usize,
) {
    let (revoked, given) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let is_revoked = Arc::clone(&revoked);
    let registry = Scripted::start(move |url, request| {
        let path = request.path();
        if path == "/proxy_auth" {
            return token(&format!("t{}", given.fetch_add(1, Ordering::SeqCst)));
        }
        if path == "/authn" {
            return broken_realm();
        }
        let good = if is_revoked.load(Ordering::SeqCst) {
            "t1"
        } else {
            "t0"
        };
        match request.header("authorization") {
            Some(shown) if shown == format!("Bearer {good}") => Reply::manifest(&image(1)),
            Some(_) => Reply::challenge(&format!("Bearer realm=\"{url}/authn\"")),
            None => Reply::challenge(&format!(
                "Bearer realm=\"{url}/proxy_auth\",scope=\"{OWN}\""
            )),
        }
    });
    let mirror = Mirror::start(as_user(&registry.url()));
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    revoked.store(true, Ordering::SeqCst);
    registry.forget_requests();
    let (tag, digest) = (mirror.manifest(REPO, TAG).await, image(1).digest);
    assert_eq!(
        tag.header("cache-status"),
        Some("pierglass; hit; detail=revalidated")
    );
    assert_pulled(&tag);
    // Refused, perhaps refused again, without a token, with a new one.
    assert_eq!(registry.count("/v2/"), requests);
    assert_eq!(registry.count("/proxy_auth"), 1);
    // From then on nothing is refused.
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    assert_pulled(&mirror.manifest(REPO, &digest).await);
    assert_eq!(registry.count("/proxy_auth"), 1);
    assert!(registry.count("/authn") <= 3);
    assert_eq!(registry.count("/v2/"), requests + 1);
    assert!(!mirror.output().contains("is the password"), "it is right");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_led_to_a_realm_that_gives_nothing() {
    another_realm_once_a_token_is_refused(denied, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_led_to_a_realm_that_is_a_page() {
    let page = || {
        let body = String::from("<html>sign in</html>");
        Reply::new(200, "text/html", body.into())
    };
    another_realm_once_a_token_is_refused(page, 3).await;
    let refusal = || Reply::error(401, "UNAUTHORIZED", "no");
    another_realm_once_a_token_is_refused(refusal, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_led_to_a_realm_whose_tokens_are_refused_as_well() {
    another_realm_once_a_token_is_refused(|| token("useless"), 4).await;
}

/// A registry whose realm does `first` some times, and then gives tokens.
fn stumbling(times: u64, first: Fate) -> Scripted {
    let count = AtomicU64::new(0);
    Scripted::with_fates(move |url, request| {
        let reply = match request.path() {
            "/token" if count.fetch_add(1, Ordering::SeqCst) < times => return first.clone(),
            "/token" => token("t"),
            _ if shows(request, "t") => Reply::manifest(&image(1)),
            _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\"")),
        };
        Fate::Answer(Box::new(reply))
    })
}

fn cut(reply: Reply) -> Reply {
    Reply {
        delivery: Delivery {
            stop_after: Some(5),
            ..Delivery::default()
        },
        ..reply
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_stumbled_was_an_error_for_the_client() {
    let answer = |reply: Reply| Fate::Answer(Box::new(reply));
    for status in [500, 502, 503, 504, 520] {
        let registry = stumbling(2, answer(Reply::error(status, "UNKNOWN", "later")));
        let mirror = mirror_of(&registry);
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/token"), 3, "{status}");
    }
    let page = "<html>one moment</html>".to_owned();
    for fate in [
        answer(cut(token("t"))),
        answer(Reply::new(200, "text/html", page.into())),
        answer(Reply::json(200, &serde_json::json!({"errors": []}))),
        answer(Reply::empty(204)),
        Fate::Reset,
    ] {
        let registry = stumbling(1, fate);
        let mirror = mirror_of(&registry);
        assert_pulled(&mirror.manifest(REPO, TAG).await);
    }
    // It is not asked for ever.
    let registry = stumbling(u64::MAX, answer(Reply::error(503, "UNKNOWN", "later")));
    let mirror = mirror_of(&registry);
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(registry.count("/token"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refusal_of_a_realm_was_a_refusal_for_everybody() {
    for status in [400, 401, 403, 404] {
        let refusal = Reply::error(status, "DENIED", "no");
        let registry = stumbling(1, Fate::Answer(Box::new(refusal.clone())));
        let config = MirrorConfig::for_url(&registry.url());
        let mirror = Mirror::start(config);
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/token"), 2, "{status}");
        // Said twice it is believed.
        let registry = stumbling(u64::MAX, Fate::Answer(Box::new(refusal)));
        let mirror = Mirror::start(MirrorConfig::for_url(&registry.url()));
        for _ in 0..2 {
            let answer = mirror.manifest(REPO, TAG).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
        }
        assert_eq!(registry.count("/token"), 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refusal_of_a_realm_that_is_known_was_one_as_well() {
    let refuse = Arc::new(AtomicBool::new(false));
    let once = Arc::clone(&refuse);
    let registry = Scripted::start(move |url, request| match request.path() {
        "/token" if once.swap(false, Ordering::SeqCst) => denied(),
        "/token" => token("t"),
        _ if shows(request, "t") => Reply::manifest(&image(1)),
        _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\"")),
    });
    let mirror = mirror_of(&registry);
    assert_pulled(&mirror.manifest("a/other", TAG).await);
    refuse.store(true, Ordering::SeqCst);
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    assert_eq!(registry.count("/token"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_of_plain_http_shut_out_a_registry_behind_a_proxy_for_tls() {
    let behind = Scripted::start(|_, request| {
        let host = request.header("host").unwrap_or_default().to_owned();
        match request.path() {
            "/service/token" if request.header("authorization").is_some() => token("t"),
            _ if shows(request, "t") => Reply::manifest(&image(1)),
            _ => Reply::challenge(&format!("Bearer realm=\"http://{host}/service/token\"")),
        }
    });
    let certificate = Certificate::new();
    let front = Front::start(&certificate, behind.authority()).await;
    let url = format!("https://{}", front.address);
    let ca_file = format!("ca_file = \"{}\"", certificate.certificate().display());
    let mirror = Mirror::start(as_user(&url).toml(&ca_file));
    assert_pulled(&mirror.manifest(REPO, TAG).await);
    assert_eq!(behind.count("/service/token"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_is_no_address_got_advice_that_cannot_help() {
    for (realm, words) in [
        ("null://r.example/token", "X-Forwarded-Proto"),
        ("/token", "no URL"),
        ("ftp://r.example/token", "neither http nor https"),
    ] {
        let challenge = format!("Bearer realm=\"{realm}\"");
        let registry = Scripted::start(move |_, _| Reply::challenge(&challenge));
        let mirror = mirror_of(&registry);
        let answer = mirror.manifest(REPO, TAG).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let log = mirror.log_of_failure(words);
        assert!(!log.contains("`realms`"), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_realm_that_redirects_gave_no_token() {
    for (login, moved) in [(true, "/new/token"), (false, "//{host}/new/token?x=y")] {
        let registry = Scripted::start(move |_, request| {
            let host = request.header("host").unwrap_or_default().to_owned();
            let shown = request.header("authorization");
            match request.path() {
                "/token" => Reply::empty(301).with("Location", moved.replace("{host}", &host)),
                "/new/token" if shown.is_some() == login => token("t"),
                "/new/token" => denied(),
                _ if shows(request, "t") => Reply::manifest(&image(1)),
                _ => Reply::challenge(&format!("Bearer realm=\"http://{host}/token\"")),
            }
        });
        let mirror = match login {
            true => Mirror::start(as_user(&registry.url())),
            false => mirror_of(&registry),
        };
        assert_pulled(&mirror.manifest(REPO, TAG).await);
        assert_eq!(registry.count("/new/token"), 1);
    }
}

/// By another name, which is as foreign as a host can be here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redirect_of_a_realm_takes_the_password_to_another_domain() {
    let thief = realm("t");
    let (host, port) = thief
        .authority()
        .split_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    let foreign = format!("http://[::ffff:{host}]:{port}/token");
    let registry = Scripted::start(move |url, request| match request.path() {
        "/token" => redirect(&foreign),
        _ => Reply::challenge(&format!("Bearer realm=\"{url}/token\"")),
    });
    let mirror = Mirror::start(as_user(&registry.url()));
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    mirror.log_of_failure("which is another domain than its own");
    assert_eq!(thief.requests().len(), 0);
}
