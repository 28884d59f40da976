//! The table of keys: the one place that lists what can be configured.
//!
//! Unknown keys, environment variables, defaults and the test of `config.example.toml` all come from here; a new key is
//! one line here, one line in the function that resolves its section, and its entry in the example.

/// What is known of one key of the configuration.
#[derive(Debug)]
pub(super) struct KeySpec {
    /// What it is called within its table.
    pub(super) name: &'static str,
    /// The tables it may stand in.
    sections: &'static [&'static str],
    /// The value if it is not written.
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

/// The tables that exist once: the top of the file, and these.
pub(super) const TOP: &str = "";
pub(super) const STORE: &str = "store";
pub(super) const FRESHNESS: &str = "freshness";
pub(super) const TLS: &str = "tls";
pub(super) const LOG: &str = "log";

/// The table of each upstream, and of each further login of an upstream.
pub(super) const UPSTREAM: &str = "upstream.*";
pub(super) const MORE_CREDENTIALS: &str = "upstream.*.more_credentials";

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
    ($($sections:tt { $($key:ident: $name:literal $(= $default:literal)?, $about:literal;)* })*) => {
        $($(
            #[doc = $about]
            pub(super) const $key: KeySpec = KeySpec {
                name: $name,
                sections: &$sections,
                default: keys!(@default $($default)?),
                about: $about,
            };
        )*)*
        const ALL: &[KeySpec] = &[$($($key),*),*];
    };
}

keys! {
    [TOP] {
        LISTEN: "listen" = "127.0.0.1:5000", "Where clients find the registry API.";
        ADMIN_LISTEN: "admin_listen" = "127.0.0.1:5001",
            "Metrics, health and admin API.";
        ADMIN_SOCKET: "admin_socket",
            "A Unix socket for the admin API, for its owner and root alone; admin_listen is then without the API.";
        ADMIN_TOKEN_FILE: "admin_token_file",
            "A file with a token that the API on admin_listen asks for. Beyond loopback there is no API without one.";
        ALLOWED_HOSTS: "allowed_hosts" = "[]",
            "Names besides localhost that clients may use for a loopback address, or [\"*\"]; see docs/operations.md.";
        ALLOWED_ORIGINS: "allowed_origins" = "[]",
            "Web pages that may read what clients may, such as a registry UI, by scheme and host; see docs/operations.md.";
        MAX_CONNECTIONS: "max_connections" = "16000", "Connections of clients at a time; more of them wait.";
        MAX_CONNECTIONS_PER_CLIENT: "max_connections_per_client",
            "Of one address (IPv6: /64), or \"none\". Default: three quarters of max_connections.";
        MAX_REQUESTS: "max_requests" = "16000",
            "Requests answered at a time, of all clients; more of them are told to come back.";
        MAX_REQUESTS_PER_CLIENT: "max_requests_per_client" = "1000",
            "Requests of one address answered at a time, or \"none\"; more of them wait.";
        MAX_FILLS_PER_CLIENT: "max_fills_per_client" = "256",
            "Blob transfers from upstream that one address starts at a time, or \"none\".";
        MAX_BUFFERED: "max_buffered" = "128MiB",
            "Manifests and lists in memory at a time, remembered ones included; without room in 5 s the answer is 503.";
        MAX_MANIFEST: "max_manifest" = "4MiB",
            "The largest manifest that is taken from upstream; clients take no more than 4 MiB.";
        MAX_MISSES_PER_CLIENT: "max_misses_per_client" = "3000",
            "Questions to upstream that one address causes in a minute, or \"none\"; more of them are refused.";
        HEADER_TIMEOUT: "header_timeout" = "60s",
            "A client may take this long to send a request's header, or to stay idle between two.";
        IDLE_TIMEOUT: "idle_timeout" = "60s", "A client that takes no byte of its answer for this long is cut off.";
        DRAIN_TIMEOUT: "drain_timeout" = "30s", "How long pulls may go on after SIGTERM.";
    }
    [STORE] {
        STORE_PATH: "path", "Default: $STATE_DIRECTORY, else $XDG_CACHE_HOME/pierglass, else ~/.cache/pierglass.";
        STORE_MAX_SIZE: "max_size" = "50GiB", "All that is stored, ingests in progress included.";
        STORE_MAX_FILES: "max_files",
            "Files that are stored at most. Default: one for each 256 KiB of max_size, 10000 to 1000000.";
        STORE_MIN_FREE: "min_free" = "1GiB", "Keep at least this much of the disk free.";
        STORE_SCRUB_RATE: "scrub_rate" = "8MiB", "Bytes a second read again to find damage on disk; 0 turns that off.";
        STORE_SCRUB_EVERY: "scrub_every" = "7d", "How long a blob goes without being read again.";
    }
    [UPSTREAM] {
        UPSTREAM_DEFAULT: "default",
            "Repositories without a namespace go here. Default: docker.io, or the only upstream.";
        UPSTREAM_URL: "url", "Default: https:// and the namespace, except for docker.io. http:// only if written so.";
        UPSTREAM_PREFIX: "prefix",
            "Where its repositories are at that url, if not at the top: \"dockerhub\" asks for /v2/dockerhub/NAME.";
        UPSTREAM_ENDPOINTS: "endpoints" = "[]",
            "Asked in turn before url, anonymously, until one gives it: URLs, or tables of url and prefix.";
    }
    [UPSTREAM, MORE_CREDENTIALS] {
        USERNAME: "username", "User name at this registry. Default: anonymous.";
        PASSWORD: "password", "Password or token, or one of the two below.";
        PASSWORD_FILE: "password_file", "A file that holds the password and nothing else.";
        PASSWORD_ENV: "password_env", "The name of an environment variable that holds the password.";
    }
    [UPSTREAM] {
        UPSTREAM_STORE_SHARE: "store_share",
            "What it may keep of the store when others need room: \"30%\" of max_size, or a size. Default: all of it.";
        UPSTREAM_CA_FILE: "ca_file", "PEM certificates to trust besides those of the system.";
        UPSTREAM_REALMS: "realms" = "[]", "Further hosts that may be sent the credentials in exchange for a token.";
        UPSTREAM_REDIRECTS: "redirects" = "[]",
            "Hosts of this machine or its link (loopback, link-local, fd00::/8, 100.64.0.0/10) that it may redirect to.";
        UPSTREAM_PROXY: "proxy",
            "http://, https:// or socks5h://host:port, or \"none\". Default: HTTPS_PROXY, HTTP_PROXY and NO_PROXY.";
        UPSTREAM_CONNECT_TIMEOUT: "connect_timeout" = "5s", "How long a connection may take to be made, TLS included.";
        UPSTREAM_HEADER_TIMEOUT: "header_timeout" = "10s", "How long an answer may take to begin.";
        UPSTREAM_IDLE_TIMEOUT: "idle_timeout" = "30s",
            "An answer that brings no byte for this long, or next to nothing for four times as long, is given up and resumed.";
    }
    [FRESHNESS, UPSTREAM] {
        TAG_TTL: "tag_ttl" = "60s", "A tag is served this long without asking upstream.";
        MAX_STALE: "max_stale" = "30d",
            "Upstream unreachable or limiting: how old a tag, or its word that a blob is there, may be.";
        NEGATIVE_TTL: "negative_ttl" = "10s", "How long a 404 of upstream is cached.";
        STALE_AFTER: "stale_after" = "2s", "Upstream slow: after this long, what is stored is served, unless it is older than max_stale.";
        QUOTA_RESERVE: "quota_reserve" = "25%",
            "The last part of the pull quota, kept for what is not stored: moved tags are then served as they were.";
    }
    [TLS] {
        TLS_CERTIFICATE: "certificate", "PEM file with the certificate chain of the mirror, its own certificate first.";
        TLS_KEY: "key", "PEM file with the private key of that certificate.";
        TLS_CLIENT_CA: "client_ca", "PEM file; only clients with a certificate of these authorities are served.";
    }
    [LOG] {
        LOG_FORMAT: "format" = "auto", "\"text\", \"json\", or \"auto\": text on a terminal, JSON lines anywhere else.";
        LOG_LEVEL: "level" = "info", "error, warn, info, debug, trace; by module: \"info,pierglass::upstream=debug\".";
    }
}

/// Every key with each of the tables it may stand in.
pub(super) fn all() -> impl Iterator<Item = (&'static str, &'static KeySpec)> {
    let places = |key: &'static KeySpec| key.sections.iter().map(move |section| (*section, key));
    ALL.iter().flat_map(places)
}

/// The keys that a table may have.
pub(super) fn of(section: &str) -> impl Iterator<Item = &'static KeySpec> {
    ALL.iter()
        .filter(move |key| key.sections.contains(&section))
}

/// The key of this name in this table.
pub(super) fn find(section: &str, name: &str) -> Option<&'static KeySpec> {
    of(section).find(|key| key.name == name)
}

/// The table of this name, if it is one that exists once.
pub(super) fn section(name: &str) -> Option<&'static str> {
    [STORE, FRESHNESS, TLS, LOG]
        .into_iter()
        .find(|section| *section == name)
}

/// The first table where a key of this name may stand.
pub(super) fn section_of(name: &str) -> Option<&'static str> {
    let mut places = all();
    places.find_map(|(section, key)| (key.name == name).then_some(section))
}

/// The environment variables, with the key and the table that each sets. Upstreams have none: a namespace cannot be
/// spelt in a variable's name.
pub(super) fn variables() -> impl Iterator<Item = (String, &'static str, &'static KeySpec)> {
    let plain = all().filter(|(section, _)| !section.starts_with(UPSTREAM));
    plain.map(|(section, key)| (variable(&path(section, key.name)), section, key))
}

/// A name with its table in front: `store.max_size`.
pub(super) fn path(section: &str, name: &str) -> String {
    match section {
        TOP => name.to_owned(),
        section => format!("{section}.{name}"),
    }
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

/// The candidate that is most like `word`; none when all are too different.
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
        let variables: Vec<_> = variables().map(|(name, ..)| name).collect();
        for name in [
            "PIERGLASS_STORE_MAX_SIZE",
            "PIERGLASS_LISTEN",
            "PIERGLASS_FRESHNESS_TAG_TTL",
        ] {
            assert!(variables.contains(&name.to_owned()), "{name}");
        }
        assert!(!variables.iter().any(|name| name.contains("UPSTREAM")));
    }

    #[test]
    fn a_name_means_one_key_in_a_table() {
        let places: Vec<_> = all()
            .map(|(section, key)| path(section, key.name))
            .collect();
        let unique: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(unique.len(), places.len());
    }
}
