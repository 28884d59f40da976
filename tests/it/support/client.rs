//! A client that hides nothing: times, digests, and bodies that end too early.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::content::hex;

/// Longer than anything the mirror may take; a test that hangs says where.
const PATIENCE: Duration = Duration::from_secs(120);

pub type Headers<'a> = &'a [(&'a str, &'a str)];

/// An answer with all its body.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

/// GET on a connection of its own. An incomplete body is an error.
pub async fn get(url: &str, headers: Headers<'_>) -> Result<Response, String> {
    request(Method::GET, url, headers).await
}

/// HEAD on a connection of its own.
pub async fn head(url: &str, headers: Headers<'_>) -> Result<Response, String> {
    request(Method::HEAD, url, headers).await
}

/// Any method on a connection of its own, without a body.
pub async fn request(method: Method, url: &str, headers: Headers<'_>) -> Result<Response, String> {
    send(method, url, headers, Bytes::new()).await
}

/// Any method on a connection of its own, with a body.
pub async fn send(
    method: Method,
    url: &str,
    headers: Headers<'_>,
    body: Bytes,
) -> Result<Response, String> {
    let answer = send_fresh(method, url, headers, body).await?;
    collect(answer).await
}

/// A client that keeps its connections, as real ones do.
#[derive(Debug, Clone)]
pub struct Client {
    pooled: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Default for Client {
    fn default() -> Self {
        Client::new()
    }
}

impl Client {
    pub fn new() -> Client {
        let pooled = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Client { pooled }
    }

    pub async fn get(&self, url: &str, headers: Headers<'_>) -> Result<Response, String> {
        self.request(Method::GET, url, headers).await
    }

    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: Headers<'_>,
    ) -> Result<Response, String> {
        let request = build(method, url, headers, Bytes::new())?;
        let answer = patiently(self.pooled.request(request))
            .await?
            .map_err(|error| deep(&error))?;
        collect(answer).await
    }
}

/// GET on a connection of its own: the head, and the body as it comes.
pub async fn open(url: &str, headers: Headers<'_>) -> Result<(Parts, Incoming), String> {
    let answer = send_fresh(Method::GET, url, headers, Bytes::new()).await?;
    Ok(answer.into_parts())
}

async fn collect(answer: http::Response<Incoming>) -> Result<Response, String> {
    let (parts, body) = answer.into_parts();
    let body = patiently(body.collect())
        .await?
        .map_err(|error| deep(&error))?;
    Ok(Response {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
    })
}

async fn send_fresh(
    method: Method,
    url: &str,
    headers: Headers<'_>,
    body: Bytes,
) -> Result<http::Response<Incoming>, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
    let authority = uri.authority().ok_or("a URL without a host")?.to_string();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = build(method, path, headers, body)?;
    if !request.headers().contains_key("host") {
        request
            .headers_mut()
            .insert("host", authority.parse().map_err(|_| "host")?);
    }
    let stream = TcpStream::connect(&authority)
        .await
        .map_err(|error| format!("{authority}: {error}"))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| deep(&error))?;
    tokio::spawn(connection);
    patiently(sender.send_request(request))
        .await?
        .map_err(|error| deep(&error))
}

fn build(
    method: Method,
    url: &str,
    headers: Headers<'_>,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request
        .body(Full::new(body))
        .map_err(|error| error.to_string())
}

/// For what may never come: `nothing for` some time is an error.
pub async fn patiently<T>(work: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .map_err(|_| format!("nothing for {PATIENCE:?}"))
}

/// An error with its causes.
fn deep(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A GET whose body is hashed, not kept.
#[derive(Debug, Clone, Copy, Default)]
pub struct Downloading {
    /// Close the connection after that many bytes.
    pub abort_after: Option<u64>,
    /// Read no faster than this.
    pub bytes_per_sec: Option<u64>,
}

/// How a download went.
#[derive(Debug)]
pub struct Download {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// From before the connection was opened until the headers were read.
    pub headers_after: Duration,
    /// ... until the first byte of body was read.
    pub first_byte_after: Option<Duration>,
    pub took: Duration,
    pub bytes: u64,
    /// `sha256:...` of what came.
    pub digest: String,
    /// Set when the body broke off; `None` for a complete body and for an abort of our own.
    pub error: Option<String>,
}

impl Download {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Asserts that the body is complete and is `digest`.
    #[track_caller]
    pub fn assert_is(&self, digest: &str) {
        assert_eq!(self.error, None, "after {} bytes", self.bytes);
        assert_eq!(self.status, StatusCode::OK);
        assert_eq!(self.digest, digest, "{} bytes came", self.bytes);
    }
}

/// Downloads at full speed, to the end.
pub async fn download(url: &str, headers: Headers<'_>) -> Result<Download, String> {
    Downloading::default().run(url, headers).await
}

impl Downloading {
    /// `Err` when no answer came at all; a body that breaks off is in [`Download::error`].
    pub async fn run(&self, url: &str, headers: Headers<'_>) -> Result<Download, String> {
        let start = Instant::now();
        let answer = send_fresh(Method::GET, url, headers, Bytes::new()).await?;
        let headers_after = start.elapsed();
        let (parts, mut body) = answer.into_parts();
        let mut hasher = Sha256::new();
        let (mut bytes, mut first_byte_after, mut error) = (0, None, None);
        while self.abort_after.is_none_or(|limit| bytes < limit) {
            let frame = match patiently(body.frame()).await? {
                None => break,
                Some(Ok(frame)) => frame,
                Some(Err(broken)) => {
                    error = Some(deep(&broken));
                    break;
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            first_byte_after.get_or_insert_with(|| start.elapsed());
            hasher.update(&data);
            bytes += data.len() as u64;
            if let Some(rate) = self.bytes_per_sec {
                let due = Duration::from_secs_f64(bytes as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(start.elapsed() - headers_after)).await;
            }
        }
        let digest = format!("sha256:{}", hex(&hasher.finalize()));
        Ok(Download {
            status: parts.status,
            headers: parts.headers,
            headers_after,
            first_byte_after,
            took: start.elapsed(),
            bytes,
            digest,
            error,
        })
    }
}

/// A connection from another address of this machine.
pub async fn connect_from(from: &str, authority: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
    socket.connect(authority.parse().unwrap()).await.unwrap()
}

/// A connection that sends what it is told, byte by byte.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// `authority` is `ADDRESS:PORT`; a URL of that form does as well.
    pub async fn connect(authority: &str) -> Raw {
        let authority = authority.trim_start_matches("http://");
        Raw {
            stream: TcpStream::connect(authority).await.unwrap(),
        }
    }

    /// From another address of this machine, such as `127.0.0.2`: another client, as far as servers can tell.
    pub async fn connect_from(from: &str, authority: &str) -> Raw {
        Raw {
            stream: connect_from(from, authority).await,
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Everything until the other side closes, or says nothing for `silence`; and whether it closed.
    pub async fn read(&mut self, silence: Duration) -> (Vec<u8>, Ending) {
        let mut all = Vec::new();
        loop {
            match tokio::time::timeout(silence, self.stream.read_buf(&mut all)).await {
                Err(_) => return (all, Ending::Silent),
                Ok(Ok(0)) => return (all, Ending::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return (all, Ending::Reset),
            }
        }
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }
}

/// How a raw exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Closed,
    Reset,
    Silent,
}

/// Sends `bytes` on a new connection and reads what comes back.
pub async fn raw(authority: &str, bytes: impl AsRef<[u8]>, silence: Duration) -> (Vec<u8>, Ending) {
    let mut connection = Raw::connect(authority).await;
    connection.send(bytes).await;
    connection.read(silence).await
}
