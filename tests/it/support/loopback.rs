//! An address of its own for everything that a test lets listen.
//!
//! A port is given back when its listener ends, and the kernel gives it to the next one that asks. Clients that still
//! have the old address then reach a listener that knows nothing of them: a client of a mirror that was just killed, a
//! command with the admin address of one, a mirror that resumes a fill from a registry of a test that is over, all of
//! them in this process or in another. So no two listeners share an address either: 127.0.0.0/8 is this machine, and
//! what is asked at an address that is no longer in use is refused.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// 127.64.0.0 to 127.191.255.255: far from 127.0.0.1, where connections come from, and from addresses that tests name.
const FIRST: u32 = 0x7f40_0000;
const COUNT: u32 = 0x0080_0000;

/// An address that no other listener has: not in this process, and in no other one but by an accident that also has to
/// hit the port.
pub fn address() -> Ipv4Addr {
    static NEXT: LazyLock<AtomicU32> =
        LazyLock::new(|| AtomicU32::new(RandomState::new().hash_one(std::process::id()) as u32));
    Ipv4Addr::from(FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT)
}

/// Any port of an address of its own, to listen at.
pub fn any_port() -> SocketAddr {
    (address(), 0).into()
}

/// An address and a port for a program that cannot choose one itself. No other program takes the port in the meantime,
/// because no other one has the address.
pub fn free_port() -> SocketAddr {
    TcpListener::bind(any_port()).unwrap().local_addr().unwrap()
}
