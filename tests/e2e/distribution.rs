//! The reference registry, as a server that must never be asked for what is stored already.

use std::path::Path;

use bytes::Bytes;
use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::programs::Program;
use crate::support::client;
use crate::support::content::digest_of;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::loopback::free_port;
use crate::support::{Image, Index};

/// Debian's `docker-registry` over an empty directory.
#[derive(Debug)]
pub struct Distribution {
    program: Program,
    url: String,
    _directory: TempDir,
}

impl Distribution {
    #[track_caller]
    pub fn start() -> Distribution {
        let directory = TempDir::with_prefix("pg-").unwrap();
        let address = free_port().to_string();
        let config = directory.path().join("config.yml");
        std::fs::write(&config, settings(&directory.path().join("data"), &address)).unwrap();
        let log = directory.path().join("registry.log");
        let mut program = Program::start("docker-registry", "docker-registry", log, |command| {
            command.arg("serve").arg(&config);
        });
        program.wait_until(|| std::net::TcpStream::connect(&address).ok());
        Distribution {
            program,
            url: format!("http://{address}"),
            _directory: directory,
        }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn stop(&mut self) {
        self.program.end();
    }

    /// Request lines it has logged, `GET /v2/...`; of manifests and blobs only.
    pub fn requests(&self) -> Vec<String> {
        let log = self.program.log();
        let lines = log.lines().filter_map(|line| line.split('"').nth(1));
        let named =
            lines.filter(|line| line.contains("/manifests/") || line.contains("/blobs/sha256:"));
        named
            .filter_map(|line| line.strip_suffix(" HTTP/1.1"))
            .map(str::to_owned)
            .collect()
    }

    pub async fn put_image(&self, repo: &str, tag: Option<&str>, image: &Image) {
        for blob in std::iter::once(&image.config).chain(&image.layers) {
            self.put_blob(repo, blob.clone()).await;
        }
        let reference = tag.unwrap_or(&image.digest);
        self.put_manifest(repo, reference, OCI_MANIFEST, image.manifest.clone())
            .await;
    }

    pub async fn put_index(&self, repo: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.put_image(repo, None, image).await;
        }
        self.put_manifest(repo, tag, OCI_INDEX, index.bytes.clone())
            .await;
    }

    async fn put_blob(&self, repo: &str, bytes: Bytes) {
        let start = format!("{}/v2/{repo}/blobs/uploads/", self.url);
        let started = client::request(Method::POST, &start, &[]).await.unwrap();
        let place = started.header("location").unwrap();
        let target = format!("{place}&digest={}", digest_of(&bytes));
        let headers = [("content-type", "application/octet-stream")];
        let stored = client::send(Method::PUT, &target, &headers, bytes)
            .await
            .unwrap();
        assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text());
    }

    async fn put_manifest(&self, repo: &str, reference: &str, media_type: &str, bytes: Bytes) {
        let target = format!("{}/v2/{repo}/manifests/{reference}", self.url);
        let headers = [("content-type", media_type)];
        let stored = client::send(Method::PUT, &target, &headers, bytes)
            .await
            .unwrap();
        assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text());
    }
}

fn settings(data: &Path, address: &str) -> String {
    let data = data.display();
    format!(
        "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {data}\nhttp:\n  addr: {address}\n\
         log:\n  accesslog:\n    disabled: false\n"
    )
}
