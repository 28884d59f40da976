//! Questions about lists: tags and referrers, put together from upstream's pages.

use std::time::Duration;

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderMap, Method, StatusCode};

use crate::headers::link::next_query;
use crate::memory::{Held, Memory, work_on};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest::OCI_INDEX;
use crate::oci::name::Repository;
use crate::oci::referrers::Referrers;
use crate::oci::tags::TagList;

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

/// All tags of a repository, sorted, one to a line, without names that are not valid as a tag.
pub(super) async fn tags(
    client: &Client,
    repository: &Repository,
    memory: &Memory,
) -> Result<Bytes, Error> {
    let found = |reply: &Reply| reply.status.is_success();
    let question = Question {
        answers: NO_SUCH_PAGE,
        ..tags_question(repository, Some(FULL_PAGE))
    };
    let listed = match pages(client, question, found, TagPages::default(), memory).await? {
        Some(listed) => listed,
        None => {
            let question = tags_question(repository, None);
            let listed = pages(client, question, found, TagPages::default(), memory).await?;
            listed.unwrap_or_default()
        }
    };
    let (list, held) = listed;
    let lines = work_on(list.length, move || list.tags.into_lines()).await;
    Ok(held.with(lines.into()))
}

/// Whether upstream has the repository and shows it: a 404 for one thing in it can also come from a load balancer
/// without a registry behind it, or mean that the repository is hidden from this account.
pub(super) async fn has_repository(
    client: &Client,
    repository: &Repository,
    memory: &Memory,
) -> bool {
    let question = Question {
        patient: false,
        ..tags_question(repository, Some("n=1"))
    };
    let Ok(reply) = client.send(&question, client.deadline()).await else {
        return false;
    };
    let page = reply
        .body
        .collect(MAX_PAGE, "the list", client.deadline(), memory)
        .await;
    page.is_ok_and(|page| TagList::is_page(&page))
}

/// The manifests that refer to one, and the room they take; `None` if upstream does not have that API.
pub(super) async fn referrers(
    client: &Client,
    repository: &Repository,
    digest: &Digest,
    memory: &Memory,
) -> Result<Option<(Referrers, Held)>, Error> {
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
    pages(client, question, found, Referrers::default(), memory).await
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

/// A list that is put together from pages.
trait List: Send + Sized + 'static {
    /// Adds a page; the error says what it is not.
    fn add(&mut self, page: &[u8]) -> Result<(), &'static str>;
}

#[derive(Default)]
struct TagPages {
    tags: TagList,
    length: usize,
}

impl List for TagPages {
    fn add(&mut self, page: &[u8]) -> Result<(), &'static str> {
        self.length += page.len();
        let added = self.tags.add(page);
        added.map_err(|_| "what upstream sent is not a list of tags")
    }
}

impl List for Referrers {
    fn add(&mut self, page: &[u8]) -> Result<(), &'static str> {
        let added = Self::add(self, page, &[]);
        added.map_err(|_| "what upstream sent is not a list of referrers")
    }
}

/// The list that the pages make, and the room it takes; `None` if the first reply is not a page of one.
async fn pages<L: List>(
    client: &Client,
    question: Question,
    is_page: impl Fn(&Reply) -> bool,
    list: L,
    memory: &Memory,
) -> Result<Option<(L, Held)>, Error> {
    let walk = walk(client, question, is_page, list, memory);
    // The state of a walk is large, and there is one for every list that is asked for.
    match tokio::time::timeout(WITHIN, Box::pin(walk)).await {
        Ok(list) => list,
        Err(_) => Err(Error::Silent(
            format!("the list was not whole within {WITHIN:?}").into(),
        )),
    }
}

/// One page is in memory at a time, beside the list.
async fn walk<L: List>(
    client: &Client,
    mut question: Question,
    is_page: impl Fn(&Reply) -> bool,
    mut list: L,
    memory: &Memory,
) -> Result<Option<(L, Held)>, Error> {
    let mut length = 0;
    // For the list itself: it is no longer than its pages together.
    let mut held = Held::default();
    for number in 0..MAX_PAGES {
        let reply = client.send(&question, client.deadline()).await?;
        if !is_page(&reply) {
            let torn = || Error::wrong("a page of the list is missing");
            return (number == 0).then_some(None).ok_or_else(torn);
        }
        let next = next_query(reply.headers.get_all(LINK));
        let page = reply
            .body
            .collect(MAX_PAGE, "the list", client.deadline(), memory)
            .await?;
        length += page.len();
        memory.grow(&mut held, length).await.map_err(Error::Busy)?;
        let added = work_on(page.len(), move || {
            let added = list.add(&page);
            added.map(|()| list)
        });
        list = added.await.map_err(Error::wrong)?;
        match next {
            None => return Ok(Some((list, held))),
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
