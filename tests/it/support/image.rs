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

/// A POSIX tar file: directories (names ending in `/`), regular files, and symbolic links (`target` in `link`).
#[derive(Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    #[must_use]
    pub fn directory(mut self, name: &str) -> Tar {
        self.header(name, 0o755, 0, b'5', "");
        self
    }

    #[must_use]
    pub fn file(mut self, name: &str, mode: u32, content: &[u8]) -> Tar {
        self.header(name, mode, content.len(), b'0', "");
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    #[must_use]
    pub fn link(mut self, name: &str, target: &str) -> Tar {
        self.header(name, 0o777, 0, b'2', target);
        self
    }

    pub fn finish(mut self) -> Bytes {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes.into()
    }

    /// IEEE 1003.1 pax(1), "ustar interchange format".
    fn header(&mut self, name: &str, mode: u32, size: usize, kind: u8, target: &str) {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{size:011o}\0{:011o}\0        ", 0).as_bytes());
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
    }
}
