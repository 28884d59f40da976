//! What supervises the program, systemd above all, must be told when it is ready and how grave a line of the log is.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::disk::eventually;

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(
    directory: &TempDir,
    arguments: &[&str],
    variables: &[(&str, &str)],
    log: File,
) -> Service {
    let child = Command::new(env!("CARGO_BIN_EXE_pierglass"))
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args(arguments)
        .env_clear()
        .env("HOME", directory.path())
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Service(child)
}

/// With `Type=exec`, `systemctl start` said that all was well when the configuration failed a moment later.
#[test]
fn systemd_is_told_once_it_listens_and_when_it_ends() {
    let directory = TempDir::with_prefix("pierglass-test-").unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let told = || {
        let mut words = [0; 100];
        let length = socket.recv(&mut words)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&words[..length]).into_owned())
    };
    let variables = [("NOTIFY_SOCKET", path.to_str().unwrap())];
    let log = directory.path().join("log");
    let mut service = serve(&directory, &[], &variables, File::create(&log).unwrap());
    assert_eq!(told().unwrap(), "READY=1");
    assert!(std::fs::read_to_string(&log).unwrap().contains("listening"));
    let pid = Pid::from_raw(service.0.id().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(told().unwrap(), "STOPPING=1");
    assert!(service.0.wait().unwrap().success());
    // What cannot start is never ready.
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let wrong = ["--store", log.to_str().unwrap()];
    let mut service = serve(
        &directory,
        &wrong,
        &variables,
        File::create(directory.path().join("2")).unwrap(),
    );
    assert_eq!(service.0.wait().unwrap().code(), Some(1));
    assert!(told().is_err());
}

/// `journalctl -p warning` showed no warning: each line had the priority of the unit.
#[test]
fn the_journal_is_told_how_grave_a_line_is_and_a_file_is_not() {
    let directory = TempDir::with_prefix("pierglass-test-").unwrap();
    let small = ["--max-size", "1MiB"];
    for is_journal in [true, false] {
        let path = directory.path().join(format!("{is_journal}"));
        let file = File::create(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let inode = metadata.ino() + u64::from(!is_journal);
        let stream = format!("{}:{inode}", metadata.dev());
        let service = serve(&directory, &small, &[("JOURNAL_STREAM", &stream)], file);
        let log = || std::fs::read_to_string(&path).unwrap();
        eventually("the last line of the start", || {
            log().contains("daemon.json")
        });
        drop(service);
        for line in log().lines() {
            let json = match (is_journal, line.contains("\"WARN\"")) {
                (true, true) => line.strip_prefix("<4>"),
                (true, false) => line.strip_prefix("<6>"),
                (false, _) => Some(line),
            };
            let json = json.unwrap_or_else(|| panic!("{line}"));
            serde_json::from_str::<serde_json::Value>(json).unwrap();
        }
        assert!(
            log().contains("\"WARN\"") && log().contains("store.max_size"),
            "{}",
            log()
        );
    }
}
