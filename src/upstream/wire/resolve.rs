//! Resolves names to addresses, a few at a time, and leaves out those that must not be connected to.
//!
//! The system's resolver blocks a thread and cannot be stopped, and the same threads read the disk. The number of
//! lookups is limited, so that a resolver that hangs takes only a few of them.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::Semaphore;
use tower_service::Service;

use super::origin::ip;
use super::zone::{Reach, Zone};

/// Lookups at a time for one origin. The runtime has 512 threads for blocking work.
const PLACES: usize = 8;

#[derive(Clone)]
pub(super) struct Resolver {
    places: Arc<Semaphore>,
    reach: Reach,
}

/// A host that a registry named is where it must not lead.
#[derive(Debug)]
pub(super) struct Refused {
    host: String,
    zone: Zone,
}

impl Refused {
    pub(super) fn new(host: &str, zone: Zone) -> Self {
        let host = host.to_owned();
        Self { host, zone }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, zone } = self;
        let zone = zone.as_str();
        write!(
            f,
            "upstream leads to {host}, which has an address that is not for it ({zone}); if that is right, list the \
             host under `redirects` of this upstream, or under `realms` if tokens come from there"
        )
    }
}

impl std::error::Error for Refused {}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            reach: Reach::Anywhere,
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "it runs in a blocking thread, a few at a time"
)]
fn look_up(name: &str) -> io::Result<Vec<SocketAddr>> {
    #[cfg(test)]
    if let Some(found) = tests::spelt(name) {
        return Ok(found);
    }
    Ok((name, 0).to_socket_addrs()?.collect())
}

impl Resolver {
    /// The same, with the same places, for hosts that lead no farther than `reach`.
    pub(super) fn within(&self, reach: Reach) -> Self {
        Self {
            reach,
            ..self.clone()
        }
    }

    /// The addresses of a name that may be connected to. Those that may not are left out.
    async fn resolve(self, name: String) -> io::Result<Vec<SocketAddr>> {
        let asked = name.clone();
        let mut found = limited(self.places, move || look_up(&asked)).await?;
        let refused = |address: &SocketAddr| {
            let zone = Zone::of(address.ip());
            (!self.reach.allows(zone)).then_some(zone)
        };
        let first = found.iter().find_map(refused);
        found.retain(|address| refused(address).is_none());
        match first {
            Some(zone) if found.is_empty() => Err(io::Error::other(Refused::new(&name, zone))),
            _ => Ok(found),
        }
    }

    /// The same URL with an address in place of the name.
    pub(super) async fn literal(self, uri: &Uri, only_v4: bool) -> Result<Uri, BoxedError> {
        let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16());
        if ip(host).is_some() {
            return Ok(uri.clone());
        }
        let found = self.resolve(host.to_owned()).await?;
        let address = found.iter().find(|address| address.is_ipv4() || !only_v4);
        let address = address.ok_or("the name has no address that this proxy takes")?;
        let address = SocketAddr::new(address.ip(), port.unwrap_or_default());
        Ok(format!("http://{address}/").parse()?)
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolving = self.clone().resolve(name.as_str().to_owned());
        Box::pin(async move { Ok(resolving.await?.into_iter()) })
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

    /// In tests `169-254-169-254.test` has that address, and `127-0-0-1.192-0-2-1.test` both: no test asks a network.
    pub(super) fn spelt(name: &str) -> Option<Vec<SocketAddr>> {
        let labels = name.strip_suffix(".test")?.split('.');
        let address = |label: &str| label.replace('-', ".").parse().ok();
        labels
            .map(|label| Some(SocketAddr::new(address(label)?, 0)))
            .collect()
    }

    #[tokio::test]
    async fn a_name_is_judged_by_each_of_its_addresses() {
        let resolve = async |name: &str, reach| {
            let resolver = Resolver::default().within(reach);
            let found = resolver.resolve(name.to_owned()).await;
            found.map(|found| found.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
        };
        let public = Reach::Beside(Zone::Public);
        let mixed = "127-0-0-1.192-0-2-1.100-100-100-200.test";
        assert_eq!(resolve(mixed, public).await.unwrap(), ["192.0.2.1:0"]);
        let inside = "169-254-169-254.127-0-0-1.test";
        let refused = resolve(inside, public).await.unwrap_err();
        assert!(refused.to_string().contains(inside), "{refused}");
        let beside = Reach::Beside(Zone::Loopback);
        assert_eq!(resolve(inside, beside).await.unwrap(), ["127.0.0.1:0"]);
        assert_eq!(resolve(mixed, Reach::Anywhere).await.unwrap().len(), 3);
    }
}
