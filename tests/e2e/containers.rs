//! podman, buildah and skopeo, whose requests must never get past their mirror unseen.
//!
//! What running them inside another test taught:
//! - They share one library and its files; variables name all of those, so that nothing of the machine's is read or
//!   written.
//! - podman sets limits of a million files unless told otherwise, which is not for everybody to set.
//! - A mirror without TLS must be `insecure`; it is greeted with TLS all the same, and then asked in plain HTTP.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::fence::Fence;
use crate::programs::{self, text};

/// Files and variables of these programs, and an image store of their own.
#[derive(Debug)]
pub struct Containers {
    directory: TempDir,
    fence: Fence,
}

impl Drop for Containers {
    fn drop(&mut self) {
        programs::unmount_below(self.directory.path());
    }
}

impl Containers {
    /// Programs that ask for each registry's images at a mirror first: pairs of registry and mirror, as
    /// `ADDRESS:PORT/quay.io`.
    pub fn new(mirrors: &[(&str, String)]) -> Containers {
        assert!(rustix::process::geteuid().is_root(), "podman wants root");
        let directory = TempDir::with_prefix("pg-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        let mut registries = "unqualified-search-registries = [\"docker.io\"]\n".to_owned();
        for (registry, mirror) in mirrors {
            let _ = writeln!(
                registries,
                "[[registry]]\nlocation = \"{registry}\"\n[[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true"
            );
        }
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{}\"\nrunroot = \"{}\"\n",
            shown("root"),
            shown("run")
        );
        let containers = format!(
            "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\n[engine]\n\
             runtime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\ntmp_dir = \"{}\"\n",
            shown("engine")
        );
        for (name, text) in [
            ("registries.conf", registries),
            ("storage.conf", storage),
            ("containers.conf", containers),
            ("auth.json", "{}".into()),
            (
                "policy.json",
                r#"{"default": [{"type": "insecureAcceptAnything"}]}"#.into(),
            ),
        ] {
            std::fs::write(path(name), text).unwrap();
        }
        for name in ["home", "runtime", "tmp"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        Containers {
            directory,
            fence: Fence::start(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn prepare(&self, command: &mut Command) {
        let variables = [
            ("CONTAINERS_REGISTRIES_CONF", "registries.conf"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
            ("CONTAINERS_CONF", "containers.conf"),
            ("REGISTRY_AUTH_FILE", "auth.json"),
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "runtime"),
            ("TMPDIR", "tmp"),
        ];
        command
            .envs(variables.map(|(variable, name)| (variable, self.path(name))))
            .envs(self.fence.environment());
    }

    /// Runs `podman`, `buildah` or `skopeo`, whatever comes of it.
    pub fn attempt(&self, program: &'static str, arguments: &[&str]) -> Output {
        programs::run(program, program, |command| {
            self.prepare(command);
            if program == "skopeo" {
                // This one has no variables for these two.
                command
                    .arg("--registries-conf")
                    .arg(self.path("registries.conf"))
                    .arg("--policy")
                    .arg(self.path("policy.json"));
            }
            command.args(arguments);
        })
    }

    /// The same, which must succeed; its standard output.
    #[track_caller]
    pub fn run(&self, program: &'static str, arguments: &[&str]) -> String {
        let output = self.attempt(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {}",
            text(&output)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    /// Forgets all images and containers.
    #[track_caller]
    pub fn remove_all(&self) {
        self.run("buildah", &["rm", "--all"]);
        self.run("podman", &["rmi", "--all", "--force"]);
        assert_eq!(self.run("podman", &["images", "--all", "--quiet"]), "");
    }

    /// Hosts that were tried other than the mirror.
    pub fn escapes(&self) -> Vec<String> {
        self.fence.seen()
    }
}

/// A file that must be there.
#[track_caller]
pub fn file(directory: &Path, name: &str) -> Vec<u8> {
    let path = directory.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
