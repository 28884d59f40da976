//! What the tests of this folder hold the sources to.

/// What each top-level module may import, in the reading order of `src/lib.rs`. A new module needs a line here, and a
/// new arrow a good reason.
pub const ALLOWED: &[(&str, &[&str])] = &[
    (
        "cli",
        &[
            "api", "app", "config", "logging", "oci", "sites", "store", "upstream",
        ],
    ),
    ("fuzzing", &["upstream"]),
    // Wires everything together.
    (
        "app",
        &[
            "access", "config", "memory", "metrics", "mirror", "server", "sites", "store",
            "upstream",
        ],
    ),
    // Settings live with their component, so the configuration knows all components, and none of them knows it.
    (
        "config",
        &[
            "access", "logging", "memory", "mirror", "oci", "secret", "server", "sites", "store",
            "upstream",
        ],
    ),
    (
        "server",
        &[
            "access", "api", "headers", "memory", "metrics", "mirror", "oci", "secret", "sites",
            "store", "upstream",
        ],
    ),
    (
        "mirror",
        &[
            "access", "flight", "headers", "memory", "metrics", "oci", "sites", "store", "upstream",
        ],
    ),
    // These two never import each other.
    ("store", &["memory", "metrics", "oci"]),
    (
        "upstream",
        &[
            "flight", "headers", "memory", "metrics", "oci", "secret", "sites",
        ],
    ),
    ("sites", &["oci"]),
    ("access", &["oci"]),
    // Leaves: no other module.
    ("api", &[]),
    ("oci", &[]),
    ("headers", &[]),
    ("flight", &[]),
    ("memory", &[]),
    ("metrics", &[]),
    ("logging", &[]),
    ("secret", &[]),
];

/// The modules of each folder in reading order: a file uses only what stands after it. Calls of methods count, not only
/// imports. `mod` is the folder's own file; where it is not named it stands first. A new file needs a place here.
pub const INSIDE: &[(&str, &str)] = &[
    ("access", "rules caller permits misses action address"),
    ("app", "build prepare"),
    ("cli", "pins verify check serve target runtime exit flags"),
    (
        "config",
        "upstreams credentials freshness environment file lookup written url value keys mistake units",
    ),
    (
        "headers",
        "cache_status warning range challenge etag accept link mod multipart",
    ),
    (
        "mirror",
        "lists manifest blob children once site answer clock freshness",
    ),
    (
        "mirror/blob",
        "delivery proof opening reminder fill receive window passthrough ahead source wrong",
    ),
    ("mirror/lists", "catalog referrers search tags fetched"),
    ("mirror/manifest", "tag pointer digest"),
    (
        "oci",
        "image endpoint referrers tags manifest name digest error",
    ),
    ("oci/endpoint", "route path mod"),
    ("oci/manifest", "fields platform schema1 media_type error"),
    ("oci/name", "namespace text"),
    (
        "server",
        "admin connection registry browser origins body limits record",
    ),
    ("server/admin", "guard api unix_socket"),
    ("server/body", "by_file socket buffers sendfile"),
    ("server/connection", "timed_stream tls"),
    ("server/limits", "connections idle activity"),
    ("server/record", "counters"),
    (
        "server/registry",
        "service lists blob manifest page problem respond",
    ),
    ("sites", "budget hub"),
    ("store", "images check blobs records room disk hook key"),
    ("store/blobs", "ingest sample reader partial progress"),
    ("store/check", "scrub verify pace hash"),
    (
        "store/disk",
        "lock old_layout blocking health layout files xattrs",
    ),
    ("store/images", "pins offline pin_file trace"),
    (
        "store/records",
        "listings manifests tags catalog document unix_millis vouched vouch",
    ),
    (
        "store/room",
        "reserve scan mod index damage entries directories usage owners trash",
    ),
    (
        "upstream",
        "blobs probe lists manifests heads search asking settings login restraint wire error",
    ),
    (
        "upstream/asking",
        "failover client dialogue transport retry warnings redirect refusal request",
    ),
    (
        "upstream/login",
        "account authenticator token exchange wanted granted cache hold kinds credential password realm",
    ),
    (
        "upstream/restraint",
        "throttle breaker quota holds backoff circuit jitter",
    ),
    (
        "upstream/wire",
        "location http pool breaks pace coding failure connect resolve zone origin settings",
    ),
];

/// Further things that files must not name: where (a folder or file below `src`), except where, and what.
pub const FORBIDDEN: &[(&str, &[&str], &[&str])] = &[
    // The store knows no HTTP, and no network.
    (
        "store",
        &[],
        &["http::", "http_body", "hyper", "tokio::net", "std::net"],
    ),
    // Upstreams know no disk, except for secrets and certificates.
    (
        "upstream",
        &["upstream/login/password.rs", "upstream/wire/connect.rs"],
        &["std::fs", "tokio::fs", "File::open"],
    ),
    // Whether something is fresh is computed, with the time as an argument.
    (
        "mirror/freshness.rs",
        &[],
        &["SystemTime", "Instant", "std::fs", "tokio", "async "],
    ),
    // The mirror answers with values; HTTP towards clients is the server's. A delivery hands on a file that is open.
    (
        "mirror",
        &["mirror/blob/delivery.rs"],
        &["hyper", "http_body", "std::fs", "tokio::fs"],
    ),
    // What to send next, and from where, is the mirror's to decide.
    ("server/body", &[], &["crate::store", "crate::upstream"]),
    ("oci", &[], &["hyper", "tokio", "std::fs", "std::net::Tcp"]),
    ("headers", &[], &["hyper", "tokio", "std::fs"]),
    // Only the server knows hyper's server side.
    ("upstream", &[], &["hyper::server", "hyper_util::server"]),
    ("app", &[], &["hyper::server", "hyper_util::server"]),
];
