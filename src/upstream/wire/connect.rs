//! Connections to an upstream: TCP, TLS and proxies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower_service::Service;

use super::resolve::Resolver;
use super::settings::{ConnectionSettings, Proxy};

/// Connects over TCP, directly or through a proxy, and speaks TLS on top for `https`.
pub(crate) type Connector = HttpsConnector<ProxyConnector>;

/// Which proxy is used for which host.
#[derive(Clone)]
pub(crate) struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    pub(crate) fn new(settings: &ConnectionSettings) -> Self {
        Self(match &settings.proxy {
            Proxy::Direct => None,
            Proxy::Environment if all_direct() => None,
            Proxy::Environment => Some(Arc::new(Matcher::from_env())),
            Proxy::Url(uri) => Some(Arc::new(Matcher::builder().all(uri.to_string()).build())),
        })
    }

    /// The Proxy-Authorization of a request itself. For `https` it goes into the CONNECT instead, where
    /// upstream does not see it.
    pub(crate) fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        if destination.scheme_str() == Some("https") {
            return None;
        }
        self.intercept(destination)?.basic_auth().cloned()
    }

    fn intercept(&self, destination: &Uri) -> Option<Intercept> {
        self.0.as_ref()?.intercept(destination)
    }
}

/// Builds the connector of one upstream; reads the system's and the configured certificate authorities.
pub(crate) fn connector(
    settings: &ConnectionSettings,
    proxies: Proxies,
) -> Result<Connector, String> {
    let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(settings.timeouts.connect));
    tcp.set_keepalive(Some(std::time::Duration::from_secs(60)));
    let tls = tls(settings)?;
    let connector = ProxyConnector { tcp, proxies };
    // HTTP/1.1 alone: a blob over h2 shares one TCP window with all others of its host.
    Ok(HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector))
}

/// Whether NO_PROXY has a star. The matcher applies it to all names but to no address: an upstream at
/// `http://10.0.0.1` would still go through the proxy.
#[expect(
    clippy::disallowed_methods,
    reason = "the matcher reads the proxy variables from the environment as well"
)]
fn all_direct() -> bool {
    ["no_proxy", "NO_PROXY"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .any(|list| list.split(',').any(|entry| entry.trim() == "*"))
}

fn tls(settings: &ConnectionSettings) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    // Some of a system's certificates may be unreadable; the others can still be used.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = &settings.ca_file {
        let problem =
            |detail: &dyn std::fmt::Display| format!("ca_file {}: {detail}", path.display());
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| problem(&error))?;
        let mut added = 0;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| problem(&error))?;
            roots.add(certificate).map_err(|error| problem(&error))?;
            added += 1;
        }
        if added == 0 {
            return Err(problem(&"holds no certificate; it must be PEM"));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// TCP to the host itself, or to the proxy for it.
#[derive(Clone)]
pub(crate) struct ProxyConnector {
    tcp: HttpConnector<Resolver>,
    proxies: Proxies,
}

/// A TCP connection and whether an HTTP proxy is at its other end.
pub(crate) struct Stream {
    tcp: TokioIo<TcpStream>,
    proxied: bool,
}

type Error = Box<dyn std::error::Error + Send + Sync>;

impl Service<Uri> for ProxyConnector {
    type Response = Stream;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        match self.proxies.intercept(&destination) {
            None => stream(self.tcp.call(destination), false),
            Some(proxy) if destination.scheme_str() == Some("https") => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.tcp.clone());
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                stream(tunnel.call(destination), false)
            }
            // Plain HTTP is asked of the proxy itself, in absolute form; hyper does that when told.
            Some(proxy) => stream(self.tcp.call(proxy.uri().clone()), true),
        }
    }
}

fn stream<E: Into<Error>>(
    connecting: impl Future<Output = Result<TokioIo<TcpStream>, E>> + Send + 'static,
    proxied: bool,
) -> <ProxyConnector as Service<Uri>>::Future {
    Box::pin(async move {
        let tcp = connecting.await.map_err(Into::into)?;
        Ok(Stream { tcp, proxied })
    })
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.tcp.connected().proxy(self.proxied)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }
}
