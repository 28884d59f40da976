//! Where a password is. A file is read again and again, so that a new password is picked up.

use std::path::{Path, PathBuf};

use crate::secret::Secret;

#[derive(Debug, Clone)]
pub(crate) enum Password {
    /// In the configuration, or in the environment that it was read with.
    Inline(Secret),
    /// In a file, alone; a line break at its end is not part of it.
    File(PathBuf),
}

impl Password {
    /// What is wrong with the file that holds it. It can be another one later, but one that is no password now is a
    /// mistake.
    pub(crate) fn fault(&self) -> Option<String> {
        let Self::File(path) = self else { return None };
        // A pipe can be read only once, and that is for the login.
        if !path.metadata().is_ok_and(|it| it.is_file()) {
            return None;
        }
        let path_text = path.display();
        match read_file(path) {
            Err(error) => Some(format!(
                "{path_text}: {error}; the user that runs pierglass must be able to read it"
            )),
            Ok(password) => match password.expose() {
                "" => Some(format!("{path_text} is empty; write the password into it")),
                lines if lines.contains('\n') => Some(format!(
                    "{path_text} has more than one line; write the password alone into it"
                )),
                _ => None,
            },
        }
    }

    /// Reads the password. The error names the file and never says what is in it.
    pub(super) async fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => {
                // Any file can be slow: a pipe, or one on a network. An async worker must not wait for it.
                let file = path.clone();
                let reading = tokio::task::spawn_blocking(move || read_file(&file));
                let read = reading.await.map_err(std::io::Error::other).flatten();
                read.map_err(|error| format!("password_file {}: {error}", path.display()))
            }
        }
    }
}

fn read_file(path: &Path) -> std::io::Result<Secret> {
    let mut text = std::fs::read_to_string(path)?;
    // Cut where it is: a copy would leave the original in memory.
    text.truncate(text.trim_end_matches(['\r', '\n']).len());
    Ok(Secret::new(text))
}
