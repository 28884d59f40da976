//! Where secrets come from: read when they are needed, so that a rotated file is picked up.

use std::path::PathBuf;

use crate::secret::Secret;

/// As whom to pull from one upstream.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    /// The user name.
    pub username: String,
    /// The password or access token.
    pub password: Password,
}

/// Where a password is.
#[derive(Debug, Clone)]
pub(crate) enum Password {
    /// In the configuration itself.
    Inline(Secret),
    /// In a file, alone; a line break at its end is not part of it.
    File(PathBuf),
    /// In an environment variable.
    Env(String),
}

impl Credentials {
    /// Reads the password. The error names the place and never what is in it.
    pub(crate) fn password(&self) -> Result<Secret, String> {
        match &self.password {
            Password::Inline(secret) => Ok(secret.clone()),
            Password::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Ok(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
                Err(error) => Err(format!("password_file {}: {error}", path.display())),
            },
            Password::Env(name) => match std::env::var(name) {
                Ok(text) => Ok(Secret::new(text)),
                Err(_) => Err(format!(
                    "password_env: the environment variable {name} is not set"
                )),
            },
        }
    }
}
