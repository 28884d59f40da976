//! A slow line: a relay that lets so many bytes a second through to clients, all connections together.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PIECE: usize = 64 * 1024;

/// When the next byte may pass.
struct Line {
    rate: f64,
    free_at: Mutex<Instant>,
}

impl Line {
    fn pass(&self, bytes: usize) {
        let now = Instant::now();
        let wait = {
            let mut free_at = self.free_at.lock().unwrap();
            // What was not used is lost, but for 20 ms: timers are not exact.
            *free_at = (*free_at).max(now - Duration::from_millis(20));
            *free_at += Duration::from_secs_f64(bytes as f64 / self.rate);
            free_at.saturating_duration_since(now)
        };
        if wait > Duration::from_millis(1) {
            std::thread::sleep(wait);
        }
    }
}

/// Relays to `upstream` at `rate` bytes a second, for as long as the program runs.
pub fn relay(upstream: SocketAddr, rate: f64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let line = Arc::new(Line {
        rate,
        free_at: Mutex::new(Instant::now()),
    });
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(upstream) else {
                continue;
            };
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            let line = Arc::clone(&line);
            std::thread::spawn(move || copy(&from, &to, None));
            std::thread::spawn(move || copy(&server, &client, Some(&line)));
        }
    });
    address
}

fn copy(mut from: &TcpStream, mut to: &TcpStream, line: Option<&Line>) {
    let mut buffer = vec![0; PIECE];
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        if let Some(line) = line {
            line.pass(count);
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
