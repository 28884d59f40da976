//! A registry has the repositories of another below a path (Harbor's proxy projects, pull-through caches in clouds), and
//! clients must not notice: names, tokens, lists and errors are as they are without.

use serde_json::json;

use crate::support::client::{self, Response};
use crate::support::image::{OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Fault, MIB, Mirror, MirrorConfig, On, image};

/// The upstream's name, the prefix, and a repository by its name here.
const BELOW: [(&str, &str, &str); 5] = [
    // A project of Harbor, an organization of Quay, a repository of Nexus, Pulp or Artifactory.
    ("docker.io", "dockerhub", "library/alpine"),
    // GitLab's dependency proxy.
    (
        "docker.io",
        "group/dependency_proxy/containers",
        "library/alpine",
    ),
    // A pull-through cache rule of ECR.
    ("quay.io", "quay", "org/app"),
    // A remote repository of Artifact Registry, in a project of a domain.
    ("ghcr.io", "example.com/project/ghcr-cache", "org/deep/app"),
    // A prefix that is a name of the repository as well.
    ("docker.io", "a", "a/a"),
];

fn mirror_of(registry: &FakeRegistry, namespace: &str, keys: &str) -> Mirror {
    let config = MirrorConfig::bare().upstream(namespace, registry);
    Mirror::start(
        config
            .toml(&format!("default = true\n{keys}"))
            .asking_each_time(),
    )
}

/// An image, signed, with two tags.
fn fill(registry: &FakeRegistry, repo: &str) {
    registry.put_image(repo, Some("1"), &image(1));
    registry.tag(repo, "2", &image(1).digest);
    let signature = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/sig", "layers": [],
        "config": {"mediaType": "application/vnd.oci.empty.v1+json"},
        "subject": descriptor(OCI_MANIFEST, &image(1).manifest),
    });
    registry.put_manifest(repo, None, OCI_MANIFEST, signature.to_string());
    registry.set_page(1);
}

/// What a client asks for, and what it is answered.
async fn session(mirror: &Mirror, repo: &str) -> Vec<Response> {
    let digest = image(1).digest;
    let mut answers = vec![
        mirror.head(repo, "1").await,
        mirror.manifest(repo, "1").await,
        mirror.manifest(repo, "1").await,
        mirror.manifest(repo, &digest).await,
        mirror.get(&format!("/v2/{repo}/tags/list?n=1")).await,
        mirror.get(&format!("/v2/{repo}/referrers/{digest}")).await,
        mirror.manifest(repo, "no-such-tag").await,
        mirror.get(&format!("/v2/{repo}/no/such/tags/list")).await,
        mirror.get("/v2/_catalog").await,
    ];
    for blob in image(1).blobs() {
        let url = mirror.blob_url(repo, &blob);
        answers.push(client::head(&url, &[]).await.unwrap());
        answers.push(client::get(&url, &[]).await.unwrap());
    }
    mirror.wait_until_stored(&image(1).blobs());
    answers
}

/// All that an answer says, but for what differs from one run to the next.
fn said(answer: &Response) -> String {
    let mut headers: Vec<_> = answer.headers.iter().collect();
    headers.retain(|(name, _)| !["date", "age", "x-request-id"].contains(&name.as_str()));
    format!("{} {headers:?} {}", answer.status, answer.text())
}

/// What was asked upstream, in its order.
fn asked(registry: &FakeRegistry) -> Vec<String> {
    let asked = registry.requests().into_iter();
    asked
        .map(|seen| format!("{} {}", seen.method, seen.target))
        .collect()
}

#[tokio::test]
async fn what_a_registry_has_below_a_path_is_pulled_by_its_own_name() {
    for (namespace, prefix, repo) in BELOW {
        let plain = FakeRegistry::builder().bearer(None).start().await;
        fill(&plain, repo);
        let expected = session(&mirror_of(&plain, namespace, ""), repo).await;

        let registry = FakeRegistry::builder().bearer(None).start().await;
        fill(&registry, &format!("{prefix}/{repo}"));
        let mirror = mirror_of(&registry, namespace, &format!("prefix = \"{prefix}\""));
        let answers = session(&mirror, repo).await;
        assert_eq!(expected[1].body, image(1).manifest);
        assert_eq!(expected[4].json(), json!({"name": repo, "tags": ["1"]}));
        assert_eq!(answers.len(), expected.len());
        for (answer, expected) in answers.iter().zip(&expected) {
            assert_eq!(said(answer), said(expected), "{prefix}");
        }
        // The same questions, each below the prefix, and each scope as well.
        let below: Vec<_> = asked(&plain)
            .iter()
            .map(|line| line.replace("/v2/", &format!("/v2/{prefix}/")))
            .map(|line| line.replace("repository:", &format!("repository:{prefix}/")))
            .map(|line| line.replace("repository%3A", &format!("repository%3A{prefix}/")))
            .collect();
        let decoded = |lines: Vec<String>| lines.join("\n").replace("%2F", "/");
        assert_eq!(decoded(asked(&registry)), decoded(below), "{prefix}");
        assert!(registry.counts().token_gets > 0);
    }
}

#[tokio::test]
async fn docker_hubs_short_names_are_found_below_a_path() {
    let registry = FakeRegistry::start().await;
    registry.put_image("cache/hub/library/nginx", Some("1"), &image(1));
    let mirror = mirror_of(&registry, "docker.io", "prefix = \"cache/hub\"");
    for path in ["/v2/nginx", "/v2/docker.io/nginx", "/v2/library/nginx"] {
        let answer = mirror.get(&format!("{path}/manifests/1")).await;
        assert_eq!(answer.body, image(1).manifest, "{path}");
    }
    let pinned = mirror.command(&["pin", "nginx:1"]);
    assert!(
        pinned.out.contains("pinned docker.io/library/nginx:1"),
        "{pinned:?}"
    );
    let catalog = mirror.get("/v2/_catalog").await;
    assert_eq!(catalog.json(), json!({"repositories": ["library/nginx"]}));
}

/// Each has the repositories elsewhere, and none of them where another has them.
#[tokio::test]
async fn each_endpoint_has_its_own_prefix() {
    let [near, far, home] = [(); 3].map(|()| FakeRegistry::builder().start_now());
    near.put_image("cache/a/b", Some("1"), &image(1));
    far.put_image("a/b", Some("1"), &image(2));
    far.put_image("a/b", Some("2"), &image(2));
    home.put_image("hub/a/b", Some("1"), &image(3));
    home.put_image("hub/a/b", Some("3"), &image(3));
    let keys = format!(
        "prefix = \"hub\"\nendpoints = [{{ url = \"{}\", prefix = \"cache\" }}, \"{}\"]",
        near.url(),
        far.url()
    );
    let mirror = mirror_of(&home, "docker.io", &keys);
    for (tag, seed) in [("1", 1), ("2", 2), ("3", 3)] {
        mirror.pull("a/b", tag, &image(seed)).await;
    }
    for (registry, start) in [
        (&near, "/v2/cache/a/b/"),
        (&far, "/v2/a/b/"),
        (&home, "/v2/hub/a/b/"),
    ] {
        let asked = registry.requests();
        assert!(!asked.is_empty(), "{start}");
        for seen in asked {
            assert!(seen.target.starts_with(start), "{start}: {}", seen.target);
        }
    }
}

/// What is remembered of a repository that fails is remembered by the name it has here.
#[tokio::test]
async fn a_blob_that_breaks_off_below_a_path_is_resumed_and_its_endpoint_avoided() {
    let [near, home] = [(); 2].map(|()| FakeRegistry::builder().start_now());
    let digest = near.put_generated_blob("cache/a/b", 1, 4 * MIB);
    home.put_generated_blob("hub/a/b", 1, 4 * MIB);
    near.fault(On::blob().forever(), Fault::CutAfter(MIB));
    let keys = format!(
        "prefix = \"hub\"\nendpoints = [{{ url = \"{}\", prefix = \"cache\" }}]",
        near.url()
    );
    let mirror = mirror_of(&home, "docker.io", &keys);
    mirror.pull_blob("a/b", &digest).await;
    let asked = home.requests();
    assert!(
        asked.iter().any(|seen| seen.range().is_some()),
        "the rest is taken from the registry"
    );
    assert_eq!(near.counts().blob_gets, 1, "once is enough");
}

/// A limit of one repository holds back none of the others.
#[tokio::test]
async fn a_limit_below_a_path_is_the_repositorys() {
    let registry = FakeRegistry::start().await;
    for repo in ["hub/a/b", "hub/c/d"] {
        registry.put_image(repo, Some("1"), &image(1));
    }
    registry.fault(
        On::any().containing("/hub/a/b/").forever(),
        Fault::status(429),
    );
    let mirror = mirror_of(
        &registry,
        "docker.io",
        "prefix = \"hub\"\nheader_timeout = \"1s\"",
    );
    assert_eq!(mirror.manifest("a/b", "1").await.status, 429);
    let limited = registry.requests().len();
    assert_eq!(mirror.manifest("a/b", "1").await.status, 429);
    assert_eq!(registry.requests().len(), limited, "it is not asked again");
    mirror.pull("c/d", "1", &image(1)).await;
}

#[tokio::test]
async fn a_path_before_v2_and_one_after_it_are_both_asked() {
    let registry = FakeRegistry::start().await;
    let config = MirrorConfig::for_url(&format!("{}/artifactory", registry.url()));
    let mirror = Mirror::start(config.toml("prefix = \"hub\""));
    assert_eq!(mirror.manifest("a/b", "1").await.status, 404);
    assert_eq!(
        asked(&registry),
        ["GET /artifactory/v2/hub/a/b/manifests/1"]
    );
}

/// Some 255 bytes is the longest name that a client may say here; what it makes upstream is for that to judge.
#[tokio::test]
async fn a_name_that_the_prefix_makes_very_long_is_asked_for() {
    let registry = FakeRegistry::start().await;
    let repo = format!("a/{}", "b".repeat(253));
    registry.put_image(&format!("hub/{repo}"), Some("1"), &image(1));
    let mirror = mirror_of(&registry, "docker.io", "prefix = \"hub\"");
    mirror.pull(&repo, "1", &image(1)).await;
}

/// ECR and Artifact Registry copy what is asked for, so nothing is asked that no client wants.
#[tokio::test]
async fn check_online_asks_for_no_repository_below_a_path() {
    let [near, home] = [(); 2].map(|()| FakeRegistry::builder().start_now());
    let mirror = mirror_of(
        &home,
        "docker.io",
        &format!(
            "prefix = \"hub\"\nendpoints = [{{ prefix = \"cache\", url = \"{}\" }}]",
            near.url()
        ),
    );
    let ran = mirror.command_without_admin(&["check", "--online"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(
        ran.out.contains(&format!("{}/v2/cache", near.url())),
        "{ran:?}"
    );
    assert_eq!([asked(&near), asked(&home)], [["GET /v2/"], ["GET /v2/"]]);
}

/// Another mirror of this kind has every registry below its host.
#[tokio::test]
async fn a_mirror_can_stand_before_a_mirror() {
    let registry = FakeRegistry::start().await;
    registry.put_image("library/nginx", Some("1"), &image(1));
    let inner = Mirror::start(MirrorConfig::for_upstream(&registry));
    let config = MirrorConfig::for_url(&inner.url()).toml("prefix = \"docker.io\"");
    let outer = Mirror::start(config);
    outer.pull("nginx", "1", &image(1)).await;
    let list = outer.get("/v2/library/nginx/tags/list").await;
    assert_eq!(list.json(), json!({"name": "library/nginx", "tags": ["1"]}));
}

#[test]
fn a_prefix_that_cannot_be_is_told_by_its_key() {
    let registry = FakeRegistry::builder().start_now();
    let url = registry.url();
    for (keys, words) in [
        (
            "prefix = \"/hub/\"",
            "prefix: \"/hub/\" begins or ends with a slash",
        ),
        ("prefix = \"v2/hub\"", "prefix: \"v2/hub\" begins with v2"),
        ("prefix = \"Hub\"", "prefix: \"Hub\" has capital letters"),
        (
            "prefix = \"a//b\"",
            "prefix: \"a//b\" is no part of a repository's name",
        ),
        (
            "prefix = \"../hub\"",
            "prefix: \"../hub\" is no part of a repository's name",
        ),
        (
            "prefix = \"https://harbor.corp/hub\"",
            "prefix: \"https://harbor.corp/hub\" is a URL",
        ),
        ("prefix = \"\"", "prefix: is empty"),
        ("prefix = 1", "prefix: is a number"),
        (
            "endpoints = [{ prefix = \"hub\" }]",
            "endpoints: has an endpoint without url",
        ),
        (
            "endpoints = [{ url = \"http://x\", prefix = \"Hub\" }]",
            "endpoints: \"Hub\" has capital letters",
        ),
        (
            "endpoints = [{ url = \"http://x\", username = \"hunter2\" }]",
            "endpoints: has \"username\", which no endpoint has",
        ),
        (
            "endpoints = [\"http://harbor.corp/v2/hub\"]",
            "endpoints: \"http://harbor.corp/v2/hub\" has a path after /v2/; write url = \"http://harbor.corp\", and prefix = \"hub\"",
        ),
    ] {
        let config = MirrorConfig::for_url(&url).toml(keys);
        let (_, output) = Mirror::fail_to_start(&config);
        assert!(output.contains(words), "{keys}: {output}");
        assert!(!output.contains("hunter2"));
    }
}
