//! A command must never hide a mistake, name a wrong place for it, or print a secret.

use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::loopback::any_port;
use crate::support::mirror::{log_field, run_program};
use crate::support::{FakeRegistry, Fault, Image, Mirror, MirrorConfig, On, client};

const SECRET: &str = "correct-horse-battery";

/// Five mistakes, each on a line and at a column of its own; the password must not be repeated.
const FIVE_MISTAKES: &str = "listen = \"nowhere\"
max_connections = 0

[store]
max_size = \"50 apples\"
colour = \"blue\"

[upstream.\"docker.io\"]
password = \"correct-horse-battery\"
";

/// What is wrong in it, by line, column and key.
const PLACES: [&str; 5] = [
    ":1:10: listen",
    ":2:19: max_connections",
    ":5:12: store.max_size",
    ":6:1: store.colour",
    ":9:12: upstream.\"docker.io\".password",
];

/// Runs the program to its end, without anything of our environment that could change what it does.
fn pierglass(arguments: &[&str]) -> Output {
    let home = TempDir::with_prefix("pierglass-home-").unwrap();
    run_program(home.path(), &[], arguments)
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(both).unwrap();
    assert!(!text.contains(SECRET), "{text}");
    text
}

/// A configuration file of this content, and the directory that holds it.
fn file(content: &str) -> (TempDir, String) {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let path = directory.path().join("p.toml");
    std::fs::write(&path, content).unwrap();
    (directory, path.to_str().unwrap().to_owned())
}

fn upstream(url: &str) -> String {
    format!("[upstream.\"docker.io\"]\nurl = \"{url}\"\n")
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let (_directory, path) = file(FIVE_MISTAKES);
    for command in ["check", "serve"] {
        let output = pierglass(&[command, "--config", &path]);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(64), "{command}: {text}");
        let found: Vec<_> = text.lines().filter(|line| line.contains(&path)).collect();
        assert_eq!(found.len(), 5, "{command}: {text}");
        for (line, place) in found.iter().zip(PLACES) {
            assert!(line.contains(&format!("{path}{place}")), "{line} {place}");
        }
    }
}

#[test]
fn mistakes_are_told_to_programs_as_well() {
    let (_directory, path) = file(FIVE_MISTAKES);
    let output = pierglass(&["check", "--json", "--config", &path]);
    assert_eq!(output.status.code(), Some(64));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["valid"], false);
    assert_eq!(value["mistakes"].as_array().unwrap().len(), 5);
    text(&output);
}

#[test]
fn a_valid_configuration_is_said_to_be_valid() {
    let (_directory, path) = file("[store]\npath = \"/srv/somewhere\"\nmax_size = \"7GiB\"\n");
    let output = pierglass(&["check", "--config", &path]);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(0), "{words}");
    for expected in ["valid", "/srv/somewhere", "7 GiB", "docker.io", "anonymous"] {
        assert!(words.contains(expected), "{words}");
    }
    let output = pierglass(&["check", "--json", "--config", &path]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &value["valid"]),
        (Some(0), &Value::Bool(true))
    );
}

#[test]
fn flags_count_more_than_the_environment_and_that_more_than_the_file() {
    let (_directory, path) = file("[store]\nmax_size = \"7GiB\"\n");
    let of = |flags: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pierglass"));
        command
            .env_clear()
            .env("HOME", "/tmp")
            .envs(variable.map(|value| ("PIERGLASS_STORE_MAX_SIZE", value)));
        command.args(["check", "--config", &path]).args(flags);
        text(&command.output().unwrap())
    };
    assert!(of(&[], None).contains("7 GiB"));
    assert!(of(&[], Some("8GiB")).contains("8 GiB"));
    assert!(of(&["--max-size", "9GiB"], Some("8GiB")).contains("9 GiB"));
    assert!(of(&["--max-size", "nine"], None).contains("--max-size"));
}

#[test]
fn check_online_tells_identity_and_quota() {
    let registry = FakeRegistry::builder()
        .bearer(Some(("ci-bot", SECRET)))
        .rate_limit(100)
        .start_now();
    registry.set_rate_limit(100, 73);
    registry.put_image(
        "ratelimitpreview/test",
        Some("latest"),
        &Image::random(1, &[10]),
    );
    let login = format!("username = \"ci-bot\"\npassword = \"{SECRET}\"\n");
    let (_directory, path) = file(&format!("{}{login}", upstream(&registry.url())));
    let output = pierglass(&["check", "--online", "--config", &path]);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(0), "{words}");
    for expected in ["ci-bot", "73 of 100"] {
        assert!(words.contains(expected), "{words}");
    }
    assert_eq!(registry.counts().manifest_gets, 0, "asking cost a pull");
    let output = pierglass(&["check", "--online", "--json", "--config", &path]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let report = &value["upstreams"][0];
    assert_eq!(
        (report["identity"].as_str(), report["remaining"].as_u64()),
        (Some("ci-bot"), Some(73))
    );
    text(&output);
}

#[test]
fn check_online_asks_as_everybody_and_everywhere() {
    let registry = FakeRegistry::builder()
        .bearer(Some(("bot-1", SECRET)))
        .start_now();
    registry.add_login("bot-2", SECRET);
    registry.set_rate_limit_of("bot-1", 100, 11);
    registry.set_rate_limit_of("bot-2", 200, 150);
    let image = Image::random(1, &[10]);
    registry.put_image("ratelimitpreview/test", Some("latest"), &image);
    let near = FakeRegistry::builder().start_now();
    let identity = |user: &str| format!("username = \"{user}\"\npassword = \"{SECRET}\"\n");
    let more = "[[upstream.\"docker.io\".more_credentials]]\n";
    let text_of = |third: &str| {
        let (first, second) = (identity("bot-1"), identity("bot-2"));
        let endpoints = format!("endpoints = [{:?}]\n", near.url());
        let upstream = upstream(&registry.url());
        format!("{upstream}{endpoints}{first}{more}{second}{third}")
    };
    let (_directory, path) = file(&text_of(""));
    let output = pierglass(&["check", "--online", "--config", &path]);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(0), "{words}");
    let line = |word: &str| words.lines().rfind(|line| line.contains(word)).unwrap();
    assert!(line("bot-1").contains("11 of 100"), "{words}");
    assert!(line("bot-2").contains("150 of 200"), "{words}");
    assert!(line(&near.url()).contains("ok"), "{words}");
    // One of them is refused, and it is told which.
    let third = format!("{more}{}", identity("bot-3"));
    let (_directory, path) = file(&text_of(&third));
    let output = pierglass(&["check", "--online", "--config", &path]);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    let failed: Vec<_> = words
        .lines()
        .filter(|line| line.contains("FAILED"))
        .collect();
    assert!(failed.len() == 1 && failed[0].contains("bot-3"), "{words}");
}

#[test]
fn check_online_fails_when_an_upstream_refuses() {
    let good = FakeRegistry::builder().start_now();
    let login = format!("username = \"ci-bot\"\npassword = \"{SECRET}\"\n");
    let strict = FakeRegistry::builder()
        .bearer(Some(("ci-bot", "another")))
        .start_now();
    let broken = FakeRegistry::builder().start_now();
    broken.fault(On::any().forever(), Fault::Html(502));
    let gone = FakeRegistry::builder().start_now();
    gone.down();
    for bad in [&strict, &broken, &gone] {
        let quay = format!("[upstream.\"quay.io\"]\nurl = \"{}\"\n", good.url());
        let (_directory, path) = file(&format!("{}{login}{quay}", upstream(&bad.url())));
        let output = pierglass(&["check", "--online", "--config", &path]);
        let words = text(&output);
        assert_eq!(output.status.code(), Some(1), "{words}");
        let failed: Vec<_> = words
            .lines()
            .filter(|line| line.contains("FAILED"))
            .collect();
        assert!(
            failed.len() == 1 && failed[0].contains("docker.io"),
            "{words}"
        );
        assert!(!words.contains("<html>"), "{words}");
    }
}

#[test]
fn bad_usage_is_told_apart_from_failure() {
    for arguments in [
        &["frobnicate"][..],
        &["serve", "--colour"],
        &["serve", "extra"],
        &["check", "--config"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--config", "/nonexistent/p.toml"],
    ] {
        let output = pierglass(arguments);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            text(&output)
        );
        assert!(!output.stderr.is_empty() && output.stdout.is_empty());
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["--version"]] {
        let output = pierglass(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty());
    }
    assert!(text(&pierglass(&["serve", "--help"])).contains("Example: pierglass serve"));
}

#[test]
fn a_busy_port_is_named_with_its_key() {
    let occupied = TcpListener::bind(any_port()).unwrap();
    let busy = occupied.local_addr().unwrap().to_string();
    let store = TempDir::with_prefix("pierglass-test-").unwrap();
    let store = store.path().to_str().unwrap();
    for (key, listen, admin) in [
        ("listen", &*busy, "127.0.0.1:0"),
        ("admin_listen", "127.0.0.1:0", &*busy),
    ] {
        let output = pierglass(&[
            "serve",
            "--listen",
            listen,
            "--admin-listen",
            admin,
            "--store",
            store,
        ]);
        let words = text(&output);
        assert_eq!(output.status.code(), Some(1), "{words}");
        assert!(words.contains(&busy), "{words}");
        assert!(words.contains(&format!("`{key}`")), "{words}");
    }
    drop(occupied);
}

#[test]
fn a_store_that_cannot_be_used_is_named() {
    let (_directory, path) = file("not a directory");
    let output = pierglass(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--store",
        &path,
    ]);
    let words = text(&output);
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert!(
        words.contains(&path) && words.contains("store.path"),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_start_says_what_runs_where_and_as_whom() {
    let docker = FakeRegistry::builder()
        .bearer(Some(("ci-bot", SECRET)))
        .start()
        .await;
    let quay = FakeRegistry::start().await;
    let image = Image::random(1, &[1000]);
    docker.put_image("a/b", Some("1"), &image);
    let config = MirrorConfig::for_upstream(&docker)
        .toml(&format!("username = \"ci-bot\"\npassword = \"{SECRET}\"\n"))
        .upstream("quay.io", &quay)
        .environment("PIERGLASS_LOG_LEVEL", "trace")
        .max_size("3GiB");
    let mut mirror = Mirror::start(config);
    mirror.wait_for_log(Duration::from_secs(5), |line| {
        log_field(line, "path").is_some() && log_field(line, "max_size").is_some()
    });
    let start = mirror.output();
    let store = mirror.store_path();
    for expected in [
        mirror.authority(),
        mirror.admin_url().trim_start_matches("http://"),
        store.to_str().unwrap(),
        "3 GiB",
        "docker.io (as ci-bot, default)",
        "quay.io (as anonymous)",
    ] {
        assert!(start.contains(expected), "{expected}: {start}");
    }
    // Whatever happens at the most talkative level, the secret and what it was exchanged for stay out of sight.
    mirror.manifest("a/b", "1").await;
    docker.set_login("ci-bot", "another");
    docker.revoke_tokens();
    let refused = mirror.manifest("a/b", "2").await;
    assert_eq!(refused.status, 403);
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    mirror.term_and_wait();
    let everything = [mirror.output(), refused.text(), metrics.unwrap().text()].concat();
    let basic = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        format!("ci-bot:{SECRET}"),
    );
    for secret in [SECRET, &basic, "fake.0."] {
        assert!(!everything.contains(secret), "{secret} is in the output");
    }
    assert!(everything.contains("TRACE") || everything.contains("DEBUG"));
}
