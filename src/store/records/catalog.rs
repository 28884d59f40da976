//! Which repositories are stored: those with at least one manifest.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::oci::name::QualifiedName;

use crate::store::Store;
use crate::store::disk::layout::{Found, Key};
use crate::store::records::run;

impl Store {
    /// The repositories of which a manifest is stored, in no order.
    ///
    /// Asked of the disk, which is the truth also while the store is still being counted.
    pub async fn repositories(self: &Arc<Self>) -> Vec<QualifiedName> {
        let store = Arc::clone(self);
        let walk = move || {
            let mut found = Vec::new();
            store.walk_repositories(&store.layout.records(), &mut found);
            found
        };
        run(walk).await.unwrap_or_default()
    }

    fn walk_repositories(&self, directory: &Path, found: &mut Vec<QualifiedName>) {
        found.extend(self.repository_at(directory));
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let of_a_name = self.layout.is_of_a_name(&entry.file_name());
            if of_a_name && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.walk_repositories(&entry.path(), found);
            }
        }
    }

    /// The repository whose records are in `directory`, if a manifest is among them.
    fn repository_at(&self, directory: &Path) -> Option<QualifiedName> {
        let mut entries = fs::read_dir(self.layout.manifests_in(directory)).ok()?;
        entries.find_map(|entry| match self.layout.read(&entry.ok()?.path()) {
            Found::Entry(Key::Manifest(id)) => Some(id.0.clone()),
            _ => None,
        })
    }
}
