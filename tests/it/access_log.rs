//! No request may pass unseen: each is a line in the log and a count in the metrics.

use std::time::Duration;

use serde_json::Value;

use crate::support::client::Downloading;
use crate::support::disk::eventually;
use crate::support::mirror::log_field;
use crate::support::{FakeRegistry, MIB, Mirror, MirrorConfig, client, plain, scene};

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_leaves_one_line_in_the_log() {
    let (_registry, mirror, digest) = scene::cold_blob(100_000, plain);
    let path = format!("/v2/a/b/blobs/{digest}");
    let at = |path: &str| format!("{}{path}", mirror.url());
    client::get(&at(&path), &[]).await.unwrap();
    mirror.wait_until_stored(&[&digest]);
    client::head(&at(&path), &[]).await.unwrap();
    client::get(&at("/v2/"), &[]).await.unwrap();
    client::get(&at("/v2/a/b/manifests/none"), &[])
        .await
        .unwrap();
    client::request(http::Method::PUT, &at("/v2/a/b/manifests/1"), &[])
        .await
        .unwrap();
    let expected = [
        ("GET", &*path, 200, "docker.io", "blob", "miss", 100_000),
        ("HEAD", &path, 200, "docker.io", "blob", "hit", 0),
        ("GET", "/v2/", 200, "none", "base", "hit", 2),
        (
            "GET",
            "/v2/a/b/manifests/none",
            404,
            "docker.io",
            "manifest",
            "error",
            0,
        ),
        (
            "PUT",
            "/v2/a/b/manifests/1",
            405,
            "none",
            "manifest",
            "error",
            0,
        ),
    ];
    let lines = || {
        let is_request =
            |line: &Value| log_field(line, "message").and_then(Value::as_str) == Some("request");
        mirror
            .logs()
            .into_iter()
            .filter(is_request)
            .collect::<Vec<_>>()
    };
    eventually("the last line", || lines().len() >= expected.len());
    let lines = lines();
    assert_eq!(lines.len(), expected.len());
    for (line, (method, path, status, upstream, kind, outcome, bytes)) in lines.iter().zip(expected)
    {
        let field = |name| log_field(line, name).cloned().unwrap_or_default();
        assert_eq!(field("client"), "127.0.0.1", "{line}");
        assert_eq!(
            (field("method"), field("path")),
            (method.into(), path.into())
        );
        assert_eq!(field("status"), status, "{line}");
        assert_eq!(field("upstream"), upstream, "{line}");
        assert_eq!(field("kind"), kind, "{line}");
        assert_eq!(field("outcome"), outcome, "{line}");
        assert!(field("ms").is_u64(), "{line}");
        if status == 200 {
            assert_eq!(field("bytes"), bytes, "{line}");
        } else {
            assert!(field("error").is_string(), "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_is_logged_with_what_it_took() {
    let (_registry, mirror, digest) = scene::stored_blob(32 * MIB, plain).await;
    let leaving = Downloading {
        abort_after: Some(MIB),
        ..Downloading::default()
    };
    let url = mirror.blob_url("a/b", &digest);
    let taken = leaving.run(&url, &[]).await.unwrap();
    let line = mirror.wait_for_log(PATIENCE, |line| {
        let bytes = log_field(line, "bytes").and_then(Value::as_u64);
        let outcome = log_field(line, "outcome").and_then(Value::as_str);
        outcome == Some("hit") && bytes != Some(32 * MIB)
    });
    let bytes = log_field(&line, "bytes").and_then(Value::as_u64).unwrap();
    assert!(bytes >= taken.bytes && bytes < 32 * MIB, "{line}");
}

/// One request was a line of 60,260 bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_path_or_agent_is_cut() {
    let (_registry, mirror) = scene::start();
    let long = "a".repeat(20_000);
    for path in [
        format!("/v2/{long}/manifests/1"),
        format!("/v2/a/b/manifests/{long}"),
        format!("/v2/a/b/blobs/sha256:{long}"),
        format!("/v2/{long}.example/a/manifests/1"),
        format!("/v2/a/b/manifests/1?ns={long}"),
    ] {
        let url = format!("{}{path}", mirror.url());
        client::get(&url, &[("user-agent", &long)]).await.unwrap();
    }
    let requests = || {
        let lines = mirror.output();
        let requests = lines.lines().filter(|line| line.contains("\"request\""));
        requests.map(str::len).collect::<Vec<_>>()
    };
    eventually("the last line", || requests().len() == 5);
    assert!(
        requests().iter().all(|length| *length < 3000),
        "{:?}",
        requests()
    );
    mirror.wait_for_log(PATIENCE, |line| {
        let agent = log_field(line, "agent").and_then(Value::as_str);
        agent.is_some_and(|agent| agent.ends_with("(20000 bytes)"))
    });
}

/// Clients were told the path of the password file, and hosts and addresses behind the mirror.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_is_told_the_kind_of_a_failure_and_the_log_its_cause() {
    let directory = tempfile::TempDir::with_prefix("pierglass-secret-").unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "hunter2").unwrap();
    let login = format!("username = \"u\"\npassword_file = {file:?}\n");
    let registry = FakeRegistry::builder()
        .bearer(Some(("u", "hunter2")))
        .start_now();
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).toml(&login));
    std::fs::remove_file(&file).unwrap();
    let path = file.to_str().unwrap();
    let answer = mirror.manifest("a/b", "1").await;
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("cannot log in"), "{}", answer.text());
    assert!(!answer.text().contains(path), "{}", answer.text());
    mirror.wait_for_cause(path);
    // The same for what is in front of the registry: only the operator is told its address.
    let (registry, mirror) = scene::start();
    registry.down();
    let authority = registry.authority();
    for path in ["/v2/a/b/manifests/1", "/v2/a/b/tags/list", "/v1/search?q=x"] {
        let answer = mirror.get(path).await;
        assert!(answer.status.is_server_error(), "{path}: {}", answer.text());
        assert!(!answer.text().contains(&authority), "{}", answer.text());
        assert!(
            answer.text().contains("docker.io: upstream"),
            "{}",
            answer.text()
        );
    }
    mirror.wait_for_cause(&authority);
}

/// Twenty stale requests in an outage were as many warnings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_a_warning_a_minute_and_not_one_for_each_request() {
    let every_time = |config: MirrorConfig| config.asking_each_time();
    let (registry, mirror, image) = scene::cold_image(every_time);
    mirror.pull(scene::REPO, scene::TAG, &image).await;
    registry.down();
    for _ in 0..4 {
        let answer = mirror.manifest(scene::REPO, scene::TAG).await;
        assert_eq!(
            answer.header("cache-status"),
            Some("pierglass; hit; detail=stale")
        );
    }
    let is_warning = |line: &Value| {
        let message = log_field(line, "message").and_then(Value::as_str);
        log_field(line, "level") == Some(&"WARN".into())
            && message.is_some_and(|it| it.contains("serving what is stored"))
    };
    mirror.wait_for_log(PATIENCE, is_warning);
    assert_eq!(
        mirror.logs().iter().filter(|line| is_warning(line)).count(),
        1
    );
}
