//! What most tests begin with: a registry with one blob or image, a mirror in front of it, and what clients do with it.
//!
//! `cold` is what only the registry has, `stored` is what the mirror has as well; what was asked of the registry to get
//! it there is forgotten. The blob, or the image under [`TAG`], is in [`REPO`].

use http::StatusCode;

use super::client::{self, Response, download};
use super::disk::{blobs, eventually, files};
use super::registry::Builder;
use super::{FakeRegistry, Image, Index, Mirror, MirrorConfig};

pub const REPO: &str = "a/b";
pub const TAG: &str = "1.0";
pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * KIB;

/// A small image; another seed is another image.
pub fn image(seed: u64) -> Image {
    Image::random(seed, &[1000])
}

/// No change to a configuration.
pub fn plain(config: MirrorConfig) -> MirrorConfig {
    config
}

/// A registry that has nothing, and a mirror of it.
pub fn start() -> (FakeRegistry, Mirror) {
    start_with(plain)
}

pub fn start_with(change: impl FnOnce(MirrorConfig) -> MirrorConfig) -> (FakeRegistry, Mirror) {
    let registry = FakeRegistry::builder().start_now();
    let mirror = Mirror::start(change(MirrorConfig::for_upstream(&registry)));
    (registry, mirror)
}

/// A registry that has an image, tagged.
pub fn registry_with(builder: Builder, image: &Image) -> FakeRegistry {
    let registry = builder.start_now();
    registry.put_image(REPO, Some(TAG), image);
    registry
}

pub fn cold_image(
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Mirror, Image) {
    let (registry, mirror) = start_with(change);
    registry.put_image(REPO, Some(TAG), &image(1));
    (registry, mirror, image(1))
}

/// An index over two images.
pub fn cold_index() -> (FakeRegistry, Mirror, Index) {
    let (registry, mirror) = start();
    let index = Index::of(&[Image::random(1, &[50_000]), Image::random(2, &[100])]);
    registry.put_index(REPO, Some(TAG), &index);
    (registry, mirror, index)
}

/// Of a large and a small layer; its tag stays fresh.
pub async fn stored_image(
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Mirror, Image) {
    let (registry, mirror) = start_with(|config| change(config.tag_ttl("1h")));
    let image = Image::random(1, &[3_000_000, 50_000]);
    registry.put_image(REPO, Some(TAG), &image);
    mirror.pull(REPO, TAG, &image).await;
    mirror.wait_until_stored(&image.blobs());
    registry.reset_counts();
    (registry, mirror, image)
}

pub fn cold_blob(
    size: u64,
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Mirror, String) {
    let (registry, mirror) = start_with(change);
    let digest = registry.put_generated_blob(REPO, 1, size);
    (registry, mirror, digest)
}

pub async fn stored_blob(
    size: u64,
    change: impl FnOnce(MirrorConfig) -> MirrorConfig,
) -> (FakeRegistry, Mirror, String) {
    let (registry, mirror, digest) = cold_blob(size, change);
    mirror.store_blob(REPO, &digest).await;
    registry.reset_counts();
    (registry, mirror, digest)
}

impl Mirror {
    /// GET of a path.
    pub async fn get(&self, path: &str) -> Response {
        let url = format!("{}{path}", self.url());
        client::get(&url, &[]).await.unwrap()
    }

    /// The status of `/readyz`.
    pub async fn ready(&self) -> StatusCode {
        let url = format!("{}/readyz", self.admin_url());
        client::get(&url, &[]).await.unwrap().status
    }

    pub async fn manifest(&self, repo: &str, reference: &str) -> Response {
        let url = self.manifest_url(repo, reference);
        client::get(&url, &[]).await.unwrap()
    }

    pub async fn head(&self, repo: &str, reference: &str) -> Response {
        let url = self.manifest_url(repo, reference);
        client::head(&url, &[]).await.unwrap()
    }

    /// Every byte is checked.
    pub async fn pull_blob(&self, repo: &str, digest: &str) {
        let url = self.blob_url(repo, digest);
        download(&url, &[]).await.unwrap().assert_is(digest);
    }

    pub async fn pull_blobs(&self, repo: &str, image: &Image) {
        for digest in image.blobs() {
            self.pull_blob(repo, &digest).await;
        }
    }

    /// The manifest, by tag or digest, and all blobs that it names.
    pub async fn pull(&self, repo: &str, reference: &str, image: &Image) {
        let answer = self.manifest(repo, reference).await;
        let words = answer.text();
        assert_eq!(answer.status, 200, "{repo}, {reference}: {words}");
        assert_eq!(answer.body, image.manifest);
        self.pull_blobs(repo, image).await;
    }

    /// Pulls a blob, and waits until the next pull of it is a hit: its bytes are complete a moment before.
    pub async fn store_blob(&self, repo: &str, digest: &str) {
        self.pull_blob(repo, digest).await;
        self.wait_until_stored(&[digest]);
    }

    /// Nothing is being written any more: what is done to the store now disturbs no transfer.
    pub async fn wait_until_at_rest(&self) {
        let fills = "pierglass_fills_in_flight";
        while self
            .metric(fills, &[])
            .await
            .is_some_and(|fills| fills > 0.0)
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    pub fn wait_until_stored(&self, digests: &[impl AsRef<str>]) {
        let store = self.store_path();
        eventually("the commit", || {
            let stored = blobs(&store);
            digests
                .iter()
                .all(|digest| stored.contains(digest.as_ref()))
        });
        // And whose they are, which is written down beside the commit.
        let records = self.store_path().join("repositories");
        eventually("the word of their repository", || {
            let lists = files(&records)
                .into_iter()
                .filter(|path| path.ends_with("blobs"));
            let lists = lists.filter_map(|path| std::fs::read(path).ok());
            let all: String = lists
                .map(|list| String::from_utf8_lossy(&list).into_owned())
                .collect();
            let proven = |digest: &str| {
                let mut lines = all.lines().filter(|line| line.starts_with(digest));
                lines.any(|line| line.contains(" proven"))
            };
            digests.iter().all(|digest| proven(digest.as_ref()))
        });
    }
}
