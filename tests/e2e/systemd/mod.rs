//! systemd as the first process of its own namespaces: units run as on a machine, and nothing of this one is changed.

use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::programs::{self, Program, text};

/// Ends with all that it has started when it is dropped.
#[derive(Debug)]
pub struct Systemd {
    /// `unshare`, whose child is systemd; gone before its cgroups are removed.
    program: Option<Program>,
    process: String,
    directory: TempDir,
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // `unshare` does not mind SIGTERM, and ends with its child.
        let _ = Command::new("kill").args(["-KILL", &self.process]).output();
        drop(self.program.take());
        // The kernel lets go of what was killed in its own time.
        let remove = "mount -t cgroup2 cgroup2 \"$1\" && cd \"$1\" && for i in $(seq 100); do \
                      find \"./$2\" -depth -type d -exec rmdir {} + 2>/dev/null && break; sleep 0.1; done";
        let at = self.directory.path();
        let _ = Command::new("unshare")
            .args(["--mount", "sh", "-c", remove, "sh"])
            .arg(at)
            .args(at.file_name())
            .output();
    }
}

impl Systemd {
    /// Boots up to where services can be started, with this file at each of these paths.
    #[track_caller]
    pub fn boot(files: &[(&str, &str)]) -> Systemd {
        let directory = TempDir::with_prefix("pg-").unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/systemd/boot.sh");
        let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(directory.path().file_name().unwrap())
            .with_extension("log");
        let mut program = Program::start("unshare", "util-linux", log, |command| {
            command
                .args(["--pid", "--mount", "--ipc", "--uts", "--fork"])
                .args(["--kill-child=KILL", "sh", script])
                .arg(directory.path())
                .arg(env!("CARGO_BIN_EXE_pierglass"));
        });
        let unshare = program.id();
        let process = program.wait_until(|| {
            let children = format!("/proc/{unshare}/task/{unshare}/children");
            let children = std::fs::read_to_string(children).ok()?;
            let child = children.split_whitespace().next()?.to_owned();
            let name = std::fs::read_to_string(format!("/proc/{child}/comm")).ok()?;
            (name.trim() == "systemd").then_some(child)
        });
        let mut systemd = Systemd {
            program: Some(program),
            process,
            directory,
        };
        systemd.wait_until_running();
        for (path, content) in files {
            let write = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" >\"$1\"";
            systemd.succeeds(&["sh", "-c", write, "sh", path, content]);
        }
        systemd.succeeds(&["systemctl", "daemon-reload"]);
        systemd
    }

    fn wait_until_running(&mut self) {
        let mut program = self.program.take().unwrap();
        program.wait_until(|| {
            let state = self.run(&["systemctl", "is-system-running"]);
            text(&state).contains("running").then_some(())
        });
        self.program = Some(program);
    }

    /// Runs a program where systemd runs.
    #[track_caller]
    pub fn run(&self, command: &[&str]) -> Output {
        programs::run("nsenter", "util-linux", |nsenter| {
            nsenter
                .args(["--target", &self.process])
                .args(["--mount", "--pid", "--ipc", "--uts", "timeout", "50"])
                .args(command);
        })
    }

    /// What it writes; it must end well.
    #[track_caller]
    pub fn succeeds(&self, command: &[&str]) -> String {
        let output = self.run(command);
        let words = text(&output);
        assert!(
            output.status.success(),
            "{command:?}: {words}\n{}",
            self.journal()
        );
        words
    }

    pub fn journal(&self) -> String {
        text(&self.run(&["journalctl", "--no-pager", "--unit", "pierglass"]))
    }
}
