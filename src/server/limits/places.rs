//! Places: how many connections there are in all, and who gives way when they run short.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

use super::seats::Seat;
use super::share::{Asker, Busy, PerClient, Share, Shares, Ticket};

/// Connections over their clients' shares that wait at a time. Each is an open file.
const LOBBY: usize = 256;

/// How often room is looked for while there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The places for connections, shared by all listeners that hold it.
pub(crate) struct Places {
    all: Arc<Semaphore>,
    lobby: Semaphore,
    shares: Arc<Shares>,
    closed_for_room: IntCounter,
}

impl Places {
    /// This many places, and what one client may have of them.
    pub(crate) fn new(places: usize, per_client: PerClient, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            lobby: Semaphore::new(LOBBY),
            shares: Shares::new(per_client, metrics.client_limited.clone()),
            closed_for_room: metrics.closed_for_room.clone(),
        })
    }

    pub(crate) fn share_of(&self, peer: SocketAddr) -> Arc<Share> {
        self.shares.of(peer.ip())
    }

    /// Leave for a connection more than its client's share: one of that client's own that is at rest gives
    /// way, or its end is waited for.
    pub(crate) async fn wait_for_share(&self, share: &Arc<Share>) -> Result<Ticket, Busy> {
        let Ok(_waiting) = self.lobby.try_acquire() else {
            return Err(Busy { of: "connections" });
        };
        if share.seats.make_room() {
            self.closed_for_room.inc();
        }
        share.connection().await
    }

    /// A place among all, for who has leave. While there is none, connections at rest are closed.
    pub(crate) async fn take(&self, share: Arc<Share>, leave: Ticket) -> Place {
        let among_all = loop {
            if let Ok(place) = Arc::clone(&self.all).try_acquire_owned() {
                break Some(place);
            }
            self.make_room();
            let place = Arc::clone(&self.all).acquire_owned();
            match tokio::time::timeout(LOOK_AGAIN, place).await {
                // The semaphore is never closed; if it were, there would be no limit.
                Ok(place) => break place.ok(),
                Err(_) => continue,
            }
        };
        let (id, seat) = share.seats.sit();
        Place {
            _among_all: among_all,
            _leave: leave,
            share,
            id,
            seat,
        }
    }

    /// Closes one connection that is at rest, of the client that has the most.
    pub(crate) fn make_room(&self) {
        if self
            .shares
            .greediest_first()
            .iter()
            .any(|share| share.seats.make_room())
        {
            self.closed_for_room.inc();
        }
    }
}

/// A connection's place; free again when dropped.
pub(crate) struct Place {
    _among_all: Option<OwnedSemaphorePermit>,
    _leave: Ticket,
    share: Arc<Share>,
    id: u64,
    /// What others see of it.
    pub(crate) seat: Arc<Seat>,
}

impl Place {
    /// Who asks on this connection.
    pub(crate) fn asker(&self, address: SocketAddr) -> Asker {
        Asker {
            address,
            share: Arc::clone(&self.share),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.share.seats.rise(self.id);
    }
}
