//! The credential of one login, kept while it is current, obtained once however many requests wait for it, and not shown
//! for a while after it was refused.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::flight::Flights;
use crate::upstream::error::Error;

use super::credential::Credential;
use super::hold::Hold;
use super::kinds::Login;

/// How long a credential that was taken is not suspected.
const PROVEN_FOR: Duration = Duration::from_secs(60);
/// The same where one realm took it and another one refuses it: upstream may name one that grants nothing.
const PROVEN_ELSEWHERE_FOR: Duration = Duration::from_secs(3600);

/// `None` for an anonymous login, and while its credential is held back.
type Obtained = Option<Arc<Credential>>;

/// Keeps the credential of one login. A failure to obtain it is never kept.
pub(super) struct CredentialCache {
    login: Login,
    /// The upstream's, for the log.
    namespace: Arc<str>,
    /// Guards small values, never held while waiting.
    state: Mutex<CacheState>,
    flights: Arc<Flights<(), Result<Obtained, Error>>>,
}

#[derive(Default)]
struct CacheState {
    kept: Obtained,
    /// The credential that was refused last. It is not shown before the hold is over; another one is.
    refused: Option<(Arc<Credential>, Hold)>,
    /// One that was taken, and when. If it is refused soon after, the repository is why.
    proven: Option<Proof>,
}

/// That a credential was taken.
struct Proof {
    credential: Arc<Credential>,
    /// The realm that took it; empty for the registry itself.
    place: Box<str>,
    at: Instant,
}

impl CredentialCache {
    pub(super) fn new(login: Login, namespace: &str) -> Arc<Self> {
        Arc::new(Self {
            login,
            namespace: namespace.into(),
            state: Mutex::default(),
            flights: Arc::default(),
        })
    }

    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.login, Login::Anonymous)
    }

    /// The credential to show, obtained if none is kept that is current.
    pub(super) async fn credential(self: &Arc<Self>) -> Result<Obtained, Error> {
        let obtained = self.obtained().await?;
        let mut state = self.state();
        let Some((credential, (refused, hold))) = obtained.as_ref().zip(state.refused.as_ref())
        else {
            return Ok(obtained);
        };
        if !credential.same(refused) {
            state.refused = None;
            return Ok(obtained);
        }
        match hold.lasts(Instant::now()) {
            true => Ok(None),
            false => Ok(obtained),
        }
    }

    /// Whether the login is asked for as if it were anonymous, because its credential is held back.
    pub(super) async fn is_held(self: &Arc<Self>) -> bool {
        // Without a refusal nothing is read.
        self.may_be_held() && matches!(self.credential().await, Ok(None))
    }

    /// The same, without a look at whether the credential has changed.
    pub(super) fn may_be_held(&self) -> bool {
        let state = self.state();
        let refused = state.refused.as_ref();
        refused.is_some_and(|(_, hold)| hold.lasts(Instant::now()))
    }

    /// Obtains the credential again; `None` if it is still the same.
    pub(super) async fn changed_from(
        self: &Arc<Self>,
        known: &Arc<Credential>,
    ) -> Result<Obtained, Error> {
        self.state().kept.take_if(|kept| kept.same(known));
        let obtained = self.obtained().await?;
        Ok(obtained.filter(|credential| !credential.same(known)))
    }

    /// It was refused, whatever was asked for with it: it is not shown for a while.
    pub(super) fn hold(&self, refused: &Arc<Credential>) {
        let now = Instant::now();
        let mut state = self.state();
        let earlier = state.refused.take();
        let earlier = earlier.filter(|(known, _)| known.same(refused));
        let mut hold = earlier.map(|(_, hold)| hold).unwrap_or_default();
        let begun = hold.refused(now);
        state.refused = Some((Arc::clone(refused), hold));
        state.proven = None;
        drop(state);
        if let Some(pause) = begun {
            let (upstream, words) = (&self.namespace, self.refusal());
            tracing::warn!(%upstream, identity = self.login.name(), ?pause, "{words}; it is not tried again before this is over, unless it changes, and others or nobody are asked as meanwhile");
        }
    }

    /// What to say of a credential that was refused.
    pub(super) fn refusal(&self) -> String {
        let user = self.login.name();
        match self.login.password_file() {
            Some(path) => format!(
                "the registry refused user {user}; is the password in password_file {} right?",
                path.display()
            ),
            None => format!("the registry refused user {user}; is the password right?"),
        }
    }

    /// It was taken by the realm at `place`, or by the registry itself if that is empty.
    pub(super) fn prove(&self, credential: &Arc<Credential>, place: &str) {
        self.state().proven = Some(Proof {
            credential: Arc::clone(credential),
            place: place.into(),
            at: Instant::now(),
        });
    }

    /// Whether a refusal at `place` is not the credential's fault.
    pub(super) fn is_proven(&self, credential: &Credential, place: &str) -> bool {
        let state = self.state();
        state.proven.as_ref().is_some_and(|proof| {
            let lasts = match &*proof.place == place {
                true => PROVEN_FOR,
                false => PROVEN_ELSEWHERE_FOR,
            };
            proof.credential.same(credential) && proof.at.elapsed() < lasts
        })
    }

    async fn obtained(self: &Arc<Self>) -> Result<Obtained, Error> {
        if self.is_anonymous() {
            return Ok(None);
        }
        let kept = self.state().kept.clone();
        if let Some(kept) = kept.filter(|kept| kept.is_current()) {
            return Ok(Some(kept));
        }
        let this = Arc::clone(self);
        let (landing, _) = self.flights.join((), |slot| async move {
            let obtained = this.login.credential().await;
            let obtained = obtained.map(|credential| credential.map(Arc::new));
            if let Ok(credential) = &obtained {
                this.state().kept.clone_from(credential);
            }
            slot.publish(obtained.map_err(|detail| Error::Credentials(detail.into())));
        });
        landing
            .value()
            .await
            .map_err(|_| Error::unavailable("reading the credentials was called off"))?
    }

    fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::secret::Secret;
    use crate::upstream::login::password::Password;

    use super::*;

    fn login(password: Password) -> Arc<CredentialCache> {
        let user = "u".to_owned();
        CredentialCache::new(Login::Password { user, password }, "r.example")
    }

    async fn secret(cache: &Arc<CredentialCache>) -> String {
        let credential = cache.credential().await.unwrap().unwrap();
        credential.secret.expose().to_owned()
    }

    #[tokio::test]
    async fn a_password_file_is_read_again_when_its_password_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "old\r\n").unwrap();
        let cache = login(Password::File(file.path().to_owned()));
        let old = cache.credential().await.unwrap().unwrap();
        assert_eq!(old.secret.expose(), "old");
        assert!(cache.changed_from(&old).await.unwrap().is_none());
        std::fs::write(&file, "new\n").unwrap();
        assert_eq!(secret(&cache).await, "old", "it is kept for a second");
        let new = cache.changed_from(&old).await.unwrap().unwrap();
        assert_eq!(new.secret.expose(), "new");
        assert_eq!(secret(&cache).await, "new");
    }

    #[tokio::test]
    async fn a_refused_password_is_held_back_until_it_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "wrong").unwrap();
        let cache = login(Password::File(file.path().to_owned()));
        let wrong = cache.credential().await.unwrap().unwrap();
        assert!(!cache.is_held().await);
        assert!(cache.changed_from(&wrong).await.unwrap().is_none());
        cache.hold(&wrong);
        assert!(
            cache.credential().await.unwrap().is_none(),
            "it is not shown"
        );
        assert!(cache.is_held().await);
        std::fs::write(&file, "right").unwrap();
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert!(!cache.is_held().await);
        assert_eq!(secret(&cache).await, "right");
        assert!(!cache.may_be_held());
    }

    #[tokio::test]
    async fn a_failure_is_not_kept_and_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        let cache = login(Password::File(path.clone()));
        let error = cache.credential().await.err().unwrap().to_string();
        assert!(error.contains(&*path.to_string_lossy()), "{error}");
        std::fs::write(&path, "there").unwrap();
        assert_eq!(secret(&cache).await, "there");
    }

    #[tokio::test]
    async fn an_inline_password_is_obtained_once() {
        let cache = login(Password::Inline(Secret::new("p".to_owned())));
        let first = cache.credential().await.unwrap().unwrap();
        let second = cache.credential().await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert!(first.basic().unwrap().is_sensitive());
    }

    #[tokio::test]
    async fn an_anonymous_login_has_no_credential() {
        let cache = CredentialCache::new(Login::Anonymous, "r.example");
        assert!(cache.credential().await.unwrap().is_none());
    }

    /// The password is in a pipe without a writer: the runtime keeps working, and all requests share one reading.
    #[tokio::test]
    async fn a_file_that_hangs_blocks_no_worker() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let cache = login(Password::File(path.clone()));
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { secret(&cache).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(waiting.iter().all(|it| !it.is_finished()));
        tokio::task::spawn_blocking(move || std::fs::write(path, "late"))
            .await
            .unwrap()
            .unwrap();
        for waiter in waiting {
            assert_eq!(waiter.await.unwrap(), "late");
        }
    }
}
