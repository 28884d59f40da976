//! `cargo bench --bench parts`: what each step of a request costs by itself, in memory and warm.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a benchmark that cannot go on says why and ends"
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use divan::{Bencher, black_box};
use http::HeaderValue;
use pierglass::headers::range::{self, Parsed};
use pierglass::memory::{self, Memory};
use pierglass::metrics::Metrics;
use pierglass::oci::digest::Digest;
use pierglass::oci::endpoint::Route;
use pierglass::oci::manifest::Manifest;
use pierglass::oci::name::{QualifiedName, Tag};
use pierglass::store::records::{Durability, StoredManifest, TagRecord};
use pierglass::store::{Settings, Store};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const MIB: usize = 1024 * 1024;

fn main() {
    divan::main();
}

/// A path as containerd, dockerd and podman send it.
#[divan::bench(args = [
    "/v2/library/nginx/manifests/1.27",
    "/v2/library/nginx/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "/quay.io/v2/org/team/image/manifests/latest",
    "/v2/quay.io/org/team/image/manifests/latest",
])]
fn parse_endpoint(path: &str) {
    black_box(Route::parse(black_box(path), Some("ns=docker.io"))).unwrap();
}

#[divan::bench(args = [1, 16, 512])]
fn resolve_ranges(bencher: Bencher, count: u64) {
    let ranges = (0..count).map(|part| format!("{}-{}", part * 1000, part * 1000 + 99));
    let value = format!("bytes={}", ranges.collect::<Vec<_>>().join(","));
    let value = HeaderValue::from_str(&value).unwrap();
    bencher.bench(|| {
        let Parsed::Ranges(ranges) = range::parse(black_box(&value)) else {
            unreachable!("it is a range");
        };
        black_box(ranges.resolve(1_000_000));
    });
}

/// What is read of a manifest before it is kept.
#[divan::bench(args = [100])]
fn parse_manifest(bencher: Bencher, layers: u32) {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let list = descriptors(layers, "application/vnd.oci.image.layer.v1.tar+gzip", "");
    let config = descriptors(1, "application/vnd.oci.image.config.v1+json", "");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{list}]}}"#
    );
    bencher.bench(|| Manifest::parse(Some(media_type), black_box(text.as_bytes())).unwrap());
}

#[divan::bench(args = [2000])]
fn parse_index(bencher: Bencher, entries: u32) {
    let media_type = "application/vnd.oci.image.index.v1+json";
    let platform = r#","platform":{"architecture":"amd64","os":"linux"},"annotations":{"org.example":"value"}"#;
    let list = descriptors(
        entries,
        "application/vnd.oci.image.manifest.v1+json",
        platform,
    );
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","manifests":[{list}]}}"#);
    bencher.bench(|| Manifest::parse(Some(media_type), black_box(text.as_bytes())).unwrap());
}

fn descriptors(count: u32, media_type: &str, more: &str) -> String {
    let one = |number: u32| {
        let digest = Digest::of(&number.to_le_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{number}{more}}}"#)
    };
    (0..count).map(one).collect::<Vec<_>>().join(",")
}

/// A store in a directory that goes away, and what runs it.
struct Stored {
    runtime: Runtime,
    store: Arc<Store>,
    name: QualifiedName,
    _directory: TempDir,
}

impl Stored {
    fn new() -> Stored {
        let directory = TempDir::with_prefix_in("parts-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        let runtime = Runtime::new().unwrap();
        let settings = Settings {
            path: directory.path().to_path_buf(),
            max_size: 1 << 40,
            max_files: None,
            min_free: 0,
            scrub_rate: 0,
            scrub_every: Duration::from_secs(1),
            shares: Vec::new(),
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        let memory = Memory::new(memory::Settings {
            buffered: 1 << 30,
            manifest: 4 * MIB,
        });
        let store = Store::open(settings, &memory, metrics).unwrap();
        while !store.room().is_scanned() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
        Stored {
            runtime,
            store,
            name,
            _directory: directory,
        }
    }

    fn ingest(&self, digest: &Digest, bytes: &Bytes) {
        self.runtime.block_on(async {
            let (namespace, size) = (&self.name.namespace, Some(bytes.len() as u64));
            let begun = self
                .store
                .blobs()
                .ingest(namespace, digest, size, None)
                .await;
            let (mut ingest, _growing) = begun.unwrap();
            for place in (0..bytes.len()).step_by(MIB / 4) {
                let chunk = bytes.slice(place..bytes.len().min(place + MIB / 4));
                ingest.append(vec![chunk]).await.unwrap();
            }
            let verified = ingest.verify().unwrap();
            ingest.commit(verified).await.unwrap();
        });
    }
}

/// What a hit does first: open, stat, touch.
#[divan::bench]
fn look_up_blob(bencher: Bencher) {
    let stored = Stored::new();
    let bytes = Bytes::from_static(b"a blob");
    let digest = Digest::of(&bytes);
    stored.ingest(&digest, &bytes);
    bencher.bench_local(|| black_box(stored.store.blobs().open(black_box(&digest))).is_some());
}

#[divan::bench]
fn look_up_tag_and_manifest(bencher: Bencher) {
    let stored = Stored::new();
    let bytes = Bytes::from(vec![b' '; 2000]);
    let digest = Digest::of(&bytes);
    let tag: Tag = "1.27".parse().unwrap();
    let now = SystemTime::now();
    let manifest = StoredManifest {
        digest: digest.clone(),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        bytes,
        fetched_at: now,
    };
    let record = TagRecord {
        digest,
        media_type: manifest.media_type.clone(),
        size: 2000,
        read: true,
        checked_at: now,
        held: None,
    };
    let (store, name) = (&stored.store, &stored.name);
    stored.runtime.block_on(async {
        store
            .records()
            .put_manifest(name, manifest, Durability::Behind)
            .await;
        store
            .records()
            .put_tag(name, &tag, record, Durability::Behind)
            .await;
    });
    bencher.bench_local(|| {
        stored.runtime.block_on(async {
            let record = store.records().tag(name, &tag).await.unwrap();
            black_box(store.records().manifest(name, &record.digest).await).is_some()
        })
    });
}

/// Write, hash, verify, fsync, rename: all that becomes of a blob on its way in.
#[divan::bench(args = [1, 64], sample_count = 10, sample_size = 1)]
fn ingest(bencher: Bencher, mib: usize) {
    let stored = Stored::new();
    let mut number = 0_u64;
    let fresh = move || {
        number += 1;
        let mut bytes = vec![0; mib * MIB];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        let bytes = Bytes::from(bytes);
        (Digest::of(&bytes), bytes)
    };
    bencher
        .counter(divan::counter::BytesCount::new(mib * MIB))
        .with_inputs(fresh)
        .bench_local_values(|(digest, bytes)| stored.ingest(&digest, &bytes));
}
