//! Credentials: as whom an upstream is asked, and where the password is. The same keys wherever they may stand.
//!
//! A password file is read by the upstream, again and again, because it can change while the program runs.

use super::environment::Environment;
use super::keys::{self, KeySpec};
use super::lookup::Lookup;
use super::mistake::{Fault, Reported};
use super::value::{self, Value};
use crate::secret::Secret;
use crate::upstream::{Login, Password};

/// All logins of an upstream, in the order they are tried: the one in its own table, then the further ones.
pub(super) fn resolve(
    lookup: &mut Lookup<'_>,
    environment: &Environment,
) -> Result<Vec<Login>, Reported> {
    let first = login(lookup, environment).map(|login| login.unwrap_or(Login::Anonymous));
    let more = lookup.further_logins(|lookup| {
        login(lookup, environment)?.ok_or_else(|| {
            let right = "add username, and password_file, password_env or password";
            lookup.wrong(&keys::USERNAME, Fault::new("is missing", right))
        })
    });
    std::iter::once(first).chain(more).collect()
}

/// A name and one source of a password, or neither.
fn login(lookup: &mut Lookup<'_>, environment: &Environment) -> Result<Option<Login>, Reported> {
    let user = lookup.optional(&keys::USERNAME, value::username);
    let inline = lookup.optional(&keys::PASSWORD, value::secret);
    let file = lookup.optional(&keys::PASSWORD_FILE, value::secret_file);
    let variable = |value: &Value| secret_variable(value, environment);
    let variable = lookup.optional(&keys::PASSWORD_ENV, variable);

    let sources = [keys::PASSWORD, keys::PASSWORD_FILE, keys::PASSWORD_ENV];
    let written: Vec<&KeySpec> = sources.iter().filter(|key| lookup.has(key)).collect();
    let named = lookup.has(&keys::USERNAME);
    match written.as_slice() {
        [] if named => {
            let fault = Fault::new(
                "has no password to it",
                "add password_file, password_env or password",
            );
            return Err(lookup.wrong(&keys::USERNAME, fault));
        }
        [only] if !named => {
            return Err(lookup.wrong(only, Fault::new("has no name to it", "add username")));
        }
        [first, others @ ..] if !others.is_empty() => {
            for key in others {
                let fault = Fault::new(
                    format!("is a second password, besides {}", first.name),
                    "keep one of them",
                );
                lookup.wrong(key, fault);
            }
            return Err(Reported);
        }
        _ => {}
    }

    let password = inline?.or(variable?).map(Password::Inline);
    let password = password.or(file?.map(Password::File));
    Ok(user?
        .zip(password)
        .map(|(user, password)| Login::Password { user, password }))
}

/// The value of the variable that is named. The name is not repeated: people paste the password itself here.
fn secret_variable(value: &Value, environment: &Environment) -> Result<Secret, Fault> {
    match environment.secret(value::text(value)?) {
        Some(secret) if !secret.expose().is_empty() => Ok(secret.clone()),
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
