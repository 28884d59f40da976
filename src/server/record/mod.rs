//! Accounts: what a request cost, for the access log and the metrics.

mod counters;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderValue, Method, StatusCode, Uri};

use crate::metrics::Metrics;
use crate::mirror::Outcome;
use crate::oci::endpoint::Kind;
use crate::oci::name::Namespace;

use crate::access::permits::Permit;

use counters::{Counters, kind_label, upstream_label};

pub(crate) use counters::CounterTable;

/// Why a body broke off. Logged with its request; the client only sees the connection end.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What a request cost, written to log and metrics when its response is gone.
///
/// Tied to the body's life and not to its end: hyper stops asking once all announced bytes are out, and a
/// client may leave at any moment.
pub(crate) struct RequestRecord {
    metrics: Arc<Metrics>,
    counters: Arc<Counters>,
    entry: Entry,
    bytes: AtomicU64,
    broke: OnceLock<String>,
    /// The client's turn, which lasts as long as the response.
    _turn: Option<Arc<Permit>>,
}

/// How bytes went to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Through memory of ours.
    Copied,
    /// From the page cache to the socket, inside the kernel.
    Sendfile,
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
    pub(crate) header_ms: u64,
}

impl RequestRecord {
    /// Opens an account whose bytes are added to `counters`.
    pub(crate) fn new(
        metrics: Arc<Metrics>,
        counters: Arc<Counters>,
        entry: Entry,
        turn: Option<Arc<Permit>>,
    ) -> Self {
        Self {
            metrics,
            counters,
            entry,
            bytes: AtomicU64::new(0),
            broke: OnceLock::new(),
            _turn: turn,
        }
    }

    /// Counts bytes on their way to the client.
    pub(crate) fn sent(&self, bytes: u64, way: Way) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.bytes.inc_by(bytes);
        match way {
            Way::Copied => self.metrics.bytes_copied.inc_by(bytes),
            Way::Sendfile => self.metrics.bytes_by_sendfile.inc_by(bytes),
        }
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
            header_ms = entry.header_ms,
            agent = entry.agent.as_ref().and_then(|agent| agent.to_str().ok()),
            error = problem,
            "request"
        );
    }
}
