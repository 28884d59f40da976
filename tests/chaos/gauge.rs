//! Memory of the mirror and room that its store takes, looked at all the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::disk::Watch;
use crate::{MAX_SIZE, Run};

/// Resident memory in the order it was seen.
type Samples = Vec<u64>;

#[derive(Debug)]
pub struct Gauge {
    disk: Watch,
    stop: Arc<AtomicBool>,
    memory: JoinHandle<Samples>,
}

impl Gauge {
    pub fn start(run: &Arc<Run>) -> Gauge {
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, over) = (run.clone(), stop.clone());
        let memory = std::thread::spawn(move || {
            let mut samples = Vec::new();
            while !over.load(Ordering::Relaxed) {
                // Taken while the mirror is restarted, and by the verdict, which waits for this thread.
                if let Ok(mirror) = watched.mirror.try_lock() {
                    samples.extend(resident(mirror.pid()));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
            samples
        });
        Gauge {
            disk: Watch::start(&run.ground.store(), MAX_SIZE),
            stop,
            memory,
        }
    }

    /// The most that the store took, and the samples of memory.
    pub fn end(self) -> (u64, Samples) {
        self.stop.store(true, Ordering::Relaxed);
        (self.disk.most(), self.memory.join().unwrap())
    }
}

/// Bytes in memory of a process; `None` when it was killed a moment ago.
pub fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}
