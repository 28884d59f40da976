//! A blob that takes its time, an upstream that cuts it to pieces, and a mirror that dies in the middle: the same at
//! any size, small for quick tests and a gibibyte for the one that proves it.

use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use super::client::{self, download};
use super::content::hex;
use super::{FakeRegistry, Fault, Mirror, MirrorConfig, On, Redirect};

const REPO: &str = "acme/large";
const PATIENCE: Duration = Duration::from_secs(120);

/// The blob, and the registry that never sends more than a piece of it at a time.
#[derive(Debug)]
pub struct Large {
    pub registry: FakeRegistry,
    pub mirror: Mirror,
    pub digest: String,
    pub size: u64,
    piece: u64,
}

impl Large {
    pub async fn start(size: u64, piece: u64) -> Large {
        let registry = FakeRegistry::builder()
            .bearer(None)
            .redirect_blobs(Redirect::Absolute307)
            .start()
            .await;
        let digest = registry.put_generated_blob(REPO, size, size);
        registry.fault(On::blob().get().forever(), Fault::CutAfter(piece));
        let mirror = Mirror::start(MirrorConfig::for_upstream(&registry));
        Large {
            registry,
            mirror,
            digest,
            size,
            piece,
        }
    }

    pub fn url(&self) -> String {
        self.mirror.blob_url(REPO, &self.digest)
    }

    /// Upstream's bytes as a part of the blob's.
    pub fn cost(&self) -> f64 {
        self.registry.counts().bytes_sent as f64 / self.size as f64
    }

    /// One client gets all of it, once.
    pub async fn arrives_whole(&self) {
        download(&self.url(), &[])
            .await
            .unwrap()
            .assert_is(&self.digest);
        let requests = self.registry.counts().blob_host_gets;
        assert!(requests >= self.size / self.piece, "{requests} pieces");
        assert!(self.cost() <= 1.05, "{} times the blob", self.cost());
    }

    /// The mirror is killed with half of it on disk. Returns what the client had of it.
    pub async fn dies_half_way(&mut self) -> Half {
        // Slow enough that half is half.
        self.registry.set_rate((self.size / 4).max(8 << 20));
        let url = self.url();
        let client = tokio::spawn(async move { Half::default().read(&url).await });
        let deadline = Instant::now() + PATIENCE;
        while self.cost() < 0.5 {
            assert!(Instant::now() < deadline, "half of it never comes");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.mirror.kill9();
        let half = client.await.unwrap();
        assert!(half.broke, "a body that ended cleanly half-way");
        assert!(half.bytes > self.size / 4 && half.bytes < self.size);
        self.mirror.restart();
        self.registry.set_rate(0);
        half
    }
}

/// What a client has of a blob so far.
#[derive(Debug, Default)]
pub struct Half {
    hasher: Sha256,
    pub bytes: u64,
    pub broke: bool,
}

impl Half {
    /// Reads on from where it is.
    pub async fn read(mut self, url: &str) -> Half {
        let range = format!("bytes={}-", self.bytes);
        let headers: &[_] = match self.bytes {
            0 => &[],
            _ => &[("range", range.as_str())],
        };
        let (head, mut body) = client::open(url, headers).await.unwrap();
        let expected = if headers.is_empty() { 200 } else { 206 };
        assert_eq!(head.status.as_u16(), expected);
        self.broke = false;
        while let Some(frame) = client::patiently(body.frame()).await.unwrap() {
            let Ok(frame) = frame else {
                self.broke = true;
                break;
            };
            if let Ok(data) = frame.into_data() {
                self.hasher.update(&data);
                self.bytes += data.len() as u64;
            }
        }
        self
    }

    pub fn digest(self) -> String {
        format!("sha256:{}", hex(&self.hasher.finalize()))
    }
}
