//! What the environment and the command line say.
//!
//! Both give plain text without types or positions, and both are laid over what the file says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::keys::{self, KeySpec};
use super::mistake::{Fault, Location, Mistakes};
use super::value::Value;
use super::written::Written;
use crate::secret::Secret;

/// The variable that names the configuration file.
pub(super) const CONFIG: &str = "PIERGLASS_CONFIG";

/// The environment as a value, so that tests do not change that of their process.
///
/// Any variable may hold a password, so all values are secrets, and `Debug` prints names only.
#[derive(Clone, Default)]
pub(crate) struct Environment(BTreeMap<String, Secret>);

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
        let lossy = |raw: OsString| raw.to_string_lossy().into_owned();
        // Taken where it can be, not copied: it may be a password.
        let text = |raw: OsString| raw.into_string().unwrap_or_else(lossy);
        std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.secret(name).map(Secret::expose)
    }

    /// The value of a variable that holds a secret.
    pub(super) fn secret(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
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
    pub(super) fn lay_over(&self, written: &mut Written, mistakes: &mut Mistakes) {
        for (name, value) in &self.0 {
            if !name.starts_with(keys::PREFIX)
                || name == CONFIG
                || is_service_link(name, value.expose())
            {
                continue;
            }
            let location = Location::Variable(name.clone());
            match keys::variables().find(|(variable, ..)| variable == name) {
                Some((_, section, key)) if value.expose().contains(char::REPLACEMENT_CHARACTER) => {
                    let fault = Fault::new("is not UTF-8", "write it in UTF-8");
                    mistakes.note(location, keys::path(section, key.name), fault);
                }
                Some((_, section, key)) => {
                    let value = Value::Untyped(value.clone());
                    written.plain(section).push(key, value, location);
                }
                None => {
                    mistakes.note(location, None, unknown(name));
                }
            }
        }
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        let secret = |(name, value)| (name, Secret::new(value));
        Self(variables.into_iter().map(secret).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Overrides {
    /// Lays the flags over what is written.
    pub(super) fn lay_over(&self, written: &mut Written) {
        let flags: [(&'static str, &KeySpec, &str, &Option<String>); 4] = [
            (keys::TOP, &keys::LISTEN, "--listen", &self.listen),
            (
                keys::TOP,
                &keys::ADMIN_LISTEN,
                "--admin-listen",
                &self.admin_listen,
            ),
            (keys::STORE, &keys::STORE_PATH, "--store", &self.store),
            (
                keys::STORE,
                &keys::STORE_MAX_SIZE,
                "--max-size",
                &self.max_size,
            ),
        ];
        for (section, key, flag, value) in flags {
            if let Some(value) = value {
                let value = Value::Untyped(Secret::new(value.clone()));
                let location = Location::Flag(flag.to_owned());
                written.plain(section).push(key, value, location);
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
    let known = keys::variables().map(|(variable, ..)| variable);
    let known = known.chain([CONFIG.to_owned()]);
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
/// every container has `PIERGLASS_PORT=tcp://10.0.0.7:5000`, `PIERGLASS_SERVICE_HOST` and more.
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
