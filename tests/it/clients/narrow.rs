//! Clients that know manifests of one image, and no index: what a tag is to them.

use http::{Method, StatusCode};
use serde_json::json;

use crate::support::client::Response;
use crate::support::image::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Image, Index, Mirror, REPO, client, digest_of, scene, until};

const TAG: &str = "1.0";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// An index, of Docker's types or of OCI's, and its image for linux/amd64, which is not its first.
struct Listed {
    bytes: String,
    list_type: &'static str,
    image: Image,
    image_type: &'static str,
}

impl Listed {
    fn put(registry: &FakeRegistry, list_type: &'static str, image_type: &'static str) -> Listed {
        let images = [Image::random(1, &[10]), Image::random(2, &[10])];
        let manifests: Vec<_> = images
            .iter()
            .zip(["arm64", "amd64"])
            .map(|(image, architecture)| {
                let mut child = descriptor(image_type, &image.manifest);
                child["platform"] = json!({"architecture": architecture, "os": "linux"});
                registry.put_manifest(REPO, None, image_type, of_type(image, image_type));
                child["digest"] = digest_of(of_type(image, image_type).as_bytes()).into();
                child["size"] = of_type(image, image_type).len().into();
                child
            })
            .collect();
        let list = json!({"schemaVersion": 2, "mediaType": list_type, "manifests": manifests});
        let bytes = list.to_string();
        registry.put_manifest(REPO, Some(TAG), list_type, bytes.clone());
        let [_, image] = images;
        Listed {
            bytes,
            list_type,
            image,
            image_type,
        }
    }

    fn manifest(&self) -> String {
        of_type(&self.image, self.image_type)
    }

    #[track_caller]
    fn assert_image(&self, answer: &Response, method: &Method) {
        let manifest = self.manifest();
        assert_eq!(answer.status, StatusCode::OK);
        for (name, value) in [
            ("docker-content-digest", digest_of(manifest.as_bytes())),
            ("content-type", self.image_type.to_owned()),
            ("content-length", manifest.len().to_string()),
            ("vary", "Accept".to_owned()),
            ("cache-control", "private".to_owned()),
        ] {
            assert_eq!(answer.header(name), Some(&*value), "{name}");
        }
        if *method == Method::GET {
            assert_eq!(answer.text(), manifest);
        }
    }

    #[track_caller]
    fn assert_list(&self, answer: &Response) {
        assert_eq!(answer.status, StatusCode::OK);
        let digest = digest_of(self.bytes.as_bytes());
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
        assert_eq!(answer.header("content-type"), Some(self.list_type));
        assert_eq!(answer.header("cache-control"), None);
        assert_eq!(answer.text(), self.bytes);
    }
}

/// The manifest, saying this type of itself.
fn of_type(image: &Image, media_type: &str) -> String {
    let manifest = std::str::from_utf8(&image.manifest).unwrap();
    manifest.replace(OCI_MANIFEST, media_type)
}

const KINDS: [(&str, &str); 2] = [(DOCKER_LIST, DOCKER_MANIFEST), (OCI_INDEX, OCI_MANIFEST)];

async fn by_tag(mirror: &Mirror, method: &Method, accept: &[&str]) -> Response {
    let lines: Vec<_> = accept.iter().map(|line| ("accept", *line)).collect();
    let url = mirror.manifest_url(REPO, TAG);
    client::request(method.clone(), &url, &lines).await.unwrap()
}

/// drclient 0.0.7 and nodegistry 1.2.5 fail on a list; docker/distribution gives them the image of a Docker list, and Docker
/// Hub does so too.
#[tokio::test]
async fn a_client_that_knows_no_list_got_a_list() {
    for (list, single) in KINDS {
        let (registry, mirror) = scene::start();
        let listed = Listed::put(&registry, list, single);
        let upper = DOCKER_MANIFEST.to_uppercase();
        let refusing = format!("{single}, {list};q=0, */*;q=0.0");
        for accept in [
            &[DOCKER_MANIFEST][..],
            &[OCI_MANIFEST],
            &[&upper],
            // docker before 1.10.
            &[
                "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.v1+prettyjws, application/json",
            ],
            &[SCHEMA1, DOCKER_MANIFEST, "text/html;q=0.2"],
            &[&refusing],
        ] {
            for method in [Method::GET, Method::HEAD] {
                let answer = by_tag(&mirror, &method, accept).await;
                listed.assert_image(&answer, &method);
            }
        }
        // The list and its image, once each.
        let counts = registry.counts();
        assert_eq!((counts.manifest_gets, counts.manifest_heads), (2, 0));
        // What it has is said to be what it has.
        let url = mirror.manifest_url(REPO, TAG);
        for (digest, status) in [
            (digest_of(listed.manifest().as_bytes()), 304),
            (digest_of(listed.bytes.as_bytes()), 200),
        ] {
            let tag = format!("\"{digest}\"");
            let headers = [("accept", single), ("if-none-match", &*tag)];
            let answer = client::get(&url, &headers).await.unwrap();
            assert_eq!(answer.status.as_u16(), status);
            assert_eq!(answer.header("vary"), Some("Accept"));
        }
    }
}

#[tokio::test]
async fn a_head_alone_of_a_list_finds_the_image() {
    let (registry, mirror) = scene::start();
    let listed = Listed::put(&registry, DOCKER_LIST, DOCKER_MANIFEST);
    for _ in 0..2 {
        let answer = by_tag(&mirror, &Method::HEAD, &[DOCKER_MANIFEST]).await;
        listed.assert_image(&answer, &Method::HEAD);
    }
    let counts = registry.counts();
    assert_eq!(counts.manifest_gets, 1, "the list, which names it");
}

/// And none of them is kept from the list by what another client was given.
#[tokio::test]
async fn all_who_may_know_a_list_get_it() {
    for (list, single) in KINDS {
        let (registry, mirror) = scene::start();
        let listed = Listed::put(&registry, list, single);
        let all = [
            OCI_MANIFEST,
            DOCKER_MANIFEST,
            SCHEMA1,
            OCI_INDEX,
            DOCKER_LIST,
        ];
        let upper = format!("{DOCKER_MANIFEST}, {}", OCI_INDEX.to_uppercase());
        for accept in [
            &all[..],
            &[&upper],
            // watchtower, and others that know one kind of lists.
            &[DOCKER_MANIFEST, DOCKER_LIST],
            &[
                OCI_MANIFEST,
                "application/vnd.oci.image.index.v1+json;q=0.1",
            ],
            // containerd, curl, and programs that say no more than JSON.
            &[DOCKER_MANIFEST, "*/*"],
            &[DOCKER_MANIFEST, "Application/*;q=0.1"],
            &["*/*"],
            &["application/json"],
            &["application/vnd.example.manifest.v1+json"],
            &[""],
            &[],
        ] {
            let narrow = by_tag(&mirror, &Method::GET, &[single]).await;
            listed.assert_image(&narrow, &Method::GET);
            let answer = by_tag(&mirror, &Method::GET, accept).await;
            listed.assert_list(&answer);
            assert_eq!(answer.header("vary"), Some("Accept"), "{accept:?}");
        }
        // By digest it is what has that digest, to every client.
        let url = mirror.manifest_url(REPO, &digest_of(listed.bytes.as_bytes()));
        let answer = client::get(&url, &[("accept", single)]).await.unwrap();
        listed.assert_list(&answer);
        assert_eq!(answer.header("vary"), None);
    }
}

#[tokio::test]
async fn a_list_without_such_an_image_is_given_as_it_is() {
    let (registry, mirror) = scene::start();
    let absent = Index::of(&[Image::random(1, &[10])]);
    // Named, and not there.
    registry.put_manifest(REPO, Some(TAG), OCI_INDEX, absent.bytes.clone());
    let answer = by_tag(&mirror, &Method::GET, &[OCI_MANIFEST]).await;
    assert_eq!(answer.body, absent.bytes);
    assert_eq!(answer.header("cache-control"), None);
    // Not named.
    let mut arm = Image::random(2, &[10]);
    arm.architecture = "arm64".into();
    let arm = Index::of(&[arm]);
    registry.put_index("of/arm", Some(TAG), &arm);
    let url = mirror.manifest_url("of/arm", TAG);
    let answer = client::get(&url, &[("accept", OCI_MANIFEST)])
        .await
        .unwrap();
    assert_eq!(answer.body, arm.bytes);
    assert_eq!(answer.header("vary"), Some("Accept"));
}

/// While upstream is away, what is stored is the image; and without it the client is sent on, since it knows no list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_of_a_list_outlives_an_outage() {
    let asking = |config: crate::support::MirrorConfig| config.tag_ttl("0s");
    let (registry, mirror) = scene::start_with(asking);
    let listed = Listed::put(&registry, DOCKER_LIST, DOCKER_MANIFEST);
    let list = by_tag(&mirror, &Method::GET, &[DOCKER_LIST]).await;
    listed.assert_list(&list);
    registry.down();
    until("the image is asked for in vain", async || {
        let answer = by_tag(&mirror, &Method::GET, &[DOCKER_MANIFEST]).await;
        answer.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    registry.up();
    until("it is there again", async || {
        let answer = by_tag(&mirror, &Method::GET, &[DOCKER_MANIFEST]).await;
        answer.status == StatusCode::OK
    })
    .await;
    registry.down();
    let answer = by_tag(&mirror, &Method::GET, &[DOCKER_MANIFEST]).await;
    listed.assert_image(&answer, &Method::GET);
    let status = answer.header("cache-status");
    assert_eq!(status, Some("pierglass; hit; detail=stale"));
}
