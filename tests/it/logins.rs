//! A user that upstream refuses must not be tried again and again: registries lock accounts, and count.

use http::StatusCode;

use crate::support::registry::Builder;
use crate::support::{FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, image, scene, until};

const USER: &str = "lab";
const WARNING: &str = "the registry refused user lab; is the password";

fn registry(builder: Builder) -> FakeRegistry {
    scene::registry_with(builder, &image(1))
}

fn both_schemes() -> [Builder; 2] {
    [
        FakeRegistry::builder().basic(USER, "right"),
        FakeRegistry::builder().bearer(Some((USER, "right"))),
    ]
}

/// How often the password was shown: with a request, or in exchange for a token.
fn logins(registry: &FakeRegistry) -> usize {
    let basic = registry
        .requests()
        .into_iter()
        .filter(|seen| seen.authorization_scheme() == Some("Basic"));
    basic.count()
}

fn warnings(mirror: &Mirror) -> usize {
    let log = mirror.output();
    log.lines()
        .filter(|line| line.contains("\"WARN\"") && line.contains(WARNING))
        .count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_password_was_tried_with_every_request() {
    for builder in both_schemes() {
        let registry = registry(builder);
        let config = MirrorConfig::for_upstream(&registry)
            .toml(&format!("username = \"{USER}\"\npassword = \"wrong\""))
            .asking_each_time();
        let mirror = Mirror::start(config);
        for number in 0..50 {
            let answer = mirror.manifest(REPO, &format!("t{number}")).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.text());
        }
        // The second one asks whether it is the password or the repository.
        let count = logins(&registry);
        assert!((1..=3).contains(&count), "{count}");
        assert_eq!(warnings(&mirror), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrected_file_ends_it() {
    for builder in both_schemes() {
        let registry = registry(builder);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "wrong").unwrap();
        let path = file.path().display();
        let config = MirrorConfig::for_upstream(&registry)
            .toml(&format!(
                "username = \"{USER}\"\npassword_file = \"{path}\""
            ))
            .asking_each_time();
        let mirror = Mirror::start(config);
        let answer = mirror.manifest(REPO, "1.0").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN);
        assert!(
            mirror
                .output()
                .contains(&format!("password_file {path} right?"))
        );
        std::fs::write(&file, "right").unwrap();
        until("it is let in", async || {
            mirror.manifest(REPO, "1.0").await.status == StatusCode::OK
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn meanwhile_the_next_user_is_asked_as_or_nobody() {
    // The next one.
    let first = registry(FakeRegistry::builder().bearer(Some(("second", "right"))));
    let config = MirrorConfig::for_upstream(&first)
        .toml(&format!("username = \"{USER}\"\npassword = \"wrong\""))
        .toml("[[upstream.\"docker.io\".more_credentials]]\nusername = \"second\"\npassword = \"right\"")
        .top("drain_timeout", "\"5s\"");
    let mirror = Mirror::start(config);
    for number in 0..10 {
        let name = format!("acme/app{number}");
        first.put_image(&name, Some("1.0"), &image(1));
        assert_eq!(mirror.manifest(&name, "1.0").await.status, StatusCode::OK);
    }
    let wrong = first
        .requests()
        .into_iter()
        .filter(|seen| seen.target.contains("account=lab"));
    assert!(wrong.count() <= 2);
    // Nobody, where there is no other.
    let open = registry(FakeRegistry::builder().bearer(None));
    let config = MirrorConfig::for_upstream(&open)
        .toml(&format!("username = \"{USER}\"\npassword = \"wrong\""))
        .asking_each_time();
    let mirror = Mirror::start(config);
    assert_eq!(mirror.manifest(REPO, "1.0").await.status, StatusCode::OK);
    assert_eq!(warnings(&mirror), 1);
}

/// Registries say 401 of a repository, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_a_user_may_not_see_is_not_the_users_password() {
    for (builder, on) in both_schemes().into_iter().zip([
        On::any().containing("attacker"),
        On::token().containing("attacker"),
    ]) {
        let registry = registry(builder);
        let challenge = (
            "WWW-Authenticate".to_owned(),
            "Basic realm=\"x\"".to_owned(),
        );
        let fault = Fault::Status(401, String::new(), vec![challenge]);
        registry.fault(on.forever(), fault);
        let config = MirrorConfig::for_upstream(&registry)
            .toml(&format!("username = \"{USER}\"\npassword = \"right\""))
            .asking_each_time();
        let mirror = Mirror::start(config);
        for number in 0..5 {
            let answer = mirror.manifest("attacker/a", &format!("t{number}")).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN);
            let answer = mirror.manifest(REPO, "1.0").await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        }
        assert_eq!(warnings(&mirror), 0);
    }
}
