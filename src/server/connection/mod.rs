//! One connection: which HTTP it speaks, and its time limits.
//!
//! It knows nothing of registries: it hands each request to a function and sends the response. Reading order: this
//! file, `timed_stream` (clients that stop reading, or never begin to write), [`tls`].

mod timed_stream;
pub(crate) mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::access::caller::Caller;
use crate::metrics::Metrics;

use crate::server::body::Body;
use crate::server::body::buffers::LARGE;
use crate::server::body::sendfile::Lane;
use crate::server::body::socket::Sendfile;
use crate::server::browser;
use crate::server::limits::activity::ActiveRequest;
use crate::server::limits::connections::{ConnectionLimit, ConnectionPermit};
use crate::server::record::BodyError;

use timed_stream::TimedStream;

/// How a connection is treated.
#[derive(Clone)]
pub(crate) struct Limits {
    /// Until a request's header is complete; also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a client may take no byte of what it asked for.
    pub idle_timeout: Duration,
    pub connections: Arc<ConnectionLimit>,
}

/// A request header may be this long: multi-range requests alone reach 20 KiB. It is also how much of a
/// body waits in memory for a slow client.
const MAX_HEADER: usize = 64 * 1024;

/// The bytes an HTTP/2 connection begins with (RFC 9113 3.4). hyper waits for them without a limit.
const H2_PREFACE: usize = 24;

/// What a client may send ahead of being read, the least that HTTP/2 begins with.
const H2_WINDOW: u32 = 65_535;

/// Bytes that wait in the kernel for a client, beyond what is on its way to it.
const UNSENT: u32 = 128 * 1024;

/// What encryption adds to a large buffer: a header and a tag for each record of 16 KiB; this is more than enough.
const RECORDS: usize = 8 * 1024;

/// One client's connection.
pub(super) struct Connection<H> {
    pub(super) peer: SocketAddr,
    pub(super) limits: Limits,
    pub(super) watcher: Watcher,
    pub(super) metrics: Arc<Metrics>,
    pub(super) answer: H,
    /// `watcher` only knows connections that hyper has; until then this one tells of the end.
    pub(super) stopped: watch::Receiver<()>,
}

impl<H, F> Connection<H>
where
    H: Fn(Request<Incoming>, Caller) -> F + Clone + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    /// Serves it to its end, or until it is idle and room is needed.
    pub(super) async fn run(
        self,
        stream: TcpStream,
        tls: Option<TlsAcceptor>,
        permit: ConnectionPermit,
    ) {
        let open = self.metrics.connections.clone();
        open.inc();
        // Small answers must not wait for the client's acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let socket = socket2::SockRef::from(&stream);
        let _ = socket.set_keepalive(true);
        // The kernel takes little ahead of what the client reads: less memory a slow client, and a write that
        // waits means a client that does not read, not one that is slow.
        let _ = socket.set_tcp_notsent_lowat(UNSENT);
        let serving = async {
            match tls {
                None => self.plain(stream, &permit).await,
                Some(tls) => self.secure(stream, tls, &permit).await,
            }
        };
        let served = tokio::select! {
            // First, so that a request that has arrived already counts.
            biased;
            served = serving => served,
            () = permit.connection().told_to_close() => Err("closed to make room".into()),
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
        permit: &ConnectionPermit,
    ) -> Result<(), BodyError> {
        let first = tokio::time::timeout(self.limits.header_timeout, speaks_h2(&stream));
        let Some(h2) = unless(&mut self.stopped, first).await else {
            return Ok(());
        };
        if h2?? {
            return self.serve(stream, true, permit).await;
        }
        let (stream, lane) = Sendfile::new(stream);
        let activity = Arc::clone(permit.connection().activity());
        let guarded = TimedStream::new(stream, self.limits.idle_timeout, activity);
        let guarded = guarded.judged_by(Sendfile::backlog);
        Box::pin(self.http1(guarded, Some(lane), permit)).await
    }

    async fn secure(
        mut self,
        stream: TcpStream,
        tls: TlsAcceptor,
        permit: &ConnectionPermit,
    ) -> Result<(), BodyError> {
        let first = tokio::time::timeout(self.limits.header_timeout, first_byte(&stream));
        let Some(first) = unless(&mut self.stopped, first).await else {
            return Ok(());
        };
        match first?? {
            // Whether the port is open is all that some checks ask.
            None => return Ok(()),
            // A method begins with a letter, TLS with 22 (RFC 8446 5.1).
            Some(letter) if letter.is_ascii_uppercase() => {
                let _ = stream.try_write(NOT_PLAIN);
                return Err("a client speaks plain http to the TLS port".into());
            }
            Some(_) => {}
        }
        let handshake =
            tokio::time::timeout(self.limits.header_timeout, tls.accept_with(stream, deepen));
        let Some(stream) = unless(&mut self.stopped, handshake).await else {
            return Ok(());
        };
        let stream = stream?.inspect_err(|error| {
            // The only trace of a client without the certificate that `client_ca` wants.
            tracing::info!(client = %self.peer.ip(), %error, "a TLS handshake failed");
        })?;
        let h2 = stream.get_ref().1.alpn_protocol() == Some(tls::H2);
        self.serve(stream, h2, permit).await
    }

    /// Each kind of connection in a box of its own: the task of one would else have room for the largest.
    async fn serve<I>(self, stream: I, h2: bool, permit: &ConnectionPermit) -> Result<(), BodyError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Arc::clone(permit.connection().activity());
        let guarded = TimedStream::new(stream, self.limits.idle_timeout, activity);
        if h2 {
            let guarded = guarded.expecting(H2_PREFACE, self.limits.header_timeout);
            Box::pin(self.http2(guarded, permit)).await
        } else {
            Box::pin(self.http1(guarded, None, permit)).await
        }
    }

    async fn http1<I>(
        self,
        io: I,
        lane: Option<Lane>,
        permit: &ConnectionPermit,
    ) -> Result<(), BodyError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let caller = permit.caller(self.peer);
        let (answer, activity) = (self.answer, Arc::clone(permit.connection().activity()));
        let service = service_fn(move |request| {
            let (open, lane) = (ActiveRequest::new(&activity), lane.clone());
            let response = answer(request, caller.clone());
            // Boxed: hyper keeps room for it as long as the connection is open, and most are idle.
            Box::pin(response.map(|response| followed(open, response, lane)))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_buf_size(MAX_HEADER)
            // As registries written in Go spell them: there are clients and scripts that look for these very letters.
            .title_case_headers(true)
            .serve_connection(TokioIo::new(io), service);
        Ok(self.watcher.watch(connection).await?)
    }

    async fn http2<I>(self, io: I, permit: &ConnectionPermit) -> Result<(), BodyError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let (caller, activity) = (permit.caller(self.peer), permit.connection().activity());
        let (answer, watched) = (self.answer, Arc::clone(activity));
        let service = service_fn(move |request| {
            let open = ActiveRequest::new(&watched);
            let response = answer(request, caller.clone());
            response.map(|response| followed(open, response, None))
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.header_timeout)
            .keep_alive_timeout(limits.idle_timeout)
            .max_concurrent_streams(128)
            .max_header_list_size(MAX_HEADER as u32)
            .max_send_buf_size(MAX_HEADER)
            // No body of a request is ever read: if a client sends one, it waits in memory.
            .initial_stream_window_size(H2_WINDOW)
            .initial_connection_window_size(H2_WINDOW)
            .serve_connection(TokioIo::new(io), service);
        tokio::select! {
            served = self.watcher.watch(connection) => Ok(served?),
            () = activity.ceases(limits.header_timeout, limits.idle_timeout) => {
                Err("nothing moves on this connection".into())
            }
        }
    }
}

/// A response that counts as under way from the request to its last byte, and may send files over `lane`.
fn followed(
    open: ActiveRequest,
    response: Response<Body>,
    lane: Option<Lane>,
) -> Result<Response<Body>, Infallible> {
    let mut response = response.map(|body| body.watched(open));
    browser::close(response.headers_mut());
    Ok(match lane {
        Some(lane) => response.map(|body| body.over(lane)),
        None => response,
    })
}

/// The result of `work`; `None` if the server stops before.
pub(super) async fn unless<T>(
    stopped: &mut watch::Receiver<()>,
    work: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        _ = stopped.changed() => None,
    }
}

/// Lets one write to the network take all of a large buffer: by default rustls keeps a quarter of it.
fn deepen(tls: &mut rustls::ServerConnection) {
    tls.set_buffer_limit(Some(LARGE + RECORDS));
}

/// Turns away a client that has too many connections, in words if it speaks plain http.
pub(super) fn refuse(stream: &TcpStream, secure: bool) {
    if !secure {
        // What does not fit at once is not worth waiting for.
        let _ = stream.try_write(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
}

/// What a client is told that speaks plain http where TLS is spoken; without it, it would see bytes of an alert.
const NOT_PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n\
    This port speaks TLS: write https:// instead of http://.\n";

/// Looks at the first byte, leaving it unread; `None` at the end.
async fn first_byte(stream: &TcpStream) -> std::io::Result<Option<u8>> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok((read > 0).then_some(first[0]))
}

/// Looks at the first bytes, leaving them unread: HTTP/2 with prior knowledge begins with `PRI * HTTP/2.0`
/// (RFC 9113 3.4). `PROPFIND`, which scanners and file managers send, is HTTP/1.
///
/// hyper-util's own detection has no time limit: a silent connection would stay for ever.
async fn speaks_h2(stream: &TcpStream) -> std::io::Result<bool> {
    const METHOD: &[u8] = b"PRI ";
    let mut first = [0; METHOD.len()];
    loop {
        let read = stream.peek(&mut first).await?;
        let so_far = first.get(..read).unwrap_or_default();
        match METHOD.starts_with(so_far) {
            true if read == METHOD.len() => return Ok(true),
            true if read > 0 => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => return Ok(false),
        }
    }
}
