//! The metrics of the program, by the names of the public contract. A new metric is one line in the table below and a
//! row in `docs/operations.md`.
//!
//! One value of [`Metrics`] is built at start and shared; there is no global registry. Label values come from
//! configuration and from closed sets of words, never from what a client wrote.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds to the first byte: from a page-cache hit to a slow upstream.
const FIRST_BYTE_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// One metric as the public contract has it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in Prometheus.
    pub name: &'static str,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

/// Makes [`Metrics`] and [`TABLE`] from a line for each metric: its field, kind, name, labels and help.
macro_rules! metrics {
    ($($field:ident: $kind:ident = $name:literal, [$($label:ident),*], $help:literal;)*) => {
        /// Every metric this program exports, except those of the process, which are collected when scraped.
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $kind,)*
        }

        /// What [`Metrics`] holds. `docs/operations.md` says how to read each.
        pub const TABLE: &[Metric] = &[
            $(Metric { name: $name, labels: &[$(stringify!($label)),*] },)*
        ];

        impl Metrics {
            fn registered(registry: Registry) -> Result<Self, prometheus::Error> {
                Ok(Self {
                    $($field: register(&registry, $name, $help, &[$(stringify!($label)),*])?,)*
                    registry,
                })
            }
        }
    };
}

metrics! {
    requests: IntCounterVec = "pierglass_requests_total", [upstream, kind, outcome, status],
        "Requests answered to clients.";
    response_bytes: IntCounterVec = "pierglass_response_bytes_total", [upstream, kind, outcome],
        "Body bytes sent to clients.";
    sent_bytes: IntCounterVec = "pierglass_sent_bytes_total", [way],
        "Body bytes sent to clients, by how: with sendfile, or copied.";
    request_duration: HistogramVec = "pierglass_request_duration_seconds", [kind, outcome],
        "Time until the response header was ready, in seconds.";
    upstream_requests: IntCounterVec = "pierglass_upstream_requests_total", [upstream, kind, method, status],
        "Requests made of upstream registries; status is a code, or the word for what went wrong.";
    upstream_bytes: IntCounterVec = "pierglass_upstream_bytes_total", [upstream],
        "Body bytes received from upstream registries.";
    upstream_request_duration: HistogramVec = "pierglass_upstream_request_duration_seconds", [upstream, kind],
        "Time until upstream's response header, in seconds.";
    ratelimit_limit: GaugeVec = "pierglass_upstream_ratelimit_limit", [upstream],
        "Pulls that upstream allows per window.";
    ratelimit_remaining: GaugeVec = "pierglass_upstream_ratelimit_remaining", [upstream],
        "Pulls that upstream says are left in the window.";
    upstream_up: IntGaugeVec = "pierglass_upstream_up", [upstream],
        "1 while the last contact with the upstream worked, 0 after one that failed.";
    circuit_state: IntGaugeVec = "pierglass_upstream_circuit_state", [upstream, endpoint],
        "Whether an origin is left alone because it kept failing: 0 no, 1 it is being tried, 2 yes.";
    circuit_openings: IntCounterVec = "pierglass_upstream_circuit_openings_total", [upstream, endpoint],
        "How often an origin began to be left alone because it kept failing.";
    repository_circuit_openings: IntCounterVec = "pierglass_upstream_repository_circuit_openings_total", [upstream],
        "How often a repository began to be left alone because questions about it kept failing.";
    rate_limits: IntCounterVec = "pierglass_upstream_rate_limits_total", [upstream, kind],
        "Answers of upstream that it limits us; kind is quota (pulls) or abuse (requests).";
    held_until: GaugeVec = "pierglass_upstream_held_until_timestamp_seconds", [upstream, kind],
        "Until when upstream is not asked because it limited us, in Unix time.";
    token_exchanges: IntCounterVec = "pierglass_token_exchanges_total", [upstream, result],
        "Token requests made of upstreams' realms.";
    fills_in_flight: IntGaugeVec = "pierglass_fills_in_flight", [upstream],
        "Blob transfers from upstream under way.";
    fill_resumes: IntCounterVec = "pierglass_fill_resumes_total", [upstream],
        "Blob transfers that broke off and went on at that place.";
    store_bytes: Gauge = "pierglass_store_bytes", [],
        "Bytes the store accounts for, ingests in progress included.";
    store_capacity: Gauge = "pierglass_store_capacity_bytes", [],
        "Configured limit of the store in bytes.";
    store_blobs: IntGauge = "pierglass_store_blobs", [],
        "Blobs stored.";
    store_share_bytes: GaugeVec = "pierglass_store_share_bytes", [share],
        "Bytes by what they are spent on.";
    store_upstream_bytes: GaugeVec = "pierglass_store_upstream_bytes", [upstream],
        "Bytes by the upstream that they came from first, without directories.";
    store_files: IntGaugeVec = "pierglass_store_files", [share],
        "Files and directories of the store by what they hold.";
    evicted_bytes: IntCounter = "pierglass_store_evicted_bytes_total", [],
        "Bytes removed to make room.";
    store_pinned: Gauge = "pierglass_store_pinned_bytes", [],
        "Bytes of what is stored that are pinned and not evicted.";
    damaged: IntCounterVec = "pierglass_store_damaged_total", [found_by],
        "Stored content found damaged and dropped.";
    scrubbed_bytes: IntCounter = "pierglass_store_scrubbed_bytes_total", [],
        "Bytes read again to see whether they are still what they were.";
    ingest_failures: IntCounterVec = "pierglass_store_ingest_failures_total", [reason],
        "Ingests that did not become a stored blob.";
    store_disk_errors: IntCounterVec = "pierglass_store_disk_errors_total", [cause],
        "Failures of the disk the store is on.";
    store_trouble: IntGaugeVec = "pierglass_store_trouble", [cause],
        "1 while this keeps the store from being written to, 0 otherwise.";
    body_rescues: IntCounterVec = "pierglass_body_rescues_total", [upstream],
        "Bodies that the store could not send to their end, and that went on from upstream.";
    connections: IntGauge = "pierglass_connections", [],
        "Client connections open.";
    client_limited: IntCounterVec = "pierglass_client_limited_total", [limit, result],
        "Times that a client had its share and waited for more, or was refused it.";
    closed_for_room: IntCounter = "pierglass_connections_closed_for_room_total", [],
        "Idle connections closed because places for connections ran short.";
    build_info: IntGaugeVec = "pierglass_build_info", [version],
        "Always 1; the labels say what is running.";
}

impl Metrics {
    /// Builds and registers all metrics.
    ///
    /// Fails only if two of them share a name, which a test would show.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let metrics = Self::registered(registry)?;
        let build = metrics
            .build_info
            .with_label_values(&[env!("CARGO_PKG_VERSION")]);
        build.set(1);
        Ok(metrics)
    }

    /// Everything in Prometheus' text format (version 0.0.4), and its media type.
    pub(crate) fn render(&self) -> Result<(Vec<u8>, &'static str), prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }
}

/// A kind of metric.
trait MetricKind: Collector + Clone + 'static {
    fn build(opts: Opts, labels: &[&str]) -> Result<Self, prometheus::Error>;
}

macro_rules! kinds {
    ($($kind:ident: |$opts:ident, $labels:pat_param| $build:expr;)*) => {
        $(impl MetricKind for $kind {
            fn build($opts: Opts, $labels: &[&str]) -> Result<Self, prometheus::Error> {
                $build
            }
        })*
    };
}

kinds! {
    Gauge: |opts, _| Self::with_opts(opts);
    GaugeVec: |opts, labels| Self::new(opts, labels);
    IntCounter: |opts, _| Self::with_opts(opts);
    IntCounterVec: |opts, labels| Self::new(opts, labels);
    IntGauge: |opts, _| Self::with_opts(opts);
    IntGaugeVec: |opts, labels| Self::new(opts, labels);
    HistogramVec: |opts, labels| {
        Self::new(HistogramOpts::from(opts).buckets(FIRST_BYTE_BUCKETS.to_vec()), labels)
    };
}

fn register<K: MetricKind>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<K, prometheus::Error> {
    let metric = K::build(Opts::new(name, help), labels)?;
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Names and labels in the first column of the table of metrics: `name` {label, label}.
    fn documented() -> BTreeMap<&'static str, Vec<&'static str>> {
        let lines = include_str!("../docs/operations.md").lines();
        let mut found = BTreeMap::new();
        for row in lines.filter_map(|line| line.strip_prefix("| `pierglass_")) {
            let (first, _) = row.split_once(" |").unwrap();
            let (names, labels) = first.split_once(" {").unwrap_or((first, "}"));
            let (labels, _) = labels.split_once('}').unwrap();
            let labels = labels.split(", ").filter(|label| !label.is_empty());
            let labels: Vec<_> = labels.collect();
            for name in names.trim_end_matches('`').split("`, `pierglass_") {
                assert!(found.insert(name, labels.clone()).is_none(), "{name} twice");
            }
        }
        found
    }

    #[test]
    fn the_document_has_every_metric_with_its_labels_and_no_other() {
        let exported = TABLE.iter().map(|metric| {
            let name = metric.name.strip_prefix("pierglass_").unwrap();
            (name, metric.labels.to_vec())
        });
        assert_eq!(documented(), exported.collect());
    }
}
