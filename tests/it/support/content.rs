//! What the fake registry holds: blobs and manifests per repository, and tags.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 64 * 1024;

/// `sha256:...` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that can be read at any offset; generated ones take no memory whatever their size.
#[derive(Debug, Clone)]
pub enum Content {
    Stored(Bytes),
    Generated { base: Arc<[u8; BLOCK]>, size: u64 },
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Content::Stored(text.into())
    }
}

impl Content {
    /// Noise that depends on `seed` only: a block of it, repeated, with the block's number stamped on its head.
    pub fn generated(seed: u64, size: u64) -> Content {
        let mut base = [0_u8; BLOCK];
        let mut state = seed
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(0x1234_5678_9abc_def1);
        for word in base.as_chunks_mut::<8>().0 {
            *word = split_mix(&mut state).to_le_bytes();
        }
        Content::Generated {
            base: Arc::new(base),
            size,
        }
    }

    pub fn len(&self) -> u64 {
        match self {
            Content::Stored(bytes) => bytes.len() as u64,
            Content::Generated { size, .. } => *size,
        }
    }

    /// `len` bytes from `offset`; zeros past the end.
    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut out = match self {
            Content::Stored(bytes) => {
                let start = usize::try_from(offset)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                bytes[start..start.saturating_add(len).min(bytes.len())].to_vec()
            }
            Content::Generated { base, size } => {
                let wanted = usize::try_from(size.saturating_sub(offset))
                    .unwrap_or(usize::MAX)
                    .min(len);
                generated_bytes(base, offset, wanted)
            }
        };
        out.resize(len, 0);
        out
    }

    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        let mut offset = 0;
        while offset < self.len() {
            let piece = (self.len() - offset).min(1024 * 1024);
            hasher.update(self.read(offset, usize::try_from(piece).unwrap()));
            offset += piece;
        }
        format!("sha256:{}", hex(&hasher.finalize()))
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn generated_bytes(base: &[u8; BLOCK], offset: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + BLOCK);
    let block = BLOCK as u64;
    let skip = usize::try_from(offset % block).unwrap();
    let mut number = offset / block;
    while out.len() < skip + len {
        let head = out.len();
        out.extend_from_slice(base);
        for (byte, stamp) in out[head..].iter_mut().zip(number.to_le_bytes()) {
            *byte ^= stamp;
        }
        number += 1;
    }
    out.truncate(skip + len);
    out.drain(..skip);
    out
}

/// The digest of generated content; computed once per process, because a gibibyte takes seconds.
pub fn generated_digest(seed: u64, size: u64) -> String {
    type Known = Mutex<HashMap<(u64, u64), Arc<OnceLock<String>>>>;
    static KNOWN: LazyLock<Known> = LazyLock::new(Mutex::default);
    let cell = KNOWN
        .lock()
        .unwrap()
        .entry((seed, size))
        .or_default()
        .clone();
    cell.get_or_init(|| Content::generated(seed, size).digest())
        .clone()
}

/// A manifest: its media type and bytes.
#[derive(Debug, Clone)]
pub struct Manifest {
    pub media_type: String,
    pub bytes: Bytes,
}

/// One repository. A blob of another repository is not here.
#[derive(Debug, Default)]
pub struct Repository {
    pub blobs: HashMap<String, Content>,
    pub manifests: BTreeMap<String, Manifest>,
    pub tags: BTreeMap<String, String>,
}

impl Repository {
    /// A manifest and its digest, by tag or digest.
    pub fn manifest(&self, reference: &str) -> Option<(String, Manifest)> {
        let digest = self.tags.get(reference).map_or(reference, String::as_str);
        self.manifests
            .get(digest)
            .map(|manifest| (digest.to_owned(), manifest.clone()))
    }

    /// Descriptors of the manifests whose subject is `digest`.
    pub fn referrers(&self, digest: &str) -> Vec<serde_json::Value> {
        let describe = |(own, manifest): (&String, &Manifest)| {
            let value: serde_json::Value = serde_json::from_slice(&manifest.bytes).ok()?;
            (value["subject"]["digest"] == digest).then_some(())?;
            let artifact = [&value["artifactType"], &value["config"]["mediaType"]];
            Some(serde_json::json!({
                "mediaType": manifest.media_type,
                "digest": own,
                "size": manifest.bytes.len(),
                "artifactType": artifact.into_iter().find_map(|kind| kind.as_str()),
                "annotations": value.get("annotations"),
            }))
        };
        self.manifests.iter().filter_map(describe).collect()
    }
}
