//! Misses: how many questions to upstream one client may cause in a minute.
//!
//! Each client has a bucket that holds a minute's worth and fills evenly. It is remembered while the client is away, so
//! hanging up gains nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::address::ClientId;

/// Clients whose buckets are remembered; each costs upstream a question.
const MOST_CLIENTS: u64 = 65_536;
/// A bucket is full again by then.
const MINUTE: Duration = Duration::from_secs(60);

/// A client has caused as many questions as it may; upstream is not asked before that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverRate {
    pub(crate) again_in: Duration,
}

/// The buckets of all clients that asked for something that is not stored.
pub(super) struct Misses {
    per_minute: Option<f64>,
    buckets: Cache<ClientId, Arc<Mutex<Bucket>>>,
}

struct Bucket {
    /// Questions that may be asked at `at`.
    left: f64,
    at: Instant,
}

impl Misses {
    pub(super) fn new(per_minute: Option<usize>) -> Self {
        Self {
            per_minute: per_minute.map(|number| number as f64),
            buckets: Cache::builder()
                .max_capacity(MOST_CLIENTS)
                .time_to_idle(MINUTE)
                .build(),
        }
    }

    /// Counts one question of this client.
    pub(super) fn take(&self, client: ClientId) -> Result<(), OverRate> {
        let Some(per_minute) = self.per_minute else {
            return Ok(());
        };
        let now = Instant::now();
        let full = || {
            Arc::new(Mutex::new(Bucket {
                left: per_minute,
                at: now,
            }))
        };
        let bucket = self.buckets.get_with(client, full);
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        bucket.take(now, per_minute)
    }
}

impl Bucket {
    fn take(&mut self, now: Instant, per_minute: f64) -> Result<(), OverRate> {
        let per_second = per_minute / MINUTE.as_secs_f64();
        let came = now.saturating_duration_since(self.at).as_secs_f64() * per_second;
        self.left = (self.left + came).min(per_minute);
        self.at = now;
        if self.left < 1.0 {
            let again_in = Duration::try_from_secs_f64((1.0 - self.left) / per_second);
            return Err(OverRate {
                again_in: again_in.unwrap_or(MINUTE),
            });
        }
        self.left -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let start = Instant::now();
        let mut bucket = Bucket {
            left: 60.0,
            at: start,
        };
        assert!((0..60).all(|_| bucket.take(start, 60.0).is_ok()));
        let over = bucket.take(start, 60.0).unwrap_err();
        assert_eq!(over.again_in.as_secs_f64().round(), 1.0);
        let later = start + Duration::from_millis(3500);
        assert!((0..3).all(|_| bucket.take(later, 60.0).is_ok()));
        assert!(bucket.take(later, 60.0).is_err());
    }

    #[test]
    fn clients_have_buckets_of_their_own() {
        let misses = Misses::new(Some(1));
        let client = |last| ClientId::from(std::net::IpAddr::from([192, 0, 2, last]));
        assert!(misses.take(client(1)).is_ok());
        assert!(misses.take(client(1)).is_err());
        assert!(misses.take(client(2)).is_ok());
        let none = Misses::new(None);
        assert!((0..1000).all(|_| none.take(client(1)).is_ok()));
    }

    proptest! {
        #[test]
        fn no_pattern_gets_more_than_two_minutes_worth_in_one(
            pauses in prop::collection::vec(0u64..3000, 1..400), per_minute in 1u32..100,
        ) {
            let start = Instant::now();
            let mut bucket = Bucket { left: per_minute.into(), at: start };
            let (mut now, mut granted) = (start, 0);
            for pause in pauses {
                now += Duration::from_millis(pause);
                if now - start > MINUTE {
                    break;
                }
                granted += u32::from(bucket.take(now, per_minute.into()).is_ok());
            }
            prop_assert!(granted <= 2 * per_minute);
        }
    }
}
