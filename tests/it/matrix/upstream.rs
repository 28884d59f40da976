//! A registry of any number of repositories, each of which fails as its name says.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::runtime::Runtime;

use crate::support::content::Content;
use crate::support::image::{OCI_INDEX, OCI_MANIFEST};
use crate::support::loopback;
use crate::support::origin::Origin;
use crate::support::wire::{Fate, Reply, Request};

use super::cell::{Cell, Failing, PLACES, Place, SILENCE, Thing};

/// The registry, the hosts that its redirects lead to, and its realm, in the order of [`PLACES`].
pub struct Upstream {
    origins: [Origin; 4],
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

struct Shared {
    failing: AtomicBool,
    /// What was asked about each cell.
    asked: Mutex<HashMap<Cell, Vec<String>>>,
    storage: String,
    another: String,
    realm: String,
}

impl Upstream {
    pub fn start() -> Upstream {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let address = loopback::address();
        let reserve = || Origin::reserve(address, runtime.handle().clone()).unwrap();
        let origins = [reserve(), reserve(), reserve(), reserve()];
        let shared = Arc::new(Shared {
            failing: AtomicBool::new(false),
            asked: Mutex::default(),
            storage: origins[1].url(),
            another: origins[2].url(),
            realm: origins[3].url(),
        });
        for (origin, place) in origins.iter().zip(PLACES) {
            let shared = Arc::clone(&shared);
            let answer = move |request: &Request| shared.answer(place, request);
            origin.up(Arc::new(answer)).unwrap();
        }
        Upstream {
            origins,
            shared,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        self.origins[0].url()
    }

    pub fn set_failing(&self, failing: bool) {
        self.shared.failing.store(failing, Ordering::SeqCst);
    }

    /// What was asked about a cell since the last call.
    pub fn take_asked(&self, cell: &Cell) -> Vec<String> {
        let mut asked = self.shared.asked.lock().unwrap();
        asked.remove(cell).unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In the background: a runtime may not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn answer(&self, place: Place, request: &Request) -> Fate {
        let answer = |reply: Reply| Fate::Answer(Box::new(reply));
        if place == Place::Realm {
            let scope = request.query("scope").concat();
            let name = scope
                .strip_prefix("repository:")
                .and_then(|rest| rest.split(':').next());
            let Some(cell) = name.and_then(Cell::of_repository) else {
                return answer(Reply::json(200, &json!({"token": "for nothing"})));
            };
            self.note(&cell, place, request);
            return match self.refusal(&cell, place, request) {
                Some(fate) => fate,
                None => answer(Reply::json(
                    200,
                    &json!({"token": cell.repository(), "expires_in": 300}),
                )),
            };
        }
        let prefix = match place {
            Place::Storage => "/bucket/",
            _ => "/v2/",
        };
        let asked = request.path().strip_prefix(prefix).map(|rest| {
            let parts: Vec<_> = rest.splitn(6, '/').collect();
            (
                Cell::of_repository(&parts[..parts.len().min(5)].join("/")),
                parts.get(5).copied(),
            )
        });
        let Some((Some(cell), Some(path))) = asked else {
            return answer(Reply::json(200, &json!({})));
        };
        self.note(&cell, place, request);
        let authorization = format!("Bearer {}", cell.repository());
        if cell.place == Place::Realm
            && place == Place::Registry
            && request.header("authorization") != Some(&authorization)
        {
            let scope = format!("repository:{}:pull", cell.repository());
            let challenge = format!(
                "Bearer realm=\"{}\",service=\"matrix\",scope=\"{scope}\"",
                self.realm
            );
            let reply = Reply::error(401, "UNAUTHORIZED", "who are you?");
            return answer(reply.with("WWW-Authenticate", challenge));
        }
        let concerned =
            path == cell.path() || (cell.thing == Thing::List && path.starts_with("tags/"));
        if concerned {
            if let Some(fate) = self.refusal(&cell, place, request) {
                return fate;
            }
            let target = match cell.place {
                Place::Storage => {
                    request
                        .target
                        .replacen("/v2", &format!("{}/bucket", self.storage), 1)
                }
                _ => format!("{}{}", self.another, request.target),
            };
            if place == Place::Registry && matches!(cell.place, Place::Storage | Place::Another) {
                return answer(Reply::empty(307).with("Location", target));
            }
        }
        answer(right(&cell, path))
    }

    fn note(&self, cell: &Cell, place: Place, request: &Request) {
        let mut asked = self.asked.lock().unwrap();
        let line = format!("{place:?} {} {}", request.method, request.target);
        asked.entry(*cell).or_default().push(line);
    }

    fn refusal(&self, cell: &Cell, place: Place, request: &Request) -> Option<Fate> {
        let concerned = cell.failing == Failing::All || request.is_head();
        if place != cell.place || !concerned || !self.failing.load(Ordering::SeqCst) {
            return None;
        }
        if cell.status == SILENCE {
            return Some(Fate::Hang);
        }
        let body = json!({"errors": [{"code": "UNKNOWN", "message": "the matrix says so"}]});
        let reply = match cell.status {
            304 => Reply::empty(304),
            status => Reply::json(status, &body),
        };
        Some(Fate::Answer(Box::new(reply)))
    }
}

/// The answer of a registry that is well.
fn right(cell: &Cell, path: &str) -> Reply {
    let contents = cell.contents();
    let manifest = |text: String| {
        let reply = Reply::new(200, OCI_MANIFEST, Content::from(text));
        reply.with("Docker-Content-Digest", contents.digest.clone())
    };
    let blob = format!("blobs/{}", contents.blob_digest);
    let by_digest = format!("manifests/{}", contents.digest);
    let referrers = format!("referrers/{}", contents.digest);
    let path = path.split('?').next().unwrap_or_default();
    match path {
        "tags/list" => Reply::json(200, &json!({"name": cell.repository(), "tags": ["1"]})),
        "manifests/1" => manifest(contents.manifest),
        _ if path == by_digest => manifest(contents.manifest),
        _ if path == referrers => Reply::new(200, OCI_INDEX, Content::from(contents.referrers)),
        _ if path == blob => Reply::new(
            200,
            "application/octet-stream",
            Content::from(contents.blob),
        ),
        _ => Reply::error(404, "UNKNOWN", "there is no such thing"),
    }
}
