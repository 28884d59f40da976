//! Programs written with a library for Python or Node must never need another registry than the mirror.
//!
//! Each library has a script in `clients/` that pulls with it, and prints what came.

use std::fs::File;

use serde_json::json;

use crate::both_ways::{BothWays, REPO, Tagged};
use crate::installed;
use crate::support::content::{Content, digest_of};
use crate::support::image::{OCI_MANIFEST, descriptor};

/// Runs `clients/NAME` with a URL, a repository and tags.
fn client<'a>(name: &'a str, tags: &'a [&'a str]) -> impl Fn(&BothWays, &str) -> String + 'a {
    let script = format!("{}/tests/e2e/clients/{name}", env!("CARGO_MANIFEST_DIR"));
    move |both, url| {
        let arguments = [&[url, REPO], tags].concat();
        if name.ends_with(".py") {
            return both.run(
                installed::python().to_str().unwrap(),
                "python3",
                |command| {
                    // Its own directory would come first, where files may have the name of what they import.
                    command.arg("-P").arg(&script).args(arguments);
                },
            );
        }
        both.run("node", "nodejs", |command| {
            // What comes from the standard input finds modules where the program runs.
            command
                .args(["--input-type=module", "-"])
                .args(arguments)
                .stdin(File::open(&script).unwrap())
                .current_dir(installed::node_modules());
        })
    }
}

/// Digests of what an image of one platform consists of.
fn layers(tagged: &Tagged) -> Vec<String> {
    tagged
        .image
        .layers
        .iter()
        .map(|layer| digest_of(layer))
        .collect()
}

/// Lines of a client that takes lists as they are: type and digest of each tag, and the blobs of the last platform.
async fn all_blobs_of_all_tags(both: &BothWays) -> Vec<String> {
    let mut lines = Vec::new();
    for tagged in [
        Tagged::docker(&both.registry).await,
        Tagged::oci(&both.registry).await,
    ] {
        let Tagged {
            one,
            many,
            image,
            index,
            ..
        } = &tagged;
        for (tag, kind, digest) in [
            (one, tagged.manifest, &image.digest),
            (many, tagged.list, &index.digest),
        ] {
            lines.push(format!("{tag} {kind} {digest}"));
            lines.extend(image.blobs().iter().map(|blob| format!("{tag} {blob}")));
        }
    }
    lines
}

/// They write the slash of a repository's name as `%2F`, and read blobs in ranges of 4 MiB.
#[tokio::test]
async fn azures_library_for_python_pulls_everything() {
    let both = BothWays::https();
    let expected = all_blobs_of_all_tags(&both).await;
    let tags = ["single", "list", "oci", "index"];
    both.assert_same(&expected, client("azure_containerregistry.py", &tags));
}

#[tokio::test]
async fn azures_library_for_node_pulls_everything() {
    let both = BothWays::https();
    let expected = all_blobs_of_all_tags(&both).await;
    let tags = ["single", "list", "oci", "index"];
    both.assert_same(&expected, client("azure_container_registry.mjs", &tags));
}

/// It looks for header names as Go writes them, and takes a list for an image.
#[tokio::test]
async fn registry_api_v2_client_finds_its_header_names() {
    let both = BothWays::http();
    let Tagged { image, .. } = Tagged::docker(&both.registry).await;
    let config = digest_of(&image.config);
    let mut expected = vec!["tags: list single".to_owned()];
    for tag in ["single", "list"] {
        expected.push(format!("{tag} {} amd64 {config}", image.digest));
    }
    both.assert_same(
        &expected,
        client("registry_api_v2_client.py", &["single", "list"]),
    );
}

/// It accepts no list, and knows no plain HTTP.
#[tokio::test]
async fn drclient_gets_an_image_where_there_is_a_list() {
    let both = BothWays::https();
    let docker = Tagged::docker(&both.registry).await;
    let oci = Tagged::oci(&both.registry).await;
    let mut expected = Vec::new();
    for (tag, tagged) in [("single", &docker), ("list", &docker), ("oci", &oci)] {
        expected.push(format!("{tag} {} amd64", tagged.manifest));
        expected.extend(layers(tagged).iter().map(|layer| format!("{tag} {layer}")));
    }
    both.assert_same(&expected, client("drclient.py", &["single", "list", "oci"]));
}

/// It accepts no list and no type of OCI.
#[tokio::test]
async fn nodegistry_gets_an_image_where_there_is_a_list() {
    let both = BothWays::http();
    let Tagged {
        image, manifest, ..
    } = Tagged::docker(&both.registry).await;
    let config = digest_of(&image.config);
    let expected = ["single", "list"].map(|tag| {
        [
            format!("{tag} {manifest} {}", image.digest),
            format!("{tag} amd64 {config}"),
        ]
    });
    both.assert_same(
        &expected.concat(),
        client("nodegistry.mjs", &["single", "list"]),
    );
}

/// It gets each manifest twice.
#[tokio::test]
async fn oras_pulls_files() {
    let both = BothWays::http();
    let files = [
        Vec::from(b"a file"),
        Content::generated(1, 9 << 20).read(0, 9 << 20),
    ];
    let layers = files.each_ref().map(|file| {
        let mut layer = descriptor("text/plain", file);
        layer["annotations"] = json!({"org.opencontainers.image.title": layer["digest"]});
        layer
    });
    let artifact = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": "application/vnd.acme.files",
        "config": descriptor("application/vnd.oci.empty.v1+json", b"{}"),
        "layers": layers,
    });
    let manifest = artifact.to_string().into();
    for blob in files.iter().cloned().chain([Vec::from(b"{}")]) {
        both.registry.put_blob(REPO, blob.into()).await;
    }
    both.registry
        .put_manifest(REPO, "1", OCI_MANIFEST, manifest)
        .await;
    let [small, large] = files.map(|file| format!("1 {}", digest_of(&file)));
    both.assert_same(
        &["tags: 1".into(), small, large],
        client("oras_client.py", &["1"]),
    );
}

/// It asks for every platform of a list.
#[tokio::test]
async fn python_dxf_pulls_all_platforms() {
    let both = BothWays::http();
    let mut expected = vec!["tags: index list oci single".to_owned()];
    for tagged in [
        Tagged::docker(&both.registry).await,
        Tagged::oci(&both.registry).await,
    ] {
        let Tagged {
            one,
            many,
            image,
            index,
            ..
        } = &tagged;
        expected.push(format!("{one} {}", image.digest));
        expected.extend(
            layers(&tagged)
                .iter()
                .map(|layer| format!("{one} one {layer}")),
        );
        expected.push(format!("{many} {}", index.digest));
        let mut images: Vec<_> = index.images.iter().collect();
        images.sort_by_key(|image| &image.architecture);
        for image in images {
            let platform = &image.architecture;
            let blobs = image.layers.iter().map(|layer| digest_of(layer));
            expected.extend(blobs.map(|layer| format!("{many} linux/{platform} {layer}")));
        }
    }
    both.assert_same(
        &expected,
        client("python_dxf.py", &["single", "list", "oci", "index"]),
    );
}

/// Helm 4 itself, as a library for Python. A `+` in a version is a `_` in its tag.
#[tokio::test]
async fn helm_pulls_the_chart_that_fits() {
    let both = BothWays::http();
    let versions = ["1.0.0", "1.1.0", "1.2.0+build.5"];
    let registry = both.registry.url();
    let pushed = client("helm.py", &[&["push"], &versions[..]].concat())(&both, &registry);
    let archives: Vec<_> = pushed
        .lines()
        .map(|line| line.split_once(' ').unwrap().1)
        .collect();
    let [old, middle, new] = archives[..] else {
        panic!("{pushed}");
    };
    let expected = [
        "versions: 1.2.0+build.5 1.1.0 1.0.0".to_owned(),
        format!("1.0.0 app-1.0.0.tgz {old}"),
        format!("~1.1 app-1.1.0.tgz {middle}"),
        format!(">=1.0.0 app-1.2.0+build.5.tgz {new}"),
    ];
    both.assert_same(&expected, client("helm.py", &["1.0.0", "~1.1", ">=1.0.0"]));
}
