//! What is served: blobs and manifests, laid out as docker-registry stores them and as nginx serves them.
//!
//! Both are the same files, by hard links: the page cache holds them once.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::Plan;
use crate::loopback::free_port;
use crate::peers::Peer;

/// The repository that all of it is in.
pub const REPOSITORY: &str = "bench/image";
pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const MIB: u64 = 1024 * 1024;

/// Something with a digest.
#[derive(Clone, Debug)]
pub struct Blob {
    pub digest: String,
    pub size: u64,
}

impl Blob {
    pub fn path(&self) -> String {
        format!("/v2/{REPOSITORY}/blobs/{}", self.digest)
    }
}

/// A manifest, its tag, and the blobs it names.
#[derive(Clone, Debug)]
pub struct Image {
    pub tag: String,
    pub manifest: Blob,
    pub blobs: Vec<Blob>,
}

impl Image {
    pub fn by_tag(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.tag)
    }

    pub fn by_digest(&self) -> String {
        format!("/v2/{REPOSITORY}/manifests/{}", self.manifest.digest)
    }
}

/// The files, and the registry that has them.
pub struct Fixture {
    directory: TempDir,
    /// One large blob.
    pub large: Image,
    /// A blob for herds.
    pub herd: Image,
    /// 4 KiB, 64 KiB, 1 MiB, 10 MiB, 100 MiB.
    pub sizes: Image,
    /// What a CI system pulls.
    pub images: Vec<Image>,
    /// Small ones, a thousand.
    pub many: Vec<Image>,
    pub registry: Peer,
    /// Where it tells what it was asked for.
    counts: SocketAddr,
}

impl Fixture {
    pub fn build(plan: &Plan) -> Fixture {
        eprintln!("making what is to be served");
        let directory = TempDir::with_prefix_in("bench-", env!("CARGO_TARGET_TMPDIR")).unwrap();
        // With less, what is measured would pass through Pierglass and not be stored.
        let free = rustix::fs::statvfs(directory.path()).unwrap();
        let free = free.f_bavail * free.f_frsize / MIB;
        let needed = plan.pick(8, 24) * 1024;
        assert!(
            free >= needed,
            "{needed} MiB of disk are needed, {free} are free"
        );
        let mut files = Files::new(directory.path());
        let large = files.image("large", &[plan.pick(256, 1024) * MIB]);
        let herd = files.image("herd", &[plan.pick(64, 256) * MIB]);
        let sizes = files.image("sizes", &[4 * 1024, 64 * 1024, MIB, 10 * MIB, 100 * MIB]);
        let layers = plan.pick(
            [64 * 1024, MIB / 4, MIB, 2 * MIB],
            [MIB / 16, MIB, 4 * MIB, 16 * MIB],
        );
        let images = (0..20)
            .map(|number| files.image(&format!("ci-{number}"), &layers))
            .collect();
        let many = (0..1000)
            .map(|number| files.image(&format!("small-{number}"), &[]))
            .collect();
        let counts = free_port();
        let registry = registry(directory.path(), counts);
        Fixture {
            directory,
            large,
            herd,
            sizes,
            images,
            many,
            registry,
            counts,
        }
    }

    /// How many GETs of blobs the registry has answered so far.
    pub fn blob_gets(&self) -> f64 {
        let mut stream = TcpStream::connect(self.counts).unwrap();
        let request = b"GET /metrics HTTP/1.0\r\n\r\n";
        stream.write_all(request).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let name = r#"registry_http_request_duration_seconds_count{handler="blob",method="get"} "#;
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// Where nginx finds `/v2/...`.
    pub fn static_root(&self) -> PathBuf {
        self.directory.path().join("static")
    }

    /// A new directory on the same file system; gone when dropped.
    pub fn scratch(&self) -> TempDir {
        TempDir::with_prefix_in("peer-", self.directory.path()).unwrap()
    }
}

fn registry(directory: &Path, counts: SocketAddr) -> Peer {
    let address = free_port();
    let config = directory.join("registry.yml");
    let data = directory.join("data");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
         rootdirectory: {}\nhttp:\n  addr: {address}\n  debug:\n    addr: {counts}\n    prometheus:\n      enabled: true\n      path: /metrics\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    Peer::start("docker-registry", address, command, directory)
}

struct Files {
    data: PathBuf,
    served: PathBuf,
    seed: u64,
}

impl Files {
    fn new(directory: &Path) -> Files {
        Files {
            data: directory.join("data/docker/registry/v2"),
            served: directory.join("static/v2").join(REPOSITORY),
            seed: 0x9e37_79b9_7f4a_7c15,
        }
    }

    fn image(&mut self, tag: &str, layers: &[u64]) -> Image {
        let config = self.blob(1500);
        let layers: Vec<_> = layers.iter().map(|size| self.blob(*size)).collect();
        let describe = |blob: &Blob, kind: &str| {
            serde_json::json!({
                "mediaType": format!("application/vnd.oci.image.{kind}"),
                "digest": blob.digest, "size": blob.size
            })
        };
        let named: Vec<_> = layers
            .iter()
            .map(|blob| describe(blob, "layer.v1.tar"))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": describe(&config, "config.v1+json"), "layers": named,
            // Real ones are a few KiB.
            "annotations": {"org.example.filling": "x".repeat(1200)}
        });
        let manifest = manifest.to_string();
        let blob = self.keep(|file| file.write_all(manifest.as_bytes()));
        let link = blob.digest.as_bytes();
        let hex = hex(&blob.digest);
        let manifests = self.repository().join("_manifests");
        write(
            &manifests.join("revisions/sha256").join(hex).join("link"),
            link,
        );
        write(&manifests.join("tags").join(tag).join("current/link"), link);
        for reference in [tag, &blob.digest] {
            self.serve(&blob, &format!("manifests/{reference}"));
        }
        let blobs = std::iter::once(config).chain(layers).collect();
        Image {
            tag: tag.to_owned(),
            manifest: blob,
            blobs,
        }
    }

    fn blob(&mut self, size: u64) -> Blob {
        let mut random = self.seed;
        let blob = self.keep(|file| {
            let mut left = size as usize;
            let mut block = vec![0; 1024 * 1024];
            while left > 0 {
                for word in block.chunks_exact_mut(8) {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    word.copy_from_slice(&random.to_le_bytes());
                }
                let count = left.min(block.len());
                file.write_all(&block[..count])?;
                left -= count;
            }
            Ok(())
        });
        self.seed = random.wrapping_add(1);
        write(
            &self
                .repository()
                .join("_layers/sha256")
                .join(hex(&blob.digest))
                .join("link"),
            blob.digest.as_bytes(),
        );
        self.serve(&blob, &format!("blobs/{}", blob.digest));
        blob
    }

    fn keep(&self, fill: impl FnOnce(&mut Hashing) -> std::io::Result<()>) -> Blob {
        let temporary = self.data.join("new");
        fs::create_dir_all(&self.data).unwrap();
        let mut file = Hashing {
            file: File::create(&temporary).unwrap(),
            hash: Sha256::new(),
            size: 0,
        };
        fill(&mut file).unwrap();
        let hash = file.hash.finalize();
        let digest = hash.iter().fold("sha256:".to_owned(), |text, byte| {
            format!("{text}{byte:02x}")
        });
        let blob = Blob {
            digest,
            size: file.size,
        };
        let path = self.stored(&blob);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::rename(temporary, path).unwrap();
        blob
    }

    fn stored(&self, blob: &Blob) -> PathBuf {
        let hex = hex(&blob.digest);
        self.data
            .join("blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    fn repository(&self) -> PathBuf {
        self.data.join("repositories").join(REPOSITORY)
    }

    fn serve(&self, blob: &Blob, name: &str) {
        let path = self.served.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::hard_link(self.stored(blob), path).unwrap();
    }
}

struct Hashing {
    file: File,
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}
