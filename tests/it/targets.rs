//! A command must work on the store that it was told, and say so when it cannot; and it must find the mirror that runs.

use std::os::unix::fs::PermissionsExt;

use http::StatusCode;
use tempfile::TempDir;

use crate::support::mirror::Ran;
use crate::support::{Mirror, MirrorConfig, client, plain, scene};

fn directory() -> TempDir {
    TempDir::with_prefix("pierglass-home-").unwrap()
}

fn admin_of(mirror: &Mirror) -> String {
    mirror.admin_url().trim_start_matches("http://").to_owned()
}

/// A store that was in use was taken for that of whichever mirror was at the default address: its pins were changed,
/// and `--repair` would have dropped its content.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_use_was_taken_for_another_mirrors() {
    let (_registry, mine) = scene::start();
    let (_registry, other) = scene::start();
    let (home, store) = (directory(), mine.store_path());
    let store = store.to_str().unwrap();
    let (admin, of_other) = (admin_of(&mine), admin_of(&other));
    let at_other = [("PIERGLASS_ADMIN_LISTEN", &*of_other)];
    let at_mine = [("PIERGLASS_ADMIN_LISTEN", &*admin)];
    for command in [
        &["verify", "--store", store][..],
        &["verify", "--repair", "--store", store],
        &["pin", "nginx:1", "--store", store],
        &["pin", "--store", store],
        &["unpin", "nginx:1", "--store", store],
    ] {
        let ran = Ran::of(home.path(), &at_other, command);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        for word in [store, "--admin", other.store_path().to_str().unwrap()] {
            assert!(ran.err.contains(word), "{word}: {ran:?}");
        }
        // The mirror that was named by its address has another store.
        let url = other.admin_url();
        let named = [command, &["--admin", &url]].concat();
        let ran = Ran::of(home.path(), &[], &named);
        assert_eq!(ran.code, Some(1), "{ran:?}");
        // Nothing answers there.
        let ran = Ran::of(
            home.path(),
            &[("PIERGLASS_ADMIN_LISTEN", "127.0.0.1:1")],
            command,
        );
        assert!(
            ran.code == Some(1) && ran.err.contains("--admin"),
            "{ran:?}"
        );
    }
    assert!(!other.store_path().join("pins").exists());
    // The right one is known by its directory, whatever path leads there.
    let link = home.path().join("link");
    std::os::unix::fs::symlink(store, &link).unwrap();
    for path in [store, link.to_str().unwrap()] {
        let ran = Ran::of(home.path(), &at_mine, &["pin", "nginx:1", "--store", path]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let ran = Ran::of(home.path(), &at_mine, &["verify", "--store", path]);
        assert!(ran.code == Some(0) && ran.out.contains(store), "{ran:?}");
    }
    assert!(mine.store_path().join("pins").exists());
}

/// Beside the shipped unit, whose store is not where a user's would be, `pin` and `verify` said that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mirror_that_runs_is_found_when_nothing_is_named() {
    let (_registry, mirror) = scene::start();
    let (home, admin) = (directory(), admin_of(&mirror));
    let here = [("PIERGLASS_ADMIN_LISTEN", &*admin)];
    let ran = Ran::of(home.path(), &here, &["verify"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.contains(mirror.store_path().to_str().unwrap()),
        "{ran:?}"
    );
    assert_eq!(Ran::of(home.path(), &here, &["pin", "nginx"]).code, Some(0));
    // Without a mirror it is the store of this user, and where both were looked for is told.
    let nowhere = [("PIERGLASS_ADMIN_LISTEN", "127.0.0.1:1")];
    let ran = Ran::of(home.path(), &nowhere, &["verify"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    for word in ["127.0.0.1:1", ".cache/pierglass", "--store", "--admin"] {
        assert!(ran.err.contains(word), "{word}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_for_its_owner_and_takes_the_api_off_the_address() {
    let place = directory();
    let path = place.path().join("admin.sock");
    let url = format!("unix:{}", path.display());
    let with_socket = |config: MirrorConfig| config.top("admin_socket", &format!("{path:?}"));
    let (_registry, mut mirror) = scene::start_with(with_socket);
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for command in [&["pin", "nginx"][..], &["verify"], &["unpin", "nginx"]] {
        let ran = Ran::of(place.path(), &[], &[command, &["--admin", &url]].concat());
        assert_eq!(ran.code, Some(0), "{ran:?}");
        // The configuration names it as well.
        let ran = mirror.command_without_admin(command);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    let at = |path: &str| format!("{}{path}", mirror.admin_url());
    let api = client::get(&at("/api/v1/pins"), &[]).await.unwrap();
    assert_eq!(api.status, StatusCode::FORBIDDEN);
    assert!(api.text().contains(path.to_str().unwrap()));
    for open in ["/metrics", "/livez", "/readyz"] {
        assert_eq!(
            client::get(&at(open), &[]).await.unwrap().status,
            StatusCode::OK
        );
    }
    // A socket that a killed process left is replaced; one that is in use is not taken away.
    mirror.kill9();
    assert!(path.exists());
    mirror.restart();
    let ran = mirror.command_without_admin(&["pin"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (status, words) = Mirror::fail_to_start(&with_socket(MirrorConfig::bare()));
    assert_eq!(status.code(), Some(1), "{words}");
    assert!(words.contains("admin_socket"), "{words}");
    assert_eq!(mirror.command_without_admin(&["pin"]).code, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_and_may_change() {
    let place = directory();
    let file = place.path().join("token");
    std::fs::write(&file, "first-token\n").unwrap();
    let with_token = |config: MirrorConfig| config.top("admin_token_file", &format!("{file:?}"));
    let (_registry, mirror) = scene::start_with(with_token);
    let url = format!("{}/api/v1/pins", mirror.admin_url());
    let status = async |authorization: Option<&str>| {
        let headers: Vec<_> = authorization
            .iter()
            .map(|value| ("authorization", *value))
            .collect();
        client::get(&url, &headers).await.unwrap().status.as_u16()
    };
    assert_eq!(status(None).await, 401);
    for wrong in [
        "Bearer",
        "Bearer ",
        "Bearer first-toke",
        "Bearer first-token2",
        "Basic first-token",
        "first-token",
    ] {
        assert_eq!(status(Some(wrong)).await, 401, "{wrong}");
    }
    assert_eq!(status(Some("Bearer first-token")).await, 200);
    assert_eq!(mirror.command(&["pin", "nginx"]).code, Some(0));
    assert_eq!(
        Ran::of(place.path(), &[], &["pin", "--admin", &mirror.admin_url()]).code,
        Some(1)
    );
    std::fs::write(&file, "second-token").unwrap();
    assert_eq!(status(Some("Bearer first-token")).await, 401);
    assert_eq!(status(Some("Bearer second-token")).await, 200);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(status(Some("Bearer second-token")).await, 503);
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    assert_eq!(metrics.unwrap().status, StatusCode::OK);
    assert!(!mirror.output().contains("-token\""), "{}", mirror.output());
}

/// On 0.0.0.0 every client could pin, unpin and have content dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_loopback_there_was_an_api_for_every_client() {
    let everywhere =
        |config: MirrorConfig| config.environment("PIERGLASS_ADMIN_LISTEN", "0.0.0.0:0");
    let (_registry, mirror) = scene::start_with(everywhere);
    for (method, path) in [
        (http::Method::GET, "/api/v1/pins"),
        (http::Method::POST, "/api/v1/pins?image=nginx"),
        (http::Method::POST, "/api/v1/verify?repair=true"),
        (http::Method::GET, "/api/v1/store"),
    ] {
        let url = format!("{}{path}", mirror.admin_url());
        let answer = client::request(method, &url, &[("pierglass-admin", "1")])
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path}");
        assert!(
            answer.text().contains("admin_token_file"),
            "{}",
            answer.text()
        );
    }
    let metrics = client::get(&format!("{}/metrics", mirror.admin_url()), &[]).await;
    assert_eq!(metrics.unwrap().status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pins_are_bounded() {
    let (_registry, mut mirror) = scene::start_with(plain);
    mirror.term_and_wait();
    let lines: String = (0..1000).map(|n| format!("docker.io/a/b {n}\n")).collect();
    std::fs::write(mirror.store_path().join("pins"), lines).unwrap();
    let at_rest = mirror.command_without_admin(&["pin", "a/b:1000"]);
    mirror.restart();
    let running = mirror.command(&["pin", "a/b:1000"]);
    for ran in [at_rest, running] {
        assert!(
            ran.code == Some(1) && ran.err.contains("1000 images"),
            "{ran:?}"
        );
    }
    assert_eq!(mirror.command(&["pin", "a/b:999"]).code, Some(0));
    assert_eq!(mirror.command(&["unpin", "a/b:999"]).code, Some(0));
    assert_eq!(mirror.command(&["pin", "a/b:1000"]).code, Some(0));
}
