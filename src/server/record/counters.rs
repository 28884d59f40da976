//! The counters of a request, found once: to look them up by their labels is to hash these, three times for each
//! request, under a lock that all requests share.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use prometheus::{Histogram, IntCounter};

use crate::access::action::Action;
use crate::metrics::Metrics;
use crate::mirror::Outcome;
use crate::oci::endpoint::Kind;
use crate::oci::name::Namespace;

/// The label for requests that chose no upstream.
const NO_UPSTREAM: &str = "none";
/// The label for requests that name no endpoint.
const NO_KIND: &str = "other";

/// How bytes went to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transmission {
    /// Through a buffer of this program.
    Copied,
    /// From the page cache to the socket, inside the kernel.
    Sendfile,
}

/// What is counted of all requests that have the same labels.
pub(super) struct Counters {
    pub(super) requests: IntCounter,
    /// Seconds until the header was ready.
    pub(super) duration: Histogram,
    pub(super) bytes: IntCounter,
}

/// Counters by label. Those of ordinary answers are kept.
pub(crate) struct CounterTable {
    metrics: Arc<Metrics>,
    copied: IntCounter,
    by_sendfile: IntCounter,
    ordinary: HashMap<Namespace, Ordinary>,
}

/// Of the answers 200 of one upstream.
type Ordinary = [[OnceLock<Arc<Counters>>; Outcome::COUNT]; Kind::COUNT];

impl CounterTable {
    pub(crate) fn new(metrics: &Arc<Metrics>, upstreams: impl Iterator<Item = Namespace>) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            copied: metrics.sent_bytes.with_label_values(&["copied"]),
            by_sendfile: metrics.sent_bytes.with_label_values(&["sendfile"]),
            ordinary: upstreams.map(|name| (name, Ordinary::default())).collect(),
        }
    }

    /// Bytes of bodies that went to clients this way.
    pub(super) fn sent(&self, way: Transmission) -> &IntCounter {
        match way {
            Transmission::Copied => &self.copied,
            Transmission::Sendfile => &self.by_sendfile,
        }
    }

    /// The counters of requests of one kind to one upstream that ended alike.
    pub(super) fn of(
        &self,
        action: Option<&Action>,
        outcome: Outcome,
        status: StatusCode,
    ) -> Arc<Counters> {
        let find = || Arc::new(self.find(action, outcome, status));
        let place = action
            .filter(|_| status == StatusCode::OK)
            .and_then(|action| {
                let table = self.ordinary.get(action.namespace.as_ref()?)?;
                table.get(action.kind as usize)?.get(outcome as usize)
            });
        place.map_or_else(find, |place| Arc::clone(place.get_or_init(find)))
    }

    fn find(&self, action: Option<&Action>, outcome: Outcome, status: StatusCode) -> Counters {
        let (upstream, kind, outcome) =
            (upstream_label(action), kind_label(action), outcome.as_str());
        let metrics = &self.metrics;
        Counters {
            requests: metrics.requests.with_label_values(&[
                upstream,
                kind,
                outcome,
                status.as_str(),
            ]),
            duration: metrics.request_duration.with_label_values(&[kind, outcome]),
            bytes: metrics
                .response_bytes
                .with_label_values(&[upstream, kind, outcome]),
        }
    }
}

/// The word for an upstream, or for none.
pub(super) fn upstream_label(action: Option<&Action>) -> &str {
    let upstream = action.and_then(|action| action.namespace.as_ref());
    upstream.map_or(NO_UPSTREAM, Namespace::as_str)
}

/// The word for an endpoint, or for none.
pub(super) fn kind_label(action: Option<&Action>) -> &'static str {
    action.map_or(NO_KIND, |action| action.kind.as_str())
}

#[cfg(test)]
mod tests {
    use crate::access::action::Verb;

    use super::*;

    fn count(counters: &Counters) {
        counters.requests.inc();
        counters.bytes.inc_by(10);
        counters.duration.observe(0.1);
    }

    #[test]
    fn what_is_counted_is_what_the_labels_say() {
        let metrics = Arc::new(Metrics::new().unwrap());
        let known: Namespace = "quay.io".parse().unwrap();
        let table = CounterTable::new(&metrics, [known.clone()].into_iter());
        let other: Namespace = "ghcr.io".parse().unwrap();
        let (manifest, hit) = (Kind::Manifest, Outcome::Hit);
        for (upstream, kind, outcome, status) in [
            (Some(&known), manifest, hit, StatusCode::OK),
            (Some(&known), manifest, hit, StatusCode::OK),
            (Some(&known), manifest, hit, StatusCode::NOT_MODIFIED),
            (Some(&known), Kind::Upload, Outcome::Error, StatusCode::OK),
            (Some(&other), manifest, hit, StatusCode::OK),
        ] {
            let action = Action {
                namespace: upstream.cloned(),
                ..Action::new(Verb::Pull, kind)
            };
            count(&table.of(Some(&action), outcome, status));
        }
        count(&table.of(None, Outcome::Error, StatusCode::NOT_FOUND));
        let requests = |labels: [&str; 4]| metrics.requests.with_label_values(&labels).get();
        assert_eq!(requests(["quay.io", "manifest", "hit", "200"]), 2);
        assert_eq!(requests(["quay.io", "manifest", "hit", "304"]), 1);
        assert_eq!(requests(["quay.io", "upload", "error", "200"]), 1);
        assert_eq!(requests(["ghcr.io", "manifest", "hit", "200"]), 1);
        assert_eq!(requests(["none", "other", "error", "404"]), 1);
        let bytes = metrics
            .response_bytes
            .with_label_values(&["quay.io", "manifest", "hit"]);
        assert_eq!(bytes.get(), 30);
        let times = metrics
            .request_duration
            .with_label_values(&["manifest", "hit"]);
        assert_eq!(times.get_sample_count(), 4);
    }
}
