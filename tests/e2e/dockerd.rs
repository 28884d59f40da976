//! A Docker daemon whose requests must never get past its mirror unseen.
//!
//! What running it inside another test taught:
//! - With `bridge: none` and `iptables: false` it needs nothing of the host's network; containers run with
//!   `--network none`. (`--network host` works too, but leaves a mount under the exec root.)
//! - The vfs storage driver works on any file system, overlay on overlay included.
//! - It starts a containerd of its own under the exec root unless the system runs one; its own namespace keeps it away
//!   from what else that one runs.
//! - Paths are short, because its sockets' names may not exceed 108 bytes.
//! - After a refusal by the mirror it goes on to registry-1.docker.io by itself. `HTTPS_PROXY` sends it to a listener of
//!   the test instead, which notes the attempt and refuses.

use std::path::PathBuf;
use std::process::Output;

use serde_json::json;
use tempfile::TempDir;

use crate::fence::Fence;
use crate::programs::{self, Program, text};

const PACKAGE: &str = "docker.io";

/// A running daemon with an image store of its own.
#[derive(Debug)]
pub struct Dockerd {
    program: Program,
    directory: TempDir,
    fence: Fence,
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.program.end();
        programs::unmount_below(self.directory.path());
    }
}

impl Dockerd {
    /// A daemon with these `registry-mirrors`.
    #[track_caller]
    pub fn start(mirrors: &[String]) -> Dockerd {
        assert!(rustix::process::geteuid().is_root(), "dockerd wants root");
        let directory = TempDir::with_prefix("pg-").unwrap();
        let fence = Fence::start();
        let path = |name: &str| directory.path().join(name);
        let config = json!({
            "registry-mirrors": mirrors,
            "bridge": "none",
            "iptables": false,
            "storage-driver": "vfs",
            "max-download-attempts": 1,
        });
        std::fs::write(path("daemon.json"), config.to_string()).unwrap();
        let socket = format!("unix://{}", path("docker.sock").display());
        let mut program = Program::start("dockerd", PACKAGE, path("dockerd.log"), |command| {
            command
                .arg("--data-root")
                .arg(path("data"))
                .arg("--exec-root")
                .arg(path("exec"))
                .arg("--pidfile")
                .arg(path("pid"))
                .arg("--config-file")
                .arg(path("daemon.json"))
                .args(["--host", &socket])
                .args([
                    "--containerd-namespace",
                    &directory.path().file_name().unwrap().to_string_lossy(),
                ])
                .envs(fence.environment());
        });
        program.wait_until(|| {
            let output = docker(&socket, &["version"]);
            output.status.success().then_some(())
        });
        Dockerd {
            program,
            directory,
            fence,
        }
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `docker ARGUMENTS`, whatever comes of it.
    pub fn try_docker(&self, arguments: &[&str]) -> Output {
        docker(&self.socket(), arguments)
    }

    /// `docker ARGUMENTS`, which must succeed; its standard output.
    #[track_caller]
    pub fn docker(&self, arguments: &[&str]) -> String {
        let output = self.try_docker(arguments);
        let log = || self.program.log();
        assert!(
            output.status.success(),
            "docker {arguments:?}: {}\n{}",
            text(&output),
            log()
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command in a container of that image; its standard output.
    #[track_caller]
    pub fn run(&self, image: &str, command: &[&str]) -> String {
        let base = ["run", "--rm", "--network", "none", "--pull", "never", image];
        self.docker(&[&base[..], command].concat())
    }

    /// Forgets all images.
    #[track_caller]
    pub fn remove_images(&self) {
        let ids = self.docker(&["images", "--all", "--quiet", "--no-trunc"]);
        let mut ids: Vec<_> = ids.lines().collect();
        ids.sort_unstable();
        ids.dedup();
        assert!(!ids.is_empty(), "nothing to remove");
        self.docker(&[&["rmi", "--force"][..], &ids].concat());
        assert_eq!(self.docker(&["images", "--all", "--quiet"]), "");
    }

    /// Hosts the daemon tried to reach other than its mirrors.
    pub fn escapes(&self) -> Vec<String> {
        self.fence.seen()
    }
}

fn docker(socket: &str, arguments: &[&str]) -> Output {
    programs::run("docker", PACKAGE, |command| {
        command
            .args(["--host", socket])
            .args(arguments)
            .env_remove("DOCKER_CONTEXT");
    })
}
