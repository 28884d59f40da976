//! One greedy client cannot starve the rest: of connections, of answers, of transfers, of file descriptors.
//!
//! Clients are told apart by their addresses. All of 127.0.0.0/8 is this machine, so a test can be several.

use std::time::{Duration, Instant};

use http::StatusCode;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::io::AsyncReadExt;

use crate::support::client::{Ending, Raw, Response, connect_from};
use crate::support::disk::eventually;
use crate::support::tls::get_h1;
use crate::support::{Fault, MIB, Mirror, On, digest_of, scene, until};

const GREEDY: &str = "127.0.0.2";
const OTHER: &str = "127.0.0.3";
/// Too large for all buffers together.
const LARGE: u64 = 32 * MIB;
const PATIENCE: Duration = Duration::from_secs(30);

fn request(digest: &str) -> String {
    format!("GET /v2/a/b/blobs/{digest} HTTP/1.1\r\nhost: m\r\n\r\n")
}

/// A client that has begun to be answered, and reads no more than the status of it.
async fn stuck(mirror: &Mirror, from: &str, digest: &str) -> Raw {
    let mut connection = Raw::connect_from(from, mirror.authority()).await;
    connection.send(request(digest)).await;
    let mut first = [0; 12];
    connection.stream().read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    connection
}

/// What a client at this address gets, on a connection of its own.
async fn get_from(mirror: &Mirror, from: &str, path: &str) -> Result<Response, String> {
    let stream = connect_from(from, mirror.authority()).await;
    let url = format!("{}{path}", mirror.url());
    tokio::time::timeout(PATIENCE, get_h1(stream, &url))
        .await
        .map_err(|_| format!("nothing for {PATIENCE:?}"))?
}

async fn limited(mirror: &Mirror, limit: &str, result: &str) -> f64 {
    let labels = [("limit", limit), ("result", result)];
    let count = mirror.metric("pierglass_client_limited_total", &labels);
    count.await.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_could_take_every_connection() {
    let (_registry, mirror, digest) =
        scene::stored_blob(LARGE, |config| config.top("max_connections", "20")).await;
    let mut busy = Vec::new();
    for _ in 0..15 {
        busy.push(stuck(&mirror, GREEDY, &digest).await);
    }
    // None of these is at rest, and none will be: the client goes on taking them for a minute.
    let mut over = Vec::new();
    for _ in 0..30 {
        let mut connection = Raw::connect_from(GREEDY, mirror.authority()).await;
        let _ = connection.stream().try_write(request(&digest).as_bytes());
        over.push(connection);
    }
    let answer = get_from(&mirror, OTHER, &format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!(digest_of(&answer.unwrap().body), digest);
    // As many wait as have a place; the rest is told to come back, and so are these in the end.
    let mut refused = 0;
    for mut connection in over {
        let (answer, ending) = connection.read(PATIENCE).await;
        let answer = String::from_utf8_lossy(&answer);
        assert_ne!(ending, Ending::Silent, "{answer}");
        assert!(!answer.contains("200 OK"));
        if answer.starts_with("HTTP/1.1 503 ") {
            assert!(answer.contains("Retry-After: "), "{answer}");
            refused += 1;
        }
    }
    assert!(refused > 0, "no client was told");
    assert_eq!(limited(&mirror, "connections", "waited").await, 15.0);
    assert_eq!(limited(&mirror, "connections", "refused").await, 30.0);
    drop(busy);
    until("it may have them again", async || {
        get_from(&mirror, GREEDY, "/v2/").await.is_ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_of_many_kept_a_client_out_for_a_minute() {
    let (_registry, mirror, digest) =
        scene::stored_blob(LARGE, |config| config.top("max_connections", "8")).await;
    let mut idle = Vec::new();
    for host in 10..17 {
        let from = format!("127.0.0.{host}");
        let mut connection = Raw::connect_from(&from, mirror.authority()).await;
        connection
            .send("GET /v2/ HTTP/1.1\r\nhost: m\r\n\r\n")
            .await;
        let (answer, _) = connection.read(Duration::from_millis(300)).await;
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        idle.push(connection);
    }
    // This one is at work all the while, although for long nothing of it moves.
    let mut working = stuck(&mirror, GREEDY, &digest).await;
    let started = Instant::now();
    for from in [OTHER, "127.0.0.4", "127.0.0.5"] {
        let answer = get_from(&mirror, from, "/v2/").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert!(
        started.elapsed() < Duration::from_secs(45),
        "header_timeout was waited for"
    );
    let closed = mirror.metric("pierglass_connections_closed_for_room_total", &[]);
    assert!(closed.await.unwrap() >= 1.0);
    let mut rest = 0;
    while rest < 32 * MIB {
        let mut buffer = vec![0; 64 * 1024];
        let count = working.stream().read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "the pull was cut off after {rest} bytes");
        rest += count as u64;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_a_clients_share_wait_and_are_refused_at_last() {
    let (_registry, mirror, digest) =
        scene::stored_blob(LARGE, |config| config.top("max_requests_per_client", "2")).await;
    let first = stuck(&mirror, GREEDY, &digest).await;
    let _second = stuck(&mirror, GREEDY, &digest).await;
    let started = Instant::now();
    let (third, other) = tokio::join!(get_from(&mirror, GREEDY, "/v2/_catalog"), async {
        let answer = get_from(&mirror, OTHER, "/v2/_catalog").await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        started.elapsed()
    });
    let third = third.unwrap();
    assert_eq!(third.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(third.header("retry-after").is_some());
    assert_eq!(third.json()["errors"][0]["code"], "UNAVAILABLE");
    assert!(started.elapsed() >= Duration::from_secs(10), "it waited");
    assert!(other < started.elapsed(), "the other did not");
    // The base says nothing about content, and is what clients ask to see whether we are there.
    assert_eq!(
        get_from(&mirror, GREEDY, "/v2/").await.unwrap().status,
        StatusCode::OK
    );
    // A turn that is given back is the next one's.
    let (fourth, ()) = tokio::join!(get_from(&mirror, GREEDY, "/v2/_catalog"), async {
        until("it waits", async || {
            limited(&mirror, "requests", "waited").await >= 2.0
        })
        .await;
        drop(first);
    });
    assert_eq!(fourth.unwrap().status, StatusCode::OK);
    assert_eq!(limited(&mirror, "requests", "refused").await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_could_start_any_number_of_transfers() {
    let (registry, mirror) = scene::start_with(|config| config.top("max_fills_per_client", "4"));
    let slow = On::blob().get().containing("greedy/all").forever();
    registry.fault(slow, Fault::Slow { bytes_per_sec: 1 });
    let ask = async |seed: u64| {
        let digest = registry.put_generated_blob("greedy/all", seed, MIB);
        let mut connection = Raw::connect_from(GREEDY, mirror.authority()).await;
        let words = format!("GET /v2/greedy/all/blobs/{digest} HTTP/1.1\r\nhost: m\r\n\r\n");
        connection.send(words).await;
        connection
    };
    let mut asking = Vec::new();
    for seed in 100..150 {
        asking.push(ask(seed).await);
    }
    until("the others wait or were refused", async || {
        limited(&mirror, "fills", "waited").await + limited(&mirror, "fills", "refused").await
            >= 46.0
    })
    .await;
    let transfers = async || mirror.metric("pierglass_fills_in_flight", &[]).await;
    assert_eq!(transfers().await, Some(4.0));
    // It hangs up, and asks for more: the transfers go on, and are still its own.
    drop(asking);
    let mut again = Vec::new();
    for seed in 150..160 {
        again.push(ask(seed).await);
    }
    let digest = registry.put_generated_blob("other/one", 1, MIB);
    let answer = get_from(&mirror, OTHER, &format!("/v2/other/one/blobs/{digest}")).await;
    assert_eq!(digest_of(&answer.unwrap().body), digest);
    until("the other's transfer is committed", async || {
        transfers().await == Some(4.0)
    })
    .await;
    assert_eq!(registry.counts().blob_gets, 5, "upstream saw no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_could_keep_others_from_a_blob_that_it_may_not_fetch_yet() {
    let (registry, mirror) = scene::start_with(|config| config.top("max_fills_per_client", "1"));
    let slow = On::blob().get().containing("greedy/all").forever();
    registry.fault(slow, Fault::Slow { bytes_per_sec: 1 });
    let ask = async |name: &str, digest: &str| {
        let mut connection = Raw::connect_from(GREEDY, mirror.authority()).await;
        let words = format!("GET /v2/{name}/blobs/{digest} HTTP/1.1\r\nhost: m\r\n\r\n");
        connection.send(words).await;
        connection
    };
    let all = registry.put_generated_blob("greedy/all", 1, MIB);
    let wanted = registry.put_generated_blob("other/one", 2, MIB);
    let _transfer = ask("greedy/all", &all).await;
    until("it has its one transfer", async || {
        mirror.metric("pierglass_fills_in_flight", &[]).await == Some(1.0)
    })
    .await;
    let _waiting = ask("other/one", &wanted).await;
    until("it waits for another", async || {
        limited(&mirror, "fills", "waited").await == 1.0
    })
    .await;
    let started = Instant::now();
    let answer = get_from(&mirror, OTHER, &format!("/v2/other/one/blobs/{wanted}")).await;
    assert_eq!(digest_of(&answer.unwrap().body), wanted);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_had_upstream_asked_as_often_as_it_liked() {
    let (registry, mirror) = scene::start_with(|config| {
        let config = config.top("max_misses_per_client", "20");
        config.tag_ttl("0s").negative_ttl("0s")
    });
    let image = scene::image(1);
    registry.put_image("a/b", Some(scene::TAG), &image);
    mirror.pull("a/b", scene::TAG, &image).await;
    mirror.wait_until_stored(&image.blobs());
    registry.reset_counts();
    let mut refused = 0;
    for number in 0..50 {
        let path = match number % 4 {
            0 => format!("/v2/a/b/manifests/typo-{number}"),
            1 => format!("/v2/a/b/blobs/{}", digest_of(&[number])),
            2 => format!("/v2/a/b{number}/tags/list"),
            _ => format!("/v1/search?q=typo{number}"),
        };
        let answer = get_from(&mirror, GREEDY, &path).await.unwrap();
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
            assert!(answer.header("retry-after").is_some());
            refused += 1;
        }
    }
    assert!(refused >= 25, "{refused}");
    let asked = registry.counts().requests();
    assert!(asked <= 25, "upstream was asked {asked} times");
    assert!(limited(&mirror, "misses", "refused").await >= 25.0);
    // What is stored is served, even if upstream would have been asked whether it is still so.
    for path in [
        format!("/v2/a/b/blobs/{}", image.blobs()[0]),
        format!("/v2/a/b/manifests/{}", scene::TAG),
    ] {
        let answer = get_from(&mirror, GREEDY, &path).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK, "{path}");
    }
    let other = get_from(&mirror, OTHER, "/v2/a/b/manifests/typo").await;
    assert_eq!(other.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_together_could_have_any_number_of_requests() {
    let (_registry, mirror, digest) =
        scene::stored_blob(LARGE, |config| config.top("max_requests", "3")).await;
    let mut all = Vec::new();
    for from in ["127.0.0.5", "127.0.0.6", "127.0.0.7"] {
        all.push(stuck(&mirror, from, &digest).await);
    }
    let over = get_from(&mirror, OTHER, "/v2/_catalog").await.unwrap();
    assert_eq!(over.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(over.header("retry-after").is_some());
    drop(all);
    until("there is room again", async || {
        let answer = get_from(&mirror, OTHER, "/v2/_catalog").await;
        answer.unwrap().status == StatusCode::OK
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_be_allowed_everything() {
    let none = "\"none\"";
    let (_registry, mirror, digest) = scene::stored_blob(LARGE, |config| {
        let config = config.top("max_connections_per_client", none);
        let config = config.top("max_requests_per_client", none);
        let config = config.top("max_misses_per_client", none);
        config.top("max_fills_per_client", none)
    })
    .await;
    let mut all = Vec::new();
    for _ in 0..100 {
        all.push(stuck(&mirror, GREEDY, &digest).await);
    }
    let answer = get_from(&mirror, GREEDY, "/v2/_catalog").await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
}

/// From one address, which is within its share by default, unless this machine has too few file descriptors for that.
#[allow(clippy::print_stdout, reason = "a figure for the documentation")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_keep_no_client_out() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).unwrap();
    let most = files.maximum.unwrap_or(u64::MAX);
    // The mirror uses no more than three quarters of its own, which are as many.
    let count = most.saturating_sub(1000).min(most / 4 * 3).min(10_000);
    let (_registry, mirror, digest) = scene::stored_blob(LARGE, |config| config).await;
    let (open_files, rss) = (mirror.open_files(), mirror.rss());
    let mut idle = Vec::new();
    for number in 0..count {
        // Silent, in the middle of a header, and after a request.
        let words = [
            "",
            "GET /v2/ HTTP/1.1\r\nhost: m\r\nx-slow: ",
            "GET /v2/ HTTP/1.1\r\nhost: m\r\n\r\n",
        ][usize::try_from(number % 3).unwrap()];
        let mut connection = Raw::connect_from(GREEDY, mirror.authority()).await;
        connection.send(words).await;
        idle.push(connection);
        if number % 500 == 0 {
            // One that pulls is not disturbed meanwhile.
            let answer = get_from(&mirror, OTHER, &format!("/v2/a/b/blobs/{digest}")).await;
            assert_eq!(digest_of(&answer.unwrap().body), digest);
        }
    }
    let answer = get_from(&mirror, OTHER, &format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!(digest_of(&answer.unwrap().body), digest);
    let each = mirror.rss().saturating_sub(rss) / count;
    println!("{count} idle connections, {each} bytes of memory for each");
    assert!(each < 64 * 1024, "{each} bytes for each of {count}");
    drop(idle);
    // What is answered keeps a file open for a moment.
    eventually("all files are closed", || {
        mirror.open_files() <= open_files + 4
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn out_of_file_descriptors_it_goes_on() {
    let (_registry, mirror, digest) = scene::stored_blob(LARGE, |config| config).await;
    mirror.limit_files(mirror.open_files() as u64 + 20);
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(Raw::connect_from(GREEDY, mirror.authority()).await);
    }
    let answer = tokio::time::timeout(PATIENCE * 4, async {
        let stream = connect_from(OTHER, mirror.authority()).await;
        get_h1(stream, &format!("{}/v2/", mirror.url())).await
    });
    assert_eq!(answer.await.unwrap().unwrap().status, StatusCode::OK);
    let said = mirror
        .output()
        .matches("cannot accept a connection")
        .count();
    assert!((1..=200).contains(&said), "said {said} times");
    drop(idle);
    until("the blob is served", async || {
        let answer = get_from(&mirror, OTHER, &format!("/v2/a/b/blobs/{digest}")).await;
        answer.is_ok_and(|answer| digest_of(&answer.body) == digest)
    })
    .await;
    assert!(!mirror.output().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_cost_little_memory() {
    let (_registry, mirror, digest) = scene::stored_blob(LARGE, |config| config).await;
    let before = mirror.rss();
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(stuck(&mirror, GREEDY, &digest).await);
    }
    let answer = get_from(&mirror, OTHER, &format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!(digest_of(&answer.unwrap().body), digest);
    let each = mirror.rss().saturating_sub(before) / 64;
    assert!(each < 512 * 1024, "{each}");
}
