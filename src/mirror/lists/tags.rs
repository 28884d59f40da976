//! Tags of a repository, as they are stored: one to a line, in upstream's order.

use std::time::SystemTime;

use crate::mirror::once::Answered;
use crate::mirror::site::Site;
use crate::oci::name::QualifiedName;
use crate::store::records::StoredListing;

use super::fetched::Fetched;

pub(super) async fn fetch(site: &Site, name: &QualifiedName) -> Answered<Fetched> {
    let lines = site.upstream().tags(&name.repository).await?;
    Ok(Fetched {
        is_empty: lines.is_empty(),
        is_refusal: false,
        stale: None,
        listing: StoredListing {
            bytes: lines,
            fetched_at: SystemTime::now(),
        },
    })
}
