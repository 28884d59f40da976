//! Connections to an upstream: TCP, TLS and proxies.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5, Tunnel};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;
use tower_service::Service;

use super::origin::with_port;
use super::resolve::{Refused, Resolver};
use super::settings::{ConnectionSettings, Proxy, Timeouts};
use super::zone::{Reach, Zone};

/// Connects over TCP, directly or through a proxy, and speaks TLS on top for `https`.
pub(super) type Connector = HttpsConnector<ProxyConnector>;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Which proxy is used for which host.
#[derive(Clone)]
pub(super) struct Proxies(Option<Arc<Matcher>>);

impl Proxies {
    pub(super) fn new(settings: &ConnectionSettings) -> Self {
        Self(match &settings.proxy {
            Proxy::Direct => None,
            Proxy::Environment if all_direct() => None,
            Proxy::Environment => Some(Arc::new(Matcher::from_env())),
            Proxy::Url(uri) => Some(Arc::new(Matcher::builder().all(uri.to_string()).build())),
        })
    }

    /// The Proxy-Authorization of a request itself. For `https` it goes into the CONNECT instead, where
    /// upstream does not see it.
    pub(super) fn authorization(&self, destination: &Uri) -> Option<HeaderValue> {
        if destination.scheme_str() == Some("https") {
            return None;
        }
        self.intercept(destination)?.basic_auth().cloned()
    }

    /// The URL of the proxy on the way to a destination, without credentials.
    pub(super) fn on_the_way(&self, destination: &Uri) -> Option<Uri> {
        Some(self.intercept(destination)?.uri().clone())
    }

    fn intercept(&self, destination: &Uri) -> Option<Intercept> {
        self.0.as_ref()?.intercept(destination)
    }
}

/// Makes the connectors of one upstream, one for each reach.
pub(super) struct Connectors {
    resolver: Resolver,
    timeouts: Timeouts,
    tls: rustls::ClientConfig,
    proxies: Proxies,
}

impl Connectors {
    /// Reads the system's and the configured certificate authorities.
    pub(super) fn new(settings: &ConnectionSettings, proxies: Proxies) -> Result<Self, String> {
        Ok(Self {
            resolver: Resolver::default(),
            timeouts: settings.timeouts.clone(),
            tls: tls(settings)?,
            proxies,
        })
    }

    pub(super) fn connector(&self, reach: Reach) -> Connector {
        let resolver = self.resolver.within(reach);
        let connector = ProxyConnector {
            // Where the proxy is, the operator said.
            to_proxy: self.secured(self.tcp(self.resolver.clone())),
            tcp: self.tcp(resolver.clone()),
            resolver,
            proxies: self.proxies.clone(),
            reach,
        };
        self.secured(connector)
    }

    fn tcp(&self, resolver: Resolver) -> HttpConnector<Resolver> {
        let mut tcp = HttpConnector::new_with_resolver(resolver);
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.timeouts.connect));
        tcp.set_keepalive(Some(std::time::Duration::from_secs(60)));
        tcp
    }

    fn secured<C>(&self, connector: C) -> HttpsConnector<C> {
        // HTTP/1.1 alone: a blob over h2 shares one TCP window with all others of its host.
        HttpsConnectorBuilder::new()
            .with_tls_config(self.tls.clone())
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector)
    }
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
pub(super) struct ProxyConnector {
    /// To the host itself, as far as `reach` allows.
    tcp: HttpConnector<Resolver>,
    /// To a proxy, with TLS if its URL says `https`.
    to_proxy: HttpsConnector<HttpConnector<Resolver>>,
    resolver: Resolver,
    proxies: Proxies,
    reach: Reach,
}

/// A connection, and whether it is to be spoken to as an HTTP proxy.
pub(super) struct Stream {
    inner: MaybeHttpsStream<TokioIo<TcpStream>>,
    proxied: bool,
    made: MadeAt,
}

/// When a connection was made.
#[derive(Clone, Copy)]
pub(super) struct MadeAt(pub(super) Instant);

/// The proxy on the way failed, and not the host behind it.
#[derive(Debug)]
pub(super) struct ProxyFailed {
    pub(super) proxy: Uri,
    pub(super) cause: BoxError,
}

impl std::fmt::Display for ProxyFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the proxy {} failed", self.proxy)
    }
}

impl std::error::Error for ProxyFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

impl Service<Uri> for ProxyConnector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        let host = destination.host().unwrap_or_default();
        // An address is not resolved, and the names that a proxy resolves are not seen by the resolver.
        if let Some(zone) = Zone::of_host(host).filter(|zone| !self.reach.allows(*zone)) {
            let refused = Refused::new(host, zone);
            return Box::pin(async move { Err(refused.into()) });
        }
        match self.proxies.intercept(&destination) {
            None => {
                let connecting = self.tcp.call(destination);
                Box::pin(async move {
                    let inner = MaybeHttpsStream::Http(connecting.await?);
                    Ok(Stream::new(inner, false))
                })
            }
            Some(proxy) => Box::pin(self.clone().through(proxy, destination)),
        }
    }
}

impl ProxyConnector {
    async fn through(mut self, proxy: Intercept, destination: Uri) -> Result<Stream, BoxError> {
        let proxied = matches!(proxy.uri().scheme_str(), Some("http" | "https"))
            && destination.scheme_str() != Some("https");
        let inner = match proxy.uri().scheme_str() {
            // Plain HTTP is asked of the proxy itself, in absolute form; hyper does that when told.
            Some("http" | "https") if proxied => self.to_proxy.call(proxy.uri().clone()).await,
            Some("http" | "https") => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), self.to_proxy);
                if let Some(authorization) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(authorization.clone());
                }
                tunnel.call(destination).await.map_err(BoxError::from)
            }
            _ => self.through_socks(&proxy, destination).await,
        };
        match inner {
            Ok(inner) => Ok(Stream::new(inner, proxied)),
            Err(cause) if cause.is::<Refused>() => Err(cause),
            Err(cause) => Err(ProxyFailed {
                proxy: proxy.uri().clone(),
                cause,
            }
            .into()),
        }
    }

    /// SOCKS 4 and 5 (RFC 1928). `socks5h` and `socks4a` let the proxy resolve the name, as curl has it.
    async fn through_socks(
        mut self,
        proxy: &Intercept,
        destination: Uri,
    ) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let scheme = proxy.uri().scheme_str().unwrap_or_default();
        let socks4 = scheme.starts_with("socks4");
        // The connectors know only HTTP's ports.
        let address = with_port(proxy.uri(), Scheme::HTTP, 1080)?;
        let made = Made(Some(self.to_proxy.call(address.clone()).await?));
        let port = if destination.scheme_str() == Some("http") {
            80
        } else {
            443
        };
        let named = with_port(&destination, Scheme::HTTP, port)?;
        let destination = match scheme {
            "socks4" | "socks5" => self.resolver.literal(&named, socks4).await?,
            _ => named,
        };
        if socks4 {
            let mut socks = SocksV4::new(address, made);
            return Ok(socks.call(destination).await?);
        }
        let mut socks = SocksV5::new(address, made);
        if let Some((user, password)) = proxy.raw_auth() {
            socks = socks.with_auth(user.to_owned(), password.to_owned());
        }
        Ok(socks.call(destination).await?)
    }
}

/// A connection that is made already. If SOCKS made it itself, it would not say why it failed.
struct Made(Option<MaybeHttpsStream<TokioIo<TcpStream>>>);

impl Service<Uri> for Made {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = std::io::Error;
    type Future = std::future::Ready<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let made = self.0.take();
        std::future::ready(made.ok_or_else(|| std::io::ErrorKind::NotConnected.into()))
    }
}

impl Stream {
    fn new(inner: MaybeHttpsStream<TokioIo<TcpStream>>, proxied: bool) -> Self {
        Self {
            inner,
            proxied,
            made: MadeAt(Instant::now()),
        }
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        let connected = self.inner.connected().proxy(self.proxied);
        connected.extra(self.made)
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests;
