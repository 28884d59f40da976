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
//!   ours instead, which notes the attempt and refuses.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;

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
        self.fence.seen.lock().unwrap().clone()
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

/// A proxy that lets nobody through and remembers who came.
#[derive(Debug)]
pub struct Fence {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fence {
    pub fn start() -> Fence {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        // The thread ends with the process: a blocked accept is nothing to clean up.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                noted
                    .lock()
                    .unwrap()
                    .push(refuse(&stream).unwrap_or_else(|error| error.to_string()));
            }
        });
        Fence { url, seen }
    }

    /// Variables that send every request of a program here, but those to this machine.
    pub fn environment(&self) -> Vec<(&'static str, &str)> {
        let names = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];
        let mut all: Vec<_> = names
            .into_iter()
            .map(|name| (name, self.url.as_str()))
            .collect();
        all.extend([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")]);
        all
    }
}

/// The first line of a request, which gets a 403.
fn refuse(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 403 Fenced\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(first)
}
