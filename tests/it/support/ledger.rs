//! The ledger: every request a registry saw, and counts of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::fault::Kind;
use super::wire::{Request, find_header};

/// Which of a registry's listeners was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Registry,
    TokenServer,
    /// Where redirected blobs come from.
    BlobHost,
}

/// One request as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub place: Place,
    pub kind: Kind,
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub at: Instant,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    /// `Basic`, `Bearer` or nothing.
    pub fn authorization_scheme(&self) -> Option<&str> {
        self.header("authorization")
            .and_then(|value| value.split(' ').next())
    }

    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }
}

/// How often what was asked. Requests that were refused (401, 429, faults) count too: they were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub manifest_gets: u64,
    pub manifest_heads: u64,
    /// At the registry itself, redirected or not.
    pub blob_gets: u64,
    pub blob_heads: u64,
    /// At the host that blobs are redirected to.
    pub blob_host_gets: u64,
    pub blob_host_heads: u64,
    /// Asked of the token server, by GET or POST.
    pub token_gets: u64,
    pub pings: u64,
    pub tag_lists: u64,
    pub referrers: u64,
    pub searches: u64,
    pub others: u64,
    /// Body bytes of blobs, written to sockets.
    pub bytes_sent: u64,
}

impl Counts {
    /// Everything that was asked.
    pub fn requests(&self) -> u64 {
        self.manifest_gets
            + self.manifest_heads
            + self.blob_gets
            + self.blob_heads
            + self.blob_host_gets
            + self.blob_host_heads
            + self.token_gets
            + self.pings
            + self.tag_lists
            + self.referrers
            + self.searches
            + self.others
    }
}

/// Requests, and body bytes of blobs.
#[derive(Debug, Clone, Copy, Default)]
#[allow(dead_code, reason = "only tests/chaos runs for long")]
pub struct Traffic {
    pub requests: u64,
    pub bytes: u64,
}

/// All that was seen since the start or the last reset.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: Mutex<Vec<Seen>>,
    pub blob_bytes: Arc<AtomicU64>,
}

impl Ledger {
    pub fn note(&self, place: Place, kind: Kind, request: &Request) {
        self.seen.lock().unwrap().push(Seen {
            place,
            kind,
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.clone(),
            at: Instant::now(),
        });
    }

    pub fn reset(&self) {
        self.seen.lock().unwrap().clear();
        self.blob_bytes.store(0, Ordering::Relaxed);
    }

    /// Like [`Ledger::reset`]; bytes that are counted meanwhile are not lost.
    #[allow(dead_code, reason = "only tests/chaos runs for long")]
    pub fn take(&self) -> Traffic {
        let requests = std::mem::take(&mut *self.seen.lock().unwrap()).len() as u64;
        let bytes = self.blob_bytes.swap(0, Ordering::Relaxed);
        Traffic { requests, bytes }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            bytes_sent: self.blob_bytes.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for seen in self.seen.lock().unwrap().iter() {
            let head = seen.method == "HEAD";
            let count = match (seen.place, seen.kind) {
                (Place::TokenServer, _) => &mut counts.token_gets,
                (Place::BlobHost, _) if head => &mut counts.blob_host_heads,
                (Place::BlobHost, _) => &mut counts.blob_host_gets,
                (_, Kind::Manifest) if head => &mut counts.manifest_heads,
                (_, Kind::Manifest) => &mut counts.manifest_gets,
                (_, Kind::Blob | Kind::Redirect) if head => &mut counts.blob_heads,
                (_, Kind::Blob | Kind::Redirect) => &mut counts.blob_gets,
                (_, Kind::Ping) => &mut counts.pings,
                (_, Kind::Tags) => &mut counts.tag_lists,
                (_, Kind::Referrers) => &mut counts.referrers,
                (_, Kind::Search) => &mut counts.searches,
                (_, Kind::Token | Kind::Other) => &mut counts.others,
            };
            *count += 1;
        }
        counts
    }
}
