//! Permits: how much one client may take of what all clients use, so that none can starve the rest.
//!
//! Three things have limits for each client: connections, requests that are being answered, and transfers that the
//! client started. What is over a client's share waits until that client gives something back, and never for
//! another client. It is refused when that takes too long, or when as many wait already.
//!
//! A share is remembered as long as something of it is taken: a client gains nothing by hanging up. So the
//! table never has more entries than there are connections and transfers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use prometheus::IntCounterVec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address::ClientId;
use super::misses::{Misses, OverRate};

/// How long a permit is waited for: less than clients wait for an answer (Docker gives `/v2/` 15 s).
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Connections over a client's share that wait at a time. Each is an open file.
const MOST_WAITING_CONNECTIONS: usize = 128;

/// What one client may have at a time; `None` for no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PerClient {
    pub connections: Option<usize>,
    /// Requests being answered, and questions to upstream that they left behind.
    pub requests: Option<usize>,
    /// Transfers from upstream that it started, whether it still waits for them or not.
    pub fills: Option<usize>,
    /// Questions to upstream that it causes in a minute.
    pub misses: Option<usize>,
}

/// The shares of all clients that have something.
pub(crate) struct Shares {
    /// Guards the table alone, for a look or an entry. Nothing may be dropped under it: a share locks it too.
    table: Mutex<HashMap<ClientId, Weak<Share>>>,
    limits: PerClient,
    misses: Misses,
    limited: IntCounterVec,
    /// Requests being answered, of all clients, and how many there may be.
    requests: AtomicUsize,
    most_requests: usize,
}

impl Shares {
    pub(crate) fn new(
        limits: PerClient,
        most_requests: usize,
        limited: IntCounterVec,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::default(),
            limits,
            misses: Misses::new(limits.misses),
            limited,
            requests: AtomicUsize::new(0),
            most_requests,
        })
    }

    /// The share of the client at this address.
    pub(crate) fn of(self: &Arc<Self>, address: IpAddr) -> Arc<Share> {
        let client = ClientId::from(address);
        let mut table = self.table();
        if let Some(share) = table.get(&client).and_then(Weak::upgrade) {
            return share;
        }
        let limits = self.limits;
        let connections = Limit::new("connections", limits.connections, MOST_WAITING_CONNECTIONS);
        let share = Arc::new(Share {
            client,
            home: Arc::clone(self),
            connections,
            requests: Limit::new("requests", limits.requests, usize::MAX),
            fills: Limit::new("fills", limits.fills, usize::MAX),
        });
        table.insert(client, Arc::downgrade(&share));
        share
    }

    fn table(&self) -> MutexGuard<'_, HashMap<ClientId, Weak<Share>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client's share.
pub(crate) struct Share {
    client: ClientId,
    home: Arc<Shares>,
    connections: Limit,
    requests: Limit,
    fills: Limit,
}

impl Share {
    pub(crate) fn client(&self) -> ClientId {
        self.client
    }

    /// A permit for one more connection, if one is free at once.
    pub(crate) fn try_connection(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.connections.try_take()?;
        Some(self.permit(permit))
    }

    /// A permit for one more connection.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Permit, OverShare> {
        self.take(&self.connections).await
    }

    /// A permit for one more request. Past the limit of all clients together it is refused at once.
    pub(crate) async fn request(self: &Arc<Self>) -> Result<Permit, OverShare> {
        let mut permit = self.take(&self.requests).await?;
        // Also where it is refused: dropping the permit gives it back.
        permit.of_all = true;
        if self.home.requests.fetch_add(1, Ordering::Relaxed) < self.home.most_requests {
            return Ok(permit);
        }
        self.count("all_requests", "refused");
        Err(OverShare::ALL)
    }

    async fn take(self: &Arc<Self>, limit: &Limit) -> Result<Permit, OverShare> {
        let permit = limit.take(&self.home.limited).await?;
        Ok(self.permit(permit))
    }

    fn count(&self, limit: &str, result: &str) {
        let limited = &self.home.limited;
        limited.with_label_values(&[limit, result]).inc();
    }

    fn permit(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Permit {
        Permit {
            of_all: false,
            _permit: permit,
            share: Arc::clone(self),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.home.table();
        // Another share of the same client may have been made since the last use of this one.
        if table
            .get(&self.client)
            .is_some_and(|share| share.strong_count() == 0)
        {
            table.remove(&self.client);
        }
    }
}

/// One of what a client may have; given back when dropped.
pub(crate) struct Permit {
    /// It counts as one of the requests of all clients.
    of_all: bool,
    _permit: OwnedSemaphorePermit,
    share: Arc<Share>,
}

impl Permit {
    /// A permit of the same client for one more transfer.
    pub(crate) async fn fill(&self) -> Result<Self, OverShare> {
        self.share.take(&self.share.fills).await
    }

    /// The same, if one is free at once.
    pub(crate) fn try_fill(&self) -> Option<Self> {
        let permit = self.share.fills.try_take()?;
        Some(self.share.permit(permit))
    }

    /// Counts a question to upstream that the client causes.
    pub(crate) fn miss(&self) -> Result<(), OverRate> {
        let share = &self.share;
        let counted = share.home.misses.take(share.client);
        counted.inspect_err(|_| share.count("misses", "refused"))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.of_all {
            self.share.home.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A client has as much as it may, and gave nothing of it back in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverShare {
    /// What it has too many of; `None` if all clients together have too many requests.
    of: Option<&'static str>,
}

impl OverShare {
    const ALL: Self = Self { of: None };

    pub(crate) fn connections() -> Self {
        Self {
            of: Some("connections"),
        }
    }
}

impl std::fmt::Display for OverShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.of {
            Some(of) => write!(f, "this client has more {of} at a time than its share"),
            None => f.write_str("this mirror answers as many requests at a time as it may"),
        }
    }
}

/// How many of one kind a client may have. Permits are given in the order they are asked for.
struct Limit {
    of: &'static str,
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
}

impl Limit {
    fn new(of: &'static str, limit: Option<usize>, most_waiting: usize) -> Self {
        let permits = limit
            .unwrap_or(Semaphore::MAX_PERMITS)
            .min(Semaphore::MAX_PERMITS);
        Self {
            of,
            permits: Arc::new(Semaphore::new(permits)),
            waiting: AtomicUsize::new(0),
            most_waiting: most_waiting.min(permits),
        }
    }

    fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    async fn take(&self, limited: &IntCounterVec) -> Result<OwnedSemaphorePermit, OverShare> {
        if let Some(permit) = self.try_take() {
            return Ok(permit);
        }
        let count = |result| limited.with_label_values(&[self.of, result]).inc();
        let over = OverShare { of: Some(self.of) };
        let Some(_waiting) = Waiting::new(self) else {
            count("refused");
            return Err(over);
        };
        count("waited");
        let permit = Arc::clone(&self.permits).acquire_owned();
        match tokio::time::timeout(LONGEST_WAIT, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => {
                count("refused");
                Err(over)
            }
        }
    }
}

/// One that waits; gone when dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(limit: &'a Limit) -> Option<Self> {
        let waiting = Self(&limit.waiting);
        (limit.waiting.fetch_add(1, Ordering::Relaxed) < limit.most_waiting).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
        (Shares::new(limits, 3, limited.clone()), limited)
    }

    fn share(shares: &Arc<Shares>, address: &str) -> Arc<Share> {
        shares.of(address.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_its_share_waits_and_others_do_not() {
        let (shares, limited) = shares(1);
        let greedy = share(&shares, "192.0.2.1");
        let taken = greedy.request().await.unwrap();
        let other = share(&shares, "192.0.2.2");
        other.request().await.unwrap();
        let again = Arc::clone(&greedy);
        let waiting = tokio::spawn(async move { again.request().await.is_ok() });
        tokio::task::yield_now().await;
        // One waits already, which is as many as may.
        assert!(greedy.request().await.is_err());
        drop(taken);
        assert!(waiting.await.unwrap());
        let count = |result| limited.with_label_values(&["requests", result]).get();
        assert_eq!((count("waited"), count("refused")), (1, 1));
    }

    #[tokio::test]
    async fn many_clients_together_have_a_limit_too() {
        let (shares, limited) = shares(100);
        let mut taken = Vec::new();
        for last in 1..=3 {
            let share = share(&shares, &format!("192.0.2.{last}"));
            taken.push(share.request().await.unwrap());
        }
        let last = share(&shares, "192.0.2.4");
        assert_eq!(last.request().await.err(), Some(OverShare::ALL));
        assert_eq!(last.request().await.err(), Some(OverShare::ALL));
        let refused = limited.with_label_values(&["all_requests", "refused"]);
        assert_eq!(refused.get(), 2);
        taken.pop();
        last.request().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends() {
        let (shares, _) = shares(1);
        let greedy = share(&shares, "192.0.2.1");
        let _taken = greedy.request().await.unwrap();
        let started = Instant::now();
        assert!(greedy.request().await.is_err());
        assert_eq!(started.elapsed(), LONGEST_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_up_gains_nothing_and_the_table_forgets() {
        let (shares, _) = shares(1);
        let first = share(&shares, "192.0.2.1");
        // What a transfer holds that outlives the connection.
        let left_behind = first.request().await.unwrap();
        drop(first);
        assert!(share(&shares, "192.0.2.1").request().await.is_err());
        assert_eq!(shares.table().len(), 1);
        drop(left_behind);
        assert_eq!(shares.table().len(), 0);
        share(&shares, "192.0.2.1").request().await.unwrap();
    }
}
