//! Resolves names to addresses, a few at a time.
//!
//! The system's resolver blocks a thread and cannot be stopped, and the same threads read the disk. The number of
//! lookups is limited, so that a resolver that hangs takes only a few of them.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tower_service::Service;

/// Lookups at a time for one origin. The runtime has 512 threads for blocking work.
const PLACES: usize = 8;

#[derive(Clone)]
pub(crate) struct Resolver {
    places: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it runs in a blocking thread, a few at a time"
    )]
    fn call(&mut self, name: Name) -> Self::Future {
        let places = Arc::clone(&self.places);
        Box::pin(limited(places, move || {
            (name.as_str(), 0).to_socket_addrs()
        }))
    }
}

/// Runs blocking work when a place is free. The place is free again when the work ends, not when its caller gives up.
async fn limited<T: Send + 'static>(
    places: Arc<Semaphore>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = places.acquire_owned().await.map_err(io::Error::other)?;
    let working = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    working.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_resolver_that_hangs_keeps_few_threads() {
        let resolver = Resolver::default();
        let started = Arc::new(AtomicUsize::new(0));
        let (release, hangs) = mpsc::channel::<()>();
        let hangs = Arc::new(std::sync::Mutex::new(hangs));
        let lookups: Vec<_> = (0..100)
            .map(|_| {
                let (places, started, hangs) =
                    (resolver.places.clone(), started.clone(), hangs.clone());
                tokio::spawn(limited(places, move || {
                    started.fetch_add(1, Ordering::SeqCst);
                    let _ = hangs.lock().unwrap().recv();
                    Ok(())
                }))
            })
            .collect();
        while started.load(Ordering::SeqCst) < PLACES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Giving up does not free the threads.
        lookups.iter().for_each(tokio::task::JoinHandle::abort);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(resolver.places.available_permits(), 0);
        assert_eq!(started.load(Ordering::SeqCst), PLACES);
        drop(release);
        while resolver.places.available_permits() < PLACES {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn names_are_found() {
        let name = "localhost".parse().unwrap();
        let found: Vec<_> = Resolver::default().call(name).await.unwrap().collect();
        assert!(found.iter().all(|address| address.ip().is_loopback()));
        assert!(!found.is_empty());
    }
}
