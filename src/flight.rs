//! Single flight: many ask for the same thing, one task works for all of them.
//!
//! The work is a detached task, so it outlives every asker, the first one included. It may publish
//! its value long before it ends (a fill publishes the growing blob as soon as upstream's headers are
//! in); until it ends, later askers join it. The slot is given back by `Drop`, so a panic or an early
//! return can never leave askers waiting for a flight that is over.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// The flights of one kind that are under way, by key.
pub(crate) struct Flights<K, V> {
    /// Guards the map alone: held for a lookup or an insert, never while a flight works.
    slots: Mutex<HashMap<K, Landing<V>>>,
}

/// Whether an asker started the flight or found it under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// This asker's request started the work.
    Leader,
    /// The work was under way already.
    Joiner,
}

/// The flight ended without publishing anything: its task panicked or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lost;

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self {
            slots: Mutex::new(HashMap::new()),
        }
    }
}

impl<K, V> Flights<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Joins the flight for `key`, or starts it by spawning `work`, and returns a handle to its value.
    ///
    /// `work` receives the [`Slot`] through which it publishes; the flight stays joinable until that
    /// slot is dropped or retired.
    pub(crate) fn join<F, W>(self: &Arc<Self>, key: K, work: W) -> (Landing<V>, Role)
    where
        W: FnOnce(Slot<K, V>) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut slots = self.slots();
        if let Some(landing) = slots.get(&key) {
            return (landing.clone(), Role::Joiner);
        }
        let (sender, receiver) = watch::channel(None);
        let begun = Instant::now();
        let landing = Landing { receiver, begun };
        slots.insert(key.clone(), landing.clone());
        drop(slots);
        let slot = Slot {
            flights: Arc::clone(self),
            key: Some(key),
            sender,
        };
        tokio::spawn(work(slot));
        (landing, Role::Leader)
    }

    /// The flight for `key`, if one is under way.
    pub(crate) fn find(&self, key: &K) -> Option<Landing<V>> {
        self.slots().get(key).cloned()
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<K, Landing<V>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The working side of a flight.
pub(crate) struct Slot<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    flights: Arc<Flights<K, V>>,
    /// `None` once retired.
    key: Option<K>,
    sender: watch::Sender<Option<V>>,
}

impl<K, V> Slot<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Hands `value` to all who wait and to all who will join.
    pub(crate) fn publish(&self, value: V) {
        self.sender.send_replace(Some(value));
    }

    /// Makes the flight unjoinable: who asks from now on starts a new one.
    ///
    /// Called before a failure becomes visible, so that a flight that has failed is never joined.
    pub(crate) fn retire(&mut self) {
        if let Some(key) = self.key.take() {
            self.flights.slots().remove(&key);
        }
    }
}

impl<K, V> Drop for Slot<K, V>
where
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.retire();
    }
}

/// The asking side of a flight.
#[derive(Clone)]
pub(crate) struct Landing<V> {
    receiver: watch::Receiver<Option<V>>,
    begun: Instant,
}

impl<V: Clone> Landing<V> {
    /// Waits until the flight publishes, and returns what it published last.
    pub(crate) async fn value(mut self) -> Result<V, Lost> {
        let value = self
            .receiver
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Lost)?;
        value.clone().ok_or(Lost)
    }

    /// The same, but waits no longer than until the flight is that old, however late it was joined; `None` if it has
    /// published nothing by then.
    pub(crate) async fn value_within(self, age: Duration) -> Option<Result<V, Lost>> {
        let left = age.saturating_sub(self.begun.elapsed());
        timeout(left, self.value()).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn many_askers_share_one_piece_of_work() {
        let flights = Arc::new(Flights::<&str, usize>::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let ask = || {
            let runs = Arc::clone(&runs);
            flights.join("a", move |slot| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                slot.publish(runs.fetch_add(1, Ordering::SeqCst));
            })
        };
        let landings: Vec<_> = (0..10).map(|_| ask()).collect();
        assert_eq!(
            landings
                .iter()
                .filter(|(_, role)| *role == Role::Leader)
                .count(),
            1
        );
        for (landing, _) in landings {
            assert_eq!(landing.value().await, Ok(0));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_work_outlives_the_asker_who_started_it() {
        let flights = Arc::new(Flights::<&str, u8>::default());
        let (done, finished) = tokio::sync::oneshot::channel();
        let (landing, _) = flights.join("a", |slot| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            slot.publish(1);
            let _ = done.send(());
        });
        drop(landing);
        assert!(finished.await.is_ok());
    }

    #[tokio::test]
    async fn a_flight_that_ends_without_a_value_wakes_its_askers() {
        let flights = Arc::new(Flights::<&str, u8>::default());
        let (landing, _) = flights.join("a", |slot| async move { drop(slot) });
        assert_eq!(landing.value().await, Err(Lost));
        assert!(flights.find(&"a").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_joins_an_old_flight_does_not_wait_as_long_again() {
        let second = Duration::from_secs(1);
        let flights = Arc::new(Flights::<&str, u8>::default());
        let join = || {
            flights.join("a", |slot| async move {
                tokio::time::sleep(10 * second).await;
                slot.publish(1);
                tokio::time::sleep(10 * second).await;
            })
        };
        let start = Instant::now();
        assert_eq!(join().0.value_within(2 * second).await, None);
        assert_eq!(start.elapsed().as_secs(), 2);
        assert_eq!(join().0.value_within(2 * second).await, None);
        assert_eq!(
            start.elapsed().as_secs(),
            2,
            "it has waited long enough already"
        );
        assert_eq!(join().0.value_within(5 * second).await, None);
        assert_eq!(start.elapsed().as_secs(), 5);
        assert_eq!(join().0.value().await, Ok(1));
        // What is there is taken, however old the flight.
        assert_eq!(join().0.value_within(second).await, Some(Ok(1)));
    }

    #[tokio::test]
    async fn a_retired_flight_is_not_joined() {
        let flights = Arc::new(Flights::<&str, u8>::default());
        let (first, _) = flights.join("a", |mut slot| async move {
            slot.retire();
            slot.publish(1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        });
        assert_eq!(first.value().await, Ok(1));
        let (second, role) = flights.join("a", |slot| async move { slot.publish(2) });
        assert_eq!(role, Role::Leader);
        assert_eq!(second.value().await, Ok(2));
    }
}
