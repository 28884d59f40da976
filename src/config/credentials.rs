//! Credentials of an upstream: who it is told that we are, and where the password is.
//!
//! The password itself is read by the upstream, again and again, because files change while the program runs.

use super::environment::Environment;
use super::keys::{self, Key};
use super::mistake::{Fault, Reported};
use super::reader::Reader;
use super::value::{self, Value};
use crate::upstream::credentials::{Credentials, Password};

/// A name and one source of a password, or neither.
pub(super) fn resolve(
    reader: &mut Reader<'_>,
    environment: &Environment,
) -> Result<Option<Credentials>, Reported> {
    let username = reader.optional(&keys::UPSTREAM_USERNAME, value::username);
    let password = reader.optional(&keys::UPSTREAM_PASSWORD, value::secret);
    let file = reader.optional(&keys::UPSTREAM_PASSWORD_FILE, value::secret_file);
    let variable = reader.optional(&keys::UPSTREAM_PASSWORD_ENV, |value| {
        secret_variable(value, environment)
    });

    let sources = [
        &keys::UPSTREAM_PASSWORD,
        &keys::UPSTREAM_PASSWORD_FILE,
        &keys::UPSTREAM_PASSWORD_ENV,
    ];
    let written: Vec<&Key> = sources.into_iter().filter(|key| reader.has(key)).collect();
    let named = reader.has(&keys::UPSTREAM_USERNAME);
    match written.as_slice() {
        [] if named => {
            let fault = Fault::new(
                "has no password to it",
                "add password_file, password_env or password",
            );
            return Err(reader.wrong(&keys::UPSTREAM_USERNAME, fault));
        }
        [only] if !named => {
            return Err(reader.wrong(only, Fault::new("has no name to it", "add username")));
        }
        [first, others @ ..] if !others.is_empty() => {
            for key in others {
                let fault = Fault::new(
                    format!("is a second password, besides {}", first.name()),
                    "keep one of them",
                );
                reader.wrong(key, fault);
            }
            return Err(Reported);
        }
        _ => {}
    }

    let inline = password?.map(Password::Inline);
    let source = inline
        .or(file?.map(Password::File))
        .or(variable?.map(Password::Env));
    Ok(username?
        .zip(source)
        .map(|(username, password)| Credentials { username, password }))
}

/// The name of a variable that is set. It is not repeated: people paste the password itself here.
fn secret_variable(value: &Value, environment: &Environment) -> Result<String, Fault> {
    let name = value::text(value)?;
    match environment.get(&name) {
        Some(secret) if !secret.is_empty() => Ok(name),
        Some(_) => Err(Fault::new(
            "names an environment variable that is empty",
            "set it to the password",
        )),
        None => Err(Fault::new(
            "names an environment variable that is not set",
            "set it, or write the name of one that is",
        )),
    }
}
