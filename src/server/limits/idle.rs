//! The connections that are open, and which of them can be closed to make room.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::access::address::ClientId;

use super::activity::Activity;

/// A connection that has done nothing for this long is idle. Shorter, and it may have been opened for a request that
/// is about to come, or an HTTP/2 client may be slow in taking the end of an answer.
const IDLE: Duration = Duration::from_secs(5);

type ById = HashMap<u64, Arc<OpenConnection>>;

/// All open connections.
#[derive(Default)]
pub(super) struct OpenConnections {
    /// Guards the table, for an entry or a walk without waiting. Clients without a connection are not in it.
    by_client: Mutex<HashMap<ClientId, ById>>,
    next: AtomicU64,
}

/// One connection, as it is seen when room for another one is looked for.
#[derive(Default)]
pub(crate) struct OpenConnection {
    activity: Arc<Activity>,
    close: Notify,
    told: AtomicBool,
}

impl OpenConnections {
    pub(super) fn add(&self, client: ClientId) -> (u64, Arc<OpenConnection>) {
        let (id, connection) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::default());
        let mut clients = self.by_client();
        let connections = clients.entry(client).or_default();
        connections.insert(id, Arc::clone(&connection));
        (id, connection)
    }

    pub(super) fn remove(&self, client: ClientId, id: u64) {
        let mut clients = self.by_client();
        if let Some(connections) = clients.get_mut(&client) {
            connections.remove(&id);
            if connections.is_empty() {
                clients.remove(&client);
            }
        }
    }

    /// Closes the connection of this client that has been idle for the longest time; false if none is idle.
    pub(super) fn close_idle_of(&self, client: ClientId) -> bool {
        self.by_client().get(&client).is_some_and(close_one)
    }

    /// Closes an idle connection of any client, of the one with the most connections first; false if none is idle.
    pub(super) fn close_idle(&self) -> bool {
        let clients = self.by_client();
        let mut all: Vec<_> = clients.values().collect();
        all.sort_by_key(|connections| Reverse(connections.len()));
        all.into_iter().any(close_one)
    }

    fn by_client(&self) -> MutexGuard<'_, HashMap<ClientId, ById>> {
        self.by_client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn close_one(connections: &ById) -> bool {
    let idle = connections.values().filter_map(|connection| {
        let quiet = connection.idle_for()?;
        (!connection.told.load(Ordering::Relaxed)).then_some((quiet, connection))
    });
    let Some((_, connection)) = idle.max_by_key(|(quiet, _)| *quiet) else {
        return false;
    };
    connection.told.store(true, Ordering::Relaxed);
    connection.close.notify_one();
    true
}

impl OpenConnection {
    pub(crate) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    fn idle_for(&self) -> Option<Duration> {
        self.activity.idle_for().filter(|quiet| *quiet >= IDLE)
    }

    /// Completes when the connection was told to close and is still idle.
    pub(crate) async fn told_to_close(&self) {
        loop {
            self.close.notified().await;
            if self.idle_for().is_some() {
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

    use super::super::activity::ActiveRequest;
    use super::*;

    fn client() -> ClientId {
        ClientId::from(std::net::IpAddr::from([192, 0, 2, 1]))
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_is_closed_and_the_busy_stay() {
        let open = OpenConnections::default();
        let (_, busy) = open.add(client());
        let request = ActiveRequest::new(busy.activity());
        let (_, blocked) = open.add(client());
        blocked.activity().blocked(true);
        sleep(Duration::from_secs(1)).await;
        let (old, longest) = open.add(client());
        sleep(Duration::from_secs(1)).await;
        let (_, shorter) = open.add(client());
        assert!(!open.close_idle(), "none is idle yet");
        sleep(IDLE).await;
        assert!(open.close_idle());
        longest.told_to_close().await;
        open.remove(client(), old);
        assert!(open.close_idle());
        shorter.told_to_close().await;
        assert!(!open.close_idle(), "one that was told is not told again");
        drop(request);
        sleep(IDLE).await;
        assert!(open.close_idle());
        busy.told_to_close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_comes_in_between_keeps_the_connection() {
        let open = OpenConnections::default();
        let (_, connection) = open.add(client());
        sleep(IDLE).await;
        assert!(open.close_idle());
        let request = ActiveRequest::new(connection.activity());
        let left = tokio::time::timeout(Duration::from_secs(60), connection.told_to_close()).await;
        assert!(left.is_err());
        drop(request);
        sleep(IDLE).await;
        assert!(open.close_idle(), "it can be told again");
    }
}
