//! `verify` must find every damage, change nothing unless told to, and work whether the mirror runs or not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::download;
use crate::support::disk::{blob_file, blobs, eventually, files, flip_a_bit, manifest_file};
use crate::support::mirror::Ran;
use crate::support::{Image, Mirror, MirrorConfig, REPO, TAG, scene};

fn unscrubbed(config: MirrorConfig) -> MirrorConfig {
    config.store("scrub_rate", "0")
}

/// Damages a blob and the manifest; the words that name them.
fn damage(mirror: &Mirror, image: &Image) -> [String; 2] {
    let (store, blob) = (mirror.store_path(), image.blobs()[1].clone());
    flip_a_bit(&blob_file(&store, &blob));
    // The last byte is the manifest's own; the middle may be in the line above it.
    let file = manifest_file(&store, REPO, &image.digest);
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let manifest = format!("manifest docker.io/a/b@{}", image.digest);
    [format!("blob {blob}"), manifest]
}

#[track_caller]
fn assert_found(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{ran:?}");
    for word in words {
        assert!(ran.out.contains(word), "{word}: {ran:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_mirror_finds_drops_and_fetches_again() {
    let (registry, mirror, image) = scene::stored_image(unscrubbed).await;
    assert_found(&mirror.command(&["verify"]), 0, &["nothing is damaged"]);
    let [blob, manifest] = damage(&mirror, &image);
    let file = blob_file(&mirror.store_path(), &image.blobs()[1]);

    let told = mirror.command(&["verify"]);
    assert_found(&told, 1, &[&blob, &manifest, "left as it is", "2 damaged"]);
    assert!(file.exists(), "without --repair nothing changes");

    let repaired = mirror.command(&["verify", "--repair"]);
    assert_found(&repaired, 0, &[&blob, &manifest, "2 damaged and dropped"]);
    assert!(!file.exists());
    let found = mirror.metric("pierglass_store_damaged_total", &[("found_by", "verify")]);
    assert_eq!(found.await, Some(2.0));

    assert_eq!(
        registry.counts().blob_gets,
        0,
        "fetched when asked for, not before"
    );
    mirror.pull(REPO, TAG, &image).await;
    let counts = registry.counts();
    assert_eq!((counts.blob_gets, counts.manifest_gets), (1, 1));
    eventually("the commit", || file.exists());
    assert_found(&mirror.command(&["verify"]), 0, &["nothing is damaged"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_at_rest_is_checked_without_a_mirror() {
    let (registry, mut mirror, image) = scene::stored_image(unscrubbed).await;
    mirror.kill9();
    let [blob, manifest] = damage(&mirror, &image);
    let before = files(&mirror.store_path()).len();
    // Smaller than what is stored: no business of a command's.
    let tiny = MirrorConfig::for_upstream(&registry)
        .tag_ttl("1h")
        .max_size("1MiB");
    mirror.reconfigure(tiny);

    let told = mirror.command_without_admin(&["verify"]);
    assert_found(&told, 1, &[&blob, &manifest, "left as it is", "2 damaged"]);
    assert_eq!(files(&mirror.store_path()).len(), before);

    let repaired = mirror.command_without_admin(&["verify", "--repair"]);
    assert_found(&repaired, 0, &[&blob, &manifest, "2 damaged and dropped"]);
    assert_eq!(files(&mirror.store_path()).len(), before - 2);
    let again = mirror.command_without_admin(&["verify"]);
    assert_found(&again, 0, &["nothing is damaged"]);

    mirror.reconfigure(MirrorConfig::for_upstream(&registry).tag_ttl("1h"));
    mirror.restart();
    registry.reset_counts();
    mirror.pull(REPO, TAG, &image).await;
    assert_eq!(registry.counts().blob_gets, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_holds_the_store_is_found_by_its_configuration() {
    let (_registry, mut mirror, image) = scene::stored_image(unscrubbed).await;
    damage(&mirror, &image);
    mirror.write_down_addresses();
    let told = mirror.command_without_admin(&["verify"]);
    assert_found(
        &told,
        1,
        &[
            &format!("the mirror at {}", mirror.admin_url()),
            "2 damaged",
        ],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_get_an_event_a_line() {
    let (_registry, mut mirror, image) = scene::stored_image(unscrubbed).await;
    damage(&mirror, &image);
    for running in [true, false] {
        let ran = match running {
            true => mirror.command(&["verify", "--json"]),
            false => {
                mirror.kill9();
                mirror.command_without_admin(&["verify", "--json"])
            }
        };
        let events: Vec<Value> = ran
            .out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events[0]["event"], "begin");
        assert_eq!(events[0]["files"], 5, "three blobs, a manifest, a tag");
        let damaged = events.iter().filter(|event| event["event"] == "damaged");
        assert_eq!(damaged.count(), 2);
        let end = events.last().unwrap();
        assert_eq!(end["event"], "end");
        assert_eq!(
            (&end["files"], &end["damaged"], &end["dropped"]),
            (&5.into(), &2.into(), &0.into())
        );
        assert_eq!(ran.code, Some(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_said_with_what_to_do() {
    let (_registry, mirror, _image) = scene::stored_image(unscrubbed).await;
    let nowhere = mirror.command_without_admin(&["verify", "--store", "/nonexistent/store"]);
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(nowhere.err.contains("/nonexistent/store"), "{nowhere:?}");
    assert!(nowhere.err.contains("--store"), "{nowhere:?}");
    let gone = mirror.command_without_admin(&["verify", "--admin", "http://127.0.0.1:1"]);
    assert_eq!(gone.code, Some(1), "{gone:?}");
    assert!(gone.err.contains("http://127.0.0.1:1"), "{gone:?}");
    // The registry's own address is a mirror, but not the place to ask.
    let registry = mirror.url();
    let wrong = mirror.command_without_admin(&["verify", "--admin", &registry]);
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.err.contains(&registry), "{wrong:?}");
    let usage = mirror.command(&["verify", "--nonsense"]);
    assert_eq!(usage.code, Some(64), "{usage:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pulls_go_on_while_everything_is_read() {
    let (_registry, mirror, image) = scene::stored_image(unscrubbed).await;
    let url = mirror.blob_url(REPO, &image.blobs()[1]);
    let pulls = tokio::spawn({
        let (url, digest) = (url.clone(), image.blobs()[1].clone());
        async move {
            for _ in 0..20 {
                download(&url, &[]).await.unwrap().assert_is(&digest);
            }
        }
    });
    for _ in 0..5 {
        assert_found(
            &mirror.command(&["verify", "--repair"]),
            0,
            &["nothing is damaged"],
        );
    }
    pulls.await.unwrap();
    assert_eq!(blobs(&mirror.store_path()).len(), 3);
}

/// What each check that began was allowed to read in a second.
fn rates(mirror: &Mirror) -> Vec<Value> {
    let logs = mirror.logs().into_iter();
    let begun = logs.filter(|line| line["message"] == "verifying the store");
    begun.map(|line| line["rate"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_took_the_whole_disk_from_pulls() {
    let (_registry, mut mirror, _image) = scene::stored_image(unscrubbed).await;
    assert_found(&mirror.command(&["verify"]), 0, &["nothing is damaged"]);
    let all = mirror.command(&["verify", "--json", "--rate", "0"]);
    let end: Value = serde_json::from_str(all.out.lines().last().unwrap()).unwrap();
    let rate = end["bytes"].as_u64().unwrap();
    assert!(rate > 0);
    let arguments = ["verify", "--rate", &rate.to_string()];
    for running in [true, false] {
        let began = Instant::now();
        let ran = match running {
            true => mirror.command(&arguments),
            false => {
                let expected = [64 << 20, 0, rate].map(Value::from);
                eventually("the log", || rates(&mirror) == expected);
                mirror.kill9();
                mirror.command_without_admin(&arguments)
            }
        };
        assert_found(&ran, 0, &["nothing is damaged"]);
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_check_ends_when_its_client_hangs_up() {
    let (_registry, mirror, _image) = scene::stored_image(unscrubbed).await;
    let admin = mirror.admin_url();
    let mut slow = TcpStream::connect(admin.trim_start_matches("http://")).unwrap();
    let request =
        "POST /api/v1/verify?rate=1 HTTP/1.1\r\nhost: localhost\r\npierglass-admin: 1\r\n\r\n";
    slow.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 12];
    slow.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    let second = mirror.command(&["verify", "--rate", "0"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.err.contains("being verified already"), "{second:?}");
    drop(slow);
    eventually("the end of the slow check", || {
        mirror.command(&["verify", "--rate", "0"]).code == Some(0)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_rate_is_refused() {
    let (_registry, mirror) = scene::start();
    for rate in ["fast", "-1", "1GiB/s"] {
        let ran = mirror.command(&["verify", &format!("--rate={rate}")]);
        assert_eq!(ran.code, Some(64), "{ran:?}");
        assert!(ran.err.contains("write a size"), "{ran:?}");
    }
    assert_eq!(rates(&mirror), Vec::<Value>::new());
}
