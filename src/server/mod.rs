//! The server: connections from clients, their limits, and their end.
//!
//! The only place that knows hyper's server side. It knows nothing of registries: what to answer is
//! [`service`]'s to ask the mirror, and [`admin`]'s to tell operators.
//!
//! Reading order: this file (accept, limits, drain), `connection` (HTTP/1.1 or 2), [`service`] (one request,
//! line by line), [`respond`] (answers and errors as responses), `blob`, `listing` and `page` (those that are
//! more than a header), [`body`] (from the store to the socket), `sendfile` (large ones past our memory), [`account`] (what it cost), `guard` and
//! `activity` (clients that stop reading), [`tls`].

pub mod account;
mod activity;
pub mod admin;
mod blob;
pub mod body;
mod connection;
mod guard;
mod listing;
mod page;
pub mod respond;
pub mod sendfile;
pub mod service;
pub mod tls;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;

use body::Body;
use connection::Connection;

/// Where to listen, and what clients may take.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The registry API.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub admin_listen: SocketAddr,
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// Until a request's header is complete; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take no byte of what it asked for.
    pub idle_timeout: Duration,
    /// How long pulls may take to finish once the server stops.
    pub drain_timeout: Duration,
    /// Speak https.
    pub tls: Option<Tls>,
}

/// The files that make a server speak TLS, all PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// The connections that are open, for [`drain`].
pub type Connections = GracefulShutdown;

/// How a connection is treated.
#[derive(Clone)]
pub struct Limits {
    /// See [`Settings::header_timeout`].
    pub header_timeout: Duration,
    /// See [`Settings::idle_timeout`].
    pub idle_timeout: Duration,
    /// Places for connections, shared by all listeners that hold a clone.
    pub places: Arc<Semaphore>,
}

/// Accepts connections and answers their requests with `answer`, until `stop` completes.
///
/// Returns a handle with which the connections that are still open can be drained.
pub async fn run<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
    answer: H,
) -> Connections
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    // Dropped when accepting ends, which ends connections that have not said yet what they speak.
    let (_accepting, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let next = async {
            // A place first: a client that finds none waits in the kernel's queue, not in our memory.
            let place = Arc::clone(&limits.places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (stream, peer, place) = tokio::select! {
            () = &mut stop => return graceful,
            next = next => match next {
                (Ok((stream, peer)), Ok(place)) => (stream, peer, place),
                (Err(error), _) => {
                    // Out of file descriptors, most likely: others must close first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
                (Ok(_), Err(_)) => return graceful,
            },
        };
        let connection = Connection {
            peer,
            limits: limits.clone(),
            watcher: graceful.watcher(),
            metrics: Arc::clone(&metrics),
            answer: answer.clone(),
            stopped: stopped.clone(),
            _place: place,
        };
        tokio::spawn(connection.run(stream, tls.clone()));
    }
}

/// Waits until the connections have finished what they are at; false when `limit` came first.
pub async fn drain(graceful: Connections, limit: Duration) -> bool {
    tokio::time::timeout(limit, graceful.shutdown())
        .await
        .is_ok()
}
