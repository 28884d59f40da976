//! Lists: of tags and of referrers, put together from upstream's pages.

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

use super::asking::request::{Ask, Reply};
use super::{Error, MAX_MANIFEST, Upstream, content_type, whole};

/// The largest list that is taken: some hundred thousand tags.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// Pages of a list; one of a hundred entries each would still make a hundred thousand.
const MAX_PAGES: usize = 1000;
/// How long all pages together may take: clients wait half a minute for a header (containerd).
const WITHIN: Duration = Duration::from_secs(20);
/// As many tags to a page as every registry gives that limits them.
const FULL_PAGE: &str = "n=1000";

/// Answers of registries that take no `n`, or none that large.
const NO_SUCH_PAGE: &[u16] = &[400, 405];
/// Answers of registries that do not list referrers (go-containerregistry takes 404, 400 and 406 for it).
const NO_REFERRERS_API: &[u16] = &[400, 404, 405, 406, 501];

/// One page of tags. Null where there are none: Go writes an empty list so.
#[derive(Deserialize)]
struct TagsPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Upstream {
    /// All tags of a repository, sorted. What could not be asked for as a tag is left out.
    pub(crate) async fn tags(&self, repository: &Repository) -> Result<Vec<Tag>, Error> {
        let ask = |query: Option<&str>, answers| Ask {
            query: query.map(str::to_owned),
            answers,
            ..Ask::new(
                Method::GET,
                Endpoint::Tags {
                    repository: repository.clone(),
                },
            )
        };
        let found = |reply: &Reply| reply.status.is_success();
        let full = self
            .pages(ask(Some(FULL_PAGE), NO_SUCH_PAGE), found)
            .await?;
        let pages = match full {
            Some(pages) => pages,
            None => self.pages(ask(None, &[]), found).await?.unwrap_or_default(),
        };
        let mut tags = Vec::new();
        for page in pages {
            let page: TagsPage = serde_json::from_slice(&page)
                .map_err(|_| Error::wrong("what upstream sent is not a list of tags".to_owned()))?;
            let texts = page.tags.unwrap_or_default();
            tags.extend(texts.iter().filter_map(|text| text.parse::<Tag>().ok()));
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(tags)
    }

    /// Whether the repository is there at all, as far as upstream tells: a 404 for one thing in it may as well be that
    /// of a balancer without a registry behind it, or of a repository that was hidden from us.
    pub(crate) async fn has_repository(&self, repository: &Repository) -> bool {
        let ask = Ask {
            query: Some("n=1".to_owned()),
            patient: false,
            ..Ask::new(
                Method::GET,
                Endpoint::Tags {
                    repository: repository.clone(),
                },
            )
        };
        let Ok(reply) = self.home.send(&ask, self.deadline()).await else {
            return false;
        };
        let page = whole(reply.body, MAX_MANIFEST, "the list", self.deadline()).await;
        let page = page
            .ok()
            .and_then(|page| serde_json::from_slice::<serde_json::Value>(&page).ok());
        page.is_some_and(|page| page.get("tags").is_some())
    }

    /// What refers to a manifest; `None` when upstream has no API to tell.
    pub(crate) async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<Referrers>, Error> {
        let endpoint = Endpoint::Referrers {
            repository: repository.clone(),
            digest: digest.clone(),
        };
        let ask = Ask {
            accept: Some(OCI_INDEX),
            answers: NO_REFERRERS_API,
            ..Ask::new(Method::GET, endpoint)
        };
        // Some servers have a page for every path.
        let found = |reply: &Reply| reply.status == StatusCode::OK && is_index(&reply.headers);
        let Some(pages) = self.pages(ask, found).await? else {
            return Ok(None);
        };
        let mut all = Referrers::default();
        for page in pages {
            let page = Referrers::parse(&page).ok_or_else(|| {
                Error::wrong("what upstream sent is not a list of referrers".to_owned())
            })?;
            all.append(page);
        }
        Ok(Some(all))
    }

    /// The pages of a list; `None` if the first reply is not a page of one.
    async fn pages(
        &self,
        ask: Ask,
        is_page: impl Fn(&Reply) -> bool,
    ) -> Result<Option<Vec<Bytes>>, Error> {
        let walk = self.walk(ask, is_page);
        // The state of a walk is large, and there is one for every list that is asked for.
        match tokio::time::timeout(WITHIN, Box::pin(walk)).await {
            Ok(pages) => pages,
            Err(_) => Err(Error::Silent(
                format!("the list was not whole within {WITHIN:?}").into(),
            )),
        }
    }

    async fn walk(
        &self,
        mut ask: Ask,
        is_page: impl Fn(&Reply) -> bool,
    ) -> Result<Option<Vec<Bytes>>, Error> {
        let (mut pages, mut length) = (Vec::new(), 0);
        while pages.len() < MAX_PAGES {
            let reply = self.home.send(&ask, self.deadline()).await?;
            if !is_page(&reply) {
                let first = pages.is_empty();
                let torn = || Error::wrong("a page of the list is missing".to_owned());
                return first.then_some(None).ok_or_else(torn);
            }
            let next = next_query(reply.headers.get_all(LINK));
            let page = whole(reply.body, MAX_MANIFEST, "the list", self.deadline()).await?;
            length += page.len();
            pages.push(page);
            match next {
                None => return Ok(Some(pages)),
                Some(query) if length <= MAX_LIST && ask.query.as_ref() != Some(&query) => {
                    ask.query = Some(query);
                }
                Some(_) => break,
            }
        }
        Err(Error::wrong("the list does not end".to_owned()))
    }
}

fn is_index(headers: &HeaderMap) -> bool {
    let name = content_type(headers).and_then(|text| text.split(';').next());
    name.is_some_and(|name| name.trim().eq_ignore_ascii_case(OCI_INDEX))
}
