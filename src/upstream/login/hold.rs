//! For how long a credential that was refused is not shown again: a registry locks accounts out, and counts. Pure: time is
//! an argument.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Hold {
    until: Option<Instant>,
    /// Refusals in a row, those of one herd counted once.
    refusals: u32,
}

impl Hold {
    /// It was refused; how long it is held back, if that begins now.
    pub(super) fn refused(&mut self, now: Instant) -> Option<Duration> {
        if self.lasts(now) {
            return None;
        }
        // One that was taken in between is a new one.
        if self
            .until
            .is_some_and(|until| now.saturating_duration_since(until) > LONGEST)
        {
            self.refusals = 0;
        }
        let pause = FIRST
            .saturating_mul(1 << self.refusals.min(10))
            .min(LONGEST);
        self.refusals = self.refusals.saturating_add(1);
        self.until = Some(now + pause);
        Some(pause)
    }

    pub(super) fn lasts(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_from_half_a_minute_to_ten() {
        let (mut hold, mut now) = (Hold::default(), Instant::now());
        for seconds in [30, 60, 120, 240, 480, 600, 600] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(hold.refused(now), Some(pause));
            assert_eq!(hold.refused(now), None, "the others of the same herd");
            assert!(hold.lasts(now + pause - Duration::from_millis(1)));
            now += pause;
            assert!(!hold.lasts(now));
        }
        assert_eq!(hold.refused(now + 2 * LONGEST), Some(FIRST));
    }
}
