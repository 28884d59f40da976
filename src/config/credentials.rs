//! Credentials of an upstream: who it is told that we are, and where the password is.
//!
//! The password itself is read by the upstream, again and again, because files change while the program runs.

use super::environment::Environment;
use super::keys::{self, Key};
use super::lookup::Reader;
use super::mistake::{Fault, Reported};
use super::value::{self, Value};
use crate::secret::Secret;
use crate::upstream::{Login, Password};

/// The keys that make up an identity.
struct Keys {
    username: &'static Key,
    password: &'static Key,
    password_file: &'static Key,
    password_env: &'static Key,
}

/// The identity of an upstream; none is written for an anonymous one.
pub(super) fn resolve(
    reader: &mut Reader<'_>,
    environment: &Environment,
) -> Result<Option<Login>, Reported> {
    let keys = Keys {
        username: &keys::UPSTREAM_USERNAME,
        password: &keys::UPSTREAM_PASSWORD,
        password_file: &keys::UPSTREAM_PASSWORD_FILE,
        password_env: &keys::UPSTREAM_PASSWORD_ENV,
    };
    read(reader, &keys, environment)
}

/// The further identities of an upstream.
pub(super) fn resolve_more(
    reader: &mut Reader<'_>,
    environment: &Environment,
) -> Result<Vec<Login>, Reported> {
    let keys = Keys {
        username: &keys::MORE_USERNAME,
        password: &keys::MORE_PASSWORD,
        password_file: &keys::MORE_PASSWORD_FILE,
        password_env: &keys::MORE_PASSWORD_ENV,
    };
    let mut all = Vec::new();
    for section in &reader.section.more_credentials {
        let reader = &mut Reader {
            section,
            mistakes: &mut *reader.mistakes,
        };
        all.push(match read(reader, &keys, environment) {
            Ok(Some(credentials)) => Ok(credentials),
            Ok(None) => {
                let right = "add username, and password_file, password_env or password";
                Err(reader.wrong(keys.username, Fault::new("is missing", right)))
            }
            Err(reported) => Err(reported),
        });
    }
    all.into_iter().collect()
}

/// A name and one source of a password, or neither.
fn read(
    reader: &mut Reader<'_>,
    keys: &Keys,
    environment: &Environment,
) -> Result<Option<Login>, Reported> {
    let username = reader.optional(keys.username, value::username);
    let password = reader.optional(keys.password, value::secret);
    let file = reader.optional(keys.password_file, value::secret_file);
    let variable = reader.optional(keys.password_env, |value| {
        secret_variable(value, environment)
    });

    let sources = [keys.password, keys.password_file, keys.password_env];
    let written: Vec<&Key> = sources.into_iter().filter(|key| reader.has(key)).collect();
    let named = reader.has(keys.username);
    match written.as_slice() {
        [] if named => {
            let fault = Fault::new(
                "has no password to it",
                "add password_file, password_env or password",
            );
            return Err(reader.wrong(keys.username, fault));
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
        .or(variable?.map(Password::Inline));
    Ok(username?
        .zip(source)
        .map(|(user, password)| Login::Password { user, password }))
}

/// The name of a variable that is set. It is not repeated: people paste the password itself here.
fn secret_variable(value: &Value, environment: &Environment) -> Result<Secret, Fault> {
    let name = value::text(value)?;
    match environment.get(&name) {
        Some(secret) if !secret.is_empty() => Ok(Secret::new(secret.to_owned())),
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
