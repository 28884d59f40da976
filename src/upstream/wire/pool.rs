//! Connections that are kept, and whether they still lead anywhere.
//!
//! A NAT or a firewall that restarts forgets connections, and tells neither end. What goes over one of them is answered
//! by silence, while a new connection works at once. So the silence of a connection that is used again is taken for its
//! own until a new one is silent as well. One request tries that for all that wait for the same host. If the new
//! connection answers first, those that are older are not used again.
//!
//! A server that is slow looks the same. Where the old connection answers first it was that, and for a minute nothing is
//! sent twice to this host.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::uri::Authority;
use http::{Extensions, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{self, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::watch;

use super::connect::{Connector, Connectors, MadeAt};
use super::failure::causes;
use super::zone::{Reach, Zone};

/// How long a connection that is used again may be silent before a new one is tried. A client is served something stale
/// after as long (`stale_after`).
const SILENCE: Duration = Duration::from_secs(2);
/// How long a host that was slow is not tried so again.
const SLOW: Duration = Duration::from_secs(60);
/// Of how many hosts that is known. A registry names as many as it likes.
const HOSTS: usize = 64;
/// How long a connection is kept for the next request.
const IDLE: Duration = Duration::from_secs(60);
/// Headers of a response. hyper takes 100 of itself, and CDNs add their own to those of a registry. It makes room for all
/// of them each time, so they are not more than that is cheap for.
const HEADERS: usize = 400;

/// A request with its whole body. An empty one costs no allocation.
pub(crate) type Request = http::Request<Full<Bytes>>;

type ConnectionSet = legacy::Client<Connector, Full<Bytes>>;
type Sent = Result<Response<Incoming>, legacy::Error>;

/// A pool for each reach: what was connected to for the configured host is no connection for a host that a registry
/// named.
pub(super) struct Pools {
    anywhere: Pool,
    beside: [OnceLock<Pool>; Zone::ALL.len()],
    connectors: Connectors,
}

pub(super) struct Pool {
    connector: Connector,
    /// Never locked while waiting. Who waits for a trial to end watches it.
    kept: watch::Sender<Kept>,
}

struct Kept {
    /// Grows when the connections are given up for new ones.
    generation: u64,
    connections: ConnectionSet,
    trials: Trials,
}

/// Of which hosts it is being tried, or was tried lately, whether a new connection answers sooner.
#[derive(Default)]
struct Trials(Vec<(Authority, Trial)>);

#[derive(Clone, Copy)]
enum Trial {
    UnderWay,
    /// The host itself is slow; until when that counts.
    Slow(Instant),
}

/// A trial that is under way. Dropping it ends it.
struct Trying<'a> {
    pool: &'a Pool,
    host: Authority,
}

impl Pools {
    pub(super) fn new(connectors: Connectors) -> Self {
        Self {
            anywhere: Pool::new(connectors.connector(Reach::Anywhere)),
            beside: [const { OnceLock::new() }; Zone::ALL.len()],
            connectors,
        }
    }

    pub(super) fn of(&self, reach: Reach) -> &Pool {
        let Reach::Beside(zone) = reach else {
            return &self.anywhere;
        };
        self.beside[zone as usize].get_or_init(|| Pool::new(self.connectors.connector(reach)))
    }
}

impl Pool {
    fn new(connector: Connector) -> Self {
        let kept = watch::Sender::new(Kept {
            generation: 0,
            connections: connections(&connector),
            trials: Trials::default(),
        });
        Self { connector, kept }
    }

    /// Sends a request whose answer is not waited for after `until`, and sends it again where the connection may be to
    /// blame for what became of it. Only what changes nothing can be repeated so (RFC 9110 9.2.2).
    pub(super) async fn send(&self, mut request: Request, until: Instant) -> Sent {
        let (generation, connections) = self.current();
        if !request.method().is_safe() {
            return connections.request(request).await;
        }
        let copy = request.clone();
        let asked = Instant::now();
        let patience = SILENCE.min(until.saturating_duration_since(asked) / 2);
        let connection = capture_connection(&mut request);
        let mut first = connections.request(request);
        let answered = tokio::select! {
            biased;
            answered = &mut first => answered,
            () = silence(connection, asked, patience) => {
                return Box::pin(self.doubt(generation, first, copy)).await;
            }
        };
        match answered {
            // A server may close an idle connection the moment it is used again.
            Err(error) if !error.is_connect() => {
                tracing::debug!(
                    host = copy.uri().host(),
                    error = causes(&error),
                    "asking again"
                );
                let newer = self.newer_than(generation);
                let answered = newer.request(copy).await;
                if answered.is_ok() {
                    self.renew(generation, newer);
                }
                answered
            }
            answered => answered,
        }
    }

    /// Sends on a new connection what the old one is silent about, as soon as that is for this request to try or has
    /// worked for another one.
    async fn doubt(&self, generation: u64, mut first: ResponseFuture, copy: Request) -> Sent {
        let Some(host) = copy.uri().authority().cloned() else {
            return first.await;
        };
        let trying = tokio::select! {
            biased;
            answered = &mut first => return answered,
            trying = self.leave_to_try(generation, host) => trying,
        };
        tracing::debug!(
            host = copy.uri().host(),
            "silent on an old connection; asking on a new one"
        );
        let newer = self.newer_than(generation);
        let (answered, by_new) = match select(first, newer.request(copy)).await {
            Either::Left((answered @ Ok(_), _)) => (answered, false),
            Either::Right((answered @ Ok(_), _)) => (answered, true),
            Either::Left((Err(_), second)) => (second.await, true),
            Either::Right((Err(_), first)) => (first.await, false),
        };
        if answered.is_ok() {
            match by_new {
                true => self.renew(generation, newer),
                false => trying.was_slow(),
            }
        }
        answered
    }

    /// Waits until a new connection to the host may be tried: there are newer connections than those of `generation`, or
    /// no trial is under way.
    async fn leave_to_try(&self, generation: u64, host: Authority) -> Trying<'_> {
        let mut changes = self.kept.subscribe();
        loop {
            let mut granted = false;
            self.kept.send_if_modified(|kept| {
                granted = kept.generation > generation || kept.trials.begin(&host, Instant::now());
                false
            });
            if granted {
                return Trying { pool: self, host };
            }
            // Its sender is the pool's.
            let _ = changes.changed().await;
        }
    }

    fn current(&self) -> (u64, ConnectionSet) {
        let kept = self.kept.borrow();
        (kept.generation, kept.connections.clone())
    }

    /// Connections that are none of this generation: the current ones, or new ones.
    fn newer_than(&self, generation: u64) -> ConnectionSet {
        let (current, connections) = self.current();
        match current > generation {
            true => connections,
            false => super::pool::connections(&self.connector),
        }
    }

    /// Gives the connections of this generation up for newer ones, which have proved better.
    fn renew(&self, generation: u64, newer: ConnectionSet) {
        self.kept.send_if_modified(|kept| {
            let is_current = kept.generation == generation;
            if is_current {
                kept.generation += 1;
                kept.connections = newer;
            }
            is_current
        });
    }
}

impl Trying<'_> {
    fn was_slow(&self) {
        let until = Instant::now() + SLOW;
        self.pool
            .kept
            .send_modify(|kept| kept.trials.end(&self.host, Some(until)));
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.pool
            .kept
            .send_modify(|kept| kept.trials.end(&self.host, None));
    }
}

impl Trials {
    /// Whether a trial may begin, which it then does.
    fn begin(&mut self, host: &Authority, now: Instant) -> bool {
        self.0
            .retain(|(_, trial)| !matches!(trial, Trial::Slow(until) if *until <= now));
        let may = self.0.len() < HOSTS && self.0.iter().all(|(known, _)| known != host);
        if may {
            self.0.push((host.clone(), Trial::UnderWay));
        }
        may
    }

    /// Ends the trial, if one is under way; the host was slow itself if there is a time until which that counts.
    fn end(&mut self, host: &Authority, slow_until: Option<Instant>) {
        let under_way =
            |(known, trial): &(Authority, Trial)| known == host && matches!(trial, Trial::UnderWay);
        let Some(place) = self.0.iter().position(under_way) else {
            return;
        };
        match slow_until {
            Some(until) => self.0[place].1 = Trial::Slow(until),
            None => {
                self.0.swap_remove(place);
            }
        }
    }
}

fn connections(connector: &Connector) -> ConnectionSet {
    legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .http1_max_headers(HEADERS)
        .build(connector.clone())
}

/// Ends when a connection that was there before the request has been silent for so long; never on a new one.
async fn silence(mut connection: CaptureConnection, asked: Instant, patience: Duration) {
    let is_old = {
        let connected = connection.wait_for_connection_metadata().await;
        let mut extras = Extensions::new();
        if let Some(connected) = connected.as_ref() {
            connected.get_extras(&mut extras);
        }
        extras.get().is_some_and(|MadeAt(made)| *made < asked)
    };
    match is_old {
        true => tokio::time::sleep(patience).await,
        false => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_tries_for_all_and_a_slow_host_is_not_tried_again_soon() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        let [a, b] = ["a.example", "b.example:81"].map(|host| host.parse().unwrap());
        assert!(trials.begin(&a, now) && trials.begin(&b, now));
        assert!(!trials.begin(&a, now), "it is being tried");
        trials.end(&a, None);
        assert!(trials.begin(&a, now), "the last one gave up");
        trials.end(&a, Some(now + SLOW));
        trials.end(&a, None);
        assert!(!trials.begin(&a, now + SLOW / 2), "it is slow");
        assert!(
            !trials.begin(&b, now + SLOW / 2),
            "and the other is not over"
        );
        assert!(trials.begin(&a, now + SLOW));
    }

    #[test]
    fn hosts_without_end_are_not_remembered() {
        let (mut trials, now) = (Trials::default(), Instant::now());
        let host = |number: usize| format!("h{number}.example").parse().unwrap();
        let begun = (0..1000).filter(|number| trials.begin(&host(*number), now));
        assert_eq!(begun.count(), HOSTS);
        trials.end(&host(3), None);
        assert!(trials.begin(&host(999), now));
    }
}
