//! How long answers of upstreams are believed: of all, or of one.

use super::keys;
use super::lookup::Lookup;
use super::mistake::Reported;
use super::value;
use crate::mirror::freshness::Freshness;

/// Resolves the freshness of a table. `common` is that of `[freshness]`, for what the table of an upstream leaves out.
pub(super) fn resolve(
    lookup: &mut Lookup<'_>,
    common: Option<&Freshness>,
) -> Result<Freshness, Reported> {
    let mut duration = |key, common| lookup.inherited(key, common, value::duration);
    let tag_ttl = duration(&keys::TAG_TTL, common.map(|it| it.tag_ttl));
    let max_stale = duration(&keys::MAX_STALE, common.map(|it| it.max_stale));
    let negative_ttl = duration(&keys::NEGATIVE_TTL, common.map(|it| it.negative_ttl));
    let stale_after = duration(&keys::STALE_AFTER, common.map(|it| it.stale_after));
    let common_reserve = common.map(|it| it.quota_reserve);
    let quota_reserve = lookup.inherited(&keys::QUOTA_RESERVE, common_reserve, value::percent);
    Ok(Freshness {
        tag_ttl: tag_ttl?,
        max_stale: max_stale?,
        negative_ttl: negative_ttl?,
        stale_after: stale_after?,
        quota_reserve: quota_reserve?,
    })
}
