//! podman, buildah and skopeo must never get other bytes than the registry has, and never get past the mirror.

use std::time::Duration;

use crate::busybox;
use crate::containers::{Containers, file};
use crate::support::content::digest_of;
use crate::support::{FakeRegistry, Image, Index, Mirror, MirrorConfig};

/// Short, so that warm pulls revalidate tags: they may cost a HEAD, and never a GET.
const TAG_TTL: &str = "3s";
const LONGER: Duration = Duration::from_secs(4);
const REPO: &str = "acme/app";
const MANY: &str = "acme/many";

/// Two registries, a mirror of both, and programs that are told of it.
struct Site {
    hub: FakeRegistry,
    quay: FakeRegistry,
    mirror: Mirror,
    containers: Containers,
    hub_image: Image,
    quay_image: Image,
}

impl Site {
    async fn start() -> Site {
        let image = |mark| busybox::image(busybox::native(), mark);
        let (hub_image, quay_image) = (image("hub"), image("quay"));
        let hub = FakeRegistry::docker_hub().start().await;
        let quay = FakeRegistry::start().await;
        hub.put_image(REPO, Some("1"), &hub_image);
        hub.put_image("library/app", Some("1"), &hub_image);
        quay.put_image(REPO, Some("1"), &quay_image);
        let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
        let mirror = Mirror::start(config.tag_ttl(TAG_TTL));
        let at = |registry| format!("{}/{registry}", mirror.authority());
        let containers =
            Containers::new(&[("docker.io", at("docker.io")), ("quay.io", at("quay.io"))]);
        Site {
            hub,
            quay,
            mirror,
            containers,
            hub_image,
            quay_image,
        }
    }

    /// GETs of manifests and blobs at both.
    fn gets(&self) -> u64 {
        [&self.hub, &self.quay]
            .map(|registry| {
                let counts = registry.counts();
                counts.manifest_gets + counts.blob_gets + counts.blob_host_gets
            })
            .iter()
            .sum()
    }

    fn down(&self) {
        self.hub.down();
        self.quay.down();
    }

    #[track_caller]
    fn assert_no_escape(&self) {
        assert_eq!(self.containers.escapes(), Vec::<String>::new());
    }
}

/// Cold, warm, and with upstream gone; `all` uses the programs and checks what they got.
async fn three_times(site: &Site, all: impl Fn(&Site)) {
    all(site);
    let cold = site.gets();
    assert!(cold > 0);
    tokio::time::sleep(LONGER).await;
    all(site);
    assert_eq!(site.gets(), cold, "a warm pull");
    site.down();
    tokio::time::sleep(LONGER).await;
    all(site);
    site.assert_no_escape();
}

#[tokio::test]
async fn podman_pulls_and_runs() {
    let site = Site::start().await;
    three_times(&site, |site| {
        let podman = |arguments: &[&str]| site.containers.run("podman", arguments);
        let by_digest = format!("quay.io/{REPO}@{}", site.quay_image.digest);
        for (name, mark, image) in [
            (&*format!("docker.io/{REPO}:1"), "hub", &site.hub_image),
            ("docker.io/app:1", "hub", &site.hub_image),
            ("app:1", "hub", &site.hub_image),
            (&format!("quay.io/{REPO}:1"), "quay", &site.quay_image),
            (&by_digest, "quay", &site.quay_image),
        ] {
            let id = podman(&["pull", "--quiet", name]);
            assert_eq!(format!("sha256:{}", id.trim()), digest_of(&image.config));
            let run = ["run", "--rm", "--network", "none", "--pull", "never", name];
            assert_eq!(podman(&[&run[..], &["cat", "/etc/mark"]].concat()), mark);
        }
        site.containers.remove_all();
    })
    .await;
}

#[tokio::test]
async fn buildah_builds_from_it() {
    let site = Site::start().await;
    three_times(&site, |site| {
        let buildah = |arguments: &[&str]| site.containers.run("buildah", arguments);
        let container = buildah(&["from", &format!("quay.io/{REPO}:1")]);
        let root = buildah(&["mount", container.trim()]);
        assert_eq!(file(root.trim().as_ref(), "etc/mark"), b"quay");
        site.containers.remove_all();
    })
    .await;
}

#[tokio::test]
async fn skopeo_copies_every_byte_of_all_platforms() {
    let site = Site::start().await;
    let platforms = ["amd64", "arm64", "ppc64le", "s390x"];
    let images = platforms.map(|platform| busybox::image(platform, platform));
    let index = Index::of(&images);
    site.quay.put_index(MANY, Some("1"), &index);
    let by_digest = format!("docker://quay.io/{MANY}@{}", index.digest);
    let by_tag = format!("docker://quay.io/{MANY}:1");
    three_times(&site, |site| {
        let skopeo = |arguments: &[&str]| site.containers.run("skopeo", arguments);
        for source in [&by_tag, &by_digest] {
            let directory = site.containers.path("copy");
            let target = format!("dir:{}", directory.display());
            skopeo(&["copy", "--all", "--preserve-digests", source, &target]);
            assert_eq!(file(&directory, "manifest.json"), index.bytes);
            for image in &index.images {
                let hex = |digest: &str| digest.replace("sha256:", "");
                let manifest = format!("{}.manifest.json", hex(&image.digest));
                assert_eq!(file(&directory, &manifest), image.manifest);
                for bytes in std::iter::once(&image.config).chain(&image.layers) {
                    assert!(file(&directory, &hex(&digest_of(bytes))) == *bytes);
                }
            }
            std::fs::remove_dir_all(&directory).unwrap();

            let directory = site.containers.path("layout");
            let target = format!("oci:{}:1", directory.display());
            skopeo(&["copy", "--all", "--preserve-digests", source, &target]);
            let blobs = directory.join("blobs/sha256");
            let manifests = index.images.iter().map(|image| &image.manifest);
            let layers = index.images.iter().flat_map(|image| &image.layers);
            let configs = index.images.iter().map(|image| &image.config);
            let all = manifests.chain(layers).chain(configs).chain([&index.bytes]);
            for bytes in all {
                let digest = digest_of(bytes);
                assert!(file(&blobs, digest.trim_start_matches("sha256:")) == *bytes);
            }
            std::fs::remove_dir_all(&directory).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn skopeo_inspects() {
    let site = Site::start().await;
    three_times(&site, |site| {
        let image = &site.quay_image;
        for reference in [
            format!("docker://quay.io/{REPO}:1"),
            format!("docker://quay.io/{REPO}@{}", image.digest),
        ] {
            let skopeo = |option: &str| {
                let arguments = ["inspect", option, &reference];
                site.containers.run("skopeo", &arguments)
            };
            let told: serde_json::Value = serde_json::from_str(&skopeo("--no-tags")).unwrap();
            assert_eq!(told["Digest"], image.digest);
            assert_eq!(told["Layers"].as_array().unwrap().len(), image.layers.len());
            assert_eq!(skopeo("--raw").as_bytes(), image.manifest);
        }
    })
    .await;
}

/// Without the mirror nothing of the above is proved: these programs do go elsewhere when refused, and are seen.
#[tokio::test]
async fn an_escape_is_noticed() {
    for program in ["podman", "buildah", "skopeo"] {
        let site = Site::start().await;
        let name = "quay.io/acme/nothing:1";
        let output = match program {
            "skopeo" => site
                .containers
                .attempt(program, &["inspect", &format!("docker://{name}")]),
            _ => site.containers.attempt(program, &["pull", name]),
        };
        assert!(!output.status.success());
        assert!(
            site.quay.counts().manifest_gets > 0,
            "the mirror was not asked"
        );
        let escapes = site.containers.escapes();
        assert!(
            escapes
                .iter()
                .any(|line| line.starts_with("CONNECT quay.io:443")),
            "{program}: {escapes:?}"
        );
        drop(site.mirror);
    }
}
