//! The server: connections from clients, their limits, and their end.
//!
//! The only place that knows hyper's server side. It knows nothing of registries: [`registry`] asks the mirror what to
//! answer to clients, [`admin`] answers operators.
//!
//! Reading order: this file (accept, drain), [`connection`] (HTTP/1.1 or 2, TLS, clients that stop reading),
//! [`registry`] (one request and its answer), [`admin`] (what operators ask), [`browser`] (what web pages may not), `origins` (which may),
//! [`body`] (from the store to the socket), [`record`] (log and counters of a request), [`limits`] (how many connections).

pub(crate) mod admin;
pub(crate) mod body;
pub(crate) mod browser;
pub(crate) mod connection;
pub(crate) mod limits;
pub(crate) mod origins;
mod record;
pub(crate) mod registry;

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::access::caller::Caller;
use crate::access::permits::{OverShare, PerClient, Share};
use crate::metrics::Metrics;

use body::Body;
use connection::{Connection, Limits, refuse, tls, unless};
use limits::connections::ConnectionLimit;

/// Where to listen, and what clients may take.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The registry API.
    pub listen: SocketAddr,
    /// Metrics and health.
    pub admin_listen: SocketAddr,
    /// Where the admin API is for its owner and root, if anywhere.
    pub admin_socket: Option<PathBuf>,
    /// The token that the admin API on `admin_listen` asks for.
    pub admin_token_file: Option<PathBuf>,
    /// Names that requests may give as their host although the address is a loopback one.
    pub allowed_hosts: Vec<String>,
    /// Origins whose web pages may read the registry API.
    pub allowed_origins: Vec<String>,
    /// Connections at a time; more wait in the kernel's queue.
    pub max_connections: usize,
    /// What one client may have at a time.
    /// Requests answered at a time, of all clients.
    pub max_requests: usize,
    pub per_client: PerClient,
    /// Until a request's header is complete; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take no byte of what it asked for.
    pub idle_timeout: Duration,
    /// How long pulls may take to finish once the server stops.
    pub drain_timeout: Duration,
    /// Speak https.
    pub tls: Option<tls::Settings>,
}

/// The connections that are open, for [`drain`].
pub(crate) type Connections = GracefulShutdown;

/// How long to leave the listener alone when the system is out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections and answers their requests with `answer`, until `stop` completes.
///
/// Returns a handle with which the connections that are still open can be drained.
pub(crate) async fn run<H, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    metrics: Arc<Metrics>,
    stop: impl Future<Output = ()>,
    answer: H,
) -> Connections
where
    H: Fn(Request<Incoming>, Caller) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    // Dropped when accepting ends, which ends connections that have not said yet what they speak.
    let (_accepting, stopped) = watch::channel(());
    let mut stop = pin!(stop);
    let mut accepting = Accepting {
        listener,
        limit: Arc::clone(&limits.connections),
        short: false,
    };
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut stop => return graceful,
            next = accepting.next() => next,
        };
        let connection = Connection {
            peer,
            limits: limits.clone(),
            watcher: graceful.watcher(),
            metrics: Arc::clone(&metrics),
            answer: answer.clone(),
            stopped: stopped.clone(),
        };
        let share = limits.connections.share_of(peer);
        match share.try_connection() {
            // Here and not in its task: at the limit, clients wait in the kernel's queue, and only one of them
            // in this program's memory.
            Some(of_share) => tokio::select! {
                () = &mut stop => return graceful,
                permit = limits.connections.take(share, of_share) => {
                    tokio::spawn(connection.run(stream, tls.clone(), permit));
                }
            },
            // Over its client's share, which must not keep other clients waiting.
            None => {
                let waiting = wait_for_share(connection, stream, tls.clone(), share);
                tokio::spawn(waiting);
            }
        }
    }
}

/// Serves a connection over its client's share once another one of that client has ended.
async fn wait_for_share<H, F>(
    connection: Connection<H>,
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    share: Arc<Share>,
) where
    H: Fn(Request<Incoming>, Caller) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let limit = Arc::clone(&connection.limits.connections);
    let mut stopped = connection.stopped.clone();
    let permit = async {
        let of_share = limit.wait_for_share(&share).await?;
        Ok::<_, OverShare>(limit.take(Arc::clone(&share), of_share).await)
    };
    match unless(&mut stopped, permit).await {
        Some(Ok(permit)) => connection.run(stream, tls, permit).await,
        Some(Err(_)) => refuse(&stream, tls.is_some()),
        None => {}
    }
}

/// A listener that outlives shortages.
struct Accepting {
    listener: TcpListener,
    limit: Arc<ConnectionLimit>,
    /// It was said that there is a shortage.
    short: bool,
}

impl Accepting {
    async fn next(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let error = match self.listener.accept().await {
                Ok(accepted) => {
                    self.short = false;
                    return accepted;
                }
                Err(error) => error,
            };
            if error.kind() == std::io::ErrorKind::ConnectionAborted {
                // One client's own end.
                continue;
            }
            // Out of file descriptors, most likely: others must close first. Said once, not ten times a
            // second.
            if !self.short {
                tracing::warn!(%error, "cannot accept a connection; closing idle ones");
                self.short = true;
            }
            self.limit.make_room();
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until the connections have finished their requests; false when `limit` came first.
pub(crate) async fn drain(graceful: Connections, limit: Duration) -> bool {
    tokio::time::timeout(limit, graceful.shutdown())
        .await
        .is_ok()
}
