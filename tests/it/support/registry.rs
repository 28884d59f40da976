//! The fake registry: its builder and the handle that tests hold.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::auth::{Auth, Scheme};
use super::content::{Content, Manifest, Repository, digest_of, generated_digest};
use super::fault::{Fault, FaultId, Faults, On};
use super::image::{Image, Index, OCI_INDEX, OCI_MANIFEST};
use super::ledger::{Counts, Ledger, Seen, Traffic};
use super::link::Link;
use super::loopback;
use super::origin::Origin;
use super::routes::{Lists, Quota, Shared};

/// Where blob requests are sent on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// Another origin, with a signed query, that refuses an `Authorization` header.
    Absolute307,
    /// A signed path on the registry itself, told without scheme and host.
    Relative,
}

/// How the registry is to behave; plain and open if nothing is said.
#[derive(Debug)]
pub struct Builder {
    scheme: Scheme,
    login: Option<(String, String)>,
    token_life: Duration,
    redirect: Option<Redirect>,
    signature_life: Duration,
    quota: Option<u64>,
}

impl Builder {
    /// Tokens are asked for; given to this user only, or to every client.
    #[must_use]
    pub fn bearer(self, login: Option<(&str, &str)>) -> Builder {
        let login = login.map(|(user, password)| (user.into(), password.into()));
        Builder {
            scheme: Scheme::Bearer,
            login,
            ..self
        }
    }

    /// How long a token is good for; also what `expires_in` says.
    #[must_use]
    pub fn token_life(self, token_life: Duration) -> Builder {
        Builder { token_life, ..self }
    }

    #[must_use]
    pub fn basic(self, user: &str, password: &str) -> Builder {
        Builder {
            scheme: Scheme::Basic,
            login: Some((user.into(), password.into())),
            ..self
        }
    }

    #[must_use]
    pub fn redirect_blobs(self, to: Redirect) -> Builder {
        Builder {
            redirect: Some(to),
            ..self
        }
    }

    /// How long a signed URL is good for; 403 after.
    #[must_use]
    pub fn signature_life(self, signature_life: Duration) -> Builder {
        Builder {
            signature_life,
            ..self
        }
    }

    /// That many manifest GETs, then 429.
    #[must_use]
    pub fn rate_limit(self, pulls: u64) -> Builder {
        Builder {
            quota: Some(pulls),
            ..self
        }
    }

    pub async fn start(self) -> FakeRegistry {
        self.start_now()
    }

    /// The same for tests without `async`.
    pub fn start_now(self) -> FakeRegistry {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("fake-registry")
            .enable_all()
            .build()
            .unwrap();
        let address = loopback::address();
        let reserve = || Origin::reserve(address, runtime.handle().clone()).unwrap();
        let origins = [reserve(), reserve(), reserve()];
        let shared = Shared {
            repositories: Mutex::new(HashMap::new()),
            auth: Auth::new(self.scheme, self.login, self.token_life),
            redirect: self.redirect,
            signature_life: self.signature_life,
            quota: Mutex::new(self.quota.map(|limit| Quota {
                limit,
                remaining: limit,
            })),
            quotas: Mutex::default(),
            lists: Mutex::new(Lists::default()),
            faults: Faults::default(),
            ledger: Ledger::default(),
            link: Arc::new(Link::at(0)),
            realm: format!("{}/token", origins[1].url()),
            blob_host: origins[2].url(),
        };
        let registry = FakeRegistry {
            shared: Arc::new(shared),
            origins,
            runtime: Some(runtime),
        };
        registry.up();
        registry
    }
}

/// A registry on loopback; stops when dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    /// The registry, its token server, its blob host.
    origins: [Origin; 3],
    runtime: Option<tokio::runtime::Runtime>,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // In the background: a runtime may not be waited for inside another one.
            runtime.shutdown_background();
        }
    }
}

impl FakeRegistry {
    pub fn builder() -> Builder {
        Builder {
            scheme: Scheme::Open,
            login: None,
            token_life: Duration::from_secs(300),
            redirect: None,
            signature_life: Duration::from_secs(600),
            quota: None,
        }
    }

    /// A plain registry without faults.
    pub async fn start() -> FakeRegistry {
        FakeRegistry::builder().start().await
    }

    /// Like Docker Hub: anonymous tokens, blobs redirected to another host, a quota of manifest GETs.
    pub fn docker_hub() -> Builder {
        FakeRegistry::builder()
            .bearer(None)
            .redirect_blobs(Redirect::Absolute307)
            .rate_limit(100)
    }

    pub fn url(&self) -> String {
        self.origins[0].url()
    }

    /// `ADDRESS:PORT`.
    pub fn authority(&self) -> String {
        self.origins[0].address.to_string()
    }

    pub fn token_url(&self) -> &str {
        &self.shared.realm
    }

    pub fn blob_host_url(&self) -> &str {
        &self.shared.blob_host
    }

    // Content.

    pub fn put_blob(&self, repo: &str, bytes: impl Into<Bytes>) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        self.insert_blob(repo, &digest, Content::Stored(bytes));
        digest
    }

    /// A blob computed while it is sent: its size costs no memory. The first time, its digest costs a pass over it.
    pub fn put_generated_blob(&self, repo: &str, seed: u64, size: u64) -> String {
        let digest = generated_digest(seed, size);
        self.insert_blob(repo, &digest, Content::generated(seed, size));
        digest
    }

    /// Content under a digest that may not be its own.
    pub fn insert_blob(&self, repo: &str, digest: &str, content: Content) {
        self.repository(repo, |repo| repo.blobs.insert(digest.to_owned(), content));
    }

    pub fn put_manifest(
        &self,
        repo: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let bytes = bytes.into();
        let digest = digest_of(&bytes);
        let manifest = Manifest {
            media_type: media_type.into(),
            bytes,
        };
        self.repository(repo, |repo| {
            repo.manifests.insert(digest.clone(), manifest);
            if let Some(tag) = tag {
                repo.tags.insert(tag.to_owned(), digest.clone());
            }
        });
        digest
    }

    /// Manifest, configuration and layers; the manifest's digest.
    pub fn put_image(&self, repo: &str, tag: Option<&str>, image: &Image) -> String {
        self.put_blob(repo, image.config.clone());
        for layer in &image.layers {
            self.put_blob(repo, layer.clone());
        }
        self.put_manifest(repo, tag, OCI_MANIFEST, image.manifest.clone())
    }

    /// The index and all its images; the index' digest.
    pub fn put_index(&self, repo: &str, tag: Option<&str>, index: &Index) -> String {
        for image in &index.images {
            self.put_image(repo, None, image);
        }
        self.put_manifest(repo, tag, OCI_INDEX, index.bytes.clone())
    }

    pub fn tag(&self, repo: &str, tag: &str, digest: &str) {
        self.repository(repo, |repo| repo.tags.insert(tag.into(), digest.into()));
    }

    pub fn untag(&self, repo: &str, tag: &str) {
        self.repository(repo, |repo| repo.tags.remove(tag));
    }

    pub fn delete_blob(&self, repo: &str, digest: &str) {
        self.repository(repo, |repo| repo.blobs.remove(digest));
    }

    fn repository<T>(&self, repo: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(
            self.shared
                .repositories
                .lock()
                .unwrap()
                .entry(repo.into())
                .or_default(),
        )
    }

    // Behaviour.

    pub fn fault(&self, on: On, fault: Fault) -> FaultId {
        self.shared.faults.add(on, fault)
    }

    /// How often a fault struck. Assert on it: a fault that never struck proves nothing.
    pub fn struck(&self, id: FaultId) -> u64 {
        self.shared.faults.struck(id)
    }

    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Throttles all blob bodies together; 0 takes the limit away.
    pub fn set_rate(&self, bytes_per_sec: u64) {
        self.shared.link.set(bytes_per_sec);
    }

    pub fn set_rate_limit(&self, limit: u64, remaining: u64) {
        *self.shared.quota.lock().unwrap() = Some(Quota { limit, remaining });
    }

    /// Counts no manifest GETs any more, and says nothing of them.
    pub fn lift_rate_limit(&self) {
        *self.shared.quota.lock().unwrap() = None;
    }

    /// What is left of the manifest GETs counted so far.
    pub fn quota_left(&self) -> Option<u64> {
        self.shared
            .quota
            .lock()
            .unwrap()
            .map(|quota| quota.remaining)
    }

    /// A further user, besides those who may already.
    pub fn add_login(&self, user: &str, password: &str) {
        self.shared.auth.add_login(user, password);
    }

    /// A quota of that user's own.
    pub fn set_rate_limit_of(&self, user: &str, limit: u64, remaining: u64) {
        let quota = Quota { limit, remaining };
        let mut quotas = self.shared.quotas.lock().unwrap();
        quotas.insert(user.to_owned(), quota);
    }

    /// From now on only this user gets tokens, or passes Basic.
    pub fn set_login(&self, user: &str, password: &str) {
        self.shared.auth.set_login(user, password);
    }

    /// Gives lists in pages of at most so many entries, whatever is asked for.
    pub fn set_page(&self, entries: usize) {
        self.shared.lists.lock().unwrap().page = entries;
    }

    /// Has no API for referrers, as registries older than version 1.1 of the specification.
    pub fn forget_referrers_api(&self) {
        self.shared.lists.lock().unwrap().no_referrers = true;
    }

    /// Has a search that finds what has the searched text in its name.
    pub fn set_search(&self, names: &[&str]) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        self.shared.lists.lock().unwrap().search = Some(names);
    }

    /// Makes all tokens given so far worthless.
    pub fn revoke_tokens(&self) {
        self.shared.auth.revoke_tokens();
    }

    /// The host is gone: connections close, new ones are refused.
    pub fn down(&self) {
        self.origins.iter().for_each(Origin::down);
    }

    /// The host is back, on the same ports.
    pub fn up(&self) {
        let [registry, token_server, blob_host] = &self.origins;
        let shared = self.shared.clone();
        registry
            .up(Arc::new(move |request| shared.registry(request)))
            .unwrap();
        let shared = self.shared.clone();
        token_server
            .up(Arc::new(move |request| shared.token_server(request)))
            .unwrap();
        let shared = self.shared.clone();
        blob_host
            .up(Arc::new(move |request| shared.blob_host(request)))
            .unwrap();
    }

    // What was seen.

    pub fn counts(&self) -> Counts {
        self.shared.ledger.counts()
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.shared.ledger.seen()
    }

    pub fn reset_counts(&self) {
        self.shared.ledger.reset();
    }

    /// What was asked and sent since the last call; it is forgotten, as a long run needs it to be.
    #[allow(dead_code, reason = "only tests/chaos runs for long")]
    pub fn take_traffic(&self) -> Traffic {
        self.shared.ledger.take()
    }

    /// Connections to the registry itself that are open now.
    pub fn connections(&self) -> usize {
        self.origins[0].connections()
    }
}
