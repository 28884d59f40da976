//! A link of limited capacity: a body waits until the bytes before have passed.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bytes per second, shared by all who hold it; 0 is without limit.
#[derive(Debug)]
pub struct Link {
    /// The rate, and when the link is next free.
    state: Mutex<(u64, Instant)>,
}

impl Link {
    pub fn at(bytes_per_sec: u64) -> Link {
        Link {
            state: Mutex::new((bytes_per_sec, Instant::now())),
        }
    }

    pub fn set(&self, bytes_per_sec: u64) {
        *self.state.lock().unwrap() = (bytes_per_sec, Instant::now());
    }

    /// Waits for the turn of up to `wanted` bytes and says how many may go. Pieces are a twentieth of a second at most,
    /// so that connections take turns and a new rate takes hold at once.
    pub async fn pass(&self, wanted: u64) -> u64 {
        let (turn, allowed) = {
            let mut state = self.state.lock().unwrap();
            let (rate, free) = *state;
            if rate == 0 {
                return wanted;
            }
            let allowed = wanted.min((rate / 20).max(1));
            let turn = free.max(Instant::now());
            state.1 = turn + Duration::from_secs_f64(allowed as f64 / rate as f64);
            (state.1, allowed)
        };
        sleep_until(turn).await;
        allowed
    }
}
