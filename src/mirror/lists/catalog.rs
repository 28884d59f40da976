//! The catalog: the repositories of which something is stored, by names they can be pulled by from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::mirror::site::Site;
use crate::oci::name::QualifiedName;
use crate::sites::Sites;
use crate::store::Store;

/// The store is not walked more often than this.
const KEPT_FOR: Duration = Duration::from_secs(2);

pub(in crate::mirror) struct Catalog {
    store: Arc<Store>,
    /// What the last walk through the store found. Waiting for the lock is waiting for a walk.
    last: Mutex<Option<(Instant, Arc<Vec<QualifiedName>>)>>,
}

impl Catalog {
    pub(in crate::mirror) fn new(store: &Arc<Store>) -> Self {
        Self {
            store: Arc::clone(store),
            last: Mutex::default(),
        }
    }

    /// Names of the repositories that are stored, sorted: of one site, or of all of `sites`.
    ///
    /// Of one, the names are its own. Of all, those of the default site are, and the others have their registry's host
    /// in front, as they are pulled.
    pub(in crate::mirror) async fn names<S>(
        &self,
        sites: &Sites<S>,
        site: Option<&Site>,
    ) -> Vec<String> {
        let stored = self.stored_repositories().await;
        let mut names: Vec<_> = match site {
            Some(site) => stored
                .iter()
                .filter(|name| name.namespace == *site.namespace())
                .map(|name| name.repository.to_string())
                .collect(),
            None => stored
                .iter()
                .filter_map(|name| sites.pullable(name))
                .collect(),
        };
        names.sort_unstable();
        names
    }

    async fn stored_repositories(&self) -> Arc<Vec<QualifiedName>> {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, names)) if at.elapsed() < KEPT_FOR => Arc::clone(names),
            _ => {
                let names = Arc::new(self.store.records().repositories().await);
                *last = Some((Instant::now(), Arc::clone(&names)));
                names
            }
        }
    }
}
