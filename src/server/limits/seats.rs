//! Seats: the connections that one client has, and which of them can be done without.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::activity::Activity;

/// A connection that has done nothing for this long is at rest. Shorter, and it may have been opened for a
/// request that is about to come, or an HTTP/2 client be slow in taking the end of an answer.
const AT_REST: Duration = Duration::from_secs(5);

/// The connections of one client.
#[derive(Default)]
pub(crate) struct Seats {
    /// Guards the table, for an entry or a walk without waiting.
    taken: Mutex<HashMap<u64, Arc<Seat>>>,
    next: AtomicU64,
}

/// One connection, as seen by those who look for room.
#[derive(Default)]
pub(crate) struct Seat {
    activity: Arc<Activity>,
    leave: Notify,
    told: AtomicBool,
}

impl Seats {
    pub(crate) fn sit(&self) -> (u64, Arc<Seat>) {
        let (id, seat) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        self.taken().insert(id, Arc::clone(&seat));
        (id, seat)
    }

    pub(crate) fn rise(&self, id: u64) {
        self.taken().remove(&id);
    }

    pub(crate) fn count(&self) -> usize {
        self.taken().len()
    }

    /// Tells the connection to leave that has been at rest for the longest time; false if none is at rest.
    pub(crate) fn make_room(&self) -> bool {
        let taken = self.taken();
        let resting = taken.values().filter_map(|seat| {
            let quiet = seat.at_rest()?;
            (!seat.told.load(Ordering::Relaxed)).then_some((quiet, seat))
        });
        let Some((_, seat)) = resting.max_by_key(|(quiet, _)| *quiet) else {
            return false;
        };
        seat.told.store(true, Ordering::Relaxed);
        seat.leave.notify_one();
        true
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<u64, Arc<Seat>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// What happens on the connection.
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    fn at_rest(&self) -> Option<Duration> {
        self.activity.idle_for().filter(|quiet| *quiet >= AT_REST)
    }

    /// Completes when the connection was told to leave, and still has nothing to do.
    pub(crate) async fn not_needed(&self) {
        loop {
            self.leave.notified().await;
            if self.at_rest().is_some() {
                return;
            }
            // A request came in between.
            self.told.store(false, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::super::activity::Open;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_at_rest_leaves_and_the_busy_stay() {
        let seats = Seats::default();
        let (_, busy) = seats.sit();
        let request = Open::new(busy.activity());
        let (_, blocked) = seats.sit();
        blocked.activity().blocked(true);
        sleep(Duration::from_secs(1)).await;
        let (old, longest) = seats.sit();
        sleep(Duration::from_secs(1)).await;
        let (_, shorter) = seats.sit();
        assert!(!seats.make_room(), "none is at rest yet");
        sleep(AT_REST).await;
        assert!(seats.make_room());
        longest.not_needed().await;
        seats.rise(old);
        assert!(seats.make_room());
        shorter.not_needed().await;
        assert!(!seats.make_room(), "who was told is not told again");
        drop(request);
        sleep(AT_REST).await;
        assert!(seats.make_room());
        busy.not_needed().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_in_between_keeps_the_connection() {
        let seats = Seats::default();
        let (_, seat) = seats.sit();
        sleep(AT_REST).await;
        assert!(seats.make_room());
        let request = Open::new(seat.activity());
        let left = tokio::time::timeout(Duration::from_secs(60), seat.not_needed()).await;
        assert!(left.is_err());
        drop(request);
        sleep(AT_REST).await;
        assert!(seats.make_room(), "it can be told again");
    }
}
