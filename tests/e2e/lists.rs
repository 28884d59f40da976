//! Who lists or looks for images at the mirror must never see less than upstream has.

use std::time::Duration;

use serde_json::{Value, json};

use crate::busybox;
use crate::containers::Containers;
use crate::dockerd::Dockerd;
use crate::search::Search;
use crate::support::image::{OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Mirror, MirrorConfig, client};

const TAG_TTL: &str = "2s";
const LONGER: Duration = Duration::from_secs(3);
const REPO: &str = "acme/app";
/// More than fit on one of a registry's pages.
const TAGS: usize = 250;

fn tags() -> Vec<String> {
    (0..TAGS).map(|number| format!("v{number:03}")).collect()
}

async fn quay() -> (FakeRegistry, Mirror) {
    let (hub, quay) = (FakeRegistry::start().await, FakeRegistry::start().await);
    let image = busybox::image(busybox::native(), "quay");
    for tag in tags() {
        quay.put_image(REPO, Some(&tag), &image);
    }
    let config = MirrorConfig::for_upstream(&hub).upstream("quay.io", &quay);
    // Docker Hub is of no use here, and gone.
    (quay, Mirror::start(config.tag_ttl(TAG_TTL)))
}

#[tokio::test]
async fn skopeo_and_podman_list_tags() {
    let (quay, mirror) = quay().await;
    let containers = Containers::new(&[]);
    let name = format!("{}/quay.io/{REPO}", mirror.authority());
    let reference = format!("docker://{name}");
    let list_all = || {
        let told = containers.run("skopeo", &["list-tags", "--tls-verify=false", &reference]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["Tags"], json!(tags()));

        let tagged = format!("{reference}:v007");
        let told = containers.run("skopeo", &["inspect", "--tls-verify=false", &tagged]);
        let told: Value = serde_json::from_str(&told).unwrap();
        assert_eq!(told["RepoTags"], json!(tags()));

        let arguments = ["search", "--tls-verify=false", "--list-tags", "--limit"];
        let told = containers.run("podman", &[&arguments[..], &["1000", &name]].concat());
        // A head, then lines of name and tag.
        let lines = told.lines().skip(1);
        let told: Vec<_> = lines.map(|line| line.split_whitespace().last()).collect();
        assert!(told.into_iter().flatten().eq(tags()), "other tags");
    };
    list_all();
    quay.down();
    tokio::time::sleep(LONGER).await;
    list_all();
    assert_eq!(containers.escapes(), Vec::<String>::new());
}

#[tokio::test]
async fn podman_search_reaches_upstream() {
    let search = Search::start();
    let mirror = Mirror::start(MirrorConfig::for_url(search.url()));
    let containers = Containers::new(&[]);
    let term = format!("{}/app", mirror.authority());
    let base = ["search", "--tls-verify=false", "--format"];
    let more = ["{{.Name}} {{.Stars}}", &term];
    let found = containers.run("podman", &[&base[..], &more].concat());
    assert_eq!(found.trim(), format!("{}/{REPO} 7", mirror.authority()));
    assert_eq!(search.asked(), ["/v1/search?q=app&n=25"]);
    assert_eq!(containers.escapes(), Vec::<String>::new());
}

#[tokio::test]
async fn docker_search_reaches_upstream() {
    let search = Search::start();
    let mirror = Mirror::start(MirrorConfig::for_url(search.url()));
    let docker = Dockerd::start(&[]);
    let term = format!("{}/app", mirror.authority());
    let found = docker.docker(&["search", "--format", "{{.Name}} {{.StarCount}}", &term]);
    assert_eq!(found.trim(), format!("{REPO} 7"));
    assert_eq!(search.asked(), ["/v1/search?q=app&n=25"]);
    assert_eq!(docker.escapes(), Vec::<String>::new());
}

/// No client that Debian has asks for referrers; this is what go-containerregistry and oras need of the answer.
#[tokio::test]
async fn referrers_are_what_clients_take_for_referrers() {
    let (quay, mirror) = quay().await;
    let image = busybox::image(busybox::native(), "quay");
    let config = quay.put_blob(REPO, "{}");
    let signature = |kind: &str| {
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind,
            "config": {"mediaType": OCI_CONFIG, "digest": config, "size": 2}, "layers": [],
            "subject": descriptor(OCI_MANIFEST, &image.manifest),
        })
        .to_string()
    };
    let put = |kind: &str| quay.put_manifest(REPO, None, OCI_MANIFEST, signature(kind));
    let (first, second) = (put("application/a"), put("application/b"));
    let base = format!(
        "{}/v2/quay.io/{REPO}/referrers/{}",
        mirror.url(),
        image.digest
    );
    let ask = async |query: &str| {
        let url = format!("{base}{query}");
        let answer = client::get(&url, &[("accept", OCI_INDEX)]).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        // Anything behind it, and go-containerregistry looks elsewhere.
        assert_eq!(answer.header("content-type"), Some(OCI_INDEX));
        let manifests = answer.json()["manifests"].as_array().unwrap().clone();
        let digest = |manifest: &Value| manifest["digest"].as_str().unwrap().to_owned();
        let mut digests: Vec<_> = manifests.iter().map(digest).collect();
        digests.sort_unstable();
        digests
    };
    let mut both = [first.clone(), second];
    both.sort_unstable();
    assert_eq!(ask("").await, both);
    assert_eq!(ask("?artifactType=application/a").await, [first]);
    quay.down();
    tokio::time::sleep(LONGER).await;
    assert_eq!(ask("").await, both);
}
