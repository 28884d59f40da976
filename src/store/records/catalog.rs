//! Which repositories are stored: those with at least one manifest.

use std::collections::HashSet;
use std::ops::ControlFlow;

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
