use std::time::SystemTime;

use bytes::Bytes;

use super::*;
use crate::memory::{self, Memory};
use crate::metrics::Metrics;
use crate::oci::digest::Digest;
use crate::oci::name::Reference;
use crate::store::disk::Disk;
use crate::store::records::{Durability, StoredManifest};
use crate::store::room::usage::{Amount, cost};

/// A mirror was killed and started. What arrived before the files were counted was in memory only, and not seen: its
/// blobs were evicted though their image is pinned.
#[tokio::test]
async fn a_manifest_that_arrives_while_the_store_is_counted_has_its_blobs_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let disk = Disk::open(folder.path().to_path_buf(), 0, metrics).unwrap();
    let memory = Memory::new(memory::Settings {
        buffered: 1 << 20,
        manifest: 1 << 20,
    });
    // No scan is started here, so it goes on all the time.
    let room = Room::new(
        disk,
        Amount {
            bytes: 1 << 30,
            files: 1000,
        },
        &[],
    );
    let records = Records::new(&room, &memory);
    let images = Images::load(&records, &room).unwrap();
    let told = Arc::clone(&images);
    records.written.set(move |name| told.follow(name));

    let layer = Digest::of(b"a layer");
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{layer}","size":7}},"layers":[]}}"#
    );
    let manifest = StoredManifest {
        digest: Digest::of(text.as_bytes()),
        media_type: "application/vnd.oci.image.manifest.v1+json".into(),
        bytes: Bytes::from(text.clone()),
        fetched_at: SystemTime::now(),
    };
    let name = QualifiedName::new("docker.io".parse().unwrap(), "a/b".parse().unwrap());
    let image = Image {
        name: name.clone(),
        reference: Reference::Digest(manifest.digest.clone()),
    };
    images.pin(image).await.unwrap();
    assert_eq!(images.pins().await.wanted, cost(0));
    records
        .put_manifest(&name, manifest, Durability::Behind)
        .await;
    let of_both = cost(text.len() as u64) + cost(7);
    assert_eq!(images.pins().await.wanted, of_both);
}
