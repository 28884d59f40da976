//! The store as it lies on disk, for tests that break it or count it.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// The file of a blob, `sha256:...` being its digest.
pub fn blob_file(store: &Path, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").unwrap();
    store.join("blobs/sha256").join(&hex[..2]).join(hex)
}

/// The file of a manifest of Docker Hub.
pub fn manifest_file(store: &Path, repo: &str, digest: &str) -> PathBuf {
    record_file(
        store,
        repo,
        &format!("manifest-{}", digest.replace(':', "-")),
    )
}

/// A file of what is remembered of a repository of Docker Hub.
pub fn record_file(store: &Path, repo: &str, file: &str) -> PathBuf {
    let directory = repo.replace('/', "+");
    store
        .join("repositories/docker.io")
        .join(directory)
        .join(file)
}

/// Digests of all committed blobs.
pub fn blobs(store: &Path) -> HashSet<String> {
    files(&store.join("blobs/sha256"))
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .map(|hex| format!("sha256:{hex}"))
        .collect()
}

/// Flips one bit in the middle of a file, whose length and modification time stay.
pub fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let modified = path.metadata().unwrap().modified().unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    // In place, as a failing disk does; not by way of a new file.
    let file = std::fs::File::options().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    file.set_modified(modified).unwrap();
}

/// All files below a directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => vec![entry.path()],
        })
        .collect()
}

/// Directories below a directory, itself included.
pub fn directories(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    1 + below.map(|entry| directories(&entry.path())).sum::<u64>()
}

/// Watches what a directory occupies, from its making to [`Watch::most`].
#[derive(Debug)]
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Watch {
    /// Looks again and again, as `du` does but counting no file twice that is renamed meanwhile.
    ///
    /// A walk is not an instant: what was counted may go, and what replaced it be counted too. So a figure above
    /// `limit` is believed only when three walks in a row have it, and is then lowered to the least of them.
    pub fn start(path: &Path, limit: u64) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let (path, stop) = (path.to_owned(), over.clone());
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut seen = occupied(&path);
                for _ in 0..2 {
                    if seen > limit {
                        seen = seen.min(occupied(&path));
                    }
                }
                most = most.max(seen);
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        Watch { over, thread }
    }

    /// The most that was seen.
    pub fn most(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn occupied(path: &Path) -> u64 {
    fn walk(path: &Path, known: &mut HashSet<u64>) -> u64 {
        let Ok(metadata) = path.symlink_metadata() else {
            return 0;
        };
        let below = if metadata.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| walk(&entry.path(), known)).sum()
        } else {
            0
        };
        let own = known.insert(metadata.ino());
        below + if own { metadata.blocks() * 512 } else { 0 }
    }
    walk(path, &mut HashSet::new())
}

/// Looks again and again until `condition` holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
