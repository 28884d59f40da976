//! What users of other mirrors suffered from must not happen here. docs/testing.md has the table of failures and tests;
//! here are those that no other file has, and a test that the table tells the truth.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;

use crate::support::client::download;
use crate::support::disk::{files, record_file};
use crate::support::image::OCI_MANIFEST;
use crate::support::{FakeRegistry, Fault, Image, Index, Mirror, MirrorConfig, On, client, scene};

const A: &str = "acme/one";
const B: &str = "acme/two";

/// A file whose last use was so long ago.
fn age(path: &Path, by: Duration) {
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let then = SystemTime::now() - by;
    file.set_modified(then).unwrap();
}

/// Seven days after its first pull, another mirror served an image's layers with 200, the right length and no body.
#[tokio::test]
async fn a_week_on_nothing_is_taken_for_expired() {
    let (registry, mut mirror) = scene::start();
    let image = Image::random(1, &[300_000, 5_000]);
    registry.put_image(A, Some("1"), &image);
    mirror.pull(A, &image.digest, &image).await;
    mirror.wait_until_stored(&image.blobs());
    mirror.term_and_wait();
    for path in files(&mirror.store_path()) {
        age(&path, Duration::from_secs(8 * 24 * 3600));
    }
    registry.down();
    mirror.restart();
    mirror.pull(A, &image.digest, &image).await;
    mirror.restart();
    mirror.pull(A, &image.digest, &image).await;
}

/// The expiry of one repository's image took away the layers that another one shared.
#[tokio::test]
async fn a_blob_that_two_repositories_share_outlives_one_of_them() {
    let (registry, mut mirror) = scene::start();
    let image = Image::random(1, &[300_000]);
    registry.put_image(A, Some("1"), &image);
    registry.put_image(B, Some("1"), &image);
    mirror.pull(A, &image.digest, &image).await;
    mirror.pull(B, &image.digest, &image).await;
    mirror.wait_until_stored(&image.blobs());
    mirror.term_and_wait();
    // As docs/operations.md has it.
    std::fs::remove_dir_all(record_file(&mirror.store_path(), A, "")).unwrap();
    registry.down();
    mirror.restart();
    mirror.pull(B, &image.digest, &image).await;
}

/// What was here already was fetched again under another tag.
#[tokio::test]
async fn a_layer_under_two_tags_is_fetched_once() {
    let (registry, mirror) = scene::start();
    let old = Image::random(1, &[300_000]);
    let shared = old.layers[0].clone();
    let new = Image::of_layers("amd64", vec![shared, "patch".into()], &["/bin/sh"]);
    registry.put_image(A, Some("1"), &old);
    registry.put_image(A, Some("2"), &new);
    mirror.pull(A, &old.digest, &old).await;
    mirror.pull(A, &new.digest, &new).await;
    let asked = |digest: &str| {
        let requests = registry.requests();
        let named = requests.iter().filter(|seen| seen.target.contains(digest));
        named.count()
    };
    assert_eq!(asked(&old.blobs()[1]), 1);
    assert_eq!(asked(&new.blobs()[2]), 1);
}

/// A manifest was answered once everything was copied, all platforms of it: clients and proxies gave up before.
#[tokio::test]
async fn a_cold_index_waits_for_none_of_its_images() {
    let (registry, mirror) = scene::start();
    let images = [Image::random(1, &[50_000]), Image::random(2, &[50_000])];
    let index = Index::of(&images);
    registry.put_index(A, Some("1"), &index);
    registry.fault(On::blob().forever(), Fault::Hang);
    for image in &images {
        let child = On::manifest().containing(&image.digest);
        registry.fault(child.forever(), Fault::Hang);
    }
    let started = Instant::now();
    let answer = mirror.manifest(A, "1").await;
    assert_eq!(answer.body, index.bytes);
    assert!(started.elapsed() < Duration::from_secs(3));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(registry.counts().requests(), 1, "only what was asked for");
}

/// A mirror in front of another found no blob there until it was stored: HEAD was not passed on.
#[tokio::test]
async fn a_mirror_behind_a_mirror_finds_what_is_stored_in_neither() {
    let registry = FakeRegistry::start().await;
    let image = Image::random(1, &[300_000]);
    registry.put_image(A, Some("1"), &image);
    let far = Mirror::start(MirrorConfig::for_upstream(&registry));
    let near = Mirror::start(MirrorConfig::for_url(&far.url()));
    for digest in image.blobs() {
        let head = client::head(&near.blob_url(A, &digest), &[]).await.unwrap();
        assert_eq!(head.status, StatusCode::OK);
        let length = head.header("content-length").unwrap();
        assert_ne!(length, "0");
    }
    assert_eq!(registry.counts().blob_gets, 0);
    near.pull(A, &image.digest, &image).await;
    assert_eq!(registry.counts().blob_gets, 2);
}

/// Signatures of older tools are images under a tag made of a digest.
#[tokio::test]
async fn a_signature_under_a_tag_is_an_image_as_any_other() {
    let (registry, mirror) = scene::start_with(|config| config.tag_ttl("0s"));
    let image = Image::random(1, &[1000]);
    registry.put_image(A, Some("1"), &image);
    let tag = format!("{}.sig", image.digest.replace(':', "-"));
    let signature = br#"{"schemaVersion":2,"layers":[]}"#;
    registry.put_manifest(A, Some(&tag), OCI_MANIFEST, &signature[..]);
    for _ in 0..2 {
        assert_eq!(mirror.manifest(A, &tag).await.body, signature[..]);
        registry.down();
    }
}

/// A lock on a transfer ran out after five seconds, and a client that came then began another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_seconds_later_joins_the_transfer() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(A, 1, 4 << 20);
    let url = mirror.blob_url(A, &digest);
    registry.set_rate(512 << 10);
    let early = {
        let url = url.clone();
        tokio::spawn(async move { download(&url, &[]).await.unwrap() })
    };
    tokio::time::sleep(Duration::from_secs(6)).await;
    let late = download(&url, &[]).await.unwrap();
    late.assert_is(&digest);
    let status = late.header("cache-status");
    assert_eq!(status, Some("pierglass; fwd=uri-miss; collapsed"));
    early.await.unwrap().assert_is(&digest);
    assert_eq!(registry.counts().blob_gets, 1);
}

/// After twelve hours ECR says 403 where others say 401, and mirrors stayed locked out.
#[tokio::test]
async fn a_token_that_has_expired_with_a_403_is_replaced() {
    let registry = FakeRegistry::builder()
        .bearer(Some(("ci", "secret")))
        .start()
        .await;
    let images = [Image::random(1, &[10]), Image::random(2, &[10])];
    registry.put_image(A, Some("1"), &images[0]);
    registry.put_image(A, Some("2"), &images[1]);
    let login = "username = \"ci\"\npassword = \"secret\"";
    let mirror = Mirror::start(MirrorConfig::for_upstream(&registry).toml(login));
    assert_eq!(mirror.manifest(A, "1").await.body, images[0].manifest);
    // A token just given is not thought to have expired.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let refused = registry.fault(On::manifest(), Fault::status(403));
    assert_eq!(mirror.manifest(A, "2").await.body, images[1].manifest);
    assert_eq!(registry.struck(refused), 1);
    assert_eq!(registry.counts().token_gets, 2);
}

/// 200, a length of 0 and no body, for a blob that the store could not take: complete, as far as a client can see.
#[tokio::test]
async fn no_length_at_all_is_not_believed_of_what_passes_through() {
    let (registry, mirror) = scene::start();
    let digest = registry.put_generated_blob(A, 1, 100_000);
    let nothing = registry.fault(On::blob().get(), Fault::WrongLength(-100_000));
    std::fs::remove_dir_all(mirror.store_path()).unwrap();
    std::fs::write(mirror.store_path(), "no directory").unwrap();
    let url = mirror.blob_url(A, &digest);
    let answer = client::get(&url, &[]).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{}", answer.text());
    assert_eq!(registry.struck(nothing), 1);
    download(&url, &[]).await.unwrap().assert_is(&digest);
}

/// Quay says 429 with a web page, which clients of a mirror cannot read.
#[tokio::test]
async fn a_page_that_limits_is_answered_as_a_registry_does() {
    let (registry, mirror) = scene::start();
    registry.fault(On::any().forever(), Fault::Html(429));
    for url in [
        mirror.manifest_url(A, "1"),
        mirror.blob_url(A, &crate::support::digest_of(b"blob")),
    ] {
        let answer = client::get(&url, &[]).await.unwrap();
        assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["errors"][0]["code"], "TOOMANYREQUESTS");
        assert!(!answer.text().contains("<html>"), "{}", answer.text());
    }
}

#[test]
fn every_test_that_the_documents_name_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (document, at_least) in [
        ("docs/testing.md", 50),
        ("docs/bounds.md", 50),
        ("docs/registries.md", 0),
        ("docs/clients.md", 0),
    ] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        let named: Vec<_> = text
            .split('`')
            .skip(1)
            .step_by(2)
            .filter_map(|span| span.rsplit_once("::"))
            .collect();
        assert!(named.len() >= at_least, "{document}: {}", named.len());
        for (module, name) in named {
            let path = format!("{}.rs", module.replace("::", "/"));
            let defines = ["tests/it", "tests/e2e", "tests/chaos", "src"]
                .iter()
                .any(|folder| {
                    let file = root.join(folder).join(&path);
                    std::fs::read_to_string(file)
                        .is_ok_and(|source| source.contains(&format!("fn {name}(")))
                });
            assert!(defines, "{document}: {module}::{name}");
        }
    }
}
