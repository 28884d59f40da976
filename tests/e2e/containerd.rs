//! A containerd whose requests must never get past its mirror unseen.
//!
//! What running it inside another test taught:
//! - Without the CRI plugin it needs nothing of the host's network; `ctr run` gives a container none.
//! - The native snapshotter works on any file system, overlay on overlay included.
//! - runc keeps containers by namespace and name, whichever daemon they are of: the namespace is the daemon's own.
//! - In Debian's version it is `ctr` that asks registries, with its own environment, and not the daemon.
//! - Go's clients never use a proxy for this machine: a registry on it is only fenced if it is the fence.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use tempfile::TempDir;

use crate::fence::Fence;
use crate::programs::{self, Program, text};

const PACKAGE: &str = "containerd";

/// A running daemon with an image store of its own.
#[derive(Debug)]
pub struct Containerd {
    program: Program,
    directory: TempDir,
    fence: Fence,
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.program.end();
        programs::unmount_below(self.directory.path());
        // The place of runc's containers is not below the daemon's; it is empty by now.
        let _ = std::fs::remove_dir(Path::new("/run/containerd/runc").join(self.namespace()));
    }
}

impl Containerd {
    #[track_caller]
    pub fn start() -> Containerd {
        assert!(
            rustix::process::geteuid().is_root(),
            "containerd wants root"
        );
        let directory = TempDir::with_prefix("pg-").unwrap();
        let path = |name: &str| directory.path().join(name);
        let shown = |name: &str| path(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{}\"\n[ttrpc]\naddress = \"{}\"\n",
            shown("root"),
            shown("state"),
            shown("socket"),
            shown("socket.ttrpc"),
        );
        std::fs::write(path("config.toml"), config).unwrap();
        let fence = Fence::start();
        let mut program = Program::start("containerd", PACKAGE, path("log"), |command| {
            command
                .arg("--config")
                .arg(path("config.toml"))
                .envs(fence.environment());
        });
        let socket = path("socket");
        program.wait_until(|| {
            let output = programs::run("ctr", PACKAGE, |command| {
                command.arg("--address").arg(&socket).arg("version");
            });
            output.status.success().then_some(())
        });
        Containerd {
            program,
            directory,
            fence,
        }
    }

    fn namespace(&self) -> &OsStr {
        self.directory.path().file_name().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `hosts.toml` for a registry: the URL to ask first, and further keys of it.
    pub fn hosts(&self, registry: &str, url: &str, keys: &str) {
        let directory = self.path("hosts").join(registry);
        std::fs::create_dir_all(&directory).unwrap();
        let mut toml = String::new();
        let _ = writeln!(
            toml,
            "[host.\"{url}\"]\ncapabilities = [\"pull\", \"resolve\"]\n{keys}"
        );
        std::fs::write(directory.join("hosts.toml"), toml).unwrap();
    }

    /// `ctr ARGUMENTS`, whatever comes of it.
    pub fn try_ctr(&self, arguments: &[&str]) -> Output {
        programs::run("ctr", PACKAGE, |command| {
            command
                .arg("--address")
                .arg(self.path("socket"))
                .arg("--namespace")
                .arg(self.namespace())
                .args(arguments)
                .envs(self.fence.environment());
        })
    }

    /// `ctr ARGUMENTS`, which must succeed; its standard output.
    #[track_caller]
    pub fn ctr(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.try_ctr(arguments);
        assert!(
            output.status.success(),
            "ctr {arguments:?}: {}\n{}",
            text(&output),
            self.program.log()
        );
        output.stdout
    }

    pub fn try_pull(&self, image: &str) -> Output {
        let hosts = self.path("hosts").display().to_string();
        let base = ["images", "pull", "--snapshotter", "native", "--hosts-dir"];
        self.try_ctr(&[&base[..], &[&hosts, image]].concat())
    }

    #[track_caller]
    pub fn pull(&self, image: &str) {
        let output = self.try_pull(image);
        assert!(
            output.status.success(),
            "pull of {image}: {}",
            text(&output)
        );
    }

    /// Runs a command in a container of that image; its standard output.
    #[track_caller]
    pub fn run(&self, image: &str, command: &[&str]) -> String {
        let base = ["run", "--rm", "--snapshotter", "native", image, "container"];
        String::from_utf8(self.ctr(&[&base[..], command].concat())).unwrap()
    }

    /// A manifest or blob as containerd has it.
    #[track_caller]
    pub fn content(&self, digest: &str) -> Vec<u8> {
        self.ctr(&["content", "get", digest])
    }

    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let text = String::from_utf8(self.ctr(arguments)).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// Forgets all images and all content.
    #[track_caller]
    pub fn remove_all(&self) {
        let images = self.lines(&["images", "ls", "--quiet"]);
        assert!(!images.is_empty(), "nothing to remove");
        for image in &images {
            self.ctr(&["images", "rm", "--sync", image]);
        }
        for digest in self.lines(&["content", "ls", "--quiet"]) {
            self.ctr(&["content", "rm", &digest]);
        }
        assert_eq!(
            self.lines(&["images", "ls", "--quiet"]),
            Vec::<String>::new()
        );
        assert_eq!(
            self.lines(&["content", "ls", "--quiet"]),
            Vec::<String>::new()
        );
    }

    /// A port of this machine where no request is let in and each is noted.
    pub fn fenced_port(&self) -> u16 {
        self.fence.port()
    }

    /// Hosts that were tried other than the mirror.
    pub fn escapes(&self) -> Vec<String> {
        self.fence.seen()
    }
}
