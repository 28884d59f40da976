//! A slow line, or a long one: a relay that lets so many bytes a second through to clients, all connections
//! together, or that keeps everything for a while.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::loopback::any_port;

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
    let listener = TcpListener::bind(any_port()).unwrap();
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

/// Relays to `upstream`, half of `round_trip` later each way, for as long as the program runs.
pub fn distance(upstream: SocketAddr, round_trip: Duration) -> SocketAddr {
    let listener = TcpListener::bind(any_port()).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let Ok(server) = TcpStream::connect(upstream) else {
                continue;
            };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            carry(from, to, round_trip / 2);
            carry(server, client, round_trip / 2);
        }
    });
    address
}

/// One thread reads and another writes what has been under way for long enough.
fn carry(mut from: TcpStream, to: TcpStream, delay: Duration) {
    // As much as a window of TCP would have on its way.
    let (sender, receiver) = mpsc::sync_channel(256);
    std::thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let due = Instant::now() + delay;
            if sender.send((due, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || deliver(&receiver, &to));
}

fn deliver(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: &TcpStream) {
    while let Ok((due, bytes)) = receiver.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
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
