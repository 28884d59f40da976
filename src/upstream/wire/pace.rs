//! The least pace of a body. One that trickles would hold its room in the store, its client's permit and the patience of
//! all who read along, for as long as upstream likes.

use std::time::Duration;

use crate::upstream::error::Error;

/// A modem brings as much in a second as this asks for in half a minute.
const LEAST_PER_MINUTE: u64 = 64 * 1024;
/// How many idle timeouts it is averaged over: two minutes by default.
const AVERAGED_OVER: u32 = 4;

/// How much of a body came while it was waited for. A reader that is slow itself does not count.
#[derive(Debug, Default)]
pub(super) struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// Notes that `bytes` came after a wait; fails if that is not fast enough any more.
    pub(super) fn note(
        &mut self,
        waited: Duration,
        bytes: usize,
        idle: Duration,
    ) -> Result<(), Error> {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes as u64);
        let span = idle.saturating_mul(AVERAGED_OVER);
        if self.waited < span {
            return Ok(());
        }
        let least = LEAST_PER_MINUTE as f64 * span.as_secs_f64() / 60.0;
        let enough = self.bytes as f64 >= least;
        *self = Self::default();
        let words = "the body comes more slowly than 64 KiB a minute";
        enough.then_some(()).ok_or(Error::Silent(words.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(30);

    fn minutes(bytes_a_second: usize, minutes: usize) -> bool {
        let mut pace = Pace::default();
        (0..60 * minutes).all(|_| {
            pace.note(Duration::from_secs(1), bytes_a_second, IDLE)
                .is_ok()
        })
    }

    #[test]
    fn a_trickle_is_too_slow_and_a_modem_is_not() {
        assert!(minutes(1, 1), "it has two minutes");
        assert!(!minutes(1, 2) && !minutes(1000, 2));
        assert!(minutes(1100, 60));
    }

    #[test]
    fn what_is_there_at_once_is_fast_however_little_it_is() {
        let mut pace = Pace::default();
        assert!((0..100_000).all(|_| pace.note(Duration::from_micros(10), 1, IDLE).is_ok()));
    }
}
