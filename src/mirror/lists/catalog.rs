//! The catalog: the repositories of which something is stored, by names they can be pulled by from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::oci::name::QualifiedName;

use crate::mirror::{Mirror, Site};

/// The store is not walked more often than this, whoever asks.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// What the last walk through the store found. Waiting for the lock is waiting for a walk.
#[derive(Default)]
pub(in crate::mirror) struct Catalog(Mutex<Option<(Instant, Arc<Vec<QualifiedName>>)>>);

impl Mirror {
    /// Names of the repositories that are stored, sorted: of one upstream, or of all.
    ///
    /// Of one, the names are its own. Of all, those of the default upstream are, and the others have their
    /// registry's host in front, as they are pulled.
    pub(crate) async fn catalog(&self, site: Option<&Site>) -> Vec<String> {
        let stored = self.stored_repositories().await;
        let mut names: Vec<_> = match site {
            Some(site) => stored
                .iter()
                .filter(|name| name.namespace == *site.upstream.namespace())
                .map(|name| name.repository.to_string())
                .collect(),
            None => {
                let pullable = |name| self.sites().pullable(name);
                stored.iter().filter_map(pullable).collect()
            }
        };
        names.sort_unstable();
        names
    }

    async fn stored_repositories(&self) -> Arc<Vec<QualifiedName>> {
        let mut kept = self.catalog.0.lock().await;
        match &*kept {
            Some((at, names)) if at.elapsed() < KEPT_FOR => Arc::clone(names),
            _ => {
                let names = Arc::new(self.store.records().repositories().await);
                *kept = Some((Instant::now(), Arc::clone(&names)));
                names
            }
        }
    }
}
