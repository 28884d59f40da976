//! How versions before 0.3 laid out records, and the move to how it is now.
//!
//! ```text
//! ROOT/records/docker.io/library/nginx/_tags/1.27
//! ROOT/records/docker.io/library/nginx/_manifests/sha256-abcd...
//! ROOT/records/docker.io/library/nginx/_lists/tags       also referrers-sha256-abcd...
//! ROOT/records/docker.io/library/nginx/_blobs
//! ROOT/records/docker.io/_given
//! ```
//!
//! Each component of a name was a directory, and a client could choose a name of 127 of them.

use std::fs;
use std::io;
use std::path::Path;

use crate::oci::name::QualifiedName;
use crate::store::key::{Listing, StoreKey};

use super::files::move_into_place;
use super::layout::{Layout, digest_of_file};

/// Moves the records to where they are now; what is no record stays. A move that was broken off is continued.
pub(super) fn take_over(layout: &Layout) -> io::Result<()> {
    let old = layout.old_records();
    if !old.is_dir() {
        return Ok(());
    }
    tracing::info!(path = %old.display(), "moving the records of an older version to where this one has them");
    take_over_below(layout, &old, &old)?;
    match fs::remove_dir(&old) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        done => done,
    }
}

fn take_over_below(layout: &Layout, old: &Path, directory: &Path) -> io::Result<()> {
    // Listed before anything in it is moved.
    let entries: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            take_over_below(layout, old, &path)?;
            // Fails as it should where something stays in it.
            let _ = fs::remove_dir(&path);
        } else if let Some(key) = path.strip_prefix(old).ok().and_then(read) {
            move_into_place(&path, &layout.path(&key))?;
        }
    }
    Ok(())
}

/// What a path below `records` was.
fn read(path: &Path) -> Option<StoreKey> {
    let parts: Option<Vec<_>> = path.iter().map(|part| part.to_str()).collect();
    match parts?.as_slice() {
        [namespace, repository @ .., "_manifests", file] => {
            let name = qualified(namespace, repository)?;
            Some(StoreKey::manifest(&name, &digest_of_file(file)?))
        }
        [namespace, repository @ .., "_tags", file] => {
            let name = qualified(namespace, repository)?;
            Some(StoreKey::tag(&name, &file.parse().ok()?))
        }
        [namespace, repository @ .., "_lists", "tags"] => {
            let name = qualified(namespace, repository)?;
            Some(StoreKey::listing(&name, &Listing::Tags))
        }
        [namespace, repository @ .., "_lists", file] => {
            let digest = digest_of_file(file.strip_prefix("referrers-")?)?;
            let name = qualified(namespace, repository)?;
            Some(StoreKey::listing(&name, &Listing::Referrers(digest)))
        }
        [namespace, "_given"] => namespace.parse().ok().map(StoreKey::Given),
        [namespace, repository @ .., "_blobs"] => {
            qualified(namespace, repository).map(|name| StoreKey::vouched(&name))
        }
        _ => None,
    }
}

fn qualified(namespace: &str, repository: &[&str]) -> Option<QualifiedName> {
    let repository = repository.join("/").parse().ok()?;
    Some(QualifiedName::new(namespace.parse().ok()?, repository))
}
