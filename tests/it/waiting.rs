//! An upstream is silent, and something is stored. One client waits for it, and not each of those that come after.

use std::time::{Duration, Instant};

use crate::support::{
    FakeRegistry, Fault, Mirror, MirrorConfig, On, REPO, TAG, client, image, scene,
};

const STALE: &str = "pierglass; hit; detail=stale";
/// How long a client waits before it is given what is stored. Upstream stays silent for much longer.
const PATIENCE: Duration = Duration::from_secs(1);
const CLIENTS: u32 = 10;

fn config(config: MirrorConfig) -> MirrorConfig {
    config.timeouts("60s").stale_after("1s").tag_ttl("0s")
}

/// Stores what is at `path`, lets `hanging` hang, and asks for it again and again.
///
/// Clients that each wait would take ten times as long as the first one.
async fn ask_again_and_again(registry: &FakeRegistry, mirror: &Mirror, path: &str, hanging: On) {
    let stored = mirror.get(path).await;
    assert_eq!(stored.status, 200, "{path}: {}", stored.text());
    if path.ends_with(TAG) {
        registry.put_image(REPO, Some(TAG), &image(2));
    }
    let hung = registry.fault(hanging.forever(), Fault::Hang);
    let started = Instant::now();
    for number in 0..CLIENTS {
        let url = format!("{}{path}", mirror.url());
        let answer = match number % 2 {
            0 => client::get(&url, &[]).await.unwrap(),
            _ => client::head(&url, &[]).await.unwrap(),
        };
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("cache-status"), Some(STALE), "{path}");
        if number % 2 == 0 {
            assert_eq!(answer.body, stored.body, "{path}");
        }
    }
    let took = started.elapsed();
    assert!(took >= PATIENCE, "{path}: the first one waits");
    assert!(
        took < PATIENCE * CLIENTS / 2,
        "{path}: each one waited, {took:?}"
    );
    assert_eq!(registry.struck(hung), 1, "{path}: one question");
    registry.clear_faults();
}

#[tokio::test]
async fn each_pull_of_a_stale_tag_waited_for_a_silent_upstream() {
    let (registry, mirror, _) = scene::cold_image(config);
    let path = format!("/v2/{REPO}/manifests/{TAG}");
    ask_again_and_again(&registry, &mirror, &path, On::manifest()).await;
}

/// The HEAD of a tag that has moved is answered, and its manifest is not.
#[tokio::test]
async fn each_pull_of_a_tag_waited_for_the_manifest_it_moved_to() {
    let (registry, mirror, _) = scene::cold_image(config);
    let path = format!("/v2/{REPO}/manifests/{TAG}");
    ask_again_and_again(&registry, &mirror, &path, On::manifest().get()).await;
}

#[tokio::test]
async fn each_asker_for_a_stale_list_waited_for_a_silent_upstream() {
    for (path, hanging) in [
        (format!("/v2/{REPO}/tags/list"), On::tags()),
        (
            format!("/v2/{REPO}/referrers/{}", image(1).digest),
            On::referrers(),
        ),
    ] {
        let (registry, mirror, _) = scene::cold_image(config);
        ask_again_and_again(&registry, &mirror, &path, hanging).await;
    }
}

/// Only its second page does not come.
#[tokio::test]
async fn each_asker_for_a_long_list_waited_for_its_second_page() {
    let (registry, mirror, image) = scene::cold_image(config);
    registry.tag(REPO, "2.0", &image.digest);
    registry.set_page(1);
    let path = format!("/v2/{REPO}/tags/list");
    ask_again_and_again(&registry, &mirror, &path, On::tags().containing("last=")).await;
}

/// There is no API, and the tag that stands for it is not answered.
#[tokio::test]
async fn each_asker_for_referrers_waited_for_their_tag() {
    let (registry, mirror, image) = scene::cold_image(|it| config(it).negative_ttl("0s"));
    registry.forget_referrers_api();
    let path = format!("/v2/{REPO}/referrers/{}", image.digest);
    ask_again_and_again(&registry, &mirror, &path, On::manifest()).await;
}
