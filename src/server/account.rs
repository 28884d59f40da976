//! Accounts: what a request cost, for the access log and the metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use crate::mirror::Outcome;

use super::share::Ticket;

/// Why a body broke off. Logged with its request; the client only sees the connection end.
pub type Broken = Box<dyn std::error::Error + Send + Sync>;

/// What a request cost, written to log and metrics when its response is gone.
///
/// Tied to the body's life and not to its end: hyper stops asking once all announced bytes are out, and a
/// client may leave at any moment.
pub struct Account {
    counter: prometheus::IntCounter,
    entry: Entry,
    /// The client's turn, which lasts as long as the response.
    _turn: Option<Arc<Ticket>>,
}

/// One line of the access log.
pub(super) struct Entry {
    pub(super) client: SocketAddr,
    pub(super) agent: Option<String>,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) upstream: String,
    pub(super) kind: &'static str,
    pub(super) outcome: Outcome,
    pub(super) status: StatusCode,
    pub(super) problem: Option<String>,
    pub(super) started: Instant,
    pub(super) header_ms: u64,
    pub(super) bytes: u64,
}

impl Account {
    /// Opens an account whose bytes are added to `counter`.
    pub(super) fn new(
        counter: prometheus::IntCounter,
        entry: Entry,
        turn: Option<Arc<Ticket>>,
    ) -> Self {
        Self {
            counter,
            entry,
            _turn: turn,
        }
    }

    /// Counts bytes on their way to the client.
    pub(super) fn sent(&mut self, bytes: u64) {
        self.entry.bytes += bytes;
        self.counter.inc_by(bytes);
    }

    /// Notes that the body broke off.
    pub(super) fn broke(&mut self, error: &Broken) {
        self.entry.problem = Some(format!("broke off: {error}"));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let entry = &self.entry;
        tracing::info!(
            client = %entry.client.ip(),
            method = %entry.method,
            path = entry.path,
            status = entry.status.as_u16(),
            upstream = entry.upstream,
            kind = entry.kind,
            outcome = entry.outcome.as_str(),
            bytes = entry.bytes,
            ms = entry.started.elapsed().as_millis() as u64,
            header_ms = entry.header_ms,
            agent = entry.agent,
            error = entry.problem,
            "request"
        );
    }
}
