//! Tags of a repository, as they are stored: one to a line, in upstream's order.

use std::time::SystemTime;

use crate::mirror::once::Answered;
use crate::mirror::site::Site;
use crate::oci::name::QualifiedName;
use crate::store::records::StoredListing;

pub(super) async fn fetch(site: &Site, name: &QualifiedName) -> Answered<StoredListing> {
    let tags = site.upstream().tags(&name.repository).await?;
    let lines: String = tags.iter().flat_map(|tag| [tag.as_str(), "\n"]).collect();
    Ok(StoredListing {
        bytes: lines.into(),
        fetched_at: SystemTime::now(),
    })
}
