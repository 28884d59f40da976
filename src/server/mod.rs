//! The server: connections from clients, their limits, and their end.
//!
//! The only place that knows hyper's server side. It knows nothing of registries: what to answer is
//! [`service`]'s to ask the mirror, and [`admin`]'s to tell operators.
//!
//! Reading order: this file (accept, limits, drain), [`service`] (one request, line by line), [`respond`]
//! (answers and errors as responses), `listing` and `page` (lists), [`body`] (from the store to the socket), [`account`] (what it cost),
//! `guard` (clients that stop reading), [`tls`].

pub mod account;
pub mod admin;
mod blob;
pub mod body;
mod guard;
mod listing;
mod page;
pub mod respond;
pub mod service;
pub mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use crate::metrics::Metrics;

use body::Body;
use guard::Guard;

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

/// A request header may be this long: multi-range requests alone reach 20 KiB. It is also how much of a
/// body waits in memory for a slow client.
const MAX_HEADER: usize = 64 * 1024;

/// The bytes an HTTP/2 connection begins with (RFC 9113 3.4). hyper waits for them without a limit.
const H2_PREFACE: usize = 24;
/// The connections that are open, for [`drain`].
pub type Connections = GracefulShutdown;

/// Bytes that wait in the kernel for a client, beyond what is on its way to it.
const UNSENT: u32 = 128 * 1024;

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

struct Connection<H> {
    peer: SocketAddr,
    limits: Limits,
    watcher: Watcher,
    metrics: Arc<Metrics>,
    answer: H,
    /// `watcher` only knows connections that hyper has; until then this one tells of the end.
    stopped: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

impl<H, F> Connection<H>
where
    H: Fn(Request<Incoming>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    async fn run(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let open = self.metrics.connections.clone();
        open.inc();
        // Small answers must not wait for the client's acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_keepalive(true);
        // The kernel takes little ahead of what the client reads: less memory a slow client, and a write that
        // waits means a client that does not read, not one that is slow.
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let served = match tls {
            None => self.plain(stream).await,
            Some(tls) => self.secure(stream, tls).await,
        };
        if let Err(error) = served {
            // A client that hangs up is everyday life: lazy pullers do it after each piece.
            tracing::debug!(%error, "connection ended");
        }
        open.dec();
    }

    async fn plain(
        mut self,
        stream: TcpStream,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let first = tokio::time::timeout(self.limits.header_timeout, speaks_h2(&stream));
        let h2 = tokio::select! {
            biased;
            h2 = first => h2??,
            _ = self.stopped.changed() => return Ok(()),
        };
        let guarded = Guard::new(stream, self.limits.idle_timeout);
        if h2 {
            let guarded = guarded.expecting(H2_PREFACE, self.limits.header_timeout);
            self.http2(guarded).await
        } else {
            self.http1(guarded).await
        }
    }

    async fn secure(
        mut self,
        stream: TcpStream,
        tls: TlsAcceptor,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let handshake = tokio::time::timeout(self.limits.header_timeout, tls.accept(stream));
        let stream = tokio::select! {
            biased;
            stream = handshake => stream??,
            _ = self.stopped.changed() => return Ok(()),
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(tls::H2);
        let guarded = Guard::new(stream, self.limits.idle_timeout);
        if h2 {
            let guarded = guarded.expecting(H2_PREFACE, self.limits.header_timeout);
            self.http2(guarded).await
        } else {
            self.http1(guarded).await
        }
    }

    async fn http1<I>(self, io: I) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (answer, peer) = (self.answer, self.peer);
        let service = service_fn(move |request| {
            let response = answer(request, peer);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(MAX_HEADER)
            .serve_connection(TokioIo::new(io), service);
        Ok(self.watcher.watch(connection).await?)
    }

    async fn http2<I>(self, io: I) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (answer, peer) = (self.answer, self.peer);
        let service = service_fn(move |request| {
            let response = answer(request, peer);
            async move { Ok::<_, Infallible>(response.await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(self.limits.header_timeout)
            .keep_alive_timeout(self.limits.idle_timeout)
            .max_concurrent_streams(128)
            .max_header_list_size(MAX_HEADER as u32)
            .max_send_buf_size(MAX_HEADER)
            .serve_connection(TokioIo::new(io), service);
        Ok(self.watcher.watch(connection).await?)
    }
}

/// Looks at the first bytes, leaving them unread: HTTP/2 with prior knowledge begins with `PRI * HTTP/2.0`
/// (RFC 9113 3.4), and no HTTP/1 method in use begins with `PR`.
///
/// hyper-util's own detection has no time limit: a silent connection would stay for ever.
async fn speaks_h2(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; 2];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Ok(false),
            1 if first[0] == b'P' => tokio::time::sleep(Duration::from_millis(5)).await,
            1 => return Ok(false),
            _ => return Ok(&first == b"PR"),
        }
    }
}
