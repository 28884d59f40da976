//! A request that goes past the mirror must never go unseen.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::support::loopback::any_port;

/// A proxy that lets no request through and remembers each.
#[derive(Debug)]
pub struct Fence {
    address: SocketAddr,
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Fence {
    pub fn start() -> Fence {
        let listener = TcpListener::bind(any_port()).unwrap();
        let address = listener.local_addr().unwrap();
        let url = format!("http://{address}");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        // The thread ends with the process: a blocked accept is nothing to clean up.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                noted
                    .lock()
                    .unwrap()
                    .push(refuse(&stream).unwrap_or_else(|error| error.to_string()));
            }
        });
        Fence { address, url, seen }
    }

    /// Where it listens: what names this as its registry must not be seen here either.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// First lines of all requests so far.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    /// Variables that send every request of a program here, but those to this machine.
    pub fn environment(&self) -> Vec<(&'static str, &str)> {
        let names = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];
        let mut all: Vec<_> = names
            .into_iter()
            .map(|name| (name, self.url.as_str()))
            .collect();
        all.extend(["NO_PROXY", "no_proxy"].map(|name| (name, "127.0.0.1,127.0.0.0/8")));
        all
    }
}

/// The first line of a request, which gets a 403.
fn refuse(mut stream: &TcpStream) -> std::io::Result<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while let Some(Ok(line)) = lines.next() {
        if line.is_empty() {
            break;
        }
    }
    stream.write_all(b"HTTP/1.1 403 Fenced\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    Ok(first)
}
