//! How the fake registry answers: routing, manifests, blobs, lists.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::auth::Auth;
use super::content::{Content, Repository, digest_of};
use super::fault::{Asked, Fault, Faults, Kind};
use super::image::OCI_INDEX;
use super::ledger::{Ledger, Place};
use super::link::Link;
use super::registry::Redirect;
use super::wire::{Body, Fate, Reply, Request};

const WINDOW: u64 = 21_600;

/// Docker Hub's count of manifest GETs.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    pub limit: u64,
    pub remaining: u64,
}

/// Which lists there are, and how much of them at a time.
#[derive(Debug)]
pub struct Lists {
    pub page: usize,
    pub no_referrers: bool,
    /// What can be found; without it there is no search.
    pub search: Option<Vec<String>>,
}

impl Default for Lists {
    fn default() -> Self {
        Lists {
            page: usize::MAX,
            no_referrers: false,
            search: None,
        }
    }
}

/// Everything the registry's three listeners share.
#[derive(Debug)]
pub struct Shared {
    pub repositories: Mutex<HashMap<String, Repository>>,
    pub auth: Auth,
    pub redirect: Option<Redirect>,
    pub signature_life: Duration,
    pub quota: Mutex<Option<Quota>>,
    /// Of users who have one of their own.
    pub quotas: Mutex<HashMap<String, Quota>>,
    pub lists: Mutex<Lists>,
    pub faults: Faults,
    pub ledger: Ledger,
    pub link: Arc<Link>,
    pub realm: String,
    pub blob_host: String,
}

/// What the path of a request names.
struct Route<'a> {
    kind: Kind,
    repo: Option<&'a str>,
    last: &'a str,
}

impl<'a> Route<'a> {
    fn parse(path: &'a str) -> Route<'a> {
        let plain = |kind| Route {
            kind,
            repo: None,
            last: "",
        };
        let Some(rest) = path.strip_prefix("/v2/") else {
            let kind = match path {
                "/v2" => Kind::Ping,
                "/v1/search" => Kind::Search,
                _ => Kind::Other,
            };
            return plain(kind);
        };
        if rest.is_empty() {
            return plain(Kind::Ping);
        }
        let shapes = [
            ("/manifests/", Kind::Manifest),
            ("/blobs/", Kind::Blob),
            ("/tags/", Kind::Tags),
            ("/referrers/", Kind::Referrers),
        ];
        shapes
            .into_iter()
            .find_map(|(word, kind)| {
                let (repo, last) = rest.rsplit_once(word)?;
                Some(Route {
                    kind,
                    repo: Some(repo),
                    last,
                })
            })
            .unwrap_or_else(|| plain(Kind::Other))
    }
}

impl Shared {
    /// The registry's own listener.
    pub fn registry(&self, request: &Request) -> Fate {
        if request.path().starts_with("/signed/") {
            return self.signed_blob(Place::Registry, request);
        }
        let mut route = Route::parse(request.path());
        if route.kind == Kind::Blob && self.redirect.is_some() {
            route.kind = Kind::Redirect;
        }
        self.ledger.note(Place::Registry, route.kind, request);
        self.with_faults(
            route.kind,
            route.repo,
            request,
            || match route.kind {
                // Docker Hub's search is for everybody.
                Kind::Search => None,
                _ => self.auth.refuse(request, route.repo, &self.realm),
            },
            |fault| self.answer(&route, request, fault),
        )
    }

    /// The token server.
    pub fn token_server(&self, request: &Request) -> Fate {
        self.ledger.note(Place::TokenServer, Kind::Token, request);
        self.with_faults(
            Kind::Token,
            None,
            request,
            || None,
            |_| self.auth.exchange(request),
        )
    }

    /// The host that blobs are redirected to. Like S3 it wants exactly one kind of proof.
    pub fn blob_host(&self, request: &Request) -> Fate {
        if request.header("authorization").is_some() {
            self.ledger.note(Place::BlobHost, Kind::Blob, request);
            let text = "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed; only the X-Amz-Algorithm \
                        query parameter, Signature query string parameter or the Authorization header should be specified\
                        </Message></Error>";
            let reply = Reply::new(400, "application/xml", Content::from(text.to_owned()));
            return Fate::Answer(Box::new(reply));
        }
        self.signed_blob(Place::BlobHost, request)
    }

    fn signed_blob(&self, place: Place, request: &Request) -> Fate {
        self.ledger.note(place, Kind::Blob, request);
        let asked = request
            .path()
            .strip_prefix("/signed/")
            .and_then(|rest| rest.rsplit_once('/'));
        let (repo, digest) = asked.unwrap_or_default();
        self.with_faults(Kind::Blob, Some(repo), request, || None, |fault| {
            let ends = request.query("expires").concat();
            let expired = ends.parse().is_ok_and(|ends: u128| ends < now_millis());
            if expired || request.query("signature") != [signature(repo, digest, &ends)] {
                let text = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
                return Reply::new(403, "application/xml", Content::from(text.to_owned()));
            }
            self.blob(repo, digest, request, fault)
        })
    }

    /// Faults around an answer: those for anything first, then authorization, then those for this kind.
    fn with_faults(
        &self,
        kind: Kind,
        repo: Option<&str>,
        request: &Request,
        refuse: impl FnOnce() -> Option<Reply>,
        answer: impl FnOnce(Option<&Fault>) -> Reply,
    ) -> Fate {
        let mut asked = Asked {
            kind,
            method: &request.method,
            repo,
            target: &request.target,
            ranged: request.header("range").is_some(),
            authorized: false,
        };
        let mut fault = self.faults.take(&asked);
        if let Some(fate) = fault
            .as_ref()
            .and_then(|fault| fault.instead(&request.target))
        {
            return fate;
        }
        let mut reply = match refuse() {
            Some(refusal) => refusal,
            None => {
                asked.authorized = true;
                fault = fault.or_else(|| self.faults.take(&asked));
                if let Some(fate) = fault
                    .as_ref()
                    .and_then(|fault| fault.instead(&request.target))
                {
                    return fate;
                }
                answer(fault.as_ref())
            }
        };
        if let Some(fault) = fault {
            fault.spoil(&mut reply);
        }
        Fate::Answer(Box::new(reply))
    }

    fn answer(&self, route: &Route<'_>, request: &Request, fault: Option<&Fault>) -> Reply {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Reply::error(405, "UNSUPPORTED", "the operation is unsupported");
        }
        let repo = route.repo.unwrap_or_default();
        let reply = match route.kind {
            Kind::Ping => Reply::json(200, &json!({})),
            Kind::Manifest => self.manifest(repo, route.last, request),
            Kind::Blob => self.blob(repo, route.last, request, fault),
            Kind::Redirect => self.redirect(repo, route.last),
            Kind::Tags => self.tags(repo, request),
            Kind::Referrers => self.referrers(repo, route.last, request),
            Kind::Search => self.search(request),
            Kind::Token | Kind::Other => Reply::error(404, "NOT_FOUND", "page not found"),
        };
        reply.with("Docker-Distribution-Api-Version", "registry/2.0")
    }

    fn manifest(&self, repo: &str, reference: &str, request: &Request) -> Reply {
        let found = self
            .repositories
            .lock()
            .unwrap()
            .get(repo)
            .and_then(|repo| repo.manifest(reference));
        let Some((digest, manifest)) = found else {
            return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
        };
        let Ok(limits) = self.spend(request) else {
            return self.quota_spent(request);
        };
        let etag = format!("\"{digest}\"");
        let known = request
            .header("if-none-match")
            .is_some_and(|tags| tags.contains(&etag) || tags == "*");
        let mut reply = if known {
            Reply::empty(304)
        } else {
            Reply::new(200, &manifest.media_type, Content::Stored(manifest.bytes))
        };
        for (name, value) in limits {
            reply = reply.with(name, value);
        }
        reply
            .with("ETag", etag)
            .with("Docker-Content-Digest", digest)
    }

    /// Counts a manifest GET; the headers of the quota, or nothing left.
    fn spend(&self, request: &Request) -> Result<Vec<(&'static str, String)>, ()> {
        let user = self.auth.user_of(request).unwrap_or_default();
        if let Some(quota) = self.quotas.lock().unwrap().get_mut(&user) {
            return spend_of(quota, request);
        }
        let mut quota = self.quota.lock().unwrap();
        let Some(quota) = quota.as_mut() else {
            return Ok(Vec::new());
        };
        spend_of(quota, request)
    }

    /// In Docker Hub's words.
    fn quota_spent(&self, request: &Request) -> Reply {
        let user = self.auth.user_of(request).unwrap_or_default();
        let own = self.quotas.lock().unwrap().get(&user).copied();
        let message = "You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit";
        let mut reply = Reply::error(429, "TOOMANYREQUESTS", message);
        for (name, value) in own
            .or(*self.quota.lock().unwrap())
            .map(limit_headers)
            .unwrap_or_default()
        {
            reply = reply.with(name, value);
        }
        reply
    }

    fn blob_content(&self, repo: &str, digest: &str) -> Option<Content> {
        self.repositories
            .lock()
            .unwrap()
            .get(repo)?
            .blobs
            .get(digest)
            .cloned()
    }

    fn blob(&self, repo: &str, digest: &str, request: &Request, fault: Option<&Fault>) -> Reply {
        let Some(content) = self.blob_content(repo, digest) else {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        };
        let size = content.len();
        let ranged = !request.is_head() && !matches!(fault, Some(Fault::IgnoreRange));
        let mut reply = match request
            .header("range")
            .filter(|_| ranged)
            .map(|text| parse_range(text, size))
        {
            None | Some(Asking::Everything) => Reply::new(200, "application/octet-stream", content),
            Some(Asking::Nothing) => {
                return Reply::error(416, "RANGE_INVALID", "invalid content range")
                    .with("Content-Range", format!("bytes */{size}"));
            }
            Some(Asking::Part(start, end)) => {
                let mut reply = Reply::new(
                    206,
                    "application/octet-stream",
                    Content::from(String::new()),
                );
                reply.body = Body {
                    content,
                    start,
                    len: end - start,
                };
                reply.with("Content-Range", format!("bytes {start}-{}/{size}", end - 1))
            }
        };
        reply.meter = Some(self.ledger.blob_bytes.clone());
        reply.link = Some(self.link.clone());
        reply
            .with("Docker-Content-Digest", digest)
            .with("ETag", format!("\"{digest}\""))
            .with("Accept-Ranges", "bytes")
    }

    fn redirect(&self, repo: &str, digest: &str) -> Reply {
        if self.blob_content(repo, digest).is_none() {
            return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
        }
        let ends = (now_millis() + self.signature_life.as_millis()).to_string();
        let signature = signature(repo, digest, &ends);
        let host = match self.redirect {
            Some(Redirect::Absolute307) => &self.blob_host,
            Some(Redirect::Relative) | None => "",
        };
        let target = format!("{host}/signed/{repo}/{digest}?expires={ends}&signature={signature}");
        Reply::empty(307).with("Location", target)
    }

    fn tags(&self, repo: &str, request: &Request) -> Reply {
        let repositories = self.repositories.lock().unwrap();
        let Some(found) = repositories.get(repo) else {
            return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        let last = request.query("last").concat();
        let mut tags: Vec<&String> = found.tags.keys().filter(|tag| **tag > last).collect();
        let count = request.query("n").concat().parse().unwrap_or(usize::MAX);
        let count = count.min(self.lists.lock().unwrap().page);
        let more = tags.len() > count;
        tags.truncate(count);
        let reply = Reply::json(200, &json!({"name": repo, "tags": tags}));
        match tags.last().filter(|_| more) {
            Some(last) => reply.with(
                "Link",
                format!("</v2/{repo}/tags/list?last={last}&n={count}>; rel=\"next\""),
            ),
            None => reply,
        }
    }

    /// Pages are numbered, as Quay's tokens are: not every registry has `last`.
    fn referrers(&self, repo: &str, digest: &str, request: &Request) -> Reply {
        let page = self.lists.lock().unwrap().page;
        if self.lists.lock().unwrap().no_referrers {
            return Reply::error(404, "NOT_FOUND", "page not found");
        }
        let repositories = self.repositories.lock().unwrap();
        let mut manifests = repositories
            .get(repo)
            .map(|repo| repo.referrers(digest))
            .unwrap_or_default();
        let wanted = request.query("artifactType").concat();
        if !wanted.is_empty() {
            manifests.retain(|descriptor| descriptor["artifactType"] == wanted);
        }
        let first: usize = request.query("next_page").concat().parse().unwrap_or(0);
        let more = manifests.len() > first.saturating_add(page);
        let manifests: Vec<_> = manifests.into_iter().skip(first).take(page).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let mut reply = Reply::new(200, OCI_INDEX, Content::from(index.to_string()));
        if more {
            let next = first + page;
            let link = format!("<http://inside.example/{digest}?next_page={next}>; rel=next");
            reply = reply.with("Link", link);
        }
        if wanted.is_empty() {
            reply
        } else {
            reply.with("OCI-Filters-Applied", "artifactType")
        }
    }
}

impl Shared {
    /// In Docker Hub's words.
    fn search(&self, request: &Request) -> Reply {
        let lists = self.lists.lock().unwrap();
        let Some(names) = &lists.search else {
            return Reply::new(
                404,
                "text/html",
                Content::from("<html>404</html>".to_owned()),
            );
        };
        let term = request.query("q").concat();
        let count = request.query("n").concat().parse().unwrap_or(25);
        let found = names.iter().filter(|name| name.contains(&term)).take(count);
        let results: Vec<_> = found
            .map(|name| {
                json!({"name": name, "description": "", "star_count": 7, "is_official": false,
                       "is_automated": false})
            })
            .collect();
        let count = results.len();
        Reply::json(
            200,
            &json!({"query": term, "num_results": count, "results": results}),
        )
    }
}

fn spend_of(quota: &mut Quota, request: &Request) -> Result<Vec<(&'static str, String)>, ()> {
    if !request.is_head() {
        quota.remaining = quota.remaining.checked_sub(1).ok_or(())?;
    }
    Ok(limit_headers(*quota))
}

fn limit_headers(quota: Quota) -> Vec<(&'static str, String)> {
    vec![
        ("ratelimit-limit", format!("{};w={WINDOW}", quota.limit)),
        (
            "ratelimit-remaining",
            format!("{};w={WINDOW}", quota.remaining),
        ),
        ("docker-ratelimit-source", "127.0.0.1".to_owned()),
    ]
}

enum Asking {
    Everything,
    /// From, to (exclusive).
    Part(u64, u64),
    Nothing,
}

/// RFC 9110 14.1.2, one range; several are answered with everything, which is allowed.
fn parse_range(text: &str, size: u64) -> Asking {
    let bounds = text
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','));
    let Some((first, last)) = bounds.and_then(|range| range.split_once('-')) else {
        return Asking::Everything;
    };
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) => (first, size),
        (Err(_), Ok(last)) => (size.saturating_sub(last), size),
        (Err(_), Err(_)) => return Asking::Everything,
    };
    if start < end {
        Asking::Part(start, end)
    } else {
        Asking::Nothing
    }
}

fn signature(repo: &str, digest: &str, ends: &str) -> String {
    digest_of(format!("secret {repo} {digest} {ends}").as_bytes())["sha256:".len()..][..32]
        .to_owned()
}

fn now_millis() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis())
}
