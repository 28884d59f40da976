//! The credential of one login, kept while it is current, and obtained once however many requests wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::flight::Flights;
use crate::upstream::error::Error;

use super::credential::Credential;
use super::kinds::Login;

/// `None` for an anonymous login.
type Obtained = Option<Arc<Credential>>;

/// Keeps the credential of one login. A failure to obtain it is never kept.
pub(super) struct CredentialCache {
    login: Login,
    /// Guards one pointer, never held while waiting.
    kept: Mutex<Obtained>,
    flights: Arc<Flights<(), Result<Obtained, Error>>>,
}

impl CredentialCache {
    pub(super) fn new(login: Login) -> Arc<Self> {
        Arc::new(Self {
            login,
            kept: Mutex::default(),
            flights: Arc::default(),
        })
    }

    pub(super) fn is_anonymous(&self) -> bool {
        matches!(self.login, Login::Anonymous)
    }

    /// The credential, obtained if none is kept that is current.
    pub(super) async fn credential(self: &Arc<Self>) -> Result<Obtained, Error> {
        if self.is_anonymous() {
            return Ok(None);
        }
        let kept = self.kept().clone();
        if let Some(kept) = kept.filter(|kept| kept.is_current()) {
            return Ok(Some(kept));
        }
        let this = Arc::clone(self);
        let (landing, _) = self.flights.join((), |slot| async move {
            let obtained = this.login.credential().await;
            let obtained = obtained.map(|credential| credential.map(Arc::new));
            if let Ok(credential) = &obtained {
                this.kept().clone_from(credential);
            }
            slot.publish(obtained.map_err(|detail| Error::Credentials(detail.into())));
        });
        landing
            .value()
            .await
            .map_err(|_| Error::unavailable("reading the credentials was called off"))?
    }

    /// Obtains the credential again after `refused` was refused; `None` if it is still the same.
    pub(super) async fn other_than(
        self: &Arc<Self>,
        refused: &Arc<Credential>,
    ) -> Result<Obtained, Error> {
        self.kept().take_if(|kept| kept.same(refused));
        let obtained = self.credential().await?;
        Ok(obtained.filter(|credential| !credential.same(refused)))
    }

    fn kept(&self) -> MutexGuard<'_, Obtained> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use crate::secret::Secret;
    use crate::upstream::login::password::Password;

    use super::*;

    fn login(password: Password) -> Arc<CredentialCache> {
        let user = "u".to_owned();
        CredentialCache::new(Login::Password { user, password })
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
        assert!(cache.other_than(&old).await.unwrap().is_none());
        std::fs::write(&file, "new\n").unwrap();
        assert_eq!(secret(&cache).await, "old", "it is kept for a second");
        let new = cache.other_than(&old).await.unwrap().unwrap();
        assert_eq!(new.secret.expose(), "new");
        assert_eq!(secret(&cache).await, "new");
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
        let cache = CredentialCache::new(Login::Anonymous);
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
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
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
