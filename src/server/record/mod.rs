//! The record of a request: its line in the log, and what the metrics count of it.
//!
//! It decides nothing and changes no answer. Reading order: this file, `counters` (the metrics of requests, found
//! once).

mod counters;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, StatusCode, Uri};

use crate::access::action::Action;
use crate::access::caller::Caller;
use crate::access::permits::Permit;
use crate::mirror::Outcome;

use counters::{Counters, kind_label, upstream_label};

pub(crate) use counters::{CounterTable, Transmission};

/// Why a body broke off. Logged with its request; the client only sees the connection end.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Of a text that others chose, the log has this many bytes at most.
const LONGEST: usize = 512;

/// A text as the log has it: one that is too long is cut, with a mark.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return Cow::Borrowed(text);
    }
    let end = text.floor_char_boundary(LONGEST);
    Cow::Owned(format!("{}... ({} bytes)", &text[..end], text.len()))
}

/// One request. Counted at once, and logged when its response is gone.
///
/// Tied to the body's life and not to its end: hyper stops asking once all announced bytes are out, and a
/// client may leave at any moment.
pub(crate) struct RequestRecord {
    table: Arc<CounterTable>,
    counters: Arc<Counters>,
    entry: Entry,
    status: StatusCode,
    /// Until the response's header was ready.
    header_after: Duration,
    bytes: AtomicU64,
    broke: OnceLock<String>,
}

/// What is known of a request; filled in while it is answered.
pub(crate) struct Entry {
    started: Instant,
    client: IpAddr,
    agent: Option<HeaderValue>,
    method: Method,
    uri: Uri,
    /// `None` while the request has not been understood.
    pub(crate) action: Option<Action>,
    pub(crate) outcome: Outcome,
    pub(crate) problem: Option<String>,
    /// The client's permit for this request, which lasts as long as the response.
    pub(crate) permit: Option<Arc<Permit>>,
}

impl Entry {
    pub(crate) fn new<B>(request: &Request<B>, caller: &Caller) -> Self {
        Self {
            started: Instant::now(),
            client: caller.address(),
            agent: request.headers().get(USER_AGENT).cloned(),
            method: request.method().clone(),
            uri: request.uri().clone(),
            action: None,
            outcome: Outcome::Error,
            problem: None,
            permit: None,
        }
    }
}

impl RequestRecord {
    /// Counts the request.
    pub(crate) fn new(table: &Arc<CounterTable>, entry: Entry, status: StatusCode) -> Self {
        let header_after = entry.started.elapsed();
        let counters = table.of(entry.action.as_ref(), entry.outcome, status);
        counters.requests.inc();
        counters.duration.observe(header_after.as_secs_f64());
        Self {
            table: Arc::clone(table),
            counters,
            entry,
            status,
            header_after,
            bytes: AtomicU64::new(0),
            broke: OnceLock::new(),
        }
    }

    /// Counts bytes on their way to the client.
    pub(crate) fn sent(&self, bytes: u64, way: Transmission) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.counters.bytes.inc_by(bytes);
        self.table.sent(way).inc_by(bytes);
    }

    /// Notes that the body broke off.
    pub(crate) fn broke(&self, error: &BodyError) {
        // The first thing that went wrong is the one to know.
        let _ = self.broke.set(format!("broke off: {error}"));
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let entry = &self.entry;
        let problem = self.broke.get().or(entry.problem.as_ref());
        let agent = entry.agent.as_ref().and_then(|agent| agent.to_str().ok());
        tracing::info!(
            client = %entry.client,
            method = %entry.method,
            path = &*cut(entry.uri.path()),
            status = self.status.as_u16(),
            upstream = upstream_label(entry.action.as_ref()),
            kind = kind_label(entry.action.as_ref()),
            outcome = entry.outcome.as_str(),
            bytes = self.bytes.load(Ordering::Relaxed),
            ms = entry.started.elapsed().as_millis() as u64,
            header_ms = self.header_after.as_millis() as u64,
            agent = agent.map(cut).as_deref(),
            error = problem.map(|problem| cut(problem)).as_deref(),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_short_is_neither_changed_nor_copied() {
        assert!(matches!(cut("/v2/"), Cow::Borrowed("/v2/")));
        assert!(matches!(cut(&"a".repeat(LONGEST)), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn what_is_long_is_cut_with_a_mark(text in "\\PC{300,2000}") {
            let short = cut(&text);
            prop_assert!(short.len() <= LONGEST + 30);
            prop_assert_eq!(text.len() > LONGEST, short.ends_with(" bytes)") && *short != *text);
        }
    }
}
