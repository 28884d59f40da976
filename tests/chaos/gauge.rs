//! Memory of the mirror and room that its store takes, looked at all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::disk::{Watch, directories, files};
use crate::{MAX_SIZE, Run};

/// What was seen of a mirror and its store.
#[derive(Debug)]
pub struct Measured {
    /// The most bytes that the store took.
    pub du: u64,
    /// The most files and directories that it had.
    pub files: u64,
    /// Resident memory, in the order it was seen.
    pub memory: Vec<u64>,
}

#[derive(Debug)]
pub struct Gauge {
    disk: Watch,
    stop: Arc<AtomicBool>,
    samples: JoinHandle<(u64, Vec<u64>)>,
}

impl Gauge {
    pub fn start(run: &Arc<Run>) -> Gauge {
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, over) = (run.clone(), stop.clone());
        let samples = std::thread::spawn(move || {
            let (mut most, mut samples) = (0, Vec::new());
            while !over.load(Ordering::Relaxed) {
                // Taken while the mirror is restarted, and by the verdict, which waits for this thread.
                if let Ok(mirror) = watched.mirror.try_lock() {
                    samples.extend(resident(mirror.pid()));
                }
                let store = watched.ground.store();
                let seen = files(&store).len() as u64 + directories(&store);
                most = seen.max(most);
                std::thread::sleep(Duration::from_millis(200));
            }
            (most, samples)
        });
        Gauge {
            disk: Watch::start(&run.ground.store(), MAX_SIZE),
            stop,
            samples,
        }
    }

    pub fn end(self) -> Measured {
        self.stop.store(true, Ordering::Relaxed);
        let (files, memory) = self.samples.join().unwrap();
        let du = self.disk.most();
        Measured { du, files, memory }
    }
}

/// Bytes in memory of a process; `None` when it was killed a moment ago.
pub fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
