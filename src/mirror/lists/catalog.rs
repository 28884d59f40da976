//! The catalog: the repositories of which something is stored, by names they can be pulled by from here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::memory::work_on;
use crate::mirror::site::Site;
use crate::oci::name::{Namespace, QualifiedName};
use crate::sites::Sites;
use crate::store::Store;

/// The store is not walked more often than this.
const KEPT_FOR: Duration = Duration::from_secs(2);

pub(in crate::mirror) struct Catalog {
    store: Arc<Store>,
    /// What the last walk through the store found. Waiting for the lock is waiting for a walk.
    last: Mutex<Option<Walk>>,
}

struct Walk {
    at: Instant,
    stored: Vec<QualifiedName>,
    /// The names in it, by the namespace whose they are; of all under none. Put together when they are asked for.
    names: HashMap<Option<Namespace>, Bytes>,
}

impl Catalog {
    pub(in crate::mirror) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            last: Mutex::default(),
        }
    }

    /// Names of the repositories that are stored, sorted, one to a line: of one site, or of all of `sites`.
    ///
    /// Of one, the names are its own. Of all, those of the default site are, and the others have their registry's host
    /// in front, as they are pulled.
    pub(in crate::mirror) async fn names<S>(&self, sites: &Sites<S>, site: Option<&Site>) -> Bytes {
        let mut last = self.last.lock().await;
        let walk = match last.take().filter(|walk| walk.at.elapsed() < KEPT_FOR) {
            Some(walk) => walk,
            None => Walk {
                stored: self.store.records().repositories().await,
                at: Instant::now(),
                names: HashMap::new(),
            },
        };
        let walk = last.insert(walk);
        let namespace = site.map(Site::namespace);
        if let Some(names) = walk.names.get(&namespace.cloned()) {
            return names.clone();
        }
        let stored = walk.stored.iter();
        let names: Vec<_> = match namespace {
            Some(namespace) => stored
                .filter(|name| name.namespace == *namespace)
                .map(|name| name.repository.to_string())
                .collect(),
            None => stored.filter_map(|name| sites.pullable(name)).collect(),
        };
        let length = names.iter().map(String::len).sum();
        let lines = work_on(length, || lines(names)).await;
        walk.names.insert(namespace.cloned(), lines.clone());
        lines
    }
}

fn lines(mut names: Vec<String>) -> Bytes {
    names.sort_unstable();
    let lines: String = names.iter().flat_map(|name| [name, "\n"]).collect();
    lines.into()
}
