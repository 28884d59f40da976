//! A client that works at a registry must never fail at its mirror, nor get anything else there.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::authority::{Authority, Identity};
use crate::busybox;
use crate::distribution::Distribution;
use crate::fence::Fence;
use crate::programs::{run, text};
use crate::support::content::digest_of;
use crate::support::image::{
    DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_GZIP_LAYER, OCI_INDEX, OCI_MANIFEST,
};
use crate::support::loopback::free_port;
use crate::support::{Image, Index, Mirror, MirrorConfig};

/// Of two parts: clients write the slash in more than one way.
pub const REPO: &str = "acme/app";

/// The reference registry and a mirror of it, and nothing else that a client could reach.
#[derive(Debug)]
pub struct BothWays {
    /// Where images are pushed to.
    pub registry: Distribution,
    /// Where they are pulled from, if it is another one.
    with_tls: Option<Distribution>,
    _mirror: Mirror,
    /// Of the registry and of the mirror.
    urls: [String; 2],
    authority: Option<Authority>,
    fence: Fence,
    home: TempDir,
}

impl BothWays {
    pub fn http() -> BothWays {
        let registry = Distribution::start();
        let config = MirrorConfig::for_url(&registry.url());
        let mirror = Mirror::start(config.asking_each_time());
        let urls = [registry.url(), mirror.url()];
        BothWays::of(registry, None, mirror, urls, None)
    }

    /// With TLS at both, for clients that know nothing else.
    pub fn https() -> BothWays {
        let authority = Authority::new();
        let registry = Distribution::start();
        let with_tls = registry.with_tls(&authority);
        let listen = free_port();
        let Identity { certificate, key } = authority.identity(listen.ip());
        let config = MirrorConfig::for_url(&with_tls.url()).toml(&format!(
            "ca_file = {:?}\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}",
            authority.certificate()
        ));
        let mirror = Mirror::start_at(config.asking_each_time(), &listen.to_string());
        let urls = [with_tls.url(), format!("https://{listen}")];
        BothWays::of(registry, Some(with_tls), mirror, urls, Some(authority))
    }

    fn of(
        registry: Distribution,
        with_tls: Option<Distribution>,
        mirror: Mirror,
        urls: [String; 2],
        authority: Option<Authority>,
    ) -> BothWays {
        BothWays {
            registry,
            with_tls,
            _mirror: mirror,
            urls,
            authority,
            fence: Fence::start(),
            home: TempDir::with_prefix("pg-").unwrap(),
        }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Runs the client at the registry, where it must see `expected`; then at the mirror, which has nothing yet; then
    /// there without the registry. `client` is given the URL, and returns what it saw.
    #[track_caller]
    pub fn assert_same(mut self, expected: &[String], client: impl Fn(&BothWays, &str) -> String) {
        let [registry, mirror] = self.urls.clone();
        let assert_at = |both: &BothWays, place, url| {
            let seen = client(both, url);
            assert_eq!(seen.lines().collect::<Vec<_>>(), expected, "{place}");
        };
        assert_at(&self, "at the registry", &registry);
        assert_at(&self, "at the mirror", &mirror);
        self.registry.stop();
        if let Some(registry) = &mut self.with_tls {
            registry.stop();
        }
        assert_at(&self, "at the mirror, without the registry", &mirror);
        assert_eq!(self.fence.seen(), Vec::<String>::new());
    }

    /// Runs a program with an environment of its own, which must succeed; its standard output.
    #[track_caller]
    pub fn run(&self, name: &str, package: &str, prepare: impl FnOnce(&mut Command)) -> String {
        let output = run(name, package, |command| {
            command
                .env_clear()
                .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                .env("HOME", self.home.path())
                .env("USER", "root")
                .envs(self.fence.environment());
            // Many of these clients know single addresses here, and no networks.
            let hosts = self.urls.each_ref().map(|url| {
                let address = url.rsplit('/').next().unwrap();
                address.split(':').next().unwrap()
            });
            let direct = format!("{},127.0.0.0/8", hosts.join(","));
            command.envs(["NO_PROXY", "no_proxy"].map(|name| (name, &direct)));
            if let Some(authority) = &self.authority {
                let trusted = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];
                command.envs(trusted.map(|name| (name, authority.certificate())));
            }
            prepare(command);
        });
        assert!(output.status.success(), "{name}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// An image of two platforms as one kind of media types writes it, under a tag of its own and as one platform.
#[derive(Debug)]
pub struct Tagged {
    /// The tag of the image of one platform: amd64, which clients take that cannot choose.
    pub one: &'static str,
    /// The tag of the list of both.
    pub many: &'static str,
    pub manifest: &'static str,
    pub list: &'static str,
    pub image: Image,
    pub index: Index,
}

impl Tagged {
    /// As `docker push` writes it; put into the registry.
    pub async fn docker(registry: &Distribution) -> Tagged {
        Tagged::put(registry, "single", "list", DOCKER_MANIFEST, DOCKER_LIST).await
    }

    /// As the OCI specification says; put into the registry.
    pub async fn oci(registry: &Distribution) -> Tagged {
        Tagged::put(registry, "oci", "index", OCI_MANIFEST, OCI_INDEX).await
    }

    async fn put(
        registry: &Distribution,
        one: &'static str,
        many: &'static str,
        manifest: &'static str,
        list: &'static str,
    ) -> Tagged {
        let images = ["arm64", "amd64"].map(|platform| {
            let mut image = busybox::image(platform, platform);
            if manifest == DOCKER_MANIFEST {
                image.manifest = docker(&image.manifest);
                image.digest = digest_of(&image.manifest);
            }
            image
        });
        let mut index = Index::of(&images);
        if list == DOCKER_LIST {
            index.bytes = docker(&index.bytes);
            index.digest = digest_of(&index.bytes);
        }
        let [_, image] = images;
        for image in &index.images {
            registry.put_image_as(REPO, None, image, manifest).await;
        }
        let bytes = image.manifest.clone();
        registry.put_manifest(REPO, one, manifest, bytes).await;
        registry
            .put_manifest(REPO, many, list, index.bytes.clone())
            .await;
        Tagged {
            one,
            many,
            manifest,
            list,
            image,
            index,
        }
    }
}

/// The same with Docker's media types.
fn docker(manifest: &[u8]) -> bytes::Bytes {
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let types = [
        (OCI_INDEX, DOCKER_LIST),
        (OCI_MANIFEST, DOCKER_MANIFEST),
        (OCI_CONFIG, "application/vnd.docker.container.image.v1+json"),
        (
            OCI_GZIP_LAYER,
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ),
    ];
    let docker = types.into_iter().fold(text, |text, (oci, docker)| {
        text.replace(&format!("{oci}\""), &format!("{docker}\""))
    });
    docker.into()
}
