//! What a command works on: a running mirror, asked through its admin API, or the store of one that is not running.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::api::{self, ADMIN_HEADER, ApiProblem, StoreAnswer};
use crate::config::Config;
use crate::store::OpenError;
use crate::store::images::offline::Offline;

use super::flags::TargetFlags;
use super::runtime;

/// Where the unit in `deploy/` has its socket.
const SOCKET_OF_UNIT: &str = "/run/pierglass/admin.sock";

const CONNECT: Duration = Duration::from_secs(5);
/// Nothing for this long, and the mirror is taken for gone. A large store takes a moment to be counted.
const SILENCE: Duration = Duration::from_secs(60);
/// No answer of a mirror has longer lines.
const MAX_LINE: usize = 1024 * 1024;

pub(super) enum Target {
    /// A mirror that is running.
    Running(AdminClient),
    /// A store that no mirror is running on.
    AtRest(Offline),
}

/// Chooses what a command works on. Where a store is named, it is that store and never another mirror's.
pub(super) fn choose(flags: &TargetFlags, config: &Config) -> Result<Target, String> {
    let path = &config.store.path;
    if let Some(url) = flags.admin() {
        let admin = AdminClient::at(url, config)?;
        return match flags.names_store() {
            true => one_of(path, vec![admin]),
            false => Ok(Target::Running(admin)),
        };
    }
    let mirrors = AdminClient::configured(config);
    if config.store_is_named {
        return match Offline::open(path) {
            Ok(store) => Ok(Target::AtRest(store)),
            Err(error) if is_in_use(&error) => one_of(path, mirrors),
            Err(error) => Err(cannot_open(path, &error)),
        };
    }
    // Nothing is named: the mirror that runs where mirrors run says which store it has.
    let mut no_mirror = String::new();
    for admin in mirrors {
        match admin.store() {
            Ok(store) => return Ok(admin.running_on(store)),
            Err(error) => no_mirror = error,
        }
    }
    match Offline::open(path) {
        Ok(store) => Ok(Target::AtRest(store)),
        Err(error) if is_in_use(&error) => Err(no_mirror),
        Err(error) => Err(format!("{}\n{no_mirror}", cannot_open(path, &error))),
    }
}

/// The one of these mirrors that has the store at `path`.
fn one_of(path: &Path, mirrors: Vec<AdminClient>) -> Result<Target, String> {
    let mut found = Vec::new();
    for admin in mirrors {
        match admin.store() {
            Ok(store) if is_at(&store, path) => return Ok(admin.running_on(store)),
            Ok(store) => found.push(format!("{} has the store {}", admin.url(), store.path)),
            Err(error) => found.push(error),
        }
    }
    Err(format!(
        "{} is in use, or not ours to open, and the mirror that has it was not found: {}; name its admin address with --admin URL",
        path.display(),
        found.join("; ")
    ))
}

/// Whether a mirror's store is the directory at `path`.
fn is_at(store: &StoreAnswer, path: &Path) -> bool {
    match path.metadata() {
        Ok(directory) => (directory.dev(), directory.ino()) == (store.device, store.inode),
        // It lies in a directory that is closed to us.
        Err(_) => std::path::absolute(path).is_ok_and(|path| path == Path::new(&store.path)),
    }
}

/// Whether the store may be in use: it is locked, or it belongs to another user, perhaps that of a mirror.
fn is_in_use(error: &OpenError) -> bool {
    match error {
        OpenError::Locked { .. } => true,
        OpenError::Io { source, .. } => source.kind() == std::io::ErrorKind::PermissionDenied,
        _ => false,
    }
}

fn cannot_open(path: &Path, error: &OpenError) -> String {
    match error {
        OpenError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let path = path.display();
            format!(
                "there is no store at {path}; name it with --store DIR, the mirror's configuration with --config FILE, or a running mirror with --admin URL"
            )
        }
        error => error.to_string(),
    }
}

/// The admin API of a running mirror.
pub(super) struct AdminClient {
    place: Place,
    token: Option<PathBuf>,
    /// What it says its store is, if it was asked.
    has: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Host and port.
    Address(String),
    Socket(PathBuf),
}

/// An answer that is read line by line, as it comes.
pub(super) struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl AdminClient {
    fn at(url: &str, config: &Config) -> Result<Self, String> {
        Ok(Self {
            place: Place::named(url)?,
            token: config.server.admin_token_file.clone(),
            has: None,
        })
    }

    /// Where a mirror of this configuration, or that of the shipped unit, would be, on this machine.
    fn configured(config: &Config) -> Vec<Self> {
        let settings = &config.server;
        let of_unit = || Some(PathBuf::from(SOCKET_OF_UNIT)).filter(|path| path.exists());
        let socket = settings.admin_socket.clone().or_else(of_unit);
        let places = socket.map(Place::Socket).into_iter();
        let places = places.chain([Place::here(settings.admin_listen)]);
        let client = |place| Self {
            place,
            token: settings.admin_token_file.clone(),
            has: None,
        };
        places.map(client).collect()
    }

    fn url(&self) -> String {
        match &self.place {
            Place::Address(authority) => format!("http://{authority}"),
            Place::Socket(path) => format!("unix:{}", path.display()),
        }
    }

    fn running_on(self, store: StoreAnswer) -> Target {
        Target::Running(Self {
            has: Some(store.path),
            ..self
        })
    }

    /// What to call it in a report.
    pub(super) fn describe(&self) -> String {
        match &self.has {
            Some(path) => format!("{path}, the store of the mirror at {}", self.url()),
            None => format!("the mirror at {}", self.url()),
        }
    }

    /// Which store it has.
    fn store(&self) -> Result<StoreAnswer, String> {
        runtime::on_this_thread(self.value(Method::GET, api::STORE))?
    }

    /// Asks, and waits for the beginning of the answer. What is no success is an error.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Lines, String> {
        let connect = async {
            match &self.place {
                Place::Address(authority) => {
                    let stream = TcpStream::connect(authority).await?;
                    Ok::<_, std::io::Error>(handshake(stream).await)
                }
                Place::Socket(path) => Ok(handshake(UnixStream::connect(path).await?).await),
            }
        };
        let connected = tokio::time::timeout(CONNECT, connect).await;
        let connected = connected.map_err(|error| self.lost(&error))?;
        let handshake = connected.map_err(|error| self.lost(&error))?;
        let mut sender = handshake.map_err(|error| self.lost(&error))?;
        let request = self.request(method, path)?;
        let answer = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|error| self.lost(&error))?;
        let (head, body) = answer.map_err(|error| self.lost(&error))?.into_parts();
        let mut lines = Lines {
            body,
            read: Vec::new(),
        };
        if head.status == StatusCode::OK {
            return Ok(lines);
        }
        let refusal = lines.next().await.ok().flatten();
        let refusal = refusal.and_then(|line| serde_json::from_slice::<ApiProblem>(&line).ok());
        Err(match refusal {
            Some(ApiProblem { error }) => format!("{} answers: {error}", self.url()),
            None => format!(
                "{} answers {}; it is no pierglass, or an older one",
                self.url(),
                head.status
            ),
        })
    }

    fn request(&self, method: Method, path: &str) -> Result<Request<Empty<Bytes>>, String> {
        let host = match &self.place {
            Place::Address(authority) => authority,
            Place::Socket(_) => "localhost",
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, host)
            .header(ADMIN_HEADER, "1");
        if let Some(path) = &self.token {
            let token = std::fs::read_to_string(path)
                .map_err(|error| format!("admin_token_file: {}: {error}", path.display()))?;
            let mut value = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
                .map_err(|_| format!("admin_token_file: {} holds no token", path.display()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
            .body(Empty::new())
            .map_err(|error| error.to_string())
    }

    fn lost(&self, error: &dyn std::fmt::Display) -> String {
        let url = self.url();
        format!(
            "no answer from the mirror at {url}: {error}; is it running? --admin URL names another"
        )
    }

    /// Asks for one JSON value.
    pub(super) async fn value<T: serde::de::DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
    ) -> Result<T, String> {
        let line = self.ask(method, path).await?.next().await?;
        let line = line.unwrap_or_default();
        serde_json::from_slice(&line)
            .map_err(|error| format!("{} is no pierglass of this version: {error}", self.url()))
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Empty<Bytes>>, hyper::Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

impl Place {
    fn named(url: &str) -> Result<Self, String> {
        let wrong = || {
            format!("{url:?} is not the address of a mirror; write http://HOST:PORT or unix:/PATH")
        };
        if let Some(path) = url.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(Self::Socket(PathBuf::from(path))),
                false => Err(wrong()),
            };
        }
        let with_scheme = match url.contains("://") {
            true => url.to_owned(),
            false => format!("http://{url}"),
        };
        let uri: Uri = with_scheme.parse().map_err(|_| wrong())?;
        let authority = uri
            .authority()
            .filter(|authority| !authority.as_str().contains('@'));
        let plain = uri.scheme_str() == Some("http") && matches!(uri.path(), "" | "/");
        let authority = authority
            .filter(|_| plain && uri.query().is_none())
            .ok_or_else(wrong)?;
        let port = authority.port_u16().unwrap_or(80);
        Ok(Self::Address(format!("{}:{port}", authority.host())))
    }

    /// Where a mirror that listens at `address` is for a program on the same machine.
    fn here(mut address: SocketAddr) -> Self {
        // It listens everywhere; here is one of those places.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        Self::Address(address.to_string())
    }
}

impl Lines {
    /// The next line; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.drain(..=end).collect();
                return Ok(Some(line));
            }
            if self.read.len() > MAX_LINE {
                return Err("the mirror's answer is none".to_owned());
            }
            let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
            let frame = frame.map_err(|_| format!("the mirror says nothing for {SILENCE:?}"))?;
            match frame {
                None if self.read.is_empty() => return Ok(None),
                None => return Ok(Some(std::mem::take(&mut self.read))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.read.extend_from_slice(&bytes);
                    }
                }
                Some(Err(error)) => return Err(format!("the mirror's answer broke off: {error}")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_write_them() {
        for (url, authority) in [
            ("http://127.0.0.1:5001", "127.0.0.1:5001"),
            ("http://127.0.0.1:5001/", "127.0.0.1:5001"),
            ("mirror.internal:5001", "mirror.internal:5001"),
            ("http://[::1]:5001", "[::1]:5001"),
            ("http://mirror", "mirror:80"),
        ] {
            let expected = Place::Address(authority.to_owned());
            assert_eq!(Place::named(url).unwrap(), expected, "{url}");
        }
        let socket = Place::Socket(PathBuf::from("/run/a b.sock"));
        assert_eq!(Place::named("unix:/run/a b.sock").unwrap(), socket);
        for url in [
            "",
            "https://a:1",
            "http://a:1/x",
            "http://u:p@a:1",
            "a b",
            "http://a:1/?x",
            "unix:relative",
        ] {
            assert!(Place::named(url).is_err(), "{url}");
        }
    }
}
