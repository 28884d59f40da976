//! What one login sends as `Authorization`, and what it answers to a registry's challenge (RFC 9110 11).
//!
//! The first 401 tells the scheme and the realm. From then on a token is obtained before upstream asks for it.

use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;

use crate::headers::challenge::Challenge;
use crate::oci::name::Repository;
use crate::upstream::error::Error;
use crate::upstream::wire::http::Http;
use crate::upstream::wire::zone::Zone;

use super::cache::CredentialCache;
use super::kinds::Login;
use super::realm::Realms;
use super::token::{Bearer, Realm, TokenId, Tokens};

/// Authenticates one login at one upstream.
pub(crate) struct Authenticator {
    credentials: Arc<CredentialCache>,
    tokens: Tokens,
    /// What the last challenge asked for. Guards one small value, never held while waiting.
    known: Mutex<Option<Scheme>>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer(Arc<Realm>),
}

impl Authenticator {
    pub(super) fn new(login: Login, realms: Arc<Realms>, http: Http) -> Self {
        let credentials = CredentialCache::new(login, http.namespace());
        Self {
            tokens: Tokens::new(Arc::clone(&credentials), realms, http),
            credentials,
            known: Mutex::new(None),
        }
    }

    /// What to send with a request about `repository`, as far as is known before upstream was asked.
    pub(crate) async fn authorization(
        &self,
        repository: Option<&Repository>,
    ) -> Result<Option<HeaderValue>, Error> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match known {
            None => Ok(None),
            Some(Scheme::Basic) => self.basic().await,
            Some(Scheme::Bearer(realm)) => {
                let scope = repository.map(pull_scope);
                let id = TokenId::new(self.bearer().await, realm, scope);
                let header = self.tokens.get(id).await;
                if header.is_err() {
                    // Realms move: the next request learns from upstream where it is now.
                    self.learn(None);
                }
                header.map(Some)
            }
        }
    }

    /// What to answer to a 401 of a host in `zone`; `None` when there is nothing better than what was sent.
    pub(crate) async fn answer(
        &self,
        challenges: &[Challenge],
        zone: Zone,
        repository: Option<&Repository>,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        let realm = challenges.iter().find_map(|it| Realm::of(it, zone));
        if let Some((realm, scope, error)) = realm {
            let scope = wanted_scope(scope, repository);
            let id = TokenId::new(self.bearer().await, Arc::clone(&realm), scope);
            let header = self.tokens.other_than(id, error, sent).await?;
            // Only now, since the realm gave a token: what is learned here is used without asking upstream.
            self.learn(Some(Scheme::Bearer(realm)));
            return Ok(header);
        }
        if challenges
            .iter()
            .any(|challenge| matches!(challenge, Challenge::Basic { .. }))
        {
            self.learn(Some(Scheme::Basic));
            return self.basic_other_than(sent).await;
        }
        Ok(None)
    }

    /// What to answer to a 401 of a host that upstream redirected to: an anonymous token, and never a secret.
    pub(crate) async fn answer_elsewhere(
        &self,
        challenges: &[Challenge],
        zone: Zone,
        repository: Option<&Repository>,
    ) -> Result<Option<HeaderValue>, Error> {
        let realm = challenges.iter().find_map(|it| Realm::of(it, zone));
        let Some((realm, scope, _)) = realm else {
            return Ok(None);
        };
        let id = TokenId::new(Bearer::Elsewhere, realm, wanted_scope(scope, repository));
        self.tokens.get(id).await.map(Some)
    }

    /// Forgets the token that was sent if it is old enough for a refusal to mean that it has expired, and returns
    /// whether it was. Some registries refuse an expired token with 403 instead of 401.
    pub(crate) fn forget_expired(&self, sent: &HeaderValue) -> bool {
        self.tokens.forget_expired(sent)
    }

    /// Whether the credential is held back, because it was refused.
    pub(super) fn is_held(&self) -> bool {
        self.credentials.may_be_held()
    }

    /// What to say of a 401 because of which the credential is held back; `None` if there is no such thing.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.is_held().then(|| self.credentials.refusal())
    }

    /// As whom a token for the upstream itself is asked for.
    async fn bearer(&self) -> Bearer {
        match self.credentials.is_held().await {
            true => Bearer::Anonymous,
            false => Bearer::Account,
        }
    }

    fn learn(&self, scheme: Option<Scheme>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = scheme;
    }

    async fn basic(&self) -> Result<Option<HeaderValue>, Error> {
        let credential = self.credentials.credential().await?;
        credential.map(|credential| credential.basic()).transpose()
    }

    /// The header of a credential other than the one that upstream has just refused.
    async fn basic_other_than(
        &self,
        sent: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        let Some(credential) = self.credentials.credential().await? else {
            return Ok(None);
        };
        let header = credential.basic()?;
        if sent != Some(&header) {
            return Ok(Some(header));
        }
        let other = self.credentials.changed_from(&credential).await?;
        other.map(|credential| credential.basic()).transpose()
    }

    /// Whether a header that was refused is that of the credential, and nothing shows that this is right.
    pub(crate) async fn is_doubtful(&self, sent: &HeaderValue) -> bool {
        match self.credentials.credential().await {
            Ok(Some(credential)) => {
                credential.basic().is_ok_and(|basic| basic == sent)
                    && !self.credentials.is_proven(&credential)
            }
            _ => false,
        }
    }

    /// The registry takes the credential, or refuses it whatever is asked for.
    pub(crate) async fn judge(&self, taken: bool) {
        match self.credentials.credential().await {
            Ok(Some(credential)) if taken => self.credentials.prove(&credential),
            Ok(Some(credential)) => self.credentials.hold(&credential),
            _ => {}
        }
    }
}

/// The scope a challenge asks for; if it names none, the one that pulling needs.
fn wanted_scope(asked: Option<&str>, repository: Option<&Repository>) -> Option<String> {
    let asked = asked.filter(|scope| !scope.is_empty());
    asked
        .map(str::to_owned)
        .or_else(|| repository.map(pull_scope))
}

/// The scope for pulling from one repository.
fn pull_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull")
}
