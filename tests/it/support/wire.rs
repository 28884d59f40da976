//! HTTP/1.1 on a bare socket: hyper would refuse to send most of what is sent from here.
//!
//! Keep-alive works, so that a client's pooled connections are exercised.

use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::content::Content;
use super::link::Link;

const LARGEST_HEAD: usize = 64 * 1024;
const LARGEST_BODY: usize = 1024 * 1024;
const PIECE: u64 = 64 * 1024;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// All values of a query parameter, decoded.
    pub fn query(&self, name: &str) -> Vec<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes())
            .filter(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }

    fn wants_close(&self) -> bool {
        self.header("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The first header of that name.
pub fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A window on some content; past the content's end it reads zeros.
#[derive(Debug, Clone)]
pub struct Body {
    pub content: Content,
    pub start: u64,
    pub len: u64,
}

impl Body {
    pub fn whole(content: Content) -> Body {
        let len = content.len();
        Body {
            content,
            start: 0,
            len,
        }
    }
}

/// How the end of a body is told to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Neither: the body ends where the connection does.
    Close,
}

/// The manner of an answer. The default is faultless.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub delay: Duration,
    pub framing: Framing,
    /// Stop here and close the connection, whatever was promised.
    pub stop_after: Option<u64>,
    pub stall: Option<(u64, Duration)>,
    pub bytes_per_sec: Option<u64>,
    /// Flip a bit of a byte near the end.
    pub flip: bool,
}

impl Default for Delivery {
    fn default() -> Self {
        Delivery {
            delay: Duration::ZERO,
            framing: Framing::Length,
            stop_after: None,
            stall: None,
            bytes_per_sec: None,
            flip: false,
        }
    }
}

/// An answer and its manner.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    pub delivery: Delivery,
    /// Counts the body bytes that are written to the socket.
    pub meter: Option<Arc<AtomicU64>>,
    /// The throttle this body shares with others.
    pub link: Option<Arc<Link>>,
}

impl Reply {
    pub fn new(status: u16, content_type: &str, content: Content) -> Reply {
        Reply {
            status,
            headers: vec![("Content-Type".into(), content_type.into())],
            body: Body::whole(content),
            delivery: Delivery::default(),
            meter: None,
            link: None,
        }
    }

    pub fn empty(status: u16) -> Reply {
        let mut reply = Reply::new(status, "", Content::from(String::new()));
        reply.headers.clear();
        reply
    }

    pub fn json(status: u16, value: &serde_json::Value) -> Reply {
        Reply::new(status, "application/json", Content::from(value.to_string()))
    }

    /// The error body of the distribution specification.
    pub fn error(status: u16, code: &str, message: &str) -> Reply {
        Reply::json(
            status,
            &serde_json::json!({"errors": [{"code": code, "message": message, "detail": null}]}),
        )
    }

    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.into(), value.into()));
        self
    }
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub enum Fate {
    Answer(Box<Reply>),
    /// Keep the connection open and say nothing.
    Hang,
    /// Close with a TCP reset.
    Reset,
    /// The head, and then the piece again and again until the client reads no more.
    Endless {
        head: String,
        piece: String,
        pause: Duration,
    },
}

/// A client's connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Connection {
        let _ = stream.set_nodelay(true);
        Connection {
            stream,
            buffer: BytesMut::new(),
        }
    }

    /// The next request; `None` when the client closed or sent what is not HTTP.
    pub async fn read_request(&mut self) -> io::Result<Option<Request>> {
        let head_len = loop {
            if let Some(at) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at + 4;
            }
            if self.buffer.len() > LARGEST_HEAD
                || self.stream.read_buf(&mut self.buffer).await? == 0
            {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_len]).into_owned();
        self.buffer.advance(head_len);
        let Some(mut request) = parse_head(&head) else {
            return Ok(None);
        };
        let length = request
            .header("content-length")
            .and_then(|value| value.parse().ok())
            .unwrap_or(0);
        if length > LARGEST_BODY {
            return Ok(None);
        }
        while self.buffer.len() < length {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
        request.body = self.buffer.split_to(length).to_vec();
        Ok(Some(request))
    }

    /// Answers; `true` when the connection may serve another request.
    pub async fn meet(&mut self, request: &Request, fate: Fate) -> io::Result<bool> {
        match fate {
            Fate::Answer(reply) => self.answer(request, &reply).await,
            Fate::Hang => {
                self.wait_for_close().await;
                Ok(false)
            }
            Fate::Reset => {
                self.stream.set_zero_linger()?;
                Ok(false)
            }
            Fate::Endless { head, piece, pause } => {
                self.stream.write_all(head.as_bytes()).await?;
                loop {
                    self.stream.write_all(piece.as_bytes()).await?;
                    sleep(pause).await;
                }
            }
        }
    }

    async fn wait_for_close(&mut self) {
        let mut ignored = [0_u8; 1024];
        while let Ok(1..) = self.stream.read(&mut ignored).await {}
    }

    async fn answer(&mut self, request: &Request, reply: &Reply) -> io::Result<bool> {
        let delivery = &reply.delivery;
        sleep(delivery.delay).await;
        let bodiless = request.is_head() || matches!(reply.status, 204 | 304);
        let close = request.wants_close()
            || delivery.framing == Framing::Close
            || delivery.stop_after.is_some();
        self.stream
            .write_all(head_of(reply, close).as_bytes())
            .await?;
        if !bodiless {
            self.send_body(reply).await?;
        }
        if close {
            self.stream.shutdown().await?;
        }
        Ok(!close)
    }

    async fn send_body(&mut self, reply: &Reply) -> io::Result<()> {
        let Reply { body, delivery, .. } = reply;
        let end = delivery
            .stop_after
            .map_or(body.len, |stop| stop.min(body.len));
        let flipped = delivery.flip.then(|| body.len.saturating_sub(8));
        let own_link = delivery.bytes_per_sec.map(Link::at);
        let mut stall = delivery.stall;
        let mut sent = 0;
        loop {
            if let Some((_, pause)) = stall.take_if(|(at, _)| *at <= sent) {
                sleep(pause).await;
            }
            if sent >= end {
                break;
            }
            let mut piece = PIECE.min(end - sent);
            if let Some((at, _)) = stall {
                piece = piece.min(at - sent);
            }
            for link in own_link.iter().chain(reply.link.as_deref()) {
                piece = link.pass(piece).await;
            }
            let mut bytes = body.content.read(
                body.start + sent,
                usize::try_from(piece).unwrap_or(usize::MAX),
            );
            if let Some(at) = flipped.filter(|at| (sent..sent + piece).contains(at)) {
                bytes[usize::try_from(at - sent).unwrap_or(0)] ^= 0x40;
            }
            // Counted first: a client that has everything may look at the count at once.
            if let Some(meter) = &reply.meter {
                meter.fetch_add(piece, Ordering::Relaxed);
            }
            self.write_piece(&bytes, delivery.framing).await?;
            sent += piece;
        }
        if delivery.framing == Framing::Chunked && delivery.stop_after.is_none() {
            self.stream.write_all(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    async fn write_piece(&mut self, bytes: &[u8], framing: Framing) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.stream.write_all(bytes).await;
        }
        self.stream
            .write_all(format!("{:x}\r\n", bytes.len()).as_bytes())
            .await?;
        self.stream.write_all(bytes).await?;
        self.stream.write_all(b"\r\n").await
    }
}

fn parse_head(head: &str) -> Option<Request> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target, version) = (first.next()?, first.next()?, first.next()?);
    version.starts_with("HTTP/1.").then_some(())?;
    let headers = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    Some(Request {
        method: method.into(),
        target: target.into(),
        headers,
        body: Vec::new(),
    })
}

fn head_of(reply: &Reply, close: bool) -> String {
    let mut head = format!("HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let counted = !matches!(reply.status, 204 | 304);
    match reply.delivery.framing {
        Framing::Length if counted => {
            let _ = write!(head, "Content-Length: {}\r\n", reply.body.len);
        }
        Framing::Chunked if counted => head.push_str("Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    // A connection about to be cut does not announce it.
    let cut = reply.delivery.stop_after.is_some() && reply.delivery.framing != Framing::Close;
    if close && !cut {
        head.push_str("Connection: close\r\n");
    }
    head.push_str("\r\n");
    head
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Unknown")
}
