//! What one login sends as `Authorization`, and what it answers to a registry's challenge (RFC 9110 11).
//!
//! The first 401 tells the scheme and the realm. From then on a token is obtained before upstream asks for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};

use crate::headers::challenge::Challenge;
use crate::oci::name::Repository;
use crate::upstream::error::{Error, FailedTry};
use crate::upstream::restraint::jitter;
use crate::upstream::wire::http::Http;
use crate::upstream::wire::zone::Zone;

use super::cache::CredentialCache;
use super::kinds::Login;
use super::realm::Realms;
use super::token::Tokens;
use super::wanted::{Bearer, Realm, TokenId, pull_scope, scopes};

/// About how long after its first refusal a realm is asked once more before that is believed.
const PAUSE: Duration = Duration::from_millis(200);
/// How long `/v2/` is not asked again whether it has a challenge that other answers do not have.
const BASE_ASKED_FOR: Duration = Duration::from_secs(60);

/// Authenticates one login at one upstream.
pub(crate) struct Authenticator {
    credentials: Arc<CredentialCache>,
    tokens: Tokens,
    /// Guards small values, never held while waiting.
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    /// What the last challenge asked for.
    scheme: Option<Scheme>,
    /// When `/v2/` was asked for a challenge.
    base_asked: Option<Instant>,
}

#[derive(Clone)]
enum Scheme {
    Basic,
    Bearer(Arc<Realm>),
}

/// A 401 that wants a token.
struct Demand<'a> {
    /// Of this realm.
    realm: &'a Arc<Realm>,
    /// The header that was refused.
    sent: Option<&'a HeaderValue>,
}

/// What is to be done about a 401.
pub(crate) enum LoginAnswer {
    /// Nothing is better than what was sent.
    Nothing,
    /// Ask again, with this or with none.
    Again(Option<HeaderValue>),
}

/// What was tried to get one question answered, so that nothing is tried twice.
#[derive(Default)]
pub(crate) struct Tried {
    /// The tokens that were asked for after a 401, and why there was none.
    tokens: Vec<(TokenId, Option<FailedTry>)>,
    /// The last of them.
    given: Option<HeaderValue>,
    /// A realm refused once what may have been a stumble.
    refused_once: bool,
    /// A token came from another realm than those before it.
    moved: bool,
    /// It was asked without an authorization instead of with one that was refused.
    bare: bool,
}

impl Tried {
    /// Whether asking without an authorization is new.
    fn bare_is_new(&mut self) -> bool {
        !std::mem::replace(&mut self.bare, true)
    }

    fn of(&self, id: &TokenId) -> Option<&Option<FailedTry>> {
        let mut tokens = self.tokens.iter();
        tokens
            .find(|(tried, _)| tried == id)
            .map(|(_, failed)| failed)
    }
}

impl Authenticator {
    pub(super) fn new(login: Login, realms: Arc<Realms>, http: Http) -> Self {
        let credentials = CredentialCache::new(login, http.namespace());
        Self {
            tokens: Tokens::new(Arc::clone(&credentials), realms, http),
            credentials,
            learned: Mutex::default(),
        }
    }

    /// What to send with a request about `repository`, as far as is known before upstream was asked.
    pub(crate) async fn authorization(
        &self,
        repository: Option<&Repository>,
        tried: &mut Tried,
    ) -> Result<Option<HeaderValue>, FailedTry> {
        let known = self.learned().scheme.clone();
        match known {
            None => Ok(None),
            Some(Scheme::Basic) => Ok(self.basic().await?),
            Some(Scheme::Bearer(realm)) => {
                let scope = repository.map(pull_scope);
                let id = TokenId::new(self.bearer().await, realm, scope);
                match self.tokens.get(id).await {
                    Ok(header) => Ok(Some(header)),
                    // Upstream says what to do about that. Its realm may be another one by now.
                    Err(failed) if failed.error.refuses_who_asks() => {
                        tried.refused_once = true;
                        Ok(None)
                    }
                    Err(failed) => {
                        // Realms move: the next request learns from upstream where it is now.
                        self.learned().scheme = None;
                        Err(failed)
                    }
                }
            }
        }
    }

    /// What to answer to a 401 of upstream itself, which is in `zone`.
    pub(crate) async fn answer(
        &self,
        challenges: &[Challenge],
        zone: Zone,
        repository: Option<&Repository>,
        sent: Option<&HeaderValue>,
        tried: &mut Tried,
    ) -> Result<LoginAnswer, FailedTry> {
        let Some((realm, scope, error)) = Realm::of(challenges, zone, None) else {
            let is_basic = |challenge: &Challenge| matches!(challenge, Challenge::Basic { .. });
            if !challenges.iter().any(is_basic) {
                return Ok(LoginAnswer::Nothing);
            }
            self.learned().scheme = Some(Scheme::Basic);
            let other = self.basic_other_than(sent).await?;
            return Ok(other.map_or(LoginAnswer::Nothing, |header| {
                LoginAnswer::Again(Some(header))
            }));
        };
        self.forget_refused(sent, error, tried);
        let demand = Demand {
            realm: &realm,
            sent,
        };
        match self
            .first_token(&demand, scopes(scope, repository), repository, tried)
            .await
        {
            // Some registries (nvcr.io) name another realm once a token is refused, which grants nothing. To
            // those who come without a token they name the right one.
            Ok(None) if tried.moved && tried.bare_is_new() => Ok(LoginAnswer::Again(None)),
            Err(_) if sent.is_some() && self.is_another_realm(&realm) && tried.bare_is_new() => {
                Ok(LoginAnswer::Again(None))
            }
            Ok(None) => Ok(LoginAnswer::Nothing),
            Ok(Some(header)) => {
                tried.moved |= sent.is_some() && self.is_another_realm(&realm);
                // Only now, since the realm gave a token: what is learned here is used without asking upstream.
                self.learned().scheme = Some(Scheme::Bearer(realm));
                Ok(LoginAnswer::Again(Some(header)))
            }
            Err(failed) => Err(failed),
        }
    }

    /// What to answer to a 401 of `host`, to which upstream redirected: an anonymous token, and never a secret.
    pub(crate) async fn answer_elsewhere(
        &self,
        challenges: &[Challenge],
        (host, zone): (&str, Zone),
        repository: Option<&Repository>,
        sent: Option<&HeaderValue>,
        tried: &mut Tried,
    ) -> Result<LoginAnswer, FailedTry> {
        let Some((realm, scope, error)) = Realm::of(challenges, zone, Some(host)) else {
            return Ok(LoginAnswer::Nothing);
        };
        self.forget_refused(sent, error, tried);
        // It may know the repository by another name: what it asks for is right.
        let scope = match scope {
            Some(scope) => scopes(Some(scope), None),
            None => scopes(None, repository),
        };
        let demand = Demand {
            realm: &realm,
            sent,
        };
        let as_whom = Bearer::Elsewhere;
        for scope in scope {
            match self.token(&demand, as_whom, scope, tried).await {
                Ok(Some(header)) => return Ok(LoginAnswer::Again(Some(header))),
                // Then the response says what that means: it may be storage that is wrong about this URL.
                Err(failed) if !failed.error.refuses_who_asks() => return Err(failed),
                Ok(None) | Err(_) => {}
            }
        }
        Ok(LoginAnswer::Nothing)
    }

    /// A token for the first of these scopes for which the realm gives one that was not tried.
    async fn first_token(
        &self,
        demand: &Demand<'_>,
        scopes: Vec<Option<String>>,
        repository: Option<&Repository>,
        tried: &mut Tried,
    ) -> Result<Option<HeaderValue>, FailedTry> {
        let mut last = Ok(None);
        for scope in scopes {
            let as_whom = self.bearer().await;
            match self.token(demand, as_whom, scope, tried).await {
                Ok(Some(header)) => {
                    self.keep_as_own(repository, tried);
                    return Ok(Some(header));
                }
                Ok(None) => {}
                Err(failed) if failed.error.refuses_who_asks() => last = Err(failed),
                Err(failed) => return Err(failed),
            }
        }
        last
    }

    /// A token for this scope, if it was not tried. One refusal of a realm is not believed.
    async fn token(
        &self,
        demand: &Demand<'_>,
        mut as_whom: Bearer,
        scope: Option<String>,
        tried: &mut Tried,
    ) -> Result<Option<HeaderValue>, FailedTry> {
        loop {
            let id = TokenId::new(as_whom, Arc::clone(demand.realm), scope.clone());
            if let Some(failed) = tried.of(&id) {
                return failed.clone().map_or(Ok(None), Err);
            }
            let result = self.tokens.other_than(id.clone(), demand.sent).await;
            if let Err(failed) = &result
                && failed.error.refuses_who_asks()
            {
                // The password is wrong: what is public is to be had without.
                if as_whom == Bearer::Account && self.bearer().await == Bearer::Anonymous {
                    tried.tokens.push((id, Some(failed.clone())));
                    as_whom = Bearer::Anonymous;
                    continue;
                }
                if !std::mem::replace(&mut tried.refused_once, true) {
                    tokio::time::sleep(PAUSE.mul_f64(0.5 + jitter::fraction())).await;
                    continue;
                }
            }
            tried.tokens.push((id, result.as_ref().err().cloned()));
            if let Ok(Some(header)) = &result {
                tried.given = Some(header.clone());
            }
            return result;
        }
    }

    /// Sends the token that was given last wherever this repository is asked about: the scope it has is what upstream
    /// wants of it.
    fn keep_as_own(&self, repository: Option<&Repository>, tried: &Tried) {
        let (Some(repository), Some((given, _))) = (repository, tried.tokens.last()) else {
            return;
        };
        let own = TokenId {
            scope: Some(pull_scope(repository)),
            ..given.clone()
        };
        if own != *given {
            self.tokens.put_in_place_of(own, given);
        }
    }

    /// Forgets a token that was refused. It is kept if a new one would be refused as well: if it was given for this
    /// question, or does not allow enough.
    fn forget_refused(&self, sent: Option<&HeaderValue>, error: Option<&str>, tried: &mut Tried) {
        let Some(sent) = sent else { return };
        let is_new = tried.given.as_ref() == Some(sent) || error == Some("insufficient_scope");
        if self.tokens.forget(sent, is_new) {
            // It was kept from earlier: the next one is new.
            tried.tokens.clear();
        }
    }

    /// Forgets the token that was sent if it is old enough for a 403 to mean that it has expired, and returns whether it
    /// was. Some registries refuse an expired token so.
    pub(crate) fn forget_expired(&self, sent: &HeaderValue) -> bool {
        self.tokens.forget(sent, true)
    }

    /// Whether to ask `/v2/` for a challenge because of this answer to a question without an authorization: some registries
    /// have one nowhere else. A 400 or 404 is mostly about the thing, so it is worth a question only for a login.
    pub(crate) fn suspects(&self, status: StatusCode) -> bool {
        let suspicious = match status {
            StatusCode::FORBIDDEN => true,
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => !self.credentials.is_anonymous(),
            _ => false,
        };
        if !suspicious {
            return false;
        }
        let mut learned = self.learned();
        let asked = learned.base_asked;
        if learned.scheme.is_some() || asked.is_some_and(|it| it.elapsed() < BASE_ASKED_FOR) {
            return false;
        }
        learned.base_asked = Some(Instant::now());
        true
    }

    /// Whether the credential is held back, because it was refused.
    pub(super) fn is_held(&self) -> bool {
        self.credentials.may_be_held()
    }

    /// What to say of a refusal while the credential is held back; `None` if it is not.
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

    /// Whether tokens came from another realm than this one.
    fn is_another_realm(&self, realm: &Realm) -> bool {
        matches!(&self.learned().scheme, Some(Scheme::Bearer(known)) if **known != *realm)
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
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
                    && !self.credentials.is_proven(&credential, "")
            }
            _ => false,
        }
    }

    /// The registry takes the credential, or refuses it whatever is asked for. Returns whether it may be asked without it,
    /// which was not tried.
    pub(crate) async fn judge(&self, taken: bool, tried: &mut Tried) -> bool {
        match self.credentials.credential().await {
            Ok(Some(credential)) if taken => self.credentials.prove(&credential, ""),
            Ok(Some(credential)) => {
                self.credentials.hold(&credential);
                return tried.bare_is_new();
            }
            _ => {}
        }
        false
    }
}
