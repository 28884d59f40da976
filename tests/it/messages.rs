//! What is said of an upstream that cannot be used: to clients the kind of error alone, to the operator what to do.

use std::io::{Read, Write};
use std::net::TcpListener;

use http::StatusCode;

use crate::support::loopback::any_port;
use crate::support::mirror::Ran;
use crate::support::tls::{Certificate, Front};
use crate::support::wire::Reply;
use crate::support::{
    FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, Scripted, TAG, client, image, scene,
};

/// What `check --online` says of one upstream, and its exit code.
fn check_online(url: &str, more: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("p.toml");
    let config = format!("[upstream.\"docker.io\"]\nurl = \"{url}\"\n{more}\n");
    std::fs::write(&path, config).unwrap();
    let path = path.to_str().unwrap();
    let ran = Ran::of(
        directory.path(),
        &[],
        &["check", "--online", "--config", path],
    );
    (ran.code, ran.out + &ran.err)
}

/// The advice is in `check --online` and in the log, and neither it nor the host in what a client gets.
async fn assert_advised(url: &str, advice: &str) {
    let (code, words) = check_online(url, "");
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains(advice), "{advice}: {words}");
    let mirror = Mirror::start(MirrorConfig::for_url(url));
    let answer = mirror.manifest(REPO, TAG).await;
    assert!(!answer.status.is_success());
    mirror.log_of_failure(advice);
    let text = answer.text();
    assert!(!text.contains(advice) && !text.contains("127."), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_to_a_plain_port_and_the_other_way_round_say_what_to_write() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    // What most servers do with bytes that are no request.
    let listener = TcpListener::bind(any_port()).unwrap();
    let tls = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    assert_advised(&tls, "does not speak TLS; if that is right, write http://").await;
    let certificate = Certificate::new();
    let front = Front::start(&certificate, registry.authority()).await;
    let plain = format!("http://{}", front.address);
    assert_advised(&plain, "if it speaks TLS, write https://").await;
    // A server that answers such a request in words, as those in Go do.
    let words = "Client sent an HTTP request to an HTTPS server.\n";
    let fault = Fault::Status(400, words.to_owned(), Vec::new());
    registry.fault(On::any().forever(), fault);
    assert_advised(&registry.url(), "it speaks TLS; write https://").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authority_that_is_not_trusted_says_how_to_trust_it() {
    let registry = scene::registry_with(FakeRegistry::builder(), &image(1));
    let certificate = Certificate::new();
    let front = Front::start(&certificate, registry.authority()).await;
    let url = format!("https://{}", front.address);
    assert_advised(&url, "set ca_file to the authority's certificate").await;
}

#[test]
fn what_is_no_registry_is_called_so() {
    let registry = FakeRegistry::builder().start_now();
    let not_found = "/v2/ answers 404: there is no registry";
    let page = "/v2/ answers with a page: there is no registry";
    let other = "/v2/ answers otherwise than a registry: there is no registry";
    let json = Fault::Status(404, r#"{"detail":"Not Found"}"#.into(), Vec::new());
    for (fault, advice) in [
        (Fault::Html(404), not_found),
        (json, not_found),
        (Fault::Html(200), page),
        (Fault::Html(403), "/v2/ answers 403: there is no registry"),
        (Fault::Status(200, "welcome".into(), Vec::new()), other),
        (
            Fault::Status(200, r#"{"errors":[]}"#.into(), Vec::new()),
            other,
        ),
        (Fault::Html(401), "/v2/ answers 401: there is no registry"),
    ] {
        registry.fault(On::any().forever(), fault);
        let (code, words) = check_online(&registry.url(), "");
        assert_eq!(code, Some(1), "{words}");
        assert!(
            words.contains(advice) && words.contains(&registry.url()),
            "{words}"
        );
        registry.clear_faults();
    }
    let (code, words) = check_online(&registry.url(), "");
    assert_eq!(code, Some(0), "{words}");
}

/// What answers `/v2/` so, and has an image.
fn odd_at_base(base: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |url, request| match request.path() {
        "/v2/" => base(url),
        "/token" if request.target.contains("user%2Fimage") => Reply::error(403, "DENIED", "no"),
        "/token" => Reply::json(200, &serde_json::json!({"token": "t"})),
        path if path.starts_with("/v2/a/b/manifests/") => Reply::manifest(&image(1)),
        _ => Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
    })
}

/// ghcr.io, which is a registry by default, refuses what its own challenge at `/v2/` asks for.
#[test]
fn registries_that_only_refuse_to_say_so_were_called_failed() {
    let empty = |status| move |_: &str| Reply::empty(status);
    let placeholder = |url: &str| {
        let scope = "repository:user/image:pull";
        Reply::challenge(&format!("Bearer realm=\"{url}/token\",scope=\"{scope}\""))
    };
    for registry in [
        odd_at_base(placeholder),
        odd_at_base(empty(404)),
        odd_at_base(empty(405)),
        odd_at_base(empty(403)),
        odd_at_base(empty(401)),
        odd_at_base(|_| Reply::error(403, "DENIED", "not here")),
        odd_at_base(empty(451)),
        odd_at_base(empty(500)),
        odd_at_base(|_| Reply::new(200, "text/plain", "welcome".to_owned().into())),
        odd_at_base(|_| Reply::json(200, &serde_json::json!({"errors": [{"code": "X"}]}))),
        odd_at_base(|_| Reply::json(200, &serde_json::json!({"version": 2}))),
        odd_at_base(|_| Reply::empty(404).with("Docker-Distribution-Api-Version", "registry/2.0")),
    ] {
        let url = registry.url();
        let (code, words) = check_online(&url, "");
        assert_eq!(code, Some(0), "{words}");
        let told = words.contains("  warning ") && words.contains("images may work");
        assert!(told && !words.contains("FAILED"), "{words}");
        let right = "username = \"lab\"\npassword = \"right\"";
        let (code, words) = check_online(&url, right);
        assert_eq!(code, Some(0), "{words}");
    }
}

#[test]
fn what_speaks_the_api_is_well_whatever_it_calls_its_answer() {
    let html = |status, body: &str| Reply::new(status, "text/html", body.to_owned().into());
    // Quay's answer.
    let quay = odd_at_base(move |_| html(200, "true"));
    let nothing = odd_at_base(|_| Reply::empty(200));
    for registry in [quay, nothing] {
        let (code, words) = check_online(&registry.url(), "");
        assert_eq!(code, Some(0), "{words}");
        assert!(words.contains("  ok  "), "{words}");
    }
    let page = odd_at_base(move |_| html(200, "<html>sign in</html>"));
    let (code, words) = check_online(&page.url(), "");
    assert_eq!(code, Some(1), "{words}");
}

#[test]
fn a_wrong_password_names_the_user_and_the_file() {
    for builder in [
        FakeRegistry::builder().basic("lab", "right"),
        FakeRegistry::builder().bearer(Some(("lab", "right"))),
    ] {
        let registry = builder.start_now();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "wrong").unwrap();
        let path = file.path().display();
        let login = format!("username = \"lab\"\npassword_file = \"{path}\"");
        let (code, words) = check_online(&registry.url(), &login);
        assert_eq!(code, Some(1), "{words}");
        let advice = format!(
            "the registry refused user lab; is the password in password_file {path} right?"
        );
        assert!(words.contains(&advice), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_were_told_files_hosts_and_causes() {
    let registry = FakeRegistry::builder()
        .bearer(Some(("lab", "right")))
        .start()
        .await;
    let file = tempfile::NamedTempFile::with_prefix("secret-place").unwrap();
    std::fs::write(&file, "right").unwrap();
    let path = file.path().display().to_string();
    let login = format!("username = \"lab\"\npassword_file = \"{path}\"");
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).toml(&login));
    drop(file);
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    for word in ["secret-place", "os error", "127."] {
        assert!(!answer.text().contains(word), "{}", answer.text());
    }
    let log = mirror.log_of_failure(&path);
    assert!(log.contains("os error"), "{log}");
    let gone = format!("http://{}", any_port().ip());
    let mirror = Mirror::start(MirrorConfig::for_url(&gone));
    let answer = mirror.manifest(REPO, TAG).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!answer.text().contains("127."), "{}", answer.text());
    mirror.log_of_failure("refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_words_of_upstream_made_long_lines() {
    let (registry, mirror, _) = scene::cold_image(|config| config.asking_each_time());
    let long = "x".repeat(20_000);
    let header =
        |name: &str, value: String| Fault::Status(200, "{}".into(), vec![(name.to_owned(), value)]);
    let redirect = vec![("Location".to_owned(), format!("http://{long}.invalid/"))];
    for fault in [
        header("Content-Encoding", long.clone()),
        Fault::Status(307, String::new(), redirect),
        Fault::Status(400, "{}".into(), Vec::new()),
    ] {
        registry.fault(On::manifest().forever(), fault);
        let answer = mirror.manifest(REPO, TAG).await;
        registry.clear_faults();
        assert!(!answer.status.is_success());
        assert!(answer.text().len() < 500, "{}", answer.text());
    }
    let log = mirror.output();
    let longest = log.lines().map(str::len).max().unwrap();
    assert!(longest < 4096, "{longest}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_chose_the_series_of_a_metric() {
    let (registry, mirror, _) = scene::cold_image(|config| config.asking_each_time());
    for status in (540..600).chain(440..470) {
        registry.fault(On::manifest(), Fault::status(status));
        let name = format!("acme/app{status}");
        mirror.manifest(&name, TAG).await;
    }
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    let text = metrics.unwrap().text();
    let series = text
        .lines()
        .filter(|line| line.starts_with("pierglass_upstream_requests_total"));
    assert!(series.count() < 12, "{text}");
    let fives = mirror
        .metric("pierglass_upstream_requests_total", &[("status", "5xx")])
        .await;
    assert!(fives >= Some(50.0), "{fives:?}");
}
