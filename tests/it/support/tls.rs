//! Certificates, a TLS front for the fake registry, and a client that speaks HTTP/1.1 or HTTP/2, over TLS or not.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::client::Response;
use super::loopback;

/// A certificate that is its own authority, and its key, as files: for 127.0.0.1, which clients here expect of a mirror
/// wherever it listens, and for the address of a [`Front`].
#[derive(Debug)]
pub struct Certificate {
    front: Ipv4Addr,
    directory: TempDir,
}

impl Certificate {
    pub fn new() -> Certificate {
        let directory = TempDir::with_prefix("pierglass-tls-").unwrap();
        let front = loopback::address();
        let names = vec!["127.0.0.1".to_owned(), front.to_string()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(directory.path().join("tls.crt"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(directory.path().join("tls.key"), key).unwrap();
        Certificate { front, directory }
    }

    pub fn certificate(&self) -> PathBuf {
        self.directory.path().join("tls.crt")
    }

    pub fn key(&self) -> PathBuf {
        self.directory.path().join("tls.key")
    }

    /// The `[tls]` table for this certificate.
    pub fn toml(&self) -> String {
        let (certificate, key) = (self.certificate(), self.key());
        format!(
            "[tls]\ncertificate = \"{}\"\nkey = \"{}\"\n",
            certificate.display(),
            key.display()
        )
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(self.key()).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(read(&self.certificate()), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Connects to `authority`, trusting this certificate alone and offering these protocols by ALPN.
    pub async fn connect(
        &self,
        authority: &str,
        protocols: &[&str],
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(read(&self.certificate()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().into())
            .collect();
        let stream = TcpStream::connect(authority).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap()
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn read(path: &Path) -> Vec<CertificateDer<'static>> {
    let certificates = CertificateDer::pem_file_iter(path).unwrap();
    certificates.map(Result::unwrap).collect()
}

/// TLS in front of a plain server: what a registry at `https://` is.
#[derive(Debug)]
pub struct Front {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Front {
    pub async fn start(certificate: &Certificate, behind: String) -> Front {
        let listener = TcpListener::bind((certificate.front, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = certificate.acceptor();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behind) = (acceptor.clone(), behind.clone());
                tokio::spawn(async move {
                    let mut client = acceptor.accept(stream).await.ok()?;
                    let mut server = TcpStream::connect(behind).await.ok()?;
                    copy_bidirectional(&mut client, &mut server).await.ok()
                });
            }
        });
        Front { address, task }
    }
}

/// GET over HTTP/1.1 on a connection that is open already.
pub async fn get_h1(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &str,
) -> Result<Response, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io))
        .await
        .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let (host, path) = split(url);
    let request = Request::get(path).header("host", host);
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = sender.send_request(request).await;
    collect(answer.map_err(|error| error.to_string())?).await
}

/// GETs over one HTTP/2 connection, all at once.
pub async fn get_h2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    urls: &[String],
) -> Vec<Result<Response, String>> {
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io))
            .await
            .unwrap();
    tokio::spawn(connection);
    let asked = urls.iter().map(|url| {
        let mut sender = sender.clone();
        async move {
            let request = Request::get(url.as_str());
            let request = request.body(Full::<Bytes>::default()).unwrap();
            let answer = sender.send_request(request).await;
            collect(answer.map_err(|error| error.to_string())?).await
        }
    });
    futures_util::future::join_all(asked).await
}

async fn collect(answer: http::Response<hyper::body::Incoming>) -> Result<Response, String> {
    let (parts, body) = answer.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?;
    Ok(Response {
        status: parts.status,
        headers: parts.headers,
        body: body.to_bytes(),
    })
}

fn split(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/')
        .map_or((rest, "/"), |at| (&rest[..at], &rest[at..]))
}
