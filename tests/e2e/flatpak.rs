//! Flatpak installs programs from registries, as Fedora's, and must never need another one than the mirror.
//!
//! What running it inside a test taught:
//! - It asks an index what there is, which names the registry, and then that registry. The index is no registry's.
//! - It wants a session bus, and starts a program there that outlives the bus; a PID namespace ends that too.
//! - Debian's takes certificates from the system alone (GnuTLS), so this is without TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::both_ways::BothWays;
use crate::containers::file;
use crate::support::content::{Content, digest_of};
use crate::support::image::OCI_MANIFEST;
use crate::support::loopback::any_port;

const REPO: &str = "acme/base";
/// A runtime, because a program could not be installed without one.
const NAME: &str = "runtime/org.acme.Base/x86_64/1";
const BALLAST: usize = 6 << 20;

/// Runs flatpak with this bus and these directories, and nothing of it stays.
#[track_caller]
fn flatpak(both: &BothWays, arguments: &[&str]) -> String {
    both.run("unshare", "util-linux", |command| {
        command
            .args([
                "--pid",
                "--fork",
                "--kill-child",
                "dbus-run-session",
                "--",
                "flatpak",
            ])
            .args(arguments)
            .env("XDG_RUNTIME_DIR", both.home())
            .env("XDG_DATA_HOME", both.home().join("data"))
            .current_dir(both.home());
    })
}

/// Builds the runtime, pushes it, and returns what an index says of it.
async fn push(both: &BothWays) -> Value {
    let tree = both.home().join("tree");
    for part in ["files", "usr"] {
        std::fs::create_dir_all(tree.join(part)).unwrap();
    }
    std::fs::write(tree.join("usr/ballast"), ballast()).unwrap();
    let metadata = format!(
        "[Runtime]\nname=org.acme.Base\nruntime={0}\nsdk={0}\n",
        &NAME[8..]
    );
    std::fs::write(tree.join("metadata"), metadata).unwrap();
    flatpak(
        both,
        &[
            "build-export",
            "--runtime",
            "--arch=x86_64",
            "repo",
            "tree",
            "1",
        ],
    );
    let bundle = ["build-bundle", "--oci", "--runtime", "--arch=x86_64"];
    flatpak(
        both,
        &[&bundle[..], &["repo", "layout", "org.acme.Base", "1"]].concat(),
    );

    let layout = both.home().join("layout");
    let blob = |value: &Value| {
        let digest = value["digest"].as_str().unwrap().replace("sha256:", "");
        file(&layout, &format!("blobs/sha256/{digest}"))
    };
    let read = |bytes: &[u8]| -> Value { serde_json::from_slice(bytes).unwrap() };
    let index = read(&file(&layout, "index.json"));
    let manifest = blob(&index["manifests"][0]);
    let parts = read(&manifest);
    let config = blob(&parts["config"]);
    for bytes in [config.clone(), blob(&parts["layers"][0])] {
        both.registry.put_blob(REPO, bytes.into()).await;
    }
    let labels = read(&config)["config"]["Labels"].clone();
    let digest = digest_of(&manifest);
    both.registry
        .put_manifest(REPO, &digest, OCI_MANIFEST, manifest.into())
        .await;
    json!({
        "Digest": digest, "MediaType": OCI_MANIFEST, "Tags": ["latest"],
        "OS": "linux", "Architecture": "amd64", "Labels": labels,
    })
}

fn ballast() -> Vec<u8> {
    Content::generated(1, BALLAST as u64).read(0, BALLAST)
}

/// A server that answers everything with this document; its URL.
fn serve(document: &Value) -> String {
    let listener = TcpListener::bind(any_port()).unwrap();
    let url = format!("oci+http://{}", listener.local_addr().unwrap());
    let body = document.to_string();
    // The thread ends with the process: a blocked accept is nothing to clean up.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(&stream, &body);
        }
    });
    url
}

fn answer(mut stream: &TcpStream, body: &str) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while lines
        .next()
        .transpose()?
        .is_some_and(|line| !line.is_empty())
    {}
    let length = body.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// Where the runtime's files are, wherever its commit puts them.
fn installed(data: &Path) -> Vec<u8> {
    let active = data.join("flatpak").join(NAME).join("active");
    file(&active, "files/ballast")
}

#[tokio::test]
async fn a_runtime_is_installed() {
    let both = BothWays::http();
    let image = push(&both).await;
    let expected = [digest_of(&ballast())];
    both.assert_same(&expected, |both, url| {
        let results = json!([{"Name": REPO, "Images": [&image], "Lists": []}]);
        let index = serve(&json!({"Registry": url, "Results": results}));
        flatpak(
            both,
            &["--user", "remote-add", "--no-gpg-verify", "acme", &index],
        );
        let install = ["--user", "install", "--assumeyes", "--noninteractive"];
        flatpak(both, &[&install[..], &["acme", NAME]].concat());
        let data = both.home().join("data");
        let seen = digest_of(&installed(&data));
        std::fs::remove_dir_all(data).unwrap();
        seen
    });
}
