//! Disks that fill up, go read-only or fail; none of them outlives its test.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::programs::{self, text};

/// A small file system of its own.
#[derive(Debug)]
pub struct Disk {
    /// Holds the mount point, and the image of a loop device.
    directory: TempDir,
}

impl Drop for Disk {
    fn drop(&mut self) {
        programs::unmount_below(self.directory.path());
    }
}

impl Disk {
    /// In memory, 64 MiB.
    #[track_caller]
    pub fn tmpfs() -> Disk {
        let disk = Disk::unmounted();
        mount(
            &["-t", "tmpfs", "-o", "size=64m", "pierglass-test"],
            &disk.root(),
        );
        disk
    }

    /// ext4 on a loop device, 64 MiB.
    #[track_caller]
    pub fn ext4() -> Disk {
        let disk = Disk::unmounted();
        let image = disk.directory.path().join("image");
        File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = programs::run("mkfs.ext4", "e2fsprogs", |command| {
            command.args(["-q", "-m", "0"]).arg(&image);
        });
        assert!(made.status.success(), "{}", text(&made));
        mount(&["-o", "loop", image.to_str().unwrap()], &disk.root());
        disk
    }

    fn unmounted() -> Disk {
        let directory = TempDir::with_prefix("pg-").unwrap();
        std::fs::create_dir(directory.path().join("disk")).unwrap();
        Disk { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    pub fn store(&self) -> PathBuf {
        self.root().join("store")
    }

    /// Takes all room there is, and all that becomes free, until the hog is dropped.
    pub fn hog(&self) -> Hog {
        let (path, stop) = (self.root().join("hog"), Arc::new(AtomicBool::new(false)));
        let (file, over) = (path.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(file)
                .unwrap();
            let mut piece = 1 << 20;
            while !over.load(Ordering::Relaxed) {
                // Down to the last block, and again as soon as there is one more.
                match file.write_all(&vec![b'x'; piece]) {
                    Ok(()) => piece = 1 << 20,
                    Err(_) if piece > 4096 => piece /= 2,
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Hog {
            path,
            stop,
            thread: Some(thread),
        }
    }
}

/// Another program that fills the disk.
#[derive(Debug)]
pub struct Hog {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hog {
    /// Waits until hardly anything is free.
    #[track_caller]
    pub fn wait_until_full(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let room = rustix::fs::statvfs(&self.path).map(|room| room.f_bavail * room.f_frsize);
            if room.is_ok_and(|room| room < 64 * 1024) {
                return;
            }
            assert!(Instant::now() < deadline, "the disk does not fill up");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

#[track_caller]
fn mount(arguments: &[&str], at: &Path) {
    assert!(rustix::process::geteuid().is_root(), "mount wants root");
    let mounted = programs::run("mount", "mount", |command| {
        command.args(arguments).arg(at);
    });
    assert!(mounted.status.success(), "{}", text(&mounted));
}

/// A directory that can only be read, until this is dropped: a read-only mount over it.
#[derive(Debug)]
pub struct ReadOnly(PathBuf);

impl ReadOnly {
    #[track_caller]
    pub fn lay_over(directory: &Path) -> ReadOnly {
        mount(&["--bind", directory.to_str().unwrap()], directory);
        let over = ReadOnly(directory.to_owned());
        mount(&["-o", "remount,ro,bind"], directory);
        over
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A directory where no process may make or remove a file, root included, until this is dropped.
#[derive(Debug)]
pub struct Immutable(PathBuf);

impl Immutable {
    #[track_caller]
    pub fn make(directory: &Path) -> Immutable {
        let output = programs::run("chattr", "e2fsprogs", |command| {
            command.arg("+i").arg(directory);
        });
        assert!(output.status.success(), "{}", text(&output));
        Immutable(directory.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").arg("-i").arg(&self.0).status();
    }
}

/// System calls of a process that fail, until this is dropped.
#[derive(Debug)]
pub struct Failing(Child);

impl Failing {
    /// `calls` as strace(1) names them, separated by commas; all of them fail with `error`.
    #[track_caller]
    pub fn make(pid: u32, calls: &str, error: &str, log: &Path) -> Failing {
        let child = Command::new("strace")
            .args(["--follow-forks", "--seccomp-bpf"])
            .args(["-p", &pid.to_string()])
            .args(["-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={error}")])
            .arg("-o")
            .arg(log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(log.with_extension("err")).unwrap())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("strace cannot be run: {error}. Debian's package strace has it")
            });
        let failing = Failing(child);
        failing.wait_until_attached(pid);
        failing
    }

    #[track_caller]
    fn wait_until_attached(&self, pid: u32) {
        let traced = |task: &Path| {
            let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
            status
                .lines()
                .find_map(|line| line.strip_prefix("TracerPid:"))
                .is_none_or(|tracer| tracer.trim() != "0")
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            if tasks.flatten().all(|task| traced(&task.path())) {
                return;
            }
            assert!(Instant::now() < deadline, "strace does not attach");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        // It lets go of the process when it is asked to end, not when it is killed.
        if let Some(pid) = i32::try_from(self.0.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
