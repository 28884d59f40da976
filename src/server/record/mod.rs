//! The record of a request: its line in the log, and what the metrics count of it.

mod counters;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri};

use crate::access::permits::Permit;
use crate::mirror::Outcome;
use crate::oci::endpoint::Kind;
use crate::oci::name::Namespace;

use counters::{Counters, kind_label, upstream_label};

pub(crate) use counters::{CounterTable, Way};

/// Why a body broke off. Logged with its request; the client only sees the connection end.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// One request. Counted at once, and logged when its response is gone.
///
/// Tied to the body's life and not to its end: hyper stops asking once all announced bytes are out, and a
/// client may leave at any moment.
pub(crate) struct RequestRecord {
    table: Arc<CounterTable>,
    counters: Arc<Counters>,
    entry: Entry,
    bytes: AtomicU64,
    broke: OnceLock<String>,
    /// The client's permit for this request, which lasts as long as the response.
    _permit: Option<Arc<Permit>>,
}

/// One line of the access log.
pub(crate) struct Entry {
    pub(crate) client: IpAddr,
    pub(crate) agent: Option<HeaderValue>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) upstream: Option<Namespace>,
    pub(crate) kind: Option<Kind>,
    pub(crate) outcome: Outcome,
    pub(crate) status: StatusCode,
    pub(crate) problem: Option<String>,
    pub(crate) started: Instant,
    /// Until the response's header was ready.
    pub(crate) header_after: Duration,
}

impl RequestRecord {
    /// Counts the request.
    pub(crate) fn new(
        table: &Arc<CounterTable>,
        entry: Entry,
        permit: Option<Arc<Permit>>,
    ) -> Self {
        let upstream = entry.upstream.as_ref();
        let counters = table.of(upstream, entry.kind, entry.outcome, entry.status);
        counters.requests.inc();
        counters.duration.observe(entry.header_after.as_secs_f64());
        Self {
            table: Arc::clone(table),
            counters,
            entry,
            bytes: AtomicU64::new(0),
            broke: OnceLock::new(),
            _permit: permit,
        }
    }

    /// Counts bytes on their way to the client.
    pub(crate) fn sent(&self, bytes: u64, way: Way) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.bytes.inc_by(bytes);
        self.table.sent(way).inc_by(bytes);
    }

    /// Notes that the body broke off.
    pub(crate) fn broke(&self, error: &Broken) {
        // The first thing that went wrong is the one to know.
        let _ = self.broke.set(format!("broke off: {error}"));
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let entry = &self.entry;
        let problem = self.broke.get().or(entry.problem.as_ref());
        tracing::info!(
            client = %entry.client,
            method = %entry.method,
            path = entry.uri.path(),
            status = entry.status.as_u16(),
            upstream = upstream_label(entry.upstream.as_ref()),
            kind = kind_label(entry.kind),
            outcome = entry.outcome.as_str(),
            bytes = self.bytes.load(Ordering::Relaxed),
            ms = entry.started.elapsed().as_millis() as u64,
            header_ms = entry.header_after.as_millis() as u64,
            agent = entry.agent.as_ref().and_then(|agent| agent.to_str().ok()),
            error = problem,
            "request"
        );
    }
}
