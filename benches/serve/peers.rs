//! The programs that are measured.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::Plan;
use crate::fixture::Fixture;
use crate::loopback::free_port;
use crate::secure::Certificate;
use crate::usage;

/// A running program; ended when dropped.
pub struct Peer {
    pub name: &'static str,
    pub address: SocketAddr,
    child: Child,
    /// Deleted after the program ended.
    directory: Option<TempDir>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let running = matches!(self.child.try_wait(), Ok(None));
        if let Some(pid) = Pid::from_raw(self.child.id() as i32).filter(|_| running) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Peer {
    /// Runs a program whose output goes to a file in `logs`, and waits until it listens.
    pub fn start(
        name: &'static str,
        address: SocketAddr,
        mut command: Command,
        logs: &Path,
    ) -> Peer {
        let log = logs.join(format!("{}.log", name.replace([' ', ',', '/'], "-")));
        let file = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("{name}: {error}; `make bench-deps` installs what is missing")
        });
        let mut peer = Peer {
            name,
            address,
            child,
            directory: None,
        };
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = peer.child.try_wait().unwrap();
            if ended.is_some() || started.elapsed() > Duration::from_secs(20) {
                panic!(
                    "{name} does not listen: {}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        peer
    }

    fn owning(mut self, directory: TempDir) -> Peer {
        self.directory = Some(directory);
        self
    }

    pub fn processes(&self) -> Vec<u32> {
        usage::family(self.child.id())
    }

    pub fn cpu(&self) -> usage::Cpu {
        usage::Cpu::of(&self.processes())
    }
}

/// Pierglass as it is started for one measurement.
#[derive(Clone, Copy, Default)]
pub struct Mirror<'a> {
    pub name: &'static str,
    /// Where it finds the registry, if not at the fixture's.
    pub upstream: Option<SocketAddr>,
    pub tls: Option<&'a Certificate>,
    /// No access log.
    pub quiet: bool,
    /// A store that is there already.
    pub store: Option<&'a Path>,
    /// Bytes that its store may take, if that matters.
    pub max_size: Option<u64>,
    /// Another build of it.
    pub program: Option<&'a Path>,
}

/// What docker-registry in front of the fixture's is called.
pub const PULL_THROUGH: &str = "docker-registry as cache";
/// What another build is called.
pub const OTHER: &str = "pierglass, other build";

impl<'a> Mirror<'a> {
    /// The same from another build, if there is one to compare with.
    pub fn other(self, plan: &'a Plan) -> Option<Self> {
        let program = plan.other.as_deref()?;
        Some(Self {
            name: OTHER,
            program: Some(program),
            ..self
        })
    }

    pub fn start(self, fixture: &Fixture) -> Peer {
        let directory = fixture.scratch();
        let (address, admin) = (free_port(), free_port());
        let upstream = self.upstream.unwrap_or(fixture.registry.address);
        let level = if self.quiet { "warn" } else { "info" };
        let store = directory.path().join("store");
        // What a measurement fills a store with has not the digest it is called by.
        let scrub = if self.store.is_some() {
            "scrub_rate = \"0B\"\n"
        } else {
            ""
        };
        let store = self.store.unwrap_or(&store).display();
        let max_size = self.max_size.unwrap_or(200 << 30);
        let tls = self.tls.map(Certificate::of_pierglass).unwrap_or_default();
        let text = format!(
            "listen = \"{address}\"\nadmin_listen = \"{admin}\"\n[log]\nformat = \"json\"\nlevel = \"{level}\"\n\
             [store]\npath = \"{store}\"\nmax_size = \"{max_size}B\"\n{scrub}[freshness]\ntag_ttl = \"1h\"\n{tls}\
             [upstream.\"bench.example\"]\nurl = \"http://{upstream}\"\n"
        );
        let config = directory.path().join("pierglass.toml");
        fs::write(&config, text).unwrap();
        let ours = Path::new(env!("CARGO_BIN_EXE_pierglass"));
        let mut command = Command::new(self.program.unwrap_or(ours));
        command.arg("serve").arg("--config").arg(config);
        let name = if self.name.is_empty() {
            "pierglass"
        } else {
            self.name
        };
        Peer::start(name, address, command, directory.path()).owning(directory)
    }
}

/// nginx as a file server, or as a cache of the fixture's registry.
#[derive(Clone, Copy)]
pub struct Nginx<'a> {
    pub name: &'static str,
    pub nopush: bool,
    pub log: bool,
    pub tls: Option<&'a Certificate>,
    /// Cache what this server has, instead of serving files.
    pub proxy: Option<SocketAddr>,
}

impl Nginx<'_> {
    pub fn files(name: &'static str) -> Self {
        Self {
            name,
            nopush: false,
            log: false,
            tls: None,
            proxy: None,
        }
    }

    pub fn start(self, fixture: &Fixture) -> Peer {
        let directory = fixture.scratch();
        let address = free_port();
        let text = self.text(fixture, directory.path(), address);
        let config = directory.path().join("nginx.conf");
        fs::write(&config, text).unwrap();
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(directory.path())
            .arg("-e")
            .arg(directory.path().join("error.log"))
            .arg("-c")
            .arg(config);
        let peer = Peer::start(self.name, address, command, directory.path());
        peer.owning(directory)
    }

    fn text(self, fixture: &Fixture, directory: &Path, address: SocketAddr) -> String {
        let nopush = if self.nopush { "on" } else { "off" };
        let log = if self.log { "access.log" } else { "off" };
        let (ssl, certificate) = match self.tls {
            None => ("", String::new()),
            Some(certificate) => (" ssl", certificate.of_nginx()),
        };
        let root = fixture.static_root();
        let (zone, answer) = match self.proxy {
            None => (String::new(), format!("root {};", root.display())),
            Some(upstream) => (
                "proxy_cache_path cache levels=1:2 keys_zone=c:10m max_size=100g use_temp_path=off;".to_owned(),
                format!(
                    "location / {{ proxy_pass http://{upstream}; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                     proxy_cache c; proxy_cache_valid 200 1h; proxy_cache_lock on; proxy_cache_lock_timeout 600s; \
                     proxy_cache_lock_age 600s; proxy_buffering on; proxy_max_temp_file_size 0; }}"
                ),
            ),
        };
        // Workers of a server that root starts run as another user, who cannot enter the directory.
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};", directory.join(name).display()))
            .concat();
        format!(
            "{user} daemon off; worker_processes auto; worker_rlimit_nofile 20000; pid nginx.pid;\n\
             events {{ worker_connections 10000; }}\n\
             http {{ {temporary} {zone} sendfile on; tcp_nopush {nopush}; access_log {log};\n\
             keepalive_requests 1000000000; default_type application/octet-stream; {certificate}\n\
             server {{ listen {address}{ssl} backlog=4096; {answer} }} }}\n"
        )
    }
}

/// docker-registry as a pull-through cache of the fixture's.
pub fn pull_through(fixture: &Fixture, upstream: SocketAddr) -> Peer {
    let directory = fixture.scratch();
    let address = free_port();
    let text = format!(
        "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    \
         rootdirectory: {}\nhttp:\n  addr: {address}\nproxy:\n  remoteurl: http://{upstream}\n",
        directory.path().join("data").display()
    );
    let config = directory.path().join("registry.yml");
    fs::write(&config, text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(config);
    Peer::start(PULL_THROUGH, address, command, directory.path()).owning(directory)
}
