//! The reference registry, as a server that must never be asked for what is stored already.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use tempfile::TempDir;

use crate::authority::Authority;
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
    directory: Arc<TempDir>,
}

impl Distribution {
    #[track_caller]
    pub fn start() -> Distribution {
        let directory = TempDir::with_prefix("pg-").unwrap();
        Distribution::serve(Arc::new(directory), None)
    }

    /// A second one over the same directory, which speaks TLS.
    #[track_caller]
    pub fn with_tls(&self, authority: &Authority) -> Distribution {
        Distribution::serve(self.directory.clone(), Some(authority))
    }

    #[track_caller]
    fn serve(directory: Arc<TempDir>, authority: Option<&Authority>) -> Distribution {
        let address = free_port();
        let path = |name: String| directory.path().join(name);
        let data = path("data".into());
        let mut settings = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nlog:\n  accesslog:\n    \
             disabled: false\nhttp:\n  addr: {address}\n",
            data.display()
        );
        if let Some(authority) = authority {
            let identity = authority.identity(address.ip());
            let (certificate, key) = (identity.certificate.display(), identity.key.display());
            let _ = writeln!(
                settings,
                "  tls:\n    certificate: {certificate}\n    key: {key}"
            );
        }
        let config = path(format!("{address}.yml"));
        std::fs::write(&config, settings).unwrap();
        let log = path(format!("{address}.log"));
        let mut program = Program::start("docker-registry", "docker-registry", log, |command| {
            command.arg("serve").arg(&config);
        });
        program.wait_until(|| std::net::TcpStream::connect(address).ok());
        let scheme = if authority.is_some() { "https" } else { "http" };
        Distribution {
            program,
            url: format!("{scheme}://{address}"),
            directory,
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
        self.put_image_as(repo, tag, image, OCI_MANIFEST).await;
    }

    /// An image whose manifest has this media type.
    pub async fn put_image_as(&self, repo: &str, tag: Option<&str>, image: &Image, kind: &str) {
        for blob in std::iter::once(&image.config).chain(&image.layers) {
            self.put_blob(repo, blob.clone()).await;
        }
        let reference = tag.unwrap_or(&image.digest);
        self.put_manifest(repo, reference, kind, image.manifest.clone())
            .await;
    }

    pub async fn put_index(&self, repo: &str, tag: &str, index: &Index) {
        for image in &index.images {
            self.put_image(repo, None, image).await;
        }
        self.put_manifest(repo, tag, OCI_INDEX, index.bytes.clone())
            .await;
    }

    pub async fn put_blob(&self, repo: &str, bytes: Bytes) {
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

    pub async fn put_manifest(&self, repo: &str, reference: &str, kind: &str, bytes: Bytes) {
        let target = format!("{}/v2/{repo}/manifests/{reference}", self.url);
        let headers = [("content-type", kind)];
        let stored = client::send(Method::PUT, &target, &headers, bytes)
            .await
            .unwrap();
        assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text());
    }
}
