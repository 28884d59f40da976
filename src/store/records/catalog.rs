//! Which repositories are stored: those with at least one manifest.

use std::fs;
use std::path::Path;

use crate::oci::name::QualifiedName;
use crate::store::disk::layout::{Found, Layout};
use crate::store::key::StoreKey;

/// The repositories of which a manifest is stored, in no order. For blocking threads.
///
/// The disk is asked: it is right also while the store is still being counted.
pub(super) fn repositories(layout: &Layout) -> Vec<QualifiedName> {
    let mut found = Vec::new();
    walk(layout, &layout.records(), &mut found);
    found
}

fn walk(layout: &Layout, directory: &Path, found: &mut Vec<QualifiedName>) {
    found.extend(repository_at(layout, directory));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let of_a_name = layout.is_of_a_name(&entry.file_name());
        if of_a_name && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(layout, &entry.path(), found);
        }
    }
}

/// The repository whose records are in `directory`, if a manifest is among them.
fn repository_at(layout: &Layout, directory: &Path) -> Option<QualifiedName> {
    let mut entries = fs::read_dir(layout.manifests_in(directory)).ok()?;
    entries.find_map(|entry| match layout.read(&entry.ok()?.path()) {
        Found::Entry(StoreKey::Manifest(id)) => Some(id.0.clone()),
        _ => None,
    })
}
