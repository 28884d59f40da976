//! Questions about lists: tags and referrers, put together from upstream's pages.

use std::time::Duration;

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;

use crate::headers::link::next_query;
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::name::{Repository, Tag};
use crate::oci::referrers::Referrers;

use super::asking::client::Client;
use super::asking::request::{Question, Reply, content_type};
use super::error::Error;

/// The largest list that is taken: some hundred thousand tags.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// The largest page of a list.
const MAX_PAGE: usize = 8 * 1024 * 1024;
/// Pages of a list; one of a hundred entries each would still make a hundred thousand.
const MAX_PAGES: usize = 1000;
/// How long all pages together may take: clients wait half a minute for a header (containerd).
const WITHIN: Duration = Duration::from_secs(20);
/// The longest page of tags that every registry with such a limit allows.
const FULL_PAGE: &str = "n=1000";

/// Answers of registries that do not take `n`, or not one that large.
const NO_SUCH_PAGE: &[u16] = &[400, 405];
/// Answers of registries that do not list referrers (go-containerregistry takes 404, 400 and 406 for it).
const NO_REFERRERS_API: &[u16] = &[400, 404, 405, 406, 501];

/// One page of tags. Go writes an empty list as null.
#[derive(Deserialize)]
struct TagsPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

/// All tags of a repository, sorted, without names that are not valid as a tag.
pub(super) async fn tags(client: &Client, repository: &Repository) -> Result<Vec<Tag>, Error> {
    let found = |reply: &Reply| reply.status.is_success();
    let question = Question {
        answers: NO_SUCH_PAGE,
        ..tags_question(repository, Some(FULL_PAGE))
    };
    let listed = match pages(client, question, found).await? {
        Some(listed) => listed,
        None => {
            let listed = pages(client, tags_question(repository, None), found);
            listed.await?.unwrap_or_default()
        }
    };
    let mut tags = Vec::new();
    for page in listed {
        let page: TagsPage = serde_json::from_slice(&page)
            .map_err(|_| Error::wrong("what upstream sent is not a list of tags"))?;
        let texts = page.tags.unwrap_or_default();
        tags.extend(texts.iter().filter_map(|text| text.parse::<Tag>().ok()));
    }
    tags.sort_unstable();
    tags.dedup();
    Ok(tags)
}

/// Whether upstream has the repository and shows it: a 404 for one thing in it can also come from a load balancer
/// without a registry behind it, or mean that the repository is hidden from this account.
pub(super) async fn has_repository(client: &Client, repository: &Repository) -> bool {
    let question = Question {
        patient: false,
        ..tags_question(repository, Some("n=1"))
    };
    let Ok(reply) = client.send(&question, client.deadline()).await else {
        return false;
    };
    let page = reply
        .body
        .collect(MAX_PAGE, "the list", client.deadline())
        .await;
    let page = page
        .ok()
        .and_then(|page| serde_json::from_slice::<serde_json::Value>(&page).ok());
    page.is_some_and(|page| page.get("tags").is_some())
}

/// The manifests that refer to one; `None` if upstream does not have that API.
pub(super) async fn referrers(
    client: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<Referrers>, Error> {
    let endpoint = Endpoint::Referrers {
        repository: repository.clone(),
        digest: digest.clone(),
    };
    let question = Question {
        accept: Some(OCI_INDEX),
        answers: NO_REFERRERS_API,
        ..Question::new(Method::GET, endpoint)
    };
    // Some servers have a page for every path.
    let found = |reply: &Reply| reply.status == StatusCode::OK && is_index(&reply.headers);
    let Some(pages) = pages(client, question, found).await? else {
        return Ok(None);
    };
    let mut all = Referrers::default();
    for page in pages {
        let page = Referrers::parse(&page)
            .ok_or_else(|| Error::wrong("what upstream sent is not a list of referrers"))?;
        all.append(page);
    }
    Ok(Some(all))
}

fn tags_question(repository: &Repository, query: Option<&str>) -> Question {
    let endpoint = Endpoint::Tags {
        repository: repository.clone(),
    };
    Question {
        query: query.map(str::to_owned),
        ..Question::new(Method::GET, endpoint)
    }
}

/// The pages of a list; `None` if the first reply is not a page of one.
async fn pages(
    client: &Client,
    question: Question,
    is_page: impl Fn(&Reply) -> bool,
) -> Result<Option<Vec<Bytes>>, Error> {
    let walk = walk(client, question, is_page);
    // The state of a walk is large, and there is one for every list that is asked for.
    match tokio::time::timeout(WITHIN, Box::pin(walk)).await {
        Ok(pages) => pages,
        Err(_) => Err(Error::Silent(
            format!("the list was not whole within {WITHIN:?}").into(),
        )),
    }
}

async fn walk(
    client: &Client,
    mut question: Question,
    is_page: impl Fn(&Reply) -> bool,
) -> Result<Option<Vec<Bytes>>, Error> {
    let (mut pages, mut length) = (Vec::new(), 0);
    while pages.len() < MAX_PAGES {
        let reply = client.send(&question, client.deadline()).await?;
        if !is_page(&reply) {
            let first = pages.is_empty();
            let torn = || Error::wrong("a page of the list is missing");
            return first.then_some(None).ok_or_else(torn);
        }
        let next = next_query(reply.headers.get_all(LINK));
        let page = reply
            .body
            .collect(MAX_PAGE, "the list", client.deadline())
            .await?;
        length += page.len();
        pages.push(page);
        match next {
            None => return Ok(Some(pages)),
            Some(query) if length <= MAX_LIST && question.query.as_ref() != Some(&query) => {
                question.query = Some(query);
            }
            Some(_) => break,
        }
    }
    Err(Error::wrong("the list does not end"))
}

fn is_index(headers: &HeaderMap) -> bool {
    let name = content_type(headers).and_then(|text| text.split(';').next());
    name.is_some_and(|name| name.trim().eq_ignore_ascii_case(OCI_INDEX))
}
