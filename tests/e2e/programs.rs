//! A program must never outlive its test, and a missing one must never pass for a success.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running program; what it writes goes to a file.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    log: PathBuf,
    patience: Duration,
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

impl Program {
    /// `package` is what Debian calls it.
    #[track_caller]
    pub fn start(
        name: &'static str,
        package: &str,
        log: PathBuf,
        prepare: impl FnOnce(&mut Command),
    ) -> Program {
        let mut command = Command::new(name);
        let file = File::create(&log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        prepare(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| missing(name, package, &error));
        Program {
            name,
            child,
            log,
            patience: Duration::from_secs(20),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Asks until it answers; a program that ended, or never answers, fails the test with its log.
    #[track_caller]
    pub fn wait_until<T>(&mut self, mut answer: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = answer() {
                return answer;
            }
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{} ended, {ended:?}:\n{}",
                self.name,
                self.log()
            );
            assert!(
                Instant::now() < deadline,
                "{} does not get ready:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// SIGTERM, and SIGKILL for those that do not care.
    pub fn end(&mut self) {
        let deadline = Instant::now() + self.patience;
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
            && let Ok(None) = self.child.try_wait()
        {
            let _ = kill_process(pid, Signal::TERM);
        }
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn missing(name: &str, package: &str, error: &io::Error) -> ! {
    panic!(
        "{name} cannot be run: {error}. Debian's package {package} has it; `make deps` installs it"
    )
}

/// Runs a program to its end.
#[track_caller]
pub fn run(name: &str, package: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(name);
    command.stdin(Stdio::null());
    prepare(&mut command);
    command
        .output()
        .unwrap_or_else(|error| missing(name, package, &error))
}

/// Both streams of a program that ended.
pub fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}

/// Unmounts what a program left mounted under a directory, so that it can be deleted.
pub fn unmount_below(directory: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut ours: Vec<_> = points
        .filter(|point| Path::new(point).starts_with(directory))
        .collect();
    // The innermost first.
    ours.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in ours {
        let _ = Command::new("umount").args(["--lazy", point]).status();
    }
}
