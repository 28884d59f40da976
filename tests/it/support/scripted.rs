//! A server that answers as the test says: a gate, a realm, a registry that the fake one is not.

use std::sync::{Arc, Mutex};

use super::content::Content;
use super::image::{Image, OCI_MANIFEST};
use super::loopback;
use super::origin::Origin;
use super::wire::{Fate, Reply, Request};

/// Stops when dropped.
#[derive(Debug)]
pub struct Scripted {
    origin: Origin,
    seen: Arc<Mutex<Vec<Request>>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In the background: a runtime may not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}

impl Scripted {
    /// `answer` gets the server's own URL, too.
    pub fn start(answer: impl Fn(&str, &Request) -> Reply + Send + Sync + 'static) -> Scripted {
        Scripted::with_fates(move |url, request| Fate::Answer(Box::new(answer(url, request))))
    }

    pub fn with_fates(answer: impl Fn(&str, &Request) -> Fate + Send + Sync + 'static) -> Scripted {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let origin = Origin::reserve(loopback::address(), runtime.handle().clone()).unwrap();
        let (url, seen) = (origin.url(), Arc::<Mutex<Vec<Request>>>::default());
        let noted = Arc::clone(&seen);
        let answer = move |request: &Request| {
            noted.lock().unwrap().push(request.clone());
            answer(&url, request)
        };
        origin.up(Arc::new(answer)).unwrap();
        Scripted {
            origin,
            seen,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        self.origin.url()
    }

    pub fn authority(&self) -> String {
        self.origin.address.to_string()
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    pub fn forget_requests(&self) {
        self.seen.lock().unwrap().clear();
    }

    /// How often a path that begins so was asked for.
    pub fn count(&self, path: &str) -> usize {
        let requests = self.requests();
        let matching = requests.iter().filter(|it| it.target.starts_with(path));
        matching.count()
    }
}

impl Reply {
    /// A 401 with this challenge.
    pub fn challenge(challenge: &str) -> Reply {
        let refusal = Reply::error(401, "UNAUTHORIZED", "authentication required");
        refusal.with("WWW-Authenticate", challenge)
    }

    /// The manifest of an image.
    pub fn manifest(image: &Image) -> Reply {
        let reply = Reply::new(200, OCI_MANIFEST, Content::Stored(image.manifest.clone()));
        reply.with("Docker-Content-Digest", image.digest.as_str())
    }
}
