//! The file system the store lies on: for root one of its own, small enough to be filled up.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// More than the store may take, so that it is full only when we fill it.
const SIZE: &str = "size=40m";

#[derive(Debug)]
pub struct Ground {
    directory: TempDir,
    mounted: bool,
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount")
                .arg("--lazy")
                .arg(self.directory.path())
                .status();
        }
    }
}

impl Ground {
    pub fn lay() -> Ground {
        let directory = TempDir::with_prefix("pierglass-chaos-").unwrap();
        let mounted = mount(directory.path());
        assert!(
            mounted || std::env::var_os("PIERGLASS_CHAOS_ROOT").is_none(),
            "a tmpfs cannot be mounted, and without one no disk fills up: run it as root"
        );
        if !mounted {
            println!("chaos: no tmpfs can be mounted: no disk will fill up in this run");
        }
        Ground { directory, mounted }
    }

    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    pub fn can_be_full(&self) -> bool {
        self.mounted
    }

    fn ballast(&self) -> PathBuf {
        self.directory.path().join("ballast")
    }

    /// Takes all room but `left` bytes, as another program would.
    pub fn fill(&self, left: u64) {
        let file = std::fs::File::create(self.ballast()).unwrap();
        let room = rustix::fs::fstatvfs(&file).unwrap();
        let take = (room.f_bavail * room.f_frsize).saturating_sub(left);
        // The mirror writes at the same time: what is there may be less by now.
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, take.max(1));
    }

    pub fn clear(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

fn mount(at: &Path) -> bool {
    let mut command = Command::new("mount");
    command
        .args(["-t", "tmpfs", "-o", SIZE, "pierglass-chaos"])
        .arg(at);
    rustix::process::geteuid().is_root()
        && command.output().is_ok_and(|output| output.status.success())
}
