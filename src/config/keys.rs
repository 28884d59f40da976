//! The table of keys: the one place that lists what can be configured.
//!
//! Unknown keys, environment variables, defaults and the test of `config.example.toml` all come from here; a new key is
//! one line here, one line in the function that resolves its section, and its entry in the example.

/// A key that can be configured.
#[derive(Debug)]
pub(super) struct Key {
    /// Where it stands in the file: `store.max_size`; `upstream.*.url` for a key that each upstream has.
    pub(super) path: &'static str,
    /// What is meant when it is not written.
    pub(super) default: Option<&'static str>,
    /// What it is for. The example file says it in the same words.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "read by people, and by the test of the example file"
        )
    )]
    pub(super) about: &'static str,
}

/// The section of the keys that each upstream has.
pub(super) const UPSTREAM: &str = "upstream.*";

/// The section of the keys that each further identity of an upstream has.
pub(super) const MORE: &str = "upstream.*.more_credentials";

/// What every environment variable of this program begins with.
pub(super) const PREFIX: &str = "PIERGLASS_";

/// Keys of the documented configuration that later versions will know. A section stands for all of its keys.
const NOT_YET: &[&str] = &[
    "access",
    "upstream.*.docker_config",
    "upstream.*.credential_helper",
    "upstream.*.repositories",
    "upstream.*.client_certificate",
    "upstream.*.client_key",
    "upstream.*.ip",
];

macro_rules! keys {
    (@default) => { None };
    (@default $default:literal) => { Some($default) };
    ($($name:ident: $path:literal $(= $default:literal)?, $about:literal;)*) => {
        $(
            #[doc = $about]
            pub(super) const $name: Key = Key { path: $path, default: keys!(@default $($default)?), about: $about };
        )*
        /// Every key.
        pub(super) const ALL: &[Key] = &[$($name),*];
    };
}

keys! {
    LISTEN: "listen" = "127.0.0.1:5000", "Where clients find the registry API.";
    ADMIN_LISTEN: "admin_listen" = "127.0.0.1:5001", "Metrics, health, dashboard and admin API; whoever reaches it may do all.";
    MAX_CONNECTIONS: "max_connections" = "16000", "Connections of clients at a time; more of them wait.";
    MAX_CONNECTIONS_PER_CLIENT: "max_connections_per_client", "Of one address (IPv6: /64), or \"none\". Default: three quarters of max_connections.";
    MAX_REQUESTS_PER_CLIENT: "max_requests_per_client" = "1000", "Requests of one address answered at a time, or \"none\"; more of them wait.";
    MAX_FILLS_PER_CLIENT: "max_fills_per_client" = "256", "Blob transfers from upstream that one address starts at a time, or \"none\".";
    HEADER_TIMEOUT: "header_timeout" = "60s", "A client may take this long to send a request's header, or to stay idle between two.";
    IDLE_TIMEOUT: "idle_timeout" = "60s", "A client that takes no byte of its answer for this long is cut off.";
    DRAIN_TIMEOUT: "drain_timeout" = "30s", "How long pulls may go on after SIGTERM.";

    STORE_PATH: "store.path", "Default: $STATE_DIRECTORY, else $XDG_CACHE_HOME/pierglass, else ~/.cache/pierglass.";
    STORE_MAX_SIZE: "store.max_size" = "50GiB", "All that is stored, ingests in progress included.";
    STORE_MIN_FREE: "store.min_free" = "1GiB", "Of the file system, always left alone.";
    STORE_SCRUB_RATE: "store.scrub_rate" = "8MiB", "Bytes a second read again to find damage on disk; 0 turns that off.";
    STORE_SCRUB_EVERY: "store.scrub_every" = "7d", "How long a blob goes without being read again.";

    FRESHNESS_TAG_TTL: "freshness.tag_ttl" = "60s", "A tag is served this long without asking upstream.";
    FRESHNESS_MAX_STALE: "freshness.max_stale" = "30d", "Upstream unreachable or limiting: how old a tag may be served.";
    FRESHNESS_NEGATIVE_TTL: "freshness.negative_ttl" = "10s", "How long \"not there\" is believed.";
    FRESHNESS_STALE_AFTER: "freshness.stale_after" = "2s", "Upstream slow: after this long, what is stored is served, however old.";
    FRESHNESS_QUOTA_RESERVE: "freshness.quota_reserve" = "25%", "The last part of the pull quota, kept for what is not stored: moved tags are then served as they were.";

    UPSTREAM_DEFAULT: "upstream.*.default", "Repositories without a namespace go here. Default: docker.io, or the only upstream.";
    UPSTREAM_URL: "upstream.*.url", "Default: https:// and the namespace, except for docker.io. http:// only if written so.";
    UPSTREAM_ENDPOINTS: "upstream.*.endpoints" = "[]", "URLs asked before url, in this order and anonymously; what they do not give is asked of the next.";
    UPSTREAM_USERNAME: "upstream.*.username", "Who to be at this registry. Default: anonymous.";
    UPSTREAM_PASSWORD: "upstream.*.password", "Password or token, or one of the two below.";
    UPSTREAM_PASSWORD_FILE: "upstream.*.password_file", "A file that holds the password and nothing else.";
    UPSTREAM_PASSWORD_ENV: "upstream.*.password_env", "The name of an environment variable that holds the password.";
    UPSTREAM_CA_FILE: "upstream.*.ca_file", "PEM certificates to trust besides those of the system.";
    UPSTREAM_REALMS: "upstream.*.realms" = "[]", "Further hosts that may be sent the credentials in exchange for a token.";
    UPSTREAM_PROXY: "upstream.*.proxy", "\"http://host:port\", or \"none\". Default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.";
    UPSTREAM_CONNECT_TIMEOUT: "upstream.*.connect_timeout" = "5s", "How long a connection may take to be made, TLS included.";
    UPSTREAM_HEADER_TIMEOUT: "upstream.*.header_timeout" = "10s", "How long an answer may take to begin.";
    UPSTREAM_IDLE_TIMEOUT: "upstream.*.idle_timeout" = "30s", "An answer that brings no byte for this long is given up and resumed.";
    UPSTREAM_TAG_TTL: "upstream.*.tag_ttl", "The same as under freshness, for this upstream alone.";
    UPSTREAM_MAX_STALE: "upstream.*.max_stale", "The same as under freshness, for this upstream alone.";
    UPSTREAM_NEGATIVE_TTL: "upstream.*.negative_ttl", "The same as under freshness, for this upstream alone.";
    UPSTREAM_STALE_AFTER: "upstream.*.stale_after", "The same as under freshness, for this upstream alone.";
    UPSTREAM_QUOTA_RESERVE: "upstream.*.quota_reserve", "The same as under freshness, for this upstream alone.";

    MORE_USERNAME: "upstream.*.more_credentials.username", "Who takes over when the one before is limited or refused.";
    MORE_PASSWORD: "upstream.*.more_credentials.password", "As above, for this one.";
    MORE_PASSWORD_FILE: "upstream.*.more_credentials.password_file", "As above, for this one.";
    MORE_PASSWORD_ENV: "upstream.*.more_credentials.password_env", "As above, for this one.";

    TLS_CERTIFICATE: "tls.certificate", "PEM file with the certificate chain of the mirror, its own certificate first.";
    TLS_KEY: "tls.key", "PEM file with the private key of that certificate.";
    TLS_CLIENT_CA: "tls.client_ca", "PEM file; only clients with a certificate of these authorities are served.";

    LOG_FORMAT: "log.format" = "auto", "\"text\", \"json\", or \"auto\": text on a terminal, JSON lines anywhere else.";
    LOG_LEVEL: "log.level" = "info", "error, warn, info, debug, trace; by module: \"info,pierglass::upstream=debug\".";
}

impl Key {
    /// The table it stands in; empty for the top of the file.
    pub(super) fn section(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }

    /// What it is called within its table.
    pub(super) fn name(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or(self.path, |(_, name)| name)
    }

    /// The environment variable that sets it. Upstreams have none: a namespace cannot be spelt in a variable's name.
    pub(super) fn variable(&self) -> Option<String> {
        (!self.path.starts_with(UPSTREAM)).then(|| variable(self.path))
    }
}

/// The key of this name in this section.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Key> {
    ALL.iter()
        .find(|key| key.section() == section && key.name() == name)
}

/// Whether a table of this name can stand in the file.
pub(super) fn is_section(name: &str) -> bool {
    !name.is_empty() && ALL.iter().any(|key| key.section() == name)
}

/// Whether a key is documented but not built yet.
pub(super) fn is_planned(path: &str) -> bool {
    NOT_YET.contains(&path)
}

/// Whether a variable would set a key that is documented but not built yet.
pub(super) fn is_planned_variable(name: &str) -> bool {
    let planned = NOT_YET.iter().filter(|path| !path.starts_with(UPSTREAM));
    planned.map(|path| variable(path)).any(|start| {
        name.strip_prefix(&start)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    })
}

/// The candidate that `word` was most likely meant to be; none when all are far away.
pub(super) fn closest<T: AsRef<str>>(
    word: &str,
    candidates: impl IntoIterator<Item = T>,
) -> Option<T> {
    let scored = candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate.as_ref()), candidate));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= word.chars().count().div_ceil(3)).then_some(best)
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "_").to_uppercase())
}

/// Levenshtein's distance: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let above = *cell;
            *cell = (diagonal + usize::from(x != y))
                .min(above + 1)
                .min(left + 1);
            (diagonal, left) = (above, *cell);
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_key() {
        assert_eq!(
            closest("max_sise", ["path", "max_size", "min_free"]),
            Some("max_size")
        );
        assert_eq!(
            closest("maxsize", ["path", "max_size", "min_free"]),
            Some("max_size")
        );
        assert_eq!(closest("colour", ["path", "max_size", "min_free"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }

    #[test]
    fn variables_follow_from_paths() {
        assert_eq!(
            STORE_MAX_SIZE.variable().as_deref(),
            Some("PIERGLASS_STORE_MAX_SIZE")
        );
        assert_eq!(LISTEN.variable().as_deref(), Some("PIERGLASS_LISTEN"));
        assert_eq!(UPSTREAM_URL.variable(), None);
    }
}
