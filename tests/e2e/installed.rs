//! Clients that Debian does not have: from PyPI and npm, each with all it needs at a pinned version.
//!
//! They are installed once for each state of the files that pin them, below `target/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use tempfile::TempDir;

use crate::programs::{run, text};
use crate::support::content::digest_of;

/// `name==version` of everything.
const REQUIREMENTS: &str = include_str!("clients/requirements.txt");
const PACKAGE: &str = include_str!("clients/package.json");
const LOCK: &str = include_str!("clients/package-lock.json");

/// The interpreter that finds what PyPI has.
pub fn python() -> PathBuf {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        once("python", REQUIREMENTS, |directory| {
            let pins = directory.join("requirements.txt");
            std::fs::write(&pins, REQUIREMENTS).unwrap();
            // Debian's own, which has this module; not one that happens to come first.
            assert_run("/usr/bin/python3", "python3-venv", |command| {
                command.args(["-m", "venv"]).arg(directory);
            });
            let python = directory.join("bin/python");
            assert_run(python.to_str().unwrap(), "python3-venv", |command| {
                let arguments = ["-m", "pip", "install", "--quiet", "--no-deps"];
                // It also holds for what a package is built with.
                command.env("PIP_CONSTRAINT", &pins);
                command.args(arguments).arg("--requirement").arg(&pins);
            });
        })
    });
    DIRECTORY.join("bin/python")
}

/// The directory in which `node` finds what npm has.
pub fn node_modules() -> &'static Path {
    static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
        once("node", LOCK, |directory| {
            std::fs::write(directory.join("package.json"), PACKAGE).unwrap();
            std::fs::write(directory.join("package-lock.json"), LOCK).unwrap();
            assert_run("npm", "npm", |command| {
                let arguments = ["ci", "--silent", "--ignore-scripts", "--no-audit"];
                command.args(arguments).current_dir(directory);
            });
        })
    });
    &DIRECTORY
}

/// Where `install` has put what is pinned so. A name that exists is an installation that was finished.
fn once(name: &str, pinned: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let digest = digest_of(pinned.as_bytes()).replace("sha256:", "");
    let place = all.join(format!("{name}-{}", &digest[..16]));
    if !place.exists() {
        let directory = TempDir::with_prefix_in("installing-", all).unwrap();
        install(directory.path());
        // Another process that was quicker has done the same.
        if std::fs::rename(directory.path(), &place).is_ok() {
            let _moved = directory.keep();
        }
    }
    place
}

/// Runs what fetches something, a second time if it fails the first.
#[track_caller]
fn assert_run(name: &str, package: &str, prepare: impl Fn(&mut Command)) {
    let output = run(name, package, &prepare);
    if !output.status.success() {
        println!("{name} is run again: {}", text(&output));
        let output = run(name, package, &prepare);
        assert!(output.status.success(), "{name}: {}", text(&output));
    }
}
