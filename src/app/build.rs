//! What the server may take of the system.

use std::sync::Arc;

use crate::access::permits::PerClient;
use crate::metrics::Metrics;
use crate::server;
use crate::server::connection::Limits;
use crate::server::limits::connections::ConnectionLimit;

/// Connections to the admin address at a time. They have a limit of their own: a flood of pulls must not
/// keep Prometheus out.
const ADMIN_CONNECTIONS: usize = 64;

/// Of one client, so that none can keep the others out.
const ADMIN_CONNECTIONS_PER_CLIENT: usize = 48;

fn limits(settings: &server::Settings, connections: Arc<ConnectionLimit>) -> Limits {
    Limits {
        header_timeout: settings.header_timeout,
        idle_timeout: settings.idle_timeout,
        connections,
    }
}

/// As many connections as configured, but never so many that no file could be opened any more.
pub(super) fn limits_for_clients(
    settings: &server::Settings,
    files: u64,
    metrics: &Metrics,
) -> Limits {
    let wanted = settings.max_connections;
    let possible = connections_within(files);
    if wanted > possible {
        // Rounded up, as `connections_within` rounds down.
        let needed = wanted.div_ceil(3) * 4;
        tracing::info!(
            max_connections = possible,
            open_files = files,
            "the limit on open files allows fewer connections than max_connections; for {wanted} raise it to {needed} (ulimit -n, LimitNOFILE=)"
        );
    }
    let connections = ConnectionLimit::new(
        wanted.min(possible),
        settings.max_requests,
        settings.per_client,
        metrics,
    );
    limits(settings, connections)
}

/// The rest is for blobs, upstreams and the store.
fn connections_within(files: u64) -> usize {
    usize::try_from(files / 4 * 3).unwrap_or(usize::MAX).max(1)
}

pub(super) fn limits_for_admin(settings: &server::Settings, metrics: &Metrics) -> Limits {
    let per_client = PerClient {
        connections: Some(ADMIN_CONNECTIONS_PER_CLIENT),
        ..PerClient::default()
    };
    let connections = ConnectionLimit::new(
        ADMIN_CONNECTIONS,
        settings.max_requests,
        per_client,
        metrics,
    );
    limits(settings, connections)
}

/// Every connection and every blob being served is a file descriptor; the usual soft limit is 1024.
/// Returns how many there may be.
pub(super) fn raise_file_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let before = limit.current;
    limit.current = limit.maximum;
    let now = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::debug!(%error, "cannot raise the limit on open files");
            before
        }
    };
    now.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_never_take_the_last_file() {
        assert_eq!(connections_within(0), 1);
        assert_eq!(connections_within(1024), 768);
        assert!(connections_within(u64::MAX) > 1 << 40);
    }
}
