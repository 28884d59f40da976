//! The thread that unlinks, behind the requests.
//!
//! Unlinking a large file can take long, so it is done by one thread. Room counts as made once the unlinking is done,
//! because the limit is what `du` sees.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long to wait before a file is unlinked that could not be.
const UNLINK_AGAIN: Duration = Duration::from_secs(2);

/// The way to hand the thread work.
pub(super) struct Trash {
    sender: mpsc::Sender<Job>,
}

enum Job {
    /// A file to unlink, and what to do once it is.
    Unlink(Unlink),
    /// Anything else that waits for the disk.
    Other(Box<dyn FnOnce() + Send>),
}

struct Unlink {
    path: PathBuf,
    done: Box<dyn FnOnce() + Send>,
}

impl Trash {
    pub(super) fn start() -> Self {
        let (sender, receiver) = mpsc::channel::<Job>();
        // Without the thread unlinking happens where it is asked for.
        if let Err(error) = thread::Builder::new()
            .name("pierglass-trash".into())
            .spawn(move || empty(&receiver))
        {
            tracing::warn!(%error, "no thread to empty the trash; doing it inline");
        }
        Self { sender }
    }

    /// Unlinks a file, then calls `done`.
    pub(super) fn unlink(&self, path: PathBuf, done: impl FnOnce() + Send + 'static) {
        let done = Box::new(done);
        self.hand_over(Job::Unlink(Unlink { path, done }));
    }

    /// Has `job` done in the same thread.
    pub(super) fn later(&self, job: impl FnOnce() + Send + 'static) {
        self.hand_over(Job::Other(Box::new(job)));
    }

    fn hand_over(&self, job: Job) {
        match self.sender.send(job) {
            Ok(()) => {}
            Err(mpsc::SendError(Job::Other(job))) => job(),
            Err(mpsc::SendError(Job::Unlink(file))) => {
                if let Some(file) = unlink(file) {
                    (file.done)();
                }
            }
        }
    }
}

/// Does the work until the store is gone. What cannot be unlinked still takes its room, so it stays counted and is
/// tried again.
fn empty(jobs: &mpsc::Receiver<Job>) {
    let mut stuck = Vec::new();
    loop {
        let job = if stuck.is_empty() {
            jobs.recv()
                .map_err(|_| mpsc::RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(UNLINK_AGAIN)
        };
        match job {
            Ok(Job::Other(job)) => job(),
            Ok(Job::Unlink(file)) => stuck.extend(unlink(file)),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                stuck = stuck.into_iter().filter_map(unlink).collect();
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Unlinks a file; gives it back where that fails.
fn unlink(file: Unlink) -> Option<Unlink> {
    match fs::remove_file(&file.path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::debug!(path = %file.path.display(), %error, "cannot unlink yet");
            Some(file)
        }
        _ => {
            (file.done)();
            None
        }
    }
}
