//! A listener on loopback that can go away and come back on its port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};

use super::wire::{Connection, Fate, Request};

/// Decides what becomes of a request.
pub type Answer = Arc<dyn Fn(&Request) -> Fate + Send + Sync>;

/// One scheme, host and port.
#[derive(Debug)]
pub struct Origin {
    /// Bound and never listening: keeps the port ours while the listener is down, and makes connections refused.
    _reserved: TcpSocket,
    pub address: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
    open: Arc<AtomicUsize>,
    runtime: Handle,
}

impl Origin {
    /// Takes a port of this address; nothing is answered until [`Origin::up`].
    pub fn reserve(address: Ipv4Addr, runtime: Handle) -> io::Result<Origin> {
        let _entered = runtime.enter();
        let reserved = bind((address, 0).into())?;
        let address = reserved.local_addr()?;
        let (accepting, open) = (Mutex::default(), Arc::default());
        drop(_entered);
        Ok(Origin {
            _reserved: reserved,
            address,
            accepting,
            open,
            runtime,
        })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn up(&self, answer: Answer) -> io::Result<()> {
        let _entered = self.runtime.enter();
        let mut accepting = self.accepting.lock().unwrap();
        if accepting.is_none() {
            let listener = bind(self.address)?.listen(1024)?;
            *accepting = Some(
                self.runtime
                    .spawn(accept(listener, answer, self.open.clone())),
            );
        }
        Ok(())
    }

    /// Stops listening and closes all connections; returns when both is done.
    pub fn down(&self) {
        let Some(task) = self.accepting.lock().unwrap().take() else {
            return;
        };
        task.abort();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !task.is_finished() || self.open.load(Ordering::SeqCst) > 0 {
            assert!(
                Instant::now() < deadline,
                "connections of {} do not close",
                self.address
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Counts a connection for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Dropping this future aborts its connections, because the set does.
async fn accept(listener: TcpListener, answer: Answer, open: Arc<AtomicUsize>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        open.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve(stream, answer.clone(), Open(open.clone())));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, answer: Answer, _open: Open) {
    let mut connection = Connection::new(stream);
    while let Ok(Some(request)) = connection.read_request().await {
        let fate = answer(&request);
        match connection.meet(&request, fate).await {
            Ok(true) => {}
            // A client that went away is its own business; the ledger has what it asked.
            Ok(false) | Err(_) => break,
        }
    }
}
