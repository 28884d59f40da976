//! What the environment and the command line say.
//!
//! Both give plain text without types or positions, and both are laid over what the file says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::keys::{self, Key};
use super::mistake::{Fault, Mistakes, Place};
use super::value::Value;
use super::written::Section;

/// The variable that names the configuration file.
pub(super) const CONFIG: &str = "PIERGLASS_CONFIG";

/// The environment as a value, so that tests need not change that of their process.
///
/// `Debug` prints names only: variables hold passwords.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, String>);

/// What the command line says, as text: its mistakes are reported together with those of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overrides {
    /// `--listen`, over the key `listen`.
    pub listen: Option<String>,
    /// `--admin-listen`, over the key `admin_listen`.
    pub admin_listen: Option<String>,
    /// `--store`, over the key `store.path`.
    pub store: Option<String>,
    /// `--max-size`, over the key `store.max_size`.
    pub max_size: Option<String>,
}

impl Environment {
    /// The variables of this process. What is not UTF-8 is kept with U+FFFD in place of the rest.
    pub(crate) fn of_process() -> Self {
        std::env::vars_os()
            .map(|(name, value)| {
                (
                    name.to_string_lossy().into_owned(),
                    value.to_string_lossy().into_owned(),
                )
            })
            .collect()
    }

    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Where the store is kept when nothing says so: systemd's `$STATE_DIRECTORY`, else the user's cache directory.
    pub(super) fn default_store(&self) -> Option<PathBuf> {
        // The XDG specification has relative paths ignored; for a daemon the same is right everywhere.
        let absolute = |path: &str| path.starts_with('/').then(|| PathBuf::from(path));
        let directory = |name: &str| self.get(name).and_then(absolute);

        // systemd.exec(5): several directories are separated by colons.
        let state = self
            .get("STATE_DIRECTORY")
            .and_then(|paths| paths.split(':').find_map(absolute));
        state
            .or_else(|| directory("XDG_CACHE_HOME").map(|cache| cache.join("pierglass")))
            .or_else(|| directory("HOME").map(|home| home.join(".cache/pierglass")))
    }

    /// Lays every `PIERGLASS_...` variable over what is written, and notes those that set nothing.
    pub(super) fn lay_over(&self, plain: &mut Section, mistakes: &mut Mistakes) {
        for (name, value) in self
            .0
            .iter()
            .filter(|(name, _)| name.starts_with(keys::PREFIX))
        {
            if name == CONFIG || is_service_link(name, value) {
                continue;
            }
            let place = Place::Variable(name.clone());
            match keys::ALL
                .iter()
                .find(|key| key.variable().as_deref() == Some(name))
            {
                Some(key) if value.contains(char::REPLACEMENT_CHARACTER) => {
                    mistakes.note(
                        place,
                        key.path.to_owned(),
                        Fault::new("is not UTF-8", "write it in UTF-8"),
                    );
                }
                Some(key) => plain.push(key, Value::Untyped(value.clone()), place),
                None => {
                    mistakes.note(place, None, unknown(name));
                }
            }
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Overrides {
    /// Lays the flags over what is written.
    pub(super) fn lay_over(&self, plain: &mut Section) {
        let flags: [(&Key, &str, &Option<String>); 4] = [
            (&keys::LISTEN, "--listen", &self.listen),
            (&keys::ADMIN_LISTEN, "--admin-listen", &self.admin_listen),
            (&keys::STORE_PATH, "--store", &self.store),
            (&keys::STORE_MAX_SIZE, "--max-size", &self.max_size),
        ];
        for (key, flag, value) in flags {
            if let Some(value) = value {
                plain.push(
                    key,
                    Value::Untyped(value.clone()),
                    Place::Flag(flag.to_owned()),
                );
            }
        }
    }
}

/// Says why a variable sets nothing. Its value is not repeated: it may be a password.
fn unknown(name: &str) -> Fault {
    if keys::is_planned_variable(name) {
        return Fault::new("is not supported yet by this version", "leave it out");
    }
    if name.starts_with("PIERGLASS_UPSTREAM") {
        return Fault::new(
            "is not a variable that exists",
            "upstreams are configured in the file alone",
        );
    }
    let known = keys::ALL
        .iter()
        .filter_map(Key::variable)
        .chain([CONFIG.to_owned()]);
    match keys::closest(name, known) {
        Some(close) => Fault::new(
            "is not a variable that exists",
            format!("did you mean {close}?"),
        ),
        None => Fault::new(
            "is not a variable that exists",
            "leave it out, or see the keys in config.example.toml",
        ),
    }
}

/// Whether Kubernetes set this variable: in the namespace of a Service called `pierglass`, or `pierglass-` something,
/// every container finds `PIERGLASS_PORT=tcp://10.0.0.7:5000`, `PIERGLASS_SERVICE_HOST` and more, unasked.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(name: &str, value: &str) -> bool {
    let transports = ["tcp", "udp", "sctp"];
    let address = |value: &str| {
        value
            .split_once("://")
            .is_some_and(|(scheme, _)| transports.contains(&scheme))
    };
    let port_of_one = || {
        name.rsplit('_')
            .any(|part| transports.contains(&part.to_lowercase().as_str()))
            && name.contains("_PORT_")
    };
    (name.ends_with("_PORT") && address(value))
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || port_of_one()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn the_store_is_where_the_system_wants_it() {
        let all = environment(&[
            ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
            ("XDG_CACHE_HOME", "/cache"),
            ("HOME", "/home/u"),
        ]);
        assert_eq!(all.default_store(), Some(PathBuf::from("/var/lib/a")));
        let user = environment(&[
            ("STATE_DIRECTORY", ""),
            ("XDG_CACHE_HOME", "/cache"),
            ("HOME", "/home/u"),
        ]);
        assert_eq!(
            user.default_store(),
            Some(PathBuf::from("/cache/pierglass"))
        );
        let home = environment(&[("XDG_CACHE_HOME", "relative"), ("HOME", "/home/u")]);
        assert_eq!(
            home.default_store(),
            Some(PathBuf::from("/home/u/.cache/pierglass"))
        );
        assert_eq!(environment(&[]).default_store(), None);
    }

    #[test]
    fn kubernetes_may_call_its_service_pierglass() {
        let links = [
            ("PIERGLASS_PORT", "tcp://10.0.0.7:5000"),
            ("PIERGLASS_PORT_5000_TCP", "tcp://10.0.0.7:5000"),
            ("PIERGLASS_PORT_5000_TCP_ADDR", "10.0.0.7"),
            ("PIERGLASS_SERVICE_HOST", "10.0.0.7"),
            ("PIERGLASS_SERVICE_PORT", "5000"),
            ("PIERGLASS_SERVICE_PORT_REGISTRY", "5000"),
            ("PIERGLASS_ADMIN_SERVICE_HOST", "10.0.0.8"),
        ];
        for (name, value) in links {
            assert!(is_service_link(name, value), "{name}");
        }
        assert!(!is_service_link("PIERGLASS_PORT", "5000"));
        assert!(!is_service_link("PIERGLASS_LISTEN", "127.0.0.1:5000"));
    }

    #[test]
    fn an_environment_prints_no_values() {
        assert_eq!(
            format!("{:?}", environment(&[("TOKEN", "hunter2")])),
            "{\"TOKEN\"}"
        );
    }
}
