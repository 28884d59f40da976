//! The program under test: started from its binary, watched through its log, its metrics and `/proc`.
//!
//! It is agreed that the program writes one JSON line with `"message": "listening"` on standard error once it accepts
//! connections, and that `listen` and `admin` in it are the addresses it got.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::client;
use super::config::MirrorConfig;
use super::loopback::any_port;

const START: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(60);

/// What the program wrote, and what it said about itself.
#[derive(Debug, Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Output {
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                output.lines.lock().unwrap().push(line);
                output.changed.notify_all();
            }
        });
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs the program to its end. Nothing of our environment counts but these variables.
pub fn run_program(
    home: &Path,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_pierglass"))
        .args(arguments)
        .env_clear()
        .env("HOME", home)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

impl Ran {
    /// Runs the program as [`run_program`] does.
    pub fn of(home: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Ran {
        let output = run_program(home, variables, arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// A running mirror; killed when dropped, its store deleted.
#[derive(Debug)]
pub struct Mirror {
    config: MirrorConfig,
    directory: TempDir,
    child: Child,
    output: Arc<Output>,
    listen: String,
    admin: String,
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Mirror {
    /// Runs the program and waits until it listens.
    #[track_caller]
    pub fn start(config: MirrorConfig) -> Mirror {
        Mirror::start_at(config, &any_port().to_string())
    }

    /// The same, at an address that is known before.
    #[track_caller]
    pub fn start_at(config: MirrorConfig, listen: &str) -> Mirror {
        let directory = TempDir::with_prefix("pierglass-test-").unwrap();
        let any = any_port().to_string();
        let (child, output, listen, admin) = launch(&config, directory.path(), listen, &any)
            .unwrap_or_else(|failure| panic!("{failure}"));
        Mirror {
            config,
            directory,
            child,
            output,
            listen,
            admin,
        }
    }

    /// For configurations that must be refused: the exit status and everything written.
    #[track_caller]
    pub fn fail_to_start(config: &MirrorConfig) -> (ExitStatus, String) {
        let directory = TempDir::with_prefix("pierglass-test-").unwrap();
        let any = any_port().to_string();
        let mut child = spawn(config, directory.path(), &any, &any);
        let output = Arc::new(Output::default());
        output.follow(child.stdout.take().unwrap());
        output.follow(child.stderr.take().unwrap());
        let status = wait(&mut child, START);
        // The readers need a moment to drain the pipes of an ended program.
        std::thread::sleep(Duration::from_millis(100));
        (status, output.text())
    }

    /// `http://ADDRESS:PORT` of the registry API.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    pub fn authority(&self) -> &str {
        &self.listen
    }

    /// `http://ADDRESS:PORT` of metrics, health and the admin API.
    pub fn admin_url(&self) -> String {
        format!("http://{}", self.admin)
    }

    pub fn manifest_url(&self, repo: &str, reference: &str) -> String {
        format!("{}/v2/{repo}/manifests/{reference}", self.url())
    }

    pub fn blob_url(&self, repo: &str, digest: &str) -> String {
        format!("{}/v2/{repo}/blobs/{digest}", self.url())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn config_path(&self) -> PathBuf {
        self.directory.path().join("config.toml")
    }

    pub fn store_path(&self) -> PathBuf {
        store_of(&self.config, self.directory.path())
    }

    pub fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.pid())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// SIGTERM, and its patience with running pulls.
    #[track_caller]
    pub fn term_and_wait(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits until the program has ended by itself.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child, STOP)
    }

    /// Runs the program again over the same configuration and store, at the same addresses, ending it with SIGKILL if
    /// it still runs. The log begins again.
    #[track_caller]
    pub fn restart(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        let (listen, admin) = (self.listen.clone(), self.admin.clone());
        let started = launch(&self.config, self.directory.path(), &listen, &admin);
        (self.child, self.output, self.listen, self.admin) =
            started.unwrap_or_else(|failure| panic!("{failure}"));
    }

    /// Writes another configuration over the file; a restart or SIGHUP makes it count.
    pub fn reconfigure(&mut self, config: MirrorConfig) {
        let text = config.text(&self.store_path(), &self.listen, &self.admin);
        std::fs::write(self.config_path(), text).unwrap();
        self.config = config;
    }

    /// Runs another command of the program, with this configuration, and with this admin address while it runs.
    pub fn command(&self, arguments: &[&str]) -> Ran {
        let admin = self.admin_url();
        self.command_without_admin(&[arguments, &["--admin", &admin]].concat())
    }

    /// Runs another command of the program with this configuration, and nothing to say that the mirror runs.
    pub fn command_without_admin(&self, arguments: &[&str]) -> Ran {
        let config = self.config_path();
        let config = config.to_str().unwrap();
        Ran::of(
            self.directory.path(),
            &[],
            &[arguments, &["--config", config]].concat(),
        )
    }

    /// Writes the addresses it has into the configuration file, for commands that look there.
    pub fn write_down_addresses(&mut self) {
        self.reconfigure(self.config.clone());
    }

    /// Everything logged as JSON since the last start.
    pub fn logs(&self) -> Vec<Value> {
        let lines = self.output.lines.lock().unwrap();
        lines
            .iter()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Everything written since the last start.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// Waits until a log line satisfies the test.
    #[track_caller]
    /// The log, once it has the line of a request that failed because of `words`. The line comes after the answer.
    #[allow(
        dead_code,
        reason = "only tests/it asks what the log says of a failure"
    )]
    pub fn log_of_failure(&self, words: &str) -> String {
        self.wait_for_log(Duration::from_secs(10), |line| {
            let error = log_field(line, "error").and_then(Value::as_str);
            error.is_some_and(|error| error.contains(words))
        });
        self.output()
    }

    pub fn wait_for_log(&self, patience: Duration, test: impl Fn(&Value) -> bool) -> Value {
        let found = self.output.wait_for(patience, |line| {
            let value: Value = serde_json::from_str(line).ok()?;
            test(&value).then_some(value)
        });
        found.unwrap_or_else(|| panic!("no such line in the log:\n{}", self.output()))
    }

    /// Waits until a request's line in the log has this in its error, which clients are not told.
    #[track_caller]
    pub fn wait_for_cause(&self, word: &str) -> String {
        let line = self.wait_for_log(Duration::from_secs(5), |line| {
            let error = log_field(line, "error").and_then(Value::as_str);
            error.is_some_and(|error| error.contains(word))
        });
        log_field(&line, "error")
            .and_then(Value::as_str)
            .unwrap()
            .to_owned()
    }

    /// The peak of resident memory, in bytes.
    pub fn rss_peak(&self) -> u64 {
        self.process_status("VmHWM:") * 1024
    }

    fn process_status(&self, key: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Resident memory now, in bytes.
    pub fn rss(&self) -> u64 {
        self.process_status("VmRSS:") * 1024
    }

    /// Takes file descriptors away from the running program: it may have this many open from now on.
    pub fn limit_files(&self, most: u64) {
        use rustix::process::{Pid, Resource, getrlimit, prlimit};
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = Some(most);
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    /// Open file descriptors of the program.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// What the store occupies on disk, directories included, as `du -s` counts it.
    pub fn du(&self) -> u64 {
        disk_usage(&self.store_path())
    }

    /// The sum of a metric's series that carry these labels; `None` without any.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = client::get(&format!("{}/metrics", self.admin_url()), &[])
            .await
            .unwrap()
            .text();
        sum_of(&text, name, labels)
    }
}

impl Output {
    fn wait_for<T>(&self, patience: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut lines = self.lines.lock().unwrap();
        let mut looked_at = 0;
        loop {
            if let Some(found) = lines[looked_at..].iter().find_map(|line| find(line)) {
                return Some(found);
            }
            looked_at = lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self
                .changed
                .wait_timeout(lines, left.min(Duration::from_millis(100)))
                .unwrap()
                .0;
        }
    }
}

fn store_of(config: &MirrorConfig, directory: &Path) -> PathBuf {
    config
        .store_path
        .clone()
        .unwrap_or_else(|| directory.join("store"))
}

fn spawn(config: &MirrorConfig, directory: &Path, listen: &str, admin: &str) -> Child {
    let file = directory.join("config.toml");
    std::fs::write(
        &file,
        config.text(&store_of(config, directory), listen, admin),
    )
    .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pierglass"));
    #[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
    for (name, _) in std::env::vars() {
        let lower = name.to_ascii_lowercase();
        if lower.ends_with("_proxy")
            || lower.starts_with("pierglass_")
            || lower.starts_with("docker")
        {
            command.env_remove(name);
        }
    }
    command
        .args(["serve", "--config"])
        .arg(&file)
        .env("HOME", directory)
        .envs(config.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

type Started = (Child, Arc<Output>, String, String);

fn launch(
    config: &MirrorConfig,
    directory: &Path,
    listen: &str,
    admin: &str,
) -> Result<Started, String> {
    let mut child = spawn(config, directory, listen, admin);
    let output = Arc::new(Output::default());
    output.follow(child.stdout.take().unwrap());
    output.follow(child.stderr.take().unwrap());
    let deadline = Instant::now() + START;
    loop {
        if let Some((listen, admin)) = output.wait_for(Duration::from_millis(50), listening) {
            return Ok((child, output, listen, admin));
        }
        let ended = child.try_wait().unwrap();
        if ended.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            let why = ended.map_or("does not say that it listens".to_owned(), |status| {
                format!("ended: {status}")
            });
            return Err(format!("the mirror {why}\n{}", output.text()));
        }
    }
}

/// The addresses in the line that says so.
fn listening(line: &str) -> Option<(String, String)> {
    let value: Value = serde_json::from_str(line).ok()?;
    let field = |name: &str| {
        log_field(&value, name)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    (field("message")? == "listening").then_some(())?;
    Some((field("listen")?, field("admin")?))
}

/// A field of a log line, nested under `fields` or not.
pub fn log_field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    line.get("fields")
        .and_then(|fields| fields.get(name))
        .or_else(|| line.get(name))
}

#[track_caller]
fn wait(child: &mut Child, patience: Duration) -> ExitStatus {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(
            Instant::now() < deadline,
            "the program did not end within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks of all files and directories under a path; what vanishes meanwhile counts nothing.
pub fn disk_usage(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let below = if metadata.is_dir() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| disk_usage(&entry.path())).sum()
    } else {
        0
    };
    metadata.blocks() * 512 + below
}

/// Prometheus' text format, as far as sums need it.
pub fn sum_of(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Vec<_> = labels
        .iter()
        .map(|(label, value)| format!("{label}=\"{value}\""))
        .collect();
    let series = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let (own, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once('}')?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let has = |label: &String| format!(",{own}").contains(&format!(",{label}"));
        wanted.iter().all(has).then_some(())?;
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    series.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}
