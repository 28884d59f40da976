//! `check` must refuse what `serve` would refuse, in the same words, and both must tell what is hardly meant.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::mirror::{log_field, run_program};
use crate::support::tls::Certificate;
use crate::support::{FakeRegistry, Mirror, MirrorConfig};

fn pierglass(directory: &Path, command: &str, config: &str) -> Output {
    let file = directory.join("p.toml");
    std::fs::write(&file, config).unwrap();
    run_program(
        directory,
        &[],
        &[command, "--config", file.to_str().unwrap()],
    )
}

/// What a configuration may name wrongly, and a word of what is said of it.
fn faults(directory: &Path) -> Vec<(String, &'static str)> {
    let write = |name: &str, text: &str| -> PathBuf {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (one, other) = (Certificate::new(), Certificate::new());
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, directory.join(name)).unwrap();
        directory.join(name)
    };
    let certificate = copy(&one.certificate(), "tls.crt");
    let (key, other_key) = (copy(&one.key(), "tls.key"), copy(&other.key(), "other.key"));
    let (empty, blank) = (write("empty", ""), write("blank", "\n"));
    let two_lines = write("two", "hunter2\nhunter3\n");
    let tls = |certificate: &Path, key: &Path, more: &str| {
        format!("[tls]\ncertificate = {certificate:?}\nkey = {key:?}\n{more}\n")
    };
    let hub = |keys: String| format!("[upstream.\"docker.io\"]\n{keys}\n");
    let password = |file: &Path| hub(format!("username = \"u\"\npassword_file = {file:?}"));
    vec![
        (
            tls(&certificate, &other_key, ""),
            "another one than that in",
        ),
        (tls(&certificate, &certificate, ""), "holds no private key"),
        (tls(&key, &key, ""), "holds no certificate"),
        (
            tls(&certificate, &key, &format!("client_ca = {empty:?}")),
            "holds no certificate",
        ),
        (hub(format!("ca_file = {empty:?}")), "certificate"),
        (password(&empty), "is empty"),
        (password(&blank), "is empty"),
        (password(&two_lines), "more than one line"),
        (format!("admin_token_file = {blank:?}\n"), "is empty"),
    ]
}

#[test]
fn check_called_valid_what_serve_refused() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let addresses = "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    for (config, word) in faults(directory.path()) {
        let config = format!("{addresses}{config}");
        let told: Vec<_> = ["check", "serve"]
            .map(|command| {
                let output = pierglass(directory.path(), command, &config);
                let words = String::from_utf8(output.stderr).unwrap();
                assert_eq!(
                    output.status.code(),
                    Some(64),
                    "{command} {config}: {words}"
                );
                assert!(words.contains(word), "{command} {word}: {words}");
                assert!(!words.contains("hunter"), "{words}");
                words.lines().last().unwrap_or_default().to_owned()
            })
            .into();
        assert_eq!(told[0], told[1]);
    }
}

#[test]
fn all_faults_are_told_at_once() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let faults = faults(directory.path());
    let config = format!("{}{}{}", faults[8].0, faults[5].0, faults[0].0);
    let output = pierglass(directory.path(), "check", &config);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{words}");
    for key in [
        "tls:",
        "admin_token_file:",
        "upstream.\"docker.io\".password_file:",
    ] {
        assert!(words.contains(key), "{words}");
    }
}

#[test]
fn a_pipe_gives_its_password_once_and_not_to_check() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let pipe = directory.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let config = format!("[upstream.\"docker.io\"]\nusername = \"u\"\npassword_file = {pipe:?}\n");
    let output = pierglass(directory.path(), "check", &config);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn sizes_that_cannot_work_are_told() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    for (store, words) in [
        ("max_size = \"1\"", &["store.max_size is 1 B"][..]),
        (
            "min_free = \"1000TiB\"",
            &["store.min_free is 1000 TiB", "nothing can be stored"],
        ),
        (
            "max_size = \"1000TiB\"",
            &["store.max_size is 1000 TiB", "store.min_free"],
        ),
        ("max_size = \"100MiB\"\nmin_free = \"0\"", &[]),
    ] {
        let config = format!(
            "[store]\npath = \"{}/a/b\"\n{store}\n",
            directory.path().display()
        );
        let output = pierglass(directory.path(), "check", &config);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("  note "), !words.is_empty(), "{said}");
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
    assert!(
        !directory.path().join("a").exists(),
        "check made a directory"
    );
}

#[test]
fn limits_without_effect_are_told() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let limits = "max_connections = 10\nmax_connections_per_client = 11\n[freshness]\ntag_ttl = \"2h\"\nmax_stale = \"1h\"\n";
    let output = pierglass(directory.path(), "check", limits);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in [
        "max_connections_per_client is 11",
        "tag_ttl of quay.io is 2h",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn shares_of_the_store_without_effect_are_told() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    for (share, told) in [
        (
            "\"200GiB\"",
            "store_share of quay.io is 200 GiB, and store.max_size is 50 GiB",
        ),
        (
            "\"1MiB\"",
            "store_share of quay.io is 1 MiB: hardly an image",
        ),
        // Together more than all of it: each may use what the other does not.
        ("\"80%\"", ""),
    ] {
        let config = format!(
            "[upstream.\"docker.io\"]\nstore_share = \"70%\"\n[upstream.\"quay.io\"]\nstore_share = {share}\n"
        );
        let output = pierglass(directory.path(), "check", &config);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("store_share"), !told.is_empty(), "{said}");
        assert!(said.contains(told), "{told}: {said}");
    }
}

#[test]
fn a_configuration_with_a_password_is_a_secret_too() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let config = "[upstream.\"docker.io\"]\nusername = \"u\"\npassword = \"hunter2\"\n";
    for (mode, told) in [(0o644, true), (0o600, false), (0o640, false)] {
        let file = directory.path().join("p.toml");
        std::fs::write(&file, config).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let output = pierglass(directory.path(), "check", config);
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.contains("p.toml holds a secret"), told, "{said}");
        assert!(!said.contains("hunter2"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_everyone_can_read_is_told() {
    let directory = TempDir::with_prefix("pierglass-config-").unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2").unwrap();
    let mode = |mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&file, mode).unwrap();
    };
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let registry = FakeRegistry::builder().start_now();
    let config = || {
        let login = format!("username = \"u\"\npassword_file = {file:?}\n");
        MirrorConfig::for_upstream(&registry).toml(&login)
    };
    let warned = |line: &Value| {
        let message = log_field(line, "message").and_then(Value::as_str);
        message.is_some_and(|it| it.contains("password") && it.contains("every user"))
    };
    mode(0o644);
    let mirror = Mirror::start(config());
    mirror.wait_for_log(Duration::from_secs(5), warned);
    mode(0o640);
    let mirror = Mirror::start(config());
    mirror.wait_for_log(Duration::from_secs(5), |line| {
        log_field(line, "max_size").is_some()
    });
    assert!(!mirror.logs().iter().any(warned), "{}", mirror.output());
}
