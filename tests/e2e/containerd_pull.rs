//! containerd must never get one registry's bytes under another's name, and never get past the mirror.

use std::time::Duration;

use crate::busybox;
use crate::containerd::Containerd;
use crate::support::content::digest_of;
use crate::support::mirror::log_field;
use crate::support::{FakeRegistry, Image, Mirror, MirrorConfig};

/// Short, so that warm pulls revalidate tags: they may cost a HEAD, and never a GET.
const TAG_TTL: &str = "3s";
const LONGER: Duration = Duration::from_secs(4);
const REPO: &str = "acme/app";

/// An image that says which registry it is from, and everything containerd needs to have of it.
fn image_of(registry: &str) -> Image {
    busybox::image(busybox::native(), registry)
}

#[track_caller]
fn assert_has(containerd: &Containerd, image: &Image) {
    assert!(containerd.content(&image.digest) == image.manifest);
    for bytes in std::iter::once(&image.config).chain(&image.layers) {
        assert!(containerd.content(&digest_of(bytes)) == *bytes);
    }
}

/// GETs of manifests and blobs; how many.
fn gets(registry: &FakeRegistry) -> u64 {
    let counts = registry.counts();
    counts.manifest_gets + counts.blob_gets + counts.blob_host_gets
}

/// What only one of the registries has.
fn own_layer(image: &Image) -> String {
    digest_of(&image.layers[1])
}

fn was_asked_for(registry: &FakeRegistry, digest: &str) -> bool {
    let requests = registry.requests();
    requests.iter().any(|seen| seen.target.contains(digest))
}

#[tokio::test]
async fn two_registries_with_the_same_name_and_tag_stay_two() {
    let (hub_image, quay_image) = (image_of("hub"), image_of("quay"));
    let hub = FakeRegistry::docker_hub().start().await;
    let quay = FakeRegistry::start().await;
    hub.put_image(REPO, Some("1"), &hub_image);
    quay.put_image(REPO, Some("1"), &quay_image);
    let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
    let mirror = Mirror::start(config.tag_ttl(TAG_TTL));
    let containerd = Containerd::start();
    for registry in ["docker.io", "quay.io"] {
        containerd.hosts(registry, &mirror.url(), "");
    }
    let pull_and_run_all = || {
        for (registry, mark, image) in [
            ("docker.io", "hub", &hub_image),
            ("quay.io", "quay", &quay_image),
        ] {
            let by_digest = format!("{registry}/{REPO}@{}", image.digest);
            for name in [format!("{registry}/{REPO}:1"), by_digest] {
                containerd.pull(&name);
                assert_eq!(containerd.run(&name, &["cat", "/etc/mark"]), mark, "{name}");
            }
            assert_has(&containerd, image);
        }
    };

    pull_and_run_all();
    for (registry, own, other) in [
        (&hub, &hub_image, &quay_image),
        (&quay, &quay_image, &hub_image),
    ] {
        assert!(was_asked_for(registry, &own_layer(own)));
        assert!(!was_asked_for(registry, &own_layer(other)));
        assert!(!was_asked_for(registry, &other.digest));
    }

    let before = (gets(&hub), gets(&quay));
    tokio::time::sleep(LONGER).await;
    containerd.remove_all();
    pull_and_run_all();
    assert_eq!((gets(&hub), gets(&quay)), before, "a warm pull");

    hub.down();
    quay.down();
    tokio::time::sleep(LONGER).await;
    containerd.remove_all();
    pull_and_run_all();
    let stale = |line: &serde_json::Value| {
        log_field(line, "outcome").is_some_and(|outcome| outcome == "stale")
    };
    mirror.wait_for_log(Duration::from_secs(5), stale);
    assert_eq!(containerd.escapes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registry_with_a_port_is_found_by_its_name() {
    let containerd = Containerd::start();
    // A client that wants the registry itself meets the fence.
    let name = format!("localhost:{}", containerd.fenced_port());
    let (image, other) = (image_of("port"), image_of("default"));
    let registry = FakeRegistry::start().await;
    let hub = FakeRegistry::start().await;
    registry.put_image(REPO, Some("1"), &image);
    hub.put_image(REPO, Some("1"), &other);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub).upstream(&name, &registry));
    containerd.hosts(&name, &mirror.url(), "");
    let reference = format!("{name}/{REPO}:1");
    containerd.pull(&reference);
    assert_eq!(containerd.run(&reference, &["cat", "/etc/mark"]), "port");
    assert_has(&containerd, &image);
    assert_eq!(hub.counts().requests(), 0);

    registry.down();
    containerd.remove_all();
    containerd.pull(&reference);
    assert_has(&containerd, &image);
    assert_eq!(containerd.escapes(), Vec::<String>::new());
}

/// `override_path`: containerd takes the URL's path as it is and appends no `/v2`.
#[tokio::test]
async fn a_path_of_ones_own_works() {
    let image = image_of("quay");
    let hub = FakeRegistry::start().await;
    let quay = FakeRegistry::start().await;
    hub.put_image(REPO, Some("1"), &image_of("hub"));
    quay.put_image(REPO, Some("1"), &image);
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay));
    let containerd = Containerd::start();
    let reference = format!("quay.io/{REPO}:1");
    for root in ["/v2/quay.io", "/quay.io/v2", "/v2", "/quay.io", ""] {
        let url = format!("{}{root}", mirror.url());
        containerd.hosts("quay.io", &url, "override_path = true");
        containerd.pull(&reference);
        let mark = containerd.run(&reference, &["cat", "/etc/mark"]);
        assert_eq!(mark, "quay", "{root:?}");
        assert_has(&containerd, &image);
        let path = format!("{root}/{REPO}/manifests/1");
        let asked = |line: &serde_json::Value| {
            log_field(line, "path").is_some_and(|logged| logged == path.as_str())
        };
        mirror.wait_for_log(Duration::from_secs(5), asked);
        containerd.remove_all();
    }
    assert_eq!(quay.counts().manifest_gets, 1);
    assert_eq!(hub.counts().requests(), 0);
    assert_eq!(containerd.escapes(), Vec::<String>::new());
}

/// Without the mirror nothing of the above is proved: containerd does go elsewhere when refused, and is seen.
#[tokio::test]
async fn an_escape_is_noticed() {
    let hub = FakeRegistry::start().await;
    let mirror = Mirror::start(MirrorConfig::for_upstream(&hub));
    let containerd = Containerd::start();
    containerd.hosts("quay.io", &mirror.url(), "");
    let refused = containerd.try_pull("quay.io/acme/nothing:1");
    assert!(!refused.status.success());
    let escapes = containerd.escapes();
    assert!(
        escapes
            .iter()
            .any(|line| line.starts_with("CONNECT quay.io:443")),
        "{escapes:?}"
    );
}
