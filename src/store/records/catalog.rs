//! Which repositories are stored: those with at least one manifest. And which manifests a repository has.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::oci::digest::Digest;
use crate::oci::name::QualifiedName;
use crate::store::disk::layout::{Layout, Visited};
use crate::store::key::StoreKey;

/// The repositories of which a manifest is stored, in no order. For blocking threads.
///
/// The disk is asked: it is right also while the store is still being counted.
pub(super) fn repositories(layout: &Layout) -> Vec<QualifiedName> {
    let mut found = HashSet::new();
    let mut visit = |step: Visited<'_>| {
        if let Visited::File(_, Some(StoreKey::Manifest(id))) = step {
            found.insert(id.0.clone());
        }
        ControlFlow::Continue(())
    };
    // It never breaks off.
    let _ = layout.walk(&layout.repositories(), &mut visit);
    found.into_iter().collect()
}

/// The manifests of one repository, in no order, and no more than so many. For blocking threads.
pub(super) fn manifests(layout: &Layout, name: &QualifiedName, most: usize) -> Vec<Digest> {
    let mut found = Vec::new();
    let mut visit = |step: Visited<'_>| {
        if let Visited::File(_, Some(StoreKey::Manifest(id))) = step {
            found.push(id.1.clone());
        }
        match found.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    };
    let directory = layout.path(&StoreKey::vouched(name));
    if let Some(directory) = directory.parent() {
        // Whether it broke off does not matter.
        let _ = layout.walk(directory, &mut visit);
    }
    found
}
