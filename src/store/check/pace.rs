//! How fast a check reads, so that the disk is there for pulls.

use std::num::NonZeroU64;
use std::time::Duration;

/// How much slower it reads while blobs come in.
const YIELD: u32 = 4;

/// Bytes a second that a check may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate(NonZeroU64);

impl Rate {
    /// `None` for 0.
    pub(crate) fn new(bytes: u64) -> Option<Self> {
        NonZeroU64::new(bytes).map(Self)
    }

    /// How long it takes to read `bytes`; `busy` while blobs come in.
    pub(super) fn time(self, bytes: u64, busy: bool) -> Duration {
        // Longer than any check, and no more than can be added to a clock.
        let seconds = (bytes as f64 / self.0.get() as f64).min(1e9);
        let time = Duration::from_secs_f64(seconds);
        if busy { time * YIELD } else { time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_reads_no_faster_than_its_rate_and_slower_while_blobs_come() {
        let rate = Rate::new(1 << 20).unwrap();
        assert_eq!(rate.time(1 << 20, false), Duration::from_secs(1));
        assert_eq!(rate.time(1 << 18, true), Duration::from_secs(1));
        assert_eq!(rate.time(0, true), Duration::ZERO);
        assert_eq!(Rate::new(0), None);
        let slowest = Rate::new(1).unwrap().time(u64::MAX, true);
        assert!(std::time::Instant::now().checked_add(slowest).is_some());
    }
}
