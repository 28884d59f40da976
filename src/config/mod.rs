//! The configuration: from a file, the environment and the command line to the settings of each component.
//!
//! There are two configurations. The one as written (`written.rs`) is a heap of values with their places. The one as
//! resolved ([`Config`]) is the product of the components' own settings, and nothing in it is missing or wrong. Between
//! them every value is read, and every mistake is collected rather than the first one returned.
//!
//! In reading order: `keys.rs` (what can be configured), `file.rs` and `environment.rs` (where it is written),
//! `value.rs`, `url.rs` and [`units`] (what a value can be), `reader.rs`, `upstreams.rs`, `credentials.rs`, `mistake.rs`.
//!
//! It opens no socket and creates no file; it looks only whether files that are named exist. It never prints a secret.

use std::path::Path;

use crate::access::permits::PerClient;
use crate::mirror::freshness::Policy;
use crate::server::connection::tls;
use crate::sites::Sites;
use crate::{logging, server, store, upstream};

mod credentials;
mod environment;
mod file;
mod keys;
mod lookup;
mod mistake;
pub(crate) mod units;
mod upstreams;
mod url;
mod value;
mod written;

pub(crate) use environment::{Environment, Overrides};
pub(crate) use mistake::{Mistakes, Place};

use lookup::Reader;
use mistake::{Fault, Reported};
use written::Written;

/// The largest limit of a store. What is larger is a typing mistake, and sums of sizes must not overflow.
const MAX_STORE: u64 = 1 << 60;

/// The most that can be asked to stay free.
const MAX_FREE: u64 = 1 << 50;

/// The resolved configuration: the settings of every component, complete and checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Addresses, limits and certificates of the mirror itself.
    pub server: server::Settings,
    /// Where content is kept, and how much of it.
    pub store: store::Settings,
    /// The registries in the order they were written; exactly one is the default.
    pub upstreams: Vec<UpstreamConfig>,
    /// How to log.
    pub log: logging::Settings,
}

/// One registry.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamConfig {
    /// How to reach it.
    pub settings: upstream::Settings,
    /// Whether requests without a namespace go here.
    pub default: bool,
    /// How long its answers are believed.
    pub policy: Policy,
}

impl Config {
    /// Loads the configuration. What counts is, in this order: flag, environment, file, default.
    ///
    /// The file is `path`, or the one that `PIERGLASS_CONFIG` names; without either there is no file.
    ///
    /// # Errors
    ///
    /// Every mistake that can be found, not the first alone. A file that cannot be read, or is not TOML, is all that is
    /// found.
    pub(crate) fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        environment: &Environment,
    ) -> Result<Self, Mistakes> {
        let named = environment.get(environment::CONFIG).map(Path::new);
        match path.or(named) {
            Some(path) => Self::parse(
                &read_file(path)?,
                &path.display().to_string(),
                overrides,
                environment,
            ),
            None => Self::parse("", "", overrides, environment),
        }
    }

    /// Like [`Config::load`], with the text of the file at hand; `origin` is what mistakes call the file.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub(crate) fn parse(
        text: &str,
        origin: &str,
        overrides: &Overrides,
        environment: &Environment,
    ) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let Ok(mut written) = file::read(text, origin, &mut mistakes) else {
            return Err(mistakes.sorted());
        };
        environment.lay_over(&mut written.plain, &mut mistakes);
        overrides.lay_over(&mut written.plain);

        match resolve(&written, environment, &mut mistakes) {
            Ok(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes.sorted()),
        }
    }

    /// The table of sites, with what `build` makes of each registry behind its namespace.
    pub(crate) fn sites<S, E>(
        &self,
        build: impl Fn(&UpstreamConfig) -> Result<S, E>,
    ) -> Result<Sites<S>, E> {
        let namespace = |upstream: &UpstreamConfig| upstream.settings.namespace.clone();
        let site = |upstream| Ok((namespace(upstream), build(upstream)?));
        let sites: Vec<_> = self.upstreams.iter().map(site).collect::<Result<_, E>>()?;
        let default = self.upstreams.iter().find(|upstream| upstream.default);
        Ok(Sites::new(sites, default.map(namespace)))
    }
}

fn read_file(path: &Path) -> Result<String, Mistakes> {
    std::fs::read_to_string(path).map_err(|error| {
        let mut mistakes = Mistakes::default();
        let place = Place::File {
            file: path.display().to_string(),
        };
        let fault = Fault::new(
            format!("cannot be read: {error}"),
            "name a configuration with --config or PIERGLASS_CONFIG, or none for the defaults",
        );
        mistakes.note(place, None, fault);
        mistakes
    })
}

/// Every section is resolved before any failure ends the function, here and below.
fn resolve(
    written: &Written,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<Config, Reported> {
    let plain = &mut Reader {
        section: &written.plain,
        mistakes,
    };
    let server = server(plain);
    let store = store(plain, environment);
    let log = log(plain);
    let policy = freshness(plain);
    let upstreams = upstreams::resolve(
        &written.upstreams,
        policy.as_ref().map_err(|reported| *reported),
        environment,
        mistakes,
    );
    Ok(Config {
        server: server?,
        store: store?,
        upstreams: upstreams?,
        log: log?,
    })
}

fn server(reader: &mut Reader<'_>) -> Result<server::Settings, Reported> {
    let listen = reader.required(&keys::LISTEN, value::address);
    let admin_listen = reader.required(&keys::ADMIN_LISTEN, value::address);
    let max_connections = reader.required(&keys::MAX_CONNECTIONS, value::connections);
    let of_client = reader.optional(&keys::MAX_CONNECTIONS_PER_CLIENT, value::limit);
    let requests = reader.required(&keys::MAX_REQUESTS_PER_CLIENT, value::limit);
    let fills = reader.required(&keys::MAX_FILLS_PER_CLIENT, value::limit);
    let header_timeout = reader.required(&keys::HEADER_TIMEOUT, value::timeout);
    let idle_timeout = reader.required(&keys::IDLE_TIMEOUT, value::timeout);
    let drain_timeout = reader.required(&keys::DRAIN_TIMEOUT, value::duration);
    let tls = tls(reader);

    let (listen, admin_listen) = (listen?, admin_listen?);
    let overlap = listen.ip() == admin_listen.ip()
        || listen.ip().is_unspecified()
        || admin_listen.ip().is_unspecified();
    // Port 0 is a different one each time.
    if overlap && listen.port() == admin_listen.port() && listen.port() != 0 {
        // Blame what was written, not a default.
        let (blamed, other) = match reader.has(&keys::ADMIN_LISTEN) {
            true => ((&keys::ADMIN_LISTEN, admin_listen), ("listen", listen)),
            false => ((&keys::LISTEN, listen), ("admin_listen", admin_listen)),
        };
        let fault = Fault::new(
            format!("{} is taken by {}, {}", blamed.1, other.0, other.1),
            "write another port",
        );
        reader.wrong(blamed.0, fault);
    }
    let max_connections = max_connections?;
    // Some are left for others whatever one client does.
    let three_quarters = max_connections - max_connections / 4;
    let per_client = PerClient {
        connections: of_client?.unwrap_or(Some(three_quarters)),
        requests: requests?,
        fills: fills?,
    };
    Ok(server::Settings {
        listen,
        admin_listen,
        max_connections,
        per_client,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        drain_timeout: drain_timeout?,
        tls: tls?,
    })
}

/// A certificate and its key, or neither.
fn tls(reader: &mut Reader<'_>) -> Result<Option<tls::Settings>, Reported> {
    let certificate = reader.optional(&keys::TLS_CERTIFICATE, value::file);
    let key = reader.optional(&keys::TLS_KEY, value::file);
    let client_ca = reader.optional(&keys::TLS_CLIENT_CA, value::file);

    let lone = |needed: &keys::Key| {
        Fault::new(
            format!("is of no use without {}", needed.path),
            format!("add {}", needed.name()),
        )
    };
    match (
        reader.has(&keys::TLS_CERTIFICATE),
        reader.has(&keys::TLS_KEY),
    ) {
        (true, false) => Err(reader.wrong(&keys::TLS_CERTIFICATE, lone(&keys::TLS_KEY))),
        (false, true) => Err(reader.wrong(&keys::TLS_KEY, lone(&keys::TLS_CERTIFICATE))),
        (false, false) if reader.has(&keys::TLS_CLIENT_CA) => {
            Err(reader.wrong(&keys::TLS_CLIENT_CA, lone(&keys::TLS_CERTIFICATE)))
        }
        _ => {
            let client_ca = client_ca?;
            Ok(certificate?
                .zip(key?)
                .map(|(certificate, key)| tls::Settings {
                    certificate,
                    key,
                    client_ca,
                }))
        }
    }
}

fn store(reader: &mut Reader<'_>, environment: &Environment) -> Result<store::Settings, Reported> {
    let path = reader.optional(&keys::STORE_PATH, value::path);
    let max_size = reader.required(&keys::STORE_MAX_SIZE, value::size(1, MAX_STORE));
    let min_free = reader.required(&keys::STORE_MIN_FREE, value::size(0, MAX_FREE));
    let scrub_rate = reader.required(&keys::STORE_SCRUB_RATE, value::size(0, MAX_STORE));
    let scrub_every = reader.required(&keys::STORE_SCRUB_EVERY, value::timeout);

    let path = path?
        .or_else(|| environment.default_store())
        .ok_or_else(|| {
            let fault = Fault::new(
                "is not set, and neither is HOME to derive it from",
                "write it, or start with --store DIR",
            );
            reader.wrong(&keys::STORE_PATH, fault)
        });
    Ok(store::Settings {
        path: path?,
        max_size: max_size?,
        min_free: min_free?,
        scrub_rate: scrub_rate?,
        scrub_every: scrub_every?,
    })
}

fn freshness(reader: &mut Reader<'_>) -> Result<Policy, Reported> {
    let tag_ttl = reader.required(&keys::FRESHNESS_TAG_TTL, value::duration);
    let max_stale = reader.required(&keys::FRESHNESS_MAX_STALE, value::duration);
    let negative_ttl = reader.required(&keys::FRESHNESS_NEGATIVE_TTL, value::duration);
    let stale_after = reader.required(&keys::FRESHNESS_STALE_AFTER, value::duration);
    let quota_reserve = reader.required(&keys::FRESHNESS_QUOTA_RESERVE, value::percent);
    Ok(Policy {
        tag_ttl: tag_ttl?,
        max_stale: max_stale?,
        negative_ttl: negative_ttl?,
        stale_after: stale_after?,
        quota_reserve: quota_reserve?,
    })
}

fn log(reader: &mut Reader<'_>) -> Result<logging::Settings, Reported> {
    let format = reader.required(&keys::LOG_FORMAT, value::format);
    let level = reader.required(&keys::LOG_LEVEL, value::level);
    Ok(logging::Settings {
        format: format?,
        level: level?,
    })
}

#[cfg(test)]
mod tests;
