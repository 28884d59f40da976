//! Images that are valid: digests, sizes and `diff_ids` agree.

use bytes::Bytes;
use serde_json::json;

use super::content::{Content, digest_of};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const OCI_GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// An image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    pub config: Bytes,
    pub layers: Vec<Bytes>,
    pub manifest: Bytes,
    /// The manifest's digest.
    pub digest: String,
    pub architecture: String,
}

impl Image {
    /// An image whose layers are noise of these sizes; nothing can run it.
    pub fn random(seed: u64, layer_sizes: &[usize]) -> Image {
        let noise = |(number, size): (usize, &usize)| {
            let content = Content::generated(seed.wrapping_mul(1000) + number as u64, *size as u64);
            Bytes::from(content.read(0, *size))
        };
        Image::of_layers(
            "amd64",
            layer_sizes.iter().enumerate().map(noise).collect(),
            &["/bin/sh"],
        )
    }

    /// An image whose layers are these uncompressed tar files.
    pub fn of_layers(architecture: &str, layers: Vec<Bytes>, command: &[&str]) -> Image {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
        Image::build(architecture, OCI_LAYER, layers, &diff_ids, command)
    }

    /// An image whose layers are these tar files, compressed; each comes as (tar, compressed tar).
    #[allow(dead_code, reason = "only tests/e2e runs images")]
    pub fn of_gzip_layers(
        architecture: &str,
        layers: Vec<(Bytes, Bytes)>,
        command: &[&str],
    ) -> Image {
        let (tars, compressed): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let diff_ids: Vec<_> = tars.iter().map(|tar| digest_of(tar)).collect();
        Image::build(architecture, OCI_GZIP_LAYER, compressed, &diff_ids, command)
    }

    fn build(
        architecture: &str,
        layer_type: &str,
        layers: Vec<Bytes>,
        diff_ids: &[String],
        command: &[&str],
    ) -> Image {
        let config = Bytes::from(
            json!({
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": command, "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
                "history": layers.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
            })
            .to_string(),
        );
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| descriptor(layer_type, layer))
            .collect();
        let manifest = Bytes::from(
            json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor(OCI_CONFIG, &config),
                "layers": descriptors,
            })
            .to_string(),
        );
        let digest = digest_of(&manifest);
        Image {
            config,
            layers,
            manifest,
            digest,
            architecture: architecture.into(),
        }
    }

    /// Digests of everything the manifest names.
    pub fn blobs(&self) -> Vec<String> {
        std::iter::once(&self.config)
            .chain(&self.layers)
            .map(|bytes| digest_of(bytes))
            .collect()
    }
}

/// An index over images of several platforms.
#[derive(Debug, Clone)]
pub struct Index {
    pub images: Vec<Image>,
    pub bytes: Bytes,
    pub digest: String,
}

impl Index {
    pub fn of(images: &[Image]) -> Index {
        let describe = |image: &Image| {
            let mut value = descriptor(OCI_MANIFEST, &image.manifest);
            value["platform"] = json!({"architecture": image.architecture, "os": "linux"});
            value
        };
        let manifests: Vec<_> = images.iter().map(describe).collect();
        let value = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let bytes = Bytes::from(value.to_string());
        Index {
            images: images.to_vec(),
            digest: digest_of(&bytes),
            bytes,
        }
    }
}

/// Media type, digest and size of some bytes.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest_of(bytes), "size": bytes.len()})
}
