//! What there is to pull: three registries of different manners, images that share layers, tags that move.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::dice::Dice;
use crate::support::content::Content;
use crate::support::image::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, descriptor};
use crate::support::{FakeRegistry, Redirect, digest_of, generated_digest};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const BLOBS: u64 = 48;
/// Larger than the store, so it can only pass through.
const GIANT: u64 = 18 * MIB;

/// Bytes that every registry has, each in the repositories that name them.
#[derive(Debug, Clone)]
pub struct Blob {
    pub digest: String,
    pub content: Content,
}

/// A manifest or an index.
#[derive(Debug)]
pub struct Manifest {
    pub digest: String,
    pub bytes: Vec<u8>,
    pub blobs: Vec<Blob>,
    /// Digests of an index' manifests.
    pub children: Vec<String>,
}

#[derive(Debug)]
pub struct Repo {
    pub registry: usize,
    /// As upstream calls it.
    pub name: String,
    /// As clients call it.
    pub path: String,
    pub manifests: Vec<Manifest>,
    pub tags: Vec<String>,
}

impl Repo {
    pub fn manifest(&self, digest: &str) -> Option<&Manifest> {
        self.manifests
            .iter()
            .find(|manifest| manifest.digest == digest)
    }
}

/// Where tags point, and where they ever did.
type History = HashMap<(String, String), BTreeSet<String>>;

#[derive(Debug)]
pub struct World {
    pub registries: [FakeRegistry; 3],
    pub repos: Vec<Repo>,
    history: Mutex<History>,
}

impl World {
    pub fn start(seed: u64) -> World {
        let mut dice = Dice::of(seed);
        let registries = [
            FakeRegistry::builder()
                .bearer(None)
                .redirect_blobs(Redirect::Absolute307)
                .start_now(),
            FakeRegistry::builder().start_now(),
            FakeRegistry::builder()
                .bearer(None)
                .redirect_blobs(Redirect::Relative)
                .start_now(),
        ];
        let pool: Vec<_> = (0..BLOBS)
            .map(|number| {
                let size = match number % 3 {
                    0 => dice.between(1, 16 * KIB),
                    1 => dice.between(16 * KIB, 512 * KIB),
                    _ => dice.between(512 * KIB, 4 * MIB),
                };
                blob(seed.wrapping_add(number), size)
            })
            .collect();
        let mut world = World {
            registries,
            repos: Vec::new(),
            history: Mutex::default(),
        };
        for number in 0..8 {
            let repo = world.repo(number, &pool, &mut dice);
            world.repos.push(repo);
        }
        world
    }

    fn repo(&self, number: usize, pool: &[Blob], dice: &mut Dice) -> Repo {
        let registry = number % 3;
        let name = format!("acme/app{number}");
        let prefix = ["", "quay.io/", "ghcr.io/"][registry];
        let mut repo = Repo {
            registry,
            path: format!("{prefix}{name}"),
            name,
            manifests: Vec::new(),
            tags: (0..3).map(|tag| format!("t{tag}")).collect(),
        };
        for image in 0..4 {
            let mut layers: Vec<_> = (0..dice.between(1, 5))
                .map(|_| dice.pick(pool).clone())
                .collect();
            if number == 0 && image == 0 {
                layers.push(blob(dice.below(u64::MAX), GIANT));
            }
            let manifest = self.image(&repo, &format!("{number}/{image}"), layers);
            repo.manifests.push(manifest);
        }
        if number.is_multiple_of(2) {
            let index = self.index(&repo);
            repo.manifests.push(index);
        }
        for tag in &repo.tags {
            self.point(&repo, tag, &dice.pick(&repo.manifests).digest);
        }
        repo
    }

    fn image(&self, repo: &Repo, mark: &str, layers: Vec<Blob>) -> Manifest {
        let registry = &self.registries[repo.registry];
        let config = json!({"architecture": "amd64", "os": "linux", "mark": mark}).to_string();
        let describe = |blob: &Blob| json!({"mediaType": OCI_LAYER, "digest": blob.digest, "size": blob.content.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, config.as_bytes()),
            "layers": layers.iter().map(describe).collect::<Vec<Value>>(),
        });
        let config = Blob {
            digest: digest_of(config.as_bytes()),
            content: Content::from(config),
        };
        let blobs: Vec<_> = std::iter::once(config).chain(layers).collect();
        for blob in &blobs {
            registry.insert_blob(&repo.name, &blob.digest, blob.content.clone());
        }
        let bytes = manifest.to_string().into_bytes();
        let digest = registry.put_manifest(&repo.name, None, OCI_MANIFEST, bytes.clone());
        Manifest {
            digest,
            bytes,
            blobs,
            children: Vec::new(),
        }
    }

    /// An index over all images of a repository.
    fn index(&self, repo: &Repo) -> Manifest {
        let children: Vec<_> = repo
            .manifests
            .iter()
            .map(|manifest| manifest.digest.clone())
            .collect();
        let manifests: Vec<_> = repo
            .manifests
            .iter()
            .zip(["amd64", "arm64", "s390x", "riscv64"])
            .map(|(manifest, architecture)| {
                let mut value = descriptor(OCI_MANIFEST, &manifest.bytes);
                value["platform"] = json!({"architecture": architecture, "os": "linux"});
                value
            })
            .collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let bytes = index.to_string().into_bytes();
        let registry = &self.registries[repo.registry];
        let digest = registry.put_manifest(&repo.name, None, OCI_INDEX, bytes.clone());
        Manifest {
            digest,
            bytes,
            blobs: Vec::new(),
            children,
        }
    }

    /// Lets a tag point to a manifest, from now on. Noted first: a client may see it at once.
    pub fn point(&self, repo: &Repo, tag: &str, digest: &str) {
        let key = (repo.path.clone(), tag.to_owned());
        let mut history = self.history.lock().unwrap();
        history.entry(key).or_default().insert(digest.to_owned());
        self.registries[repo.registry].tag(&repo.name, tag, digest);
    }

    pub fn ever_pointed(&self, repo: &Repo, tag: &str, digest: &str) -> bool {
        let key = (repo.path.clone(), tag.to_owned());
        self.history
            .lock()
            .unwrap()
            .get(&key)
            .is_some_and(|digests| digests.contains(digest))
    }
}

fn blob(seed: u64, size: u64) -> Blob {
    Blob {
        digest: generated_digest(seed, size),
        content: Content::generated(seed, size),
    }
}
