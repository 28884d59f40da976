//! The catalog: the repositories of which something is stored, by names they can be pulled by from here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::oci::name::{Namespace, QualifiedName};

use super::{Mirror, Site};

/// The store is not walked more often than this, whoever asks.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// What the last walk through the store found. Waiting for the lock is waiting for a walk.
#[derive(Default)]
pub(super) struct Catalog(Mutex<Option<(Instant, Arc<Vec<QualifiedName>>)>>);

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
                let default = self.upstreams.default_namespace();
                stored
                    .iter()
                    .filter(|name| self.policies.contains_key(&name.namespace))
                    .map(|name| pullable(name, default))
                    .collect()
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

/// What to pull from this mirror to get that repository.
fn pullable(name: &QualifiedName, default: Option<&Namespace>) -> String {
    let repository = name.repository.as_str();
    let first = repository.split('/').next().unwrap_or_default();
    // A first component with a dot would be taken for a registry.
    if default == Some(&name.namespace) && !Namespace::is_host_like(first) {
        repository.to_owned()
    } else {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_registry_where_it_has_to() {
        let name = |namespace: &str, repository: &str| {
            QualifiedName::new(namespace.parse().unwrap(), repository.parse().unwrap())
        };
        let hub: Namespace = "docker.io".parse().unwrap();
        let printed = |name: QualifiedName| pullable(&name, Some(&hub));
        assert_eq!(printed(name("docker.io", "library/a")), "library/a");
        assert_eq!(printed(name("docker.io", "a.b/c")), "docker.io/a.b/c");
        assert_eq!(printed(name("quay.io", "a/b")), "quay.io/a/b");
        assert_eq!(pullable(&name("quay.io", "a/b"), None), "quay.io/a/b");
    }
}
