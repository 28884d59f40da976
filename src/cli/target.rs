//! What a command works on: a running mirror, asked through its admin API, or the store of one that is not running.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::api::{ADMIN_HEADER, Refusal};
use crate::config::Config;
use crate::store::OpenError;
use crate::store::images::offline::Offline;

use super::flags::TargetFlags;

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

/// Chooses: the mirror that was named, else the store if it is at rest, else the mirror that holds it.
pub(super) fn choose(flags: &TargetFlags, config: &Config) -> Result<Target, String> {
    if let Some(url) = flags.admin() {
        return Ok(Target::Running(AdminClient::at(url)?));
    }
    let path = &config.store.path;
    let configured = || Target::Running(AdminClient::configured(config));
    match Offline::open(path) {
        Ok(store) => Ok(Target::AtRest(store)),
        Err(OpenError::Locked { .. }) => Ok(configured()),
        // The store belongs to the mirror's user; the mirror itself may still be asked.
        Err(OpenError::Io { source, .. })
            if source.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            Ok(configured())
        }
        Err(OpenError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let path = path.display();
            Err(format!(
                "there is no store at {path}; name it with --store DIR, the mirror's configuration with --config FILE, or a running mirror with --admin URL"
            ))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// A running mirror's admin address.
pub(super) struct AdminClient {
    authority: String,
}

/// An answer that is read line by line, as it comes.
pub(super) struct Lines {
    body: Incoming,
    read: Vec<u8>,
}

impl AdminClient {
    fn at(url: &str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is not the address of a mirror; write http://HOST:PORT");
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
        Ok(Self {
            authority: format!("{}:{port}", authority.host()),
        })
    }

    fn configured(config: &Config) -> Self {
        let mut address = config.server.admin_listen;
        // It listens everywhere; here is one of those places.
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
        Self {
            authority: address.to_string(),
        }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// Asks, and waits for the beginning of the answer. What is no success is an error.
    pub(super) async fn ask(&self, method: Method, path: &str) -> Result<Lines, String> {
        let lost = |error: &dyn std::fmt::Display| {
            format!(
                "no answer from the mirror at {}: {error}; is it running? --admin URL names another",
                self.url()
            )
        };
        let connect = tokio::time::timeout(CONNECT, TcpStream::connect(&self.authority));
        let stream = connect.await.map_err(|error| lost(&error))?;
        let stream = stream.map_err(|error| lost(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| lost(&error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.authority)
            .header(ADMIN_HEADER, "1")
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
        let answer = answer.map_err(|error| lost(&error))?;
        let (head, body) = answer.map_err(|error| lost(&error))?.into_parts();
        let mut lines = Lines {
            body,
            read: Vec::new(),
        };
        if head.status == StatusCode::OK {
            return Ok(lines);
        }
        let refusal = lines.next().await.ok().flatten();
        let refusal = refusal.and_then(|line| serde_json::from_slice::<Refusal>(&line).ok());
        Err(match refusal {
            Some(Refusal { error }) => error,
            None => format!(
                "{} answers {}; it is no pierglass, or an older one",
                self.url(),
                head.status
            ),
        })
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
            assert_eq!(AdminClient::at(url).unwrap().authority, authority, "{url}");
        }
        for url in [
            "",
            "https://a:1",
            "http://a:1/x",
            "http://u:p@a:1",
            "a b",
            "http://a:1/?x",
        ] {
            assert!(AdminClient::at(url).is_err(), "{url}");
        }
    }
}
