//! How many connections there may be in all, and which one is closed when there are too many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::caller::Caller;
use crate::access::permits::{OverShare, PerClient, Permit, Share, Shares};
use crate::metrics::Metrics;

use super::idle::{OpenConnection, OpenConnections};

/// Connections over their clients' shares that wait at a time. Each is an open file.
const MOST_WAITING: usize = 256;

/// How often room is looked for while there is none.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The limit on connections, of all clients and of each. Listeners that share it share the limit.
pub(crate) struct ConnectionLimit {
    all: Arc<Semaphore>,
    waiting: Semaphore,
    shares: Arc<Shares>,
    open: OpenConnections,
    closed_for_room: IntCounter,
}

impl ConnectionLimit {
    pub(crate) fn new(
        most: usize,
        most_requests: usize,
        per_client: PerClient,
        metrics: &Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            waiting: Semaphore::new(MOST_WAITING),
            shares: Shares::new(per_client, most_requests, metrics.client_limited.clone()),
            open: OpenConnections::default(),
            closed_for_room: metrics.closed_for_room.clone(),
        })
    }

    pub(crate) fn share_of(&self, peer: SocketAddr) -> Arc<Share> {
        self.shares.of(peer.ip())
    }

    /// A permit for a connection more than its client's share: an idle one of the same client is closed, or the end
    /// of one is waited for.
    pub(crate) async fn wait_for_share(&self, share: &Arc<Share>) -> Result<Permit, OverShare> {
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return Err(OverShare::connections());
        };
        self.count(self.open.close_idle_of(share.client()));
        share.connection().await
    }

    /// Waits until there may be one more connection in all. Until then idle ones are closed.
    pub(crate) async fn take(
        self: &Arc<Self>,
        share: Arc<Share>,
        of_share: Permit,
    ) -> ConnectionPermit {
        let of_all = loop {
            if let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() {
                break Some(permit);
            }
            self.make_room();
            let permit = Arc::clone(&self.all).acquire_owned();
            match tokio::time::timeout(LOOK_AGAIN, permit).await {
                // The semaphore is never closed; if it were, there would be no limit.
                Ok(permit) => break permit.ok(),
                Err(_) => continue,
            }
        };
        let (id, connection) = self.open.add(share.client());
        ConnectionPermit {
            _of_all: of_all,
            _of_share: of_share,
            limit: Arc::clone(self),
            share,
            id,
            connection,
        }
    }

    /// Closes an idle connection of the client that has the most connections.
    pub(crate) fn make_room(&self) {
        self.count(self.open.close_idle());
    }

    fn count(&self, closed: bool) {
        self.closed_for_room.inc_by(closed.into());
    }
}

/// The permit for one open connection; given back when dropped.
pub(crate) struct ConnectionPermit {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_share: Permit,
    limit: Arc<ConnectionLimit>,
    share: Arc<Share>,
    id: u64,
    connection: Arc<OpenConnection>,
}

impl ConnectionPermit {
    /// Who asks on this connection.
    pub(crate) fn caller(&self, address: SocketAddr) -> Caller {
        Caller::new(address.ip(), Arc::clone(&self.share))
    }

    pub(crate) fn connection(&self) -> &OpenConnection {
        &self.connection
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limit.open.remove(self.share.client(), self.id);
    }
}
