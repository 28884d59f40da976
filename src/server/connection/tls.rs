//! TLS for clients: rustls, HTTP/2 and HTTP/1.1 by ALPN.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

/// The files that make a server speak TLS, all PEM.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The certificate and its chain.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Clients must show a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// HTTP/2's name in ALPN.
pub(crate) const H2: &[u8] = b"h2";

/// Reads the files and builds what accepts TLS connections. The error names the file.
pub(crate) fn acceptor(settings: &Settings) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| problem(path, &error))?;
            }
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| problem(path, &error))?)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| match error {
        pem::Error::NoItemsFound => problem(&settings.key, &"holds no private key; it must be PEM"),
        error => problem(&settings.key, &error),
    })?;
    let mut config = builder
        .with_single_cert(certificates(&settings.certificate)?, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let key = settings.key.display();
                problem(
                    &settings.certificate,
                    &format!("its key is another one than that in {key}"),
                )
            }
            error => problem(&settings.certificate, &error),
        })?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| problem(path, &error))?;
    let certificates: Vec<_> = certificates
        .collect::<Result<_, _>>()
        .map_err(|error| problem(path, &error))?;
    if certificates.is_empty() {
        return Err(problem(path, &"holds no certificate; it must be PEM"));
    }
    Ok(certificates)
}

fn problem(path: &Path, detail: &dyn std::fmt::Display) -> String {
    format!("{}: {detail}", path.display())
}
