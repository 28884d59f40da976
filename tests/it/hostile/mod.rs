//! Clients that mean harm: the right status or the end of their connection, bounded memory, nothing asked upstream,
//! nothing made on disk, and nothing of it felt by others.
//!
//! Targets of any bytes at all are in `any_request`, shares of clients in `fairness`, clients that are only slow or
//! silent in `connections`.

mod http1;
mod http2;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::client::{Ending, raw};
use crate::support::disk::{blobs, eventually, files};
use crate::support::{FakeRegistry, MIB, Mirror, MirrorConfig, plain};

const PATIENCE: Duration = Duration::from_secs(30);

/// A mirror that has one blob, and all that was on its disk and asked of upstream when the harm began.
struct Scene {
    registry: FakeRegistry,
    mirror: Mirror,
    digest: String,
    asked: usize,
    stored: BTreeSet<PathBuf>,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(plain).await
    }

    async fn with(change: impl FnOnce(MirrorConfig) -> MirrorConfig) -> Scene {
        let registry = FakeRegistry::start().await;
        let mirror = Mirror::start(change(MirrorConfig::for_upstream(&registry)));
        let digest = registry.put_generated_blob("a/b", 1, 8 * MIB);
        mirror.pull_blob("a/b", &digest).await;
        let store = mirror.store_path();
        eventually("the commit", || {
            blobs(&store).contains(&digest) && files(&store.join("ingest")).is_empty()
        });
        let (asked, stored) = (registry.requests().len(), on_disk(&mirror));
        Scene {
            registry,
            mirror,
            digest,
            asked,
            stored,
        }
    }

    /// What comes back for these bytes; the connection must come to an end.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> String {
        let (answer, ending) = raw(self.mirror.authority(), &bytes, PATIENCE).await;
        let asked = String::from_utf8_lossy(bytes.as_ref());
        let asked: String = asked.chars().take(200).collect();
        assert_ne!(ending, Ending::Silent, "{asked:?}");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The status of the answer; 0 for none.
    async fn status(&self, bytes: impl AsRef<[u8]>) -> u16 {
        let answer = self.ask(bytes).await;
        let status = answer.get(9..12).and_then(|status| status.parse().ok());
        status.unwrap_or(0)
    }

    async fn assert_served(&self) {
        self.mirror.pull_blob("a/b", &self.digest).await;
    }

    /// Others are served, and nothing is left of it all.
    async fn assert_unharmed(&self) {
        self.assert_served().await;
        assert!(!self.mirror.output().contains("panicked"));
        let seen = self.registry.requests();
        assert_eq!(seen.len(), self.asked, "{:?}", seen.last());
        assert_eq!(on_disk(&self.mirror), self.stored);
    }
}

/// All files near the store: of the mirror's directory, not of the store alone, since a path may climb.
fn on_disk(mirror: &Mirror) -> BTreeSet<PathBuf> {
    let above = mirror.store_path().parent().unwrap().to_owned();
    files(&above).into_iter().collect()
}
