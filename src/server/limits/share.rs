//! Shares: how much one client may take of what all clients use, so that none can starve the rest.
//!
//! Three things are shared out: connections, requests that are being answered, and transfers that a client
//! had started. What is over a client's share waits for a turn of that client's own, and never for another's;
//! it is refused when that takes too long, or when as many wait already.
//!
//! A share is remembered as long as something of it is taken: a client gains nothing by hanging up. So the
//! table never has more entries than there are connections and transfers.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::seats::Seats;

/// How long a turn is waited for: less than clients wait for an answer (Docker gives `/v2/` 15 s).
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections over a client's share that wait at a time. Each is an open file.
const MOST_WAITING_CONNECTIONS: usize = 128;

/// What one client may have at a time; `None` for no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PerClient {
    /// Connections.
    pub connections: Option<usize>,
    /// Requests being answered, and questions to upstream that they left behind.
    pub requests: Option<usize>,
    /// Transfers from upstream that it started, whether it still waits for them or not.
    pub fills: Option<usize>,
}

/// Who counts as one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Client(IpAddr);

impl From<IpAddr> for Client {
    /// An IPv4 address; of IPv6 the network of 64 bits, since any host has all of one to choose from.
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            // All hosts of a link share this network.
            IpAddr::V6(address) if address.is_unicast_link_local() => Self(address.into()),
            IpAddr::V6(address) => {
                let network = address.to_bits() & (u128::MAX << 64);
                Self(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// The shares of all clients that have something.
pub(crate) struct Shares {
    /// Guards the table alone, for a look or an entry. Nothing may be dropped under it: a share locks it too.
    table: Mutex<HashMap<Client, Weak<Share>>>,
    limits: PerClient,
    limited: IntCounterVec,
}

impl Shares {
    pub(crate) fn new(limits: PerClient, limited: IntCounterVec) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            limits,
            limited,
        })
    }

    /// The share of the client at this address.
    pub(crate) fn of(self: &Arc<Self>, address: IpAddr) -> Arc<Share> {
        let client = Client::from(address);
        let mut table = self.table();
        if let Some(share) = table.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share::new(client, Arc::clone(self)));
        table.insert(client, Arc::downgrade(&share));
        share
    }

    /// All of them, those with the most connections first.
    pub(crate) fn greediest_first(&self) -> Vec<Arc<Share>> {
        let mut all: Vec<_> = self.table().values().filter_map(Weak::upgrade).collect();
        all.sort_by_cached_key(|share| std::cmp::Reverse(share.seats.count()));
        all
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Client, Weak<Share>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's share.
pub(crate) struct Share {
    client: Client,
    home: Arc<Shares>,
    connections: Lane,
    requests: Lane,
    fills: Lane,
    /// Its connections.
    pub(crate) seats: Seats,
}

impl Share {
    fn new(client: Client, home: Arc<Shares>) -> Self {
        let limits = home.limits;
        Self {
            client,
            home,
            connections: Lane::new("connections", limits.connections, MOST_WAITING_CONNECTIONS),
            requests: Lane::new("requests", limits.requests, usize::MAX),
            fills: Lane::new("fills", limits.fills, usize::MAX),
            seats: Seats::default(),
        }
    }

    /// Leave for one more connection, if it is free at once.
    pub(crate) fn try_connection(self: &Arc<Self>) -> Option<Ticket> {
        let turn = self.connections.try_turn()?;
        Some(self.ticket(turn))
    }

    /// Leave for one more connection.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Ticket, Busy> {
        self.take(&self.connections).await
    }

    async fn take(self: &Arc<Self>, lane: &Lane) -> Result<Ticket, Busy> {
        let turn = lane.turn(&self.home.limited).await?;
        Ok(self.ticket(turn))
    }

    fn ticket(self: &Arc<Self>, turn: OwnedSemaphorePermit) -> Ticket {
        Ticket {
            _turn: turn,
            _share: Arc::clone(self),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.home.table();
        // It may be another's by now, made between our end and this.
        if table
            .get(&self.client)
            .is_some_and(|share| share.strong_count() == 0)
        {
            table.remove(&self.client);
        }
    }
}

/// A turn that was taken; given back when dropped.
pub(crate) struct Ticket {
    _turn: OwnedSemaphorePermit,
    _share: Arc<Share>,
}

/// A client has as much as it may, and nothing of it ended in time.
#[derive(Debug)]
pub(crate) struct Busy {
    /// What it has too many of.
    pub(crate) of: &'static str,
}

/// Turns of one kind, in the order they are asked for.
struct Lane {
    name: &'static str,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
}

impl Lane {
    fn new(name: &'static str, limit: Option<usize>, most_waiting: usize) -> Self {
        let turns = limit
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            name,
            turns: Arc::new(Semaphore::new(turns)),
            waiting: AtomicUsize::new(0),
            most_waiting: most_waiting.min(turns),
        }
    }

    fn try_turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.turns).try_acquire_owned().ok()
    }

    async fn turn(&self, limited: &IntCounterVec) -> Result<OwnedSemaphorePermit, Busy> {
        if let Some(turn) = self.try_turn() {
            return Ok(turn);
        }
        let count = |result| limited.with_label_values(&[self.name, result]).inc();
        let busy = Busy { of: self.name };
        let Some(_waiting) = Waiting::new(self) else {
            count("refused");
            return Err(busy);
        };
        count("waited");
        let turn = Arc::clone(&self.turns).acquire_owned();
        match tokio::time::timeout(PATIENCE, turn).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => {
                count("refused");
                Err(busy)
            }
        }
    }
}

/// One that waits; gone when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(lane: &'a Lane) -> Option<Self> {
        let waiting = Self(&lane.waiting);
        (lane.waiting.fetch_add(1, Ordering::Relaxed) < lane.most_waiting).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Who asks: its address, and what it may take.
#[derive(Clone)]
pub(crate) struct Asker {
    /// Where its connection comes from.
    pub address: SocketAddr,
    pub(crate) share: Arc<Share>,
}

impl Asker {
    /// Leave for one more request.
    pub(crate) async fn request(&self) -> Result<Ticket, Busy> {
        self.share.take(&self.share.requests).await
    }

    /// Leave for one more transfer.
    pub(crate) async fn fill(&self) -> Result<Ticket, Busy> {
        self.share.take(&self.share.fills).await
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Opts;
    use tokio::time::Instant;

    use super::*;

    fn shares(requests: usize) -> (Arc<Shares>, IntCounterVec) {
        let limited = IntCounterVec::new(Opts::new("limited", "-"), &["limit", "result"]).unwrap();
        let limits = PerClient {
            requests: Some(requests),
            ..PerClient::default()
        };
        (Shares::new(limits, limited.clone()), limited)
    }

    fn client(address: &str) -> Client {
        Client::from(address.parse::<IpAddr>().unwrap())
    }

    fn asker(shares: &Arc<Shares>, address: &str) -> Asker {
        let address: SocketAddr = format!("{address}:1").parse().unwrap();
        Asker {
            address,
            share: shares.of(address.ip()),
        }
    }

    #[test]
    fn a_client_is_an_address_or_a_network() {
        assert_eq!(client("2001:db8::1"), client("2001:db8::ffff:0:0:2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::1"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_ne!(client("fe80::1"), client("fe80::2"));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_its_share_waits_and_others_do_not() {
        let (shares, limited) = shares(1);
        let greedy = asker(&shares, "192.0.2.1");
        let taken = greedy.request().await.unwrap();
        let other = asker(&shares, "192.0.2.2");
        other.request().await.unwrap();
        let again = greedy.clone();
        let waiting = tokio::spawn(async move { again.request().await.is_ok() });
        tokio::task::yield_now().await;
        // One waits already, which is as many as may.
        assert!(greedy.request().await.is_err());
        drop(taken);
        assert!(waiting.await.unwrap());
        let count = |result| limited.with_label_values(&["requests", result]).get();
        assert_eq!((count("waited"), count("refused")), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends() {
        let (shares, _) = shares(1);
        let greedy = asker(&shares, "192.0.2.1");
        let _taken = greedy.request().await.unwrap();
        let started = Instant::now();
        assert!(greedy.request().await.is_err());
        assert_eq!(started.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_up_gains_nothing_and_the_table_forgets() {
        let (shares, _) = shares(1);
        let first = asker(&shares, "192.0.2.1");
        // What a transfer holds that outlives the connection.
        let left_behind = first.request().await.unwrap();
        drop(first);
        assert!(asker(&shares, "192.0.2.1").request().await.is_err());
        assert_eq!(shares.table().len(), 1);
        drop(left_behind);
        assert_eq!(shares.table().len(), 0);
        asker(&shares, "192.0.2.1").request().await.unwrap();
    }
}
