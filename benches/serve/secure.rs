//! Certificates, and a client that speaks TLS: one thread a connection. What it costs is decryption, so the
//! figure to look at is the server's CPU, not how fast it went.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

use crate::load::{Outcome, parse};
use crate::usage;

/// A certificate for 127.0.0.1 with a P-256 key, as files.
pub struct Certificate {
    directory: TempDir,
}

impl Certificate {
    pub fn new() -> Certificate {
        let directory = TempDir::with_prefix("bench-tls-").unwrap();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(directory.path().join("tls.crt"), made.cert.pem()).unwrap();
        let key = made.signing_key.serialize_pem();
        std::fs::write(directory.path().join("tls.key"), key).unwrap();
        Certificate { directory }
    }

    fn files(&self) -> (PathBuf, PathBuf) {
        let path = self.directory.path();
        (path.join("tls.crt"), path.join("tls.key"))
    }

    pub fn of_pierglass(&self) -> String {
        let (certificate, key) = self.files();
        let (certificate, key) = (certificate.display(), key.display());
        format!("[tls]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n")
    }

    pub fn of_nginx(&self) -> String {
        let (certificate, key) = self.files();
        let (certificate, key) = (certificate.display(), key.display());
        format!("ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;")
    }

    fn client(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.files().0).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }
}

/// A TLS connection that went through one request and is kept.
pub type Kept = StreamOwned<ClientConnection, TcpStream>;

/// Opens a connection and takes what is at `path`, `times` over.
pub fn connect(certificate: &Certificate, address: SocketAddr) -> Kept {
    open(certificate.client(), address)
}

fn open(config: Arc<ClientConfig>, address: SocketAddr) -> Kept {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(config, name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    StreamOwned::new(connection, stream)
}

/// Takes what is at `path` over an open connection; returns how many bytes came.
pub fn take(stream: &mut Kept, path: &str, buffer: &mut [u8]) -> u64 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut header = Vec::new();
    let (length, mut came) = loop {
        let count = stream.read(buffer).unwrap();
        assert!(count > 0, "the connection ended in a header");
        header.extend_from_slice(&buffer[..count]);
        if let Some((ok, length, end)) = parse(&header) {
            assert!(ok, "{}", String::from_utf8_lossy(&header));
            break (length, (header.len() - end) as u64);
        }
    };
    while came < length {
        let count = stream.read(buffer).unwrap();
        assert!(count > 0, "a body broke off");
        came += count as u64;
    }
    came
}

/// `connections` clients, each of which takes `path` `times` over.
pub fn run(
    certificate: &Certificate,
    address: SocketAddr,
    path: &str,
    connections: usize,
    times: usize,
) -> Outcome {
    let config = certificate.client();
    let started = Instant::now();
    let clients: Vec<_> = (0..connections)
        .map(|_| {
            let (config, path) = (Arc::clone(&config), path.to_owned());
            std::thread::spawn(move || {
                let mut stream = open(config, address);
                let mut buffer = vec![0; 256 * 1024];
                let bytes: u64 = (0..times)
                    .map(|_| take(&mut stream, &path, &mut buffer))
                    .sum();
                (bytes, usage::of_this_thread())
            })
        })
        .collect();
    let mut outcome = Outcome::default();
    for client in clients {
        let (bytes, cpu) = client.join().unwrap();
        outcome.bytes += bytes;
        outcome.requests += times as u64;
        // Of one thread each: the busiest tells whether clients were the limit.
        outcome.client_cpu = outcome.client_cpu.max(cpu);
        outcome.done.push(started.elapsed());
    }
    outcome.wall = started.elapsed();
    outcome
}
