//! What there is to pull, as responses: tags, referrers, the catalog, search.

use std::sync::Arc;

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderName, HeaderValue, Response, Uri};
use serde_json::json;

use crate::memory::{Memory, NoMemory, work_on};
use crate::mirror::lists::ListingAnswer;
use crate::mirror::{Context, Error, Mirror, Outcome, Site};
use crate::oci::digest::Digest;
use crate::oci::endpoint::query_value;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::name::Repository;
use crate::oci::referrers::{NoIndex, Referrers};
use crate::server::body::Body;

use super::page::Page;
use super::problem::{Handled, Problem};
use super::respond;

const JSON: &str = "application/json";
/// Says that what was not asked for was left out (OCI distribution-spec, "Listing Referrers").
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
const ARTIFACT_TYPE: &str = "artifactType";
/// Ends Docker's questions about how this registry works (`daemon/pkg/registry`, `ping`).
const STANDALONE: HeaderName = HeaderName::from_static("x-docker-registry-standalone");

/// What ends a list takes no more than this.
const END: usize = 4;

/// A request for a list.
pub(super) struct ListRequest<'a> {
    pub(super) mirror: &'a Arc<Mirror>,
    /// For answers that are made for one request.
    pub(super) memory: &'a Memory,
    pub(super) uri: &'a Uri,
}

impl ListRequest<'_> {
    /// `/v2/<name>/tags/list`
    pub(super) async fn tags(&self, context: &Context, repository: &Repository) -> Handled {
        let page = Page::parse(self.uri)?;
        let answer = self.mirror.lists().tags(context, repository).await;
        let answer = answer.map_err(|error| problem(&error, &context.site))?;
        let (tags, next) = page.cut(&answer.bytes);
        let name = repository.as_str();
        let start = format!("{{\"name\":\"{name}\",\"tags\":[");
        let tags = answer.bytes.slice_ref(tags);
        let body = self.named(&start, tags).await?;
        let (mut response, outcome) = listing(&answer, JSON, body);
        link(&mut response, next);
        Ok((response, outcome))
    }

    /// `/v2/<name>/referrers/<digest>`: a list, empty or not, also if upstream does not know the question.
    pub(super) async fn referrers(
        &self,
        context: &Context,
        repository: &Repository,
        digest: &Digest,
    ) -> Handled {
        let answer = self
            .mirror
            .lists()
            .referrers(context, repository, digest)
            .await;
        let answer = answer.map_err(|error| problem(&error, &context.site))?;
        let wanted = self.artifact_types();
        if wanted.is_empty() {
            return Ok(listing(&answer, OCI_INDEX, answer.bytes.clone()));
        }
        let all = answer.bytes.clone();
        // As long as all, if all are of these types.
        let held = self.memory.hold(all.len() + END).await?;
        let some = work_on(all.len(), move || held.with(some_of(&all, &wanted))).await;
        let (mut response, outcome) = listing(&answer, OCI_INDEX, some);
        let headers = response.headers_mut();
        headers.insert(FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
        Ok((response, outcome))
    }

    /// containerd repeats the parameter, and means any of its values.
    fn artifact_types(&self) -> Vec<String> {
        let query = self.uri.query().unwrap_or_default();
        form_urlencoded::parse(query.as_bytes())
            .filter(|(name, value)| name == ARTIFACT_TYPE && !value.is_empty())
            .map(|(_, value)| value.into_owned())
            .collect()
    }

    /// `/v2/_catalog`: of one upstream, or of all.
    pub(super) async fn catalog(&self, site: Option<&Site>) -> Handled {
        let page = Page::parse(self.uri)?;
        let all = self.mirror.catalog(site).await;
        let (names, next) = page.cut(&all);
        let names = all.slice_ref(names);
        let body = self.named("{\"repositories\":[", names).await?;
        let mut response = respond::list(JSON, body, Outcome::Hit, None, None);
        link(&mut response, next);
        Ok((response, Outcome::Hit))
    }

    /// A JSON object that ends with a list of names.
    async fn named(&self, start: &str, lines: Bytes) -> Result<Bytes, NoMemory> {
        // At most one name for two bytes, and two quotes and a comma for the line feed.
        let most = start.len() + 2 * lines.len() + END;
        let held = self.memory.hold(most).await?;
        let start = start.to_owned();
        Ok(work_on(most, move || held.with(named(start, &lines))).await)
    }

    /// `/v1/_ping`: yes, this is a registry, and its index is the same server.
    pub(super) fn ping(&self) -> Handled {
        let body = json!({"standalone": true}).to_string().into();
        let mut response = respond::list(JSON, body, Outcome::Hit, None, None);
        let headers = response.headers_mut();
        headers.insert(STANDALONE, HeaderValue::from_static("true"));
        Ok((response, Outcome::Hit))
    }

    /// `/v1/search`, with upstream's own answer.
    pub(super) async fn search(&self, context: &Context) -> Handled {
        let answer = self
            .mirror
            .searches()
            .search(context, self.search_query())
            .await;
        let answer = answer.map_err(|error| problem(&error, &context.site))?;
        let age = (answer.outcome == Outcome::Hit).then_some(answer.age);
        let response = respond::list(JSON, answer.bytes, answer.outcome, age, None);
        Ok((response, answer.outcome))
    }

    /// The parameters of a search and no other: `ns` is not upstream's business.
    fn search_query(&self) -> String {
        let query = self.uri.query().unwrap_or_default();
        let mut wanted = form_urlencoded::Serializer::new(String::new());
        for key in ["q", "n", "page"] {
            if let Some(value) = query_value(query, key) {
                wanted.append_pair(key, &value);
            }
        }
        wanted.finish()
    }
}

/// The same, of names that stand one to a line. No name of this API needs an escape.
fn named(start: String, lines: &[u8]) -> Vec<u8> {
    let count = lines.iter().filter(|byte| **byte == b'\n').count();
    let mut body = Vec::from(start);
    body.reserve_exact(lines.len() + 2 * count + END);
    let names = lines.split(|byte| *byte == b'\n');
    for (number, name) in names.filter(|name| !name.is_empty()).enumerate() {
        body.extend_from_slice(if number == 0 { b"\"" } else { b",\"" });
        body.extend_from_slice(name);
        body.push(b'"');
    }
    body.extend_from_slice(b"]}");
    body
}

/// Those of an index that are of one of these artifact types.
fn some_of(index: &[u8], artifact_types: &[String]) -> Vec<u8> {
    let mut some = Referrers::default();
    match some.add(index, artifact_types) {
        Ok(()) => some.into_text().into(),
        Err(NoIndex) => Referrers::default().into_text().into(),
    }
}

fn listing(
    answer: &ListingAnswer,
    media_type: &'static str,
    body: Bytes,
) -> (Response<Body>, Outcome) {
    let outcome = answer.outcome;
    let age = respond::is_from_store(outcome).then_some(answer.age);
    let response = respond::list(media_type, body, outcome, age, answer.fresh_for);
    (response, outcome)
}

fn link(response: &mut Response<Body>, next: Option<HeaderValue>) {
    if let Some(next) = next {
        response.headers_mut().insert(LINK, next);
    }
}

fn problem(error: &Error, site: &Site) -> Problem {
    Problem::of(error, site.namespace().as_str())
}
