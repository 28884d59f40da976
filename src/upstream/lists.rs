//! Questions about lists: tags and referrers, put together from upstream's pages.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bytes::Bytes;
use http::header::LINK;
use http::{HeaderMap, Method, StatusCode};

use crate::headers::link::next_query;
use crate::memory::{Held, Memory, work_on};
use crate::oci::digest::Digest;
use crate::oci::endpoint::Endpoint;
use crate::oci::manifest::{Manifest, OCI_INDEX, is_index};
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

const PAGE_MISSING: &str = "a page of the list is missing";
const NO_TAGS: &str = "what upstream sent is not a list of tags";

/// Pages in a row that bring nothing and name a next one. Some registries skip over what they do not show.
const MAX_FRUITLESS: usize = 10;

/// Answers of registries that do not list referrers, besides refusals: redirects to a page (ghcr.io), and 501.
const NO_REFERRERS_API: &[u16] = &[301, 302, 303, 307, 308, 501];

/// What upstream said when it was asked for referrers.
pub(crate) enum ReferrersAnswer {
    Listed(Referrers, Held),
    /// It has no such list.
    NoApi,
    /// It refuses access to it, which some say who have no such list.
    Refused(Error),
    /// It has no list for now, and another question may have an answer all the same.
    Failed(Error),
}

/// All tags of a repository, sorted, one to a line, without names that are not valid as a tag.
pub(super) async fn tags(
    client: &Client,
    repository: &Repository,
    memory: &Memory,
) -> Result<Bytes, Error> {
    let asked = |query| async move {
        let label = |reply: &Reply| match reply.status {
            StatusCode::OK => Label::Page,
            _ => Label::Other,
        };
        let question = tags_question(repository, query);
        pages(client, question, label, TagPages::default(), memory).await
    };
    let listed = match asked(Some(FULL_PAGE)).await.map_err(Unlisted::error) {
        // It does not take `n`, or not one that large: of Quay that is 413.
        Err(Error::Denied { status, .. }) if !is_about_access(status) => {
            asked(None).await.map_err(Unlisted::error)
        }
        listed => listed,
    };
    let (list, held) = listed?.ok_or_else(|| Error::wrong(NO_TAGS))?;
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

/// Whether a registry answers at all: a host without one behind it says 404 to everything.
pub(super) async fn is_registry(client: &Client) -> bool {
    let question = Question {
        patient: false,
        ..Question::new(Method::GET, Endpoint::Base)
    };
    match client.send(&question, client.deadline()).await {
        Ok(reply) => {
            !content_type(&reply.headers).is_some_and(|text| text.starts_with("text/html"))
        }
        Err(error) => matches!(error, Error::Denied { .. } | Error::RateLimited { .. }),
    }
}

/// The manifests that refer to one. `patient`: whether to try again what may pass.
pub(super) async fn referrers(
    client: &Client,
    repository: &Repository,
    digest: &Digest,
    patient: bool,
    memory: &Memory,
) -> Result<ReferrersAnswer, Error> {
    let endpoint = Endpoint::Referrers {
        repository: repository.clone(),
        digest: digest.clone(),
    };
    let question = Question {
        accept: Some(OCI_INDEX),
        answers: NO_REFERRERS_API,
        tries_redirects: true,
        patient,
        ..Question::new(Method::GET, endpoint)
    };
    let label = |reply: &Reply| match reply.status {
        StatusCode::OK => label_of_index(&reply.headers),
        _ => Label::Other,
    };
    match pages(client, question, label, Referrers::default(), memory).await {
        Ok(Some((referrers, held))) => Ok(ReferrersAnswer::Listed(referrers, held)),
        Ok(None) => Ok(ReferrersAnswer::NoApi),
        Err(Unlisted { error, begun: true }) => Err(error),
        Err(Unlisted { error, .. }) => match error {
            Error::NotFound => Ok(ReferrersAnswer::NoApi),
            Error::Denied { status, .. } if !is_about_access(status) => Ok(ReferrersAnswer::NoApi),
            Error::Denied { .. } => Ok(ReferrersAnswer::Refused(error)),
            Error::RateLimited { .. } | Error::Unavailable(_) | Error::Wrong(_) => {
                Ok(ReferrersAnswer::Failed(error))
            }
            error => Err(error),
        },
    }
}

fn is_about_access(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403)
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
    /// Whether a body of no clear label is a page.
    fn is_page(page: &[u8]) -> bool;
    /// How much there is of it.
    fn length(&self) -> usize;
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
        added.map_err(|_| NO_TAGS)
    }

    fn is_page(page: &[u8]) -> bool {
        TagList::is_page(page)
    }

    fn length(&self) -> usize {
        self.tags.length()
    }
}

impl List for Referrers {
    fn add(&mut self, page: &[u8]) -> Result<(), &'static str> {
        let added = Self::add(self, page, &[]);
        added.map_err(|_| "what upstream sent is not a list of referrers")
    }

    fn is_page(page: &[u8]) -> bool {
        Manifest::parse(None, page).is_ok_and(|manifest| is_index(&manifest.media_type))
    }

    fn length(&self) -> usize {
        Self::length(self)
    }
}

/// What the head of a reply says of its body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Page,
    /// The body decides.
    Unclear,
    Other,
}

/// Why there is no list.
struct Unlisted {
    error: Error,
    /// Its first page was there.
    begun: bool,
}

impl Unlisted {
    fn error(self) -> Error {
        self.error
    }
}

/// The list that the pages make, and the room it takes; `None` if the first reply is not a page of one.
async fn pages<L: List>(
    client: &Client,
    question: Question,
    label: impl Fn(&Reply) -> Label,
    list: L,
    memory: &Memory,
) -> Result<Option<(L, Held)>, Unlisted> {
    let mut begun = false;
    let walk = walk(client, question, label, list, memory, &mut begun);
    // The state of a walk is large, and there is one for every list that is asked for.
    let listed = match tokio::time::timeout(WITHIN, Box::pin(walk)).await {
        Ok(listed) => listed,
        Err(_) => Err(Error::Silent(
            format!("the list was not whole within {WITHIN:?}").into(),
        )),
    };
    let error = |error| match error {
        // It is said of a page, not of the repository.
        Error::NotFound | Error::Denied { .. } if begun => Error::wrong(PAGE_MISSING),
        error => error,
    };
    listed.map_err(|it| Unlisted {
        error: error(it),
        begun,
    })
}

/// One page is in memory at a time, beside the list.
async fn walk<L: List>(
    client: &Client,
    mut question: Question,
    label: impl Fn(&Reply) -> Label,
    list: L,
    memory: &Memory,
    begun: &mut bool,
) -> Result<Option<(L, Held)>, Error> {
    let mut length = 0;
    // For the list itself: it is no longer than its pages together.
    let mut held = Held::default();
    let mut pages = Pages::of(list);
    pages.lead_to(question.query.as_deref().unwrap_or_default());
    for _ in 0..MAX_PAGES {
        let reply = client.send(&question, client.deadline()).await?;
        let torn = || Error::wrong(PAGE_MISSING);
        let label = label(&reply);
        if label == Label::Other {
            return (!*begun).then_some(None).ok_or_else(torn);
        }
        let next = next_query(reply.headers.get_all(LINK));
        let page = reply
            .body
            .collect(MAX_PAGE, "the list", client.deadline(), memory)
            .await?;
        if label == Label::Unclear {
            let body = page.clone();
            if !work_on(page.len(), move || L::is_page(&body)).await {
                return (!*begun).then_some(None).ok_or_else(torn);
            }
        }
        length += page.len();
        memory.grow(&mut held, length).await.map_err(Error::Busy)?;
        let added = work_on(page.len(), move || pages.add(&page).map(|()| pages));
        pages = added.await.map_err(Error::wrong)?;
        *begun = true;
        match next.filter(|query| pages.lead_to(query)) {
            None => return Ok(Some((pages.list, held))),
            Some(query) if length <= MAX_LIST => question.query = Some(query),
            Some(_) => break,
        }
    }
    Err(Error::wrong("the list does not end"))
}

/// The pages of a list so far. Some registries name a next page on the last one: one that was there before, or one after
/// the other that bring nothing.
struct Pages<L> {
    list: L,
    fruitless: usize,
    /// Hashes of what they said, and of the queries that named the next one.
    known: HashSet<u64>,
}

impl<L: List> Pages<L> {
    fn of(list: L) -> Self {
        Self {
            list,
            fruitless: 0,
            known: HashSet::new(),
        }
    }

    fn add(&mut self, page: &[u8]) -> Result<(), &'static str> {
        let before = self.list.length();
        self.list.add(page)?;
        let is_new = self.known.insert(hash(page)) && self.list.length() > before;
        self.fruitless = match is_new {
            true => 0,
            false => self.fruitless + 1,
        };
        Ok(())
    }

    /// Whether there can be more at the page that this one names as the next.
    fn lead_to(&mut self, query: &str) -> bool {
        self.known.insert(hash(query.as_bytes())) && self.fruitless < MAX_FRUITLESS
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Some servers have a web page for every path; some registries have no label but a general one.
fn label_of_index(headers: &HeaderMap) -> Label {
    let text = content_type(headers).unwrap_or_default();
    let name = text.split(';').next().unwrap_or_default().trim();
    if name.eq_ignore_ascii_case(OCI_INDEX) {
        return Label::Page;
    }
    match name.to_ascii_lowercase().contains("html") {
        true => Label::Other,
        false => Label::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Entries(usize);

    impl List for Entries {
        fn add(&mut self, page: &[u8]) -> Result<(), &'static str> {
            self.0 += page.len();
            Ok(())
        }

        fn is_page(_: &[u8]) -> bool {
            true
        }

        fn length(&self) -> usize {
            self.0
        }
    }

    proptest! {
        /// Whatever pages say and name as the next: those that bring anything new are all read, and the list ends.
        #[test]
        fn every_walk_through_pages_ends(texts in proptest::collection::vec("[ab]{0,2}", 1..40), links in proptest::collection::vec(0_usize..40, 40)) {
            let mut pages = Pages::of(Entries::default());
            let (mut at, mut read) = (0, Vec::new());
            while read.len() <= texts.len() + MAX_FRUITLESS {
                read.push(at);
                pages.add(texts[at].as_bytes()).unwrap();
                let next = links[at] % texts.len();
                if !pages.lead_to(&format!("page={next}")) {
                    break;
                }
                at = next;
            }
            prop_assert!(read.len() <= texts.len() + 1, "{read:?}");
            let idle = read.windows(2).rev().take_while(|two| texts[two[1]].is_empty()).count();
            prop_assert!(idle <= MAX_FRUITLESS, "{read:?}");
        }
    }

    #[test]
    fn ten_pages_that_bring_nothing_end_a_list_and_nine_do_not() {
        for (fruitless, ends) in [(MAX_FRUITLESS - 1, false), (MAX_FRUITLESS, true)] {
            let mut pages = Pages::of(Entries::default());
            pages.add(b"x").unwrap();
            for _ in 0..fruitless {
                pages.add(b"").unwrap();
            }
            assert_eq!(!pages.lead_to("page=99"), ends, "{fruitless}");
        }
    }
}
