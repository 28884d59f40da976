//! The configuration: from a file, the environment and the command line to the settings of each component.
//!
//! There are two configurations. The one as written (`written`) is a collection of values with their places. The one as
//! resolved ([`Config`]) consists of the components' own settings, and nothing in it is missing or wrong. Between them
//! every value is read, and all mistakes are collected, not the first one returned.
//!
//! Reading order: this file, `upstreams`, `credentials` and `freshness` (from values to settings), `lookup`, `keys`
//! (what can be configured), `file` and `environment` (where it is written), `written`, `value`, `url` and [`units`]
//! (what a value can be), `mistake`.
//!
//! It opens no socket and creates no file; it only checks that files that are named exist. It never prints a secret,
//! and every text that may be one is wiped from memory.

use std::path::{Path, PathBuf};

use crate::access::permits::PerClient;
use crate::secret::Secret;
use crate::server::connection::tls;
use crate::sites::Sites;
use crate::store::UpstreamShare;
use crate::upstream::{Login, Password};
use crate::{logging, memory, server, store};

mod credentials;
mod environment;
mod file;
mod freshness;
mod keys;
mod lookup;
mod mistake;
pub(crate) mod units;
mod upstreams;
mod url;
mod value;
mod written;

pub(crate) use environment::{Environment, Overrides};
pub(crate) use mistake::{Location, Mistakes};
pub(crate) use upstreams::UpstreamConfig;

use keys::KeySpec;
use lookup::Lookup;
use mistake::{Fault, Reported};
use written::Written;

/// The largest limit of a store. A larger one is a typing mistake, and sums of sizes must not overflow.
const MAX_STORE: u64 = 1 << 60;

const MAX_FREE: u64 = 1 << 50;

/// Half of this, which is what one upstream may take, holds a list of any length.
const MIN_BUFFERED: u64 = 64 << 20;
/// What permits can count.
const MAX_BUFFERED: u64 = 1 << 40;

/// The resolved configuration: the settings of every component, complete and checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// Addresses, limits and certificates of the mirror itself.
    pub server: server::Settings,
    pub store: store::Settings,
    /// What may be in memory.
    pub memory: memory::Settings,
    /// The registries in the order they were written; exactly one is the default.
    pub upstreams: Vec<UpstreamConfig>,
    pub log: logging::Settings,
    /// Whether the store's path is written somewhere, and no default.
    pub store_is_named: bool,
    /// Files that hold a secret, the configuration itself among them if a password is written there.
    pub secret_files: Vec<PathBuf>,
}

impl Config {
    /// Loads the configuration. What counts is, in this order: flag, environment, file, default.
    ///
    /// The file is `path`, or the one that `PIERGLASS_CONFIG` names; without either there is no file. The error has
    /// every mistake that can be found; if the file cannot be read, or is not TOML, only that.
    pub(crate) fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        environment: &Environment,
    ) -> Result<Self, Mistakes> {
        let named = environment.get(environment::CONFIG).map(Path::new);
        match path.or(named) {
            Some(path) => Self::parse(
                read_file(path)?.expose(),
                &path.display().to_string(),
                overrides,
                environment,
            ),
            None => Self::parse("", "", overrides, environment),
        }
    }

    /// Like [`Config::load`], with the text of the file; `origin` is what mistakes call the file.
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
        environment.lay_over(&mut written, &mut mistakes);
        overrides.lay_over(&mut written);

        match resolve(&mut written, environment, &mut mistakes) {
            Ok(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes.sorted()),
        }
    }

    /// The table of sites, with one of `each` behind the namespace of each upstream, in their order.
    pub(crate) fn sites<S>(&self, each: impl IntoIterator<Item = S>) -> Sites<S> {
        let namespace = |upstream: &UpstreamConfig| upstream.settings.namespace.clone();
        let sites = self.upstreams.iter().map(namespace).zip(each);
        let default = self.upstreams.iter().find(|upstream| upstream.default);
        Sites::new(sites, default.map(namespace))
    }
}

/// The text of the file. All of it is a secret, because a password may stand anywhere in it.
fn read_file(path: &Path) -> Result<Secret, Mistakes> {
    let text = std::fs::read_to_string(path).map(Secret::new);
    text.map_err(|error| {
        let mut mistakes = Mistakes::default();
        let location = Location::File {
            file: path.display().to_string(),
        };
        let fault = Fault::new(
            format!("cannot be read: {error}"),
            "name a configuration with --config or PIERGLASS_CONFIG, or none for the defaults",
        );
        mistakes.note(location, None, fault);
        mistakes
    })
}

/// Every section is resolved before any failure ends the function, here and below.
fn resolve(
    written: &mut Written,
    environment: &Environment,
    mistakes: &mut Mistakes,
) -> Result<Config, Reported> {
    let tls = tls(&mut Lookup::new(written.plain(keys::TLS), mistakes));
    let server = server(&mut Lookup::new(written.plain(keys::TOP), mistakes), tls);
    let memory = memory(&mut Lookup::new(written.plain(keys::TOP), mistakes));
    let store = store(
        &mut Lookup::new(written.plain(keys::STORE), mistakes),
        environment,
    );
    let log = log(&mut Lookup::new(written.plain(keys::LOG), mistakes));
    let freshness = &mut Lookup::new(written.plain(keys::FRESHNESS), mistakes);
    let common = freshness::resolve(freshness, None);
    let common = common.as_ref().ok();
    let upstreams = upstreams::resolve(&written.upstreams, common, environment, mistakes);
    let store_is_named = !written
        .plain(keys::STORE)
        .values(&keys::STORE_PATH)
        .is_empty();
    let (server, upstreams) = (server?, upstreams?);
    let mut store = store?;
    let shares = upstreams.iter().map(|upstream| UpstreamShare {
        namespace: upstream.settings.namespace.clone(),
        most: upstream.store_share.map(|share| share.of(store.max_size)),
    });
    store.shares = shares.collect();
    Ok(Config {
        store_is_named,
        secret_files: secret_files(written, &server, &upstreams),
        server,
        store,
        memory: memory?,
        upstreams,
        log: log?,
    })
}

fn secret_files(
    written: &Written,
    server: &server::Settings,
    upstreams: &[UpstreamConfig],
) -> Vec<PathBuf> {
    let sections = written.upstreams.iter();
    let sections = sections.flat_map(|one| std::iter::once(one).chain(&one.further_logins));
    let mut in_config = sections.flat_map(|section| section.values(&keys::PASSWORD));
    let in_config = in_config.find_map(|written| match &written.location {
        Location::Position { file, .. } => Some(PathBuf::from(file)),
        _ => None,
    });
    let key = server.tls.as_ref().map(|tls| &tls.key);
    let logins = upstreams.iter().flat_map(|it| &it.settings.logins);
    let passwords = logins.filter_map(|login| match login {
        Login::Password {
            password: Password::File(path),
            ..
        } => Some(path),
        _ => None,
    });
    let named = key.into_iter().chain(&server.admin_token_file);
    named.chain(passwords).cloned().chain(in_config).collect()
}

fn memory(lookup: &mut Lookup<'_>) -> Result<memory::Settings, Reported> {
    let buffered = lookup.required(&keys::MAX_BUFFERED, value::size(MIN_BUFFERED, MAX_BUFFERED));
    let manifest = lookup.required(&keys::MAX_MANIFEST, value::size(1, MIN_BUFFERED / 2));
    Ok(memory::Settings {
        buffered: buffered?,
        manifest: usize::try_from(manifest?).unwrap_or(usize::MAX),
    })
}

fn server(
    lookup: &mut Lookup<'_>,
    tls: Result<Option<tls::Settings>, Reported>,
) -> Result<server::Settings, Reported> {
    let listen = lookup.required(&keys::LISTEN, value::address);
    let admin_listen = lookup.required(&keys::ADMIN_LISTEN, value::address);
    let admin_socket = lookup.optional(&keys::ADMIN_SOCKET, value::path);
    let admin_token_file = lookup.optional(&keys::ADMIN_TOKEN_FILE, value::file);
    let allowed_hosts = lookup.required(&keys::ALLOWED_HOSTS, url::hosts);
    let allowed_origins = lookup.required(&keys::ALLOWED_ORIGINS, url::origins);
    let max_connections = lookup.required(&keys::MAX_CONNECTIONS, value::connections);
    let of_client = lookup.optional(&keys::MAX_CONNECTIONS_PER_CLIENT, value::limit);
    let max_requests = lookup.required(&keys::MAX_REQUESTS, value::connections);
    let requests = lookup.required(&keys::MAX_REQUESTS_PER_CLIENT, value::limit);
    let fills = lookup.required(&keys::MAX_FILLS_PER_CLIENT, value::limit);
    let misses = lookup.required(&keys::MAX_MISSES_PER_CLIENT, value::limit);
    let header_timeout = lookup.required(&keys::HEADER_TIMEOUT, value::timeout);
    let idle_timeout = lookup.required(&keys::IDLE_TIMEOUT, value::timeout);
    let drain_timeout = lookup.required(&keys::DRAIN_TIMEOUT, value::duration);

    let (listen, admin_listen) = (listen?, admin_listen?);
    let overlap = listen.ip() == admin_listen.ip()
        || listen.ip().is_unspecified()
        || admin_listen.ip().is_unspecified();
    // Port 0 is a different one each time.
    if overlap && listen.port() == admin_listen.port() && listen.port() != 0 {
        // Blame what was written, not a default.
        let (blamed, other) = match lookup.has(&keys::ADMIN_LISTEN) {
            true => ((&keys::ADMIN_LISTEN, admin_listen), ("listen", listen)),
            false => ((&keys::LISTEN, listen), ("admin_listen", admin_listen)),
        };
        let fault = Fault::new(
            format!("{} is taken by {}, {}", blamed.1, other.0, other.1),
            "write another port",
        );
        lookup.wrong(blamed.0, fault);
    }
    let max_connections = max_connections?;
    // One client alone can never take them all.
    let three_quarters = max_connections - max_connections / 4;
    let per_client = PerClient {
        connections: of_client?.unwrap_or(Some(three_quarters)),
        requests: requests?,
        fills: fills?,
        misses: misses?,
    };
    Ok(server::Settings {
        listen,
        admin_listen,
        admin_socket: admin_socket?,
        admin_token_file: admin_token_file?,
        allowed_hosts: allowed_hosts?,
        allowed_origins: allowed_origins?,
        max_connections,
        max_requests: max_requests?,
        per_client,
        header_timeout: header_timeout?,
        idle_timeout: idle_timeout?,
        drain_timeout: drain_timeout?,
        tls: tls?,
    })
}

/// A certificate and its key, or neither.
fn tls(lookup: &mut Lookup<'_>) -> Result<Option<tls::Settings>, Reported> {
    let certificate = lookup.optional(&keys::TLS_CERTIFICATE, value::file);
    let key = lookup.optional(&keys::TLS_KEY, value::file);
    let client_ca = lookup.optional(&keys::TLS_CLIENT_CA, value::file);

    let lone = |needed: &KeySpec| {
        Fault::new(
            format!(
                "is of no use without {}",
                keys::path(keys::TLS, needed.name)
            ),
            format!("add {}", needed.name),
        )
    };
    match (
        lookup.has(&keys::TLS_CERTIFICATE),
        lookup.has(&keys::TLS_KEY),
    ) {
        (true, false) => Err(lookup.wrong(&keys::TLS_CERTIFICATE, lone(&keys::TLS_KEY))),
        (false, true) => Err(lookup.wrong(&keys::TLS_KEY, lone(&keys::TLS_CERTIFICATE))),
        (false, false) if lookup.has(&keys::TLS_CLIENT_CA) => {
            Err(lookup.wrong(&keys::TLS_CLIENT_CA, lone(&keys::TLS_CERTIFICATE)))
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

fn store(lookup: &mut Lookup<'_>, environment: &Environment) -> Result<store::Settings, Reported> {
    let path = lookup.optional(&keys::STORE_PATH, value::path);
    let max_size = lookup.required(&keys::STORE_MAX_SIZE, value::size(1, MAX_STORE));
    let max_files = lookup.optional(&keys::STORE_MAX_FILES, value::files);
    let min_free = lookup.required(&keys::STORE_MIN_FREE, value::size(0, MAX_FREE));
    let scrub_rate = lookup.required(&keys::STORE_SCRUB_RATE, value::size(0, MAX_STORE));
    let scrub_every = lookup.required(&keys::STORE_SCRUB_EVERY, value::timeout);

    let path = path?
        .or_else(|| environment.default_store())
        .ok_or_else(|| {
            let fault = Fault::new(
                "is not set, and neither is HOME to derive it from",
                "write it, or start with --store DIR",
            );
            lookup.wrong(&keys::STORE_PATH, fault)
        });
    Ok(store::Settings {
        path: path?,
        max_size: max_size?,
        max_files: max_files?,
        min_free: min_free?,
        scrub_rate: scrub_rate?,
        scrub_every: scrub_every?,
        shares: Vec::new(),
    })
}

fn log(lookup: &mut Lookup<'_>) -> Result<logging::Settings, Reported> {
    let format = lookup.required(&keys::LOG_FORMAT, value::format);
    let level = lookup.required(&keys::LOG_LEVEL, value::level);
    Ok(logging::Settings {
        format: format?,
        level: level?,
    })
}

#[cfg(test)]
mod tests;
