//! The kinds of login, one variant each. A new kind, such as that of ECR, is a variant here, a file in this folder that
//! obtains its credential, and its keys in `src/config/credentials.rs`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::credential::Credential;
use super::password::Password;

/// How long a password from a file is used without reading the file again.
const FILE_REREAD: Duration = Duration::from_secs(1);

/// As whom the mirror asks an upstream.
#[derive(Debug, Clone)]
pub(crate) enum Login {
    Anonymous,
    /// A user name and a password or access token.
    Password {
        user: String,
        password: Password,
    },
}

impl Login {
    /// The name in logs and reports.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Password { user, .. } => user,
        }
    }

    /// Where its password is, if that is a file.
    pub(super) fn password_file(&self) -> Option<&Path> {
        match self {
            Self::Password {
                password: Password::File(path),
                ..
            } => Some(path),
            _ => None,
        }
    }

    /// The credential as it is now; `None` for an anonymous login. The error names the place and never the secret.
    pub(super) async fn credential(&self) -> Result<Option<Credential>, String> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Password { user, password } => Ok(Some(Credential {
                user: user.clone(),
                secret: password.read().await?,
                until: match password {
                    Password::Inline(_) => None,
                    Password::File(_) => Some(Instant::now() + FILE_REREAD),
                },
            })),
        }
    }
}
