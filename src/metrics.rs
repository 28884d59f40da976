//! The metrics of the program, by the names of the public contract.
//!
//! One value of [`Metrics`] is built at start and shared; there is no global registry. Label values come
//! from configuration and from closed sets of words of ours, never from what a client wrote.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Seconds to the first byte: from a page-cache hit to a slow upstream.
const FIRST_BYTE_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// Every metric this program exports, except those of the process, which are collected when scraped.
pub struct Metrics {
    registry: Registry,
    /// Requests answered: upstream, kind, outcome, status.
    pub requests: IntCounterVec,
    /// Body bytes sent to clients: upstream, kind, outcome.
    pub response_bytes: IntCounterVec,
    /// Of those, the bytes that went from the page cache to the socket inside the kernel.
    pub bytes_by_sendfile: IntCounter,
    /// And those that went through memory of ours.
    pub bytes_copied: IntCounter,
    /// Seconds until the response header was ready: kind, outcome.
    pub request_duration: HistogramVec,
    /// Requests made of upstreams: upstream, kind, method, status.
    pub upstream_requests: IntCounterVec,
    /// Body bytes received from upstreams: upstream.
    pub upstream_bytes: IntCounterVec,
    /// Seconds until upstream's response header: upstream, kind.
    pub upstream_request_duration: HistogramVec,
    /// The pull quota upstream states: upstream.
    pub ratelimit_limit: GaugeVec,
    /// What upstream says is left of it: upstream.
    pub ratelimit_remaining: GaugeVec,
    /// 1 while the last contact with an upstream worked, 0 after one that failed: upstream.
    pub upstream_up: IntGaugeVec,
    /// 0 closed, 1 half open, 2 open: upstream, endpoint.
    pub circuit_state: IntGaugeVec,
    /// How often an origin was left alone after failing: upstream, endpoint.
    pub circuit_openings: IntCounterVec,
    /// Answers that upstream limits us (429): upstream, kind.
    pub rate_limits: IntCounterVec,
    /// Until when upstream is not asked because of that, in Unix time: upstream, kind.
    pub held_until: GaugeVec,
    /// Credentials (or nothing) exchanged for tokens: upstream, result.
    pub token_exchanges: IntCounterVec,
    /// Blob transfers from upstream under way: upstream.
    pub fills_in_flight: IntGaugeVec,
    /// Transfers that broke off and went on at that place: upstream.
    pub fill_resumes: IntCounterVec,
    /// Bytes the store accounts for, ingests in progress included.
    pub store_bytes: Gauge,
    /// The configured limit of the store in bytes.
    pub store_capacity: Gauge,
    /// Blobs committed and not evicted.
    pub store_blobs: IntGauge,
    /// Bytes removed to make room.
    pub evicted_bytes: IntCounter,
    /// Bytes of what is stored that are pinned.
    pub store_pinned: Gauge,
    /// Stored content that was found damaged and dropped: found_by.
    pub damaged: IntCounterVec,
    /// Bytes that the check behind the requests has read.
    pub scrubbed_bytes: IntCounter,
    /// Ingests that did not become a blob: reason.
    pub ingest_failures: IntCounterVec,
    /// Failures of the disk the store is on: cause.
    pub store_disk_errors: IntCounterVec,
    /// 1 while this keeps the store from being written to: cause.
    pub store_trouble: IntGaugeVec,
    /// Bodies that the store could not send to their end, and that went on from upstream: upstream.
    pub body_rescues: IntCounterVec,
    /// Client connections open now.
    pub connections: IntGauge,
    /// Clients that had their share: limit, result.
    pub client_limited: IntCounterVec,
    /// Idle connections closed because places ran short.
    pub closed_for_room: IntCounter,
}

impl Metrics {
    /// Builds and registers all metrics.
    ///
    /// Fails only if two of them share a name, which a test would show.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        #[cfg(target_os = "linux")]
        r.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        let by_way = counters(
            r,
            "pierglass_sent_bytes_total",
            "Body bytes sent to clients, by how: with sendfile, or copied.",
            &["way"],
        )?;
        let build = build_info(r)?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            requests: counters(
                r,
                "pierglass_requests_total",
                "Requests answered to clients.",
                &["upstream", "kind", "outcome", "status"],
            )?,
            response_bytes: counters(
                r,
                "pierglass_response_bytes_total",
                "Body bytes sent to clients.",
                &["upstream", "kind", "outcome"],
            )?,
            bytes_by_sendfile: by_way.with_label_values(&["sendfile"]),
            bytes_copied: by_way.with_label_values(&["copied"]),
            request_duration: histograms(
                r,
                "pierglass_request_duration_seconds",
                "Time until the response header was ready, in seconds.",
                &["kind", "outcome"],
            )?,
            upstream_requests: counters(
                r,
                "pierglass_upstream_requests_total",
                "Requests made of upstream registries; status is a code, or the word for what went wrong.",
                &["upstream", "kind", "method", "status"],
            )?,
            upstream_bytes: counters(
                r,
                "pierglass_upstream_bytes_total",
                "Body bytes received from upstream registries.",
                &["upstream"],
            )?,
            upstream_request_duration: histograms(
                r,
                "pierglass_upstream_request_duration_seconds",
                "Time until upstream's response header, in seconds.",
                &["upstream", "kind"],
            )?,
            ratelimit_limit: gauges(
                r,
                "pierglass_upstream_ratelimit_limit",
                "Pulls that upstream allows per window.",
                &["upstream"],
            )?,
            ratelimit_remaining: gauges(
                r,
                "pierglass_upstream_ratelimit_remaining",
                "Pulls that upstream says are left in the window.",
                &["upstream"],
            )?,
            upstream_up: int_gauges(
                r,
                "pierglass_upstream_up",
                "1 while the last contact with the upstream worked, 0 after one that failed.",
                &["upstream"],
            )?,
            circuit_state: int_gauges(
                r,
                "pierglass_upstream_circuit_state",
                "Whether an origin is left alone because it kept failing: 0 no, 1 it is being tried, 2 yes.",
                &["upstream", "endpoint"],
            )?,
            circuit_openings: counters(
                r,
                "pierglass_upstream_circuit_openings_total",
                "How often an origin began to be left alone because it kept failing.",
                &["upstream", "endpoint"],
            )?,
            rate_limits: counters(
                r,
                "pierglass_upstream_rate_limits_total",
                "Answers of upstream that it limits us; kind is quota (pulls) or abuse (requests).",
                &["upstream", "kind"],
            )?,
            held_until: gauges(
                r,
                "pierglass_upstream_held_until_timestamp_seconds",
                "Until when upstream is not asked because it limited us, in Unix time.",
                &["upstream", "kind"],
            )?,
            token_exchanges: counters(
                r,
                "pierglass_token_exchanges_total",
                "Token requests made of upstreams' realms.",
                &["upstream", "result"],
            )?,
            fills_in_flight: int_gauges(
                r,
                "pierglass_fills_in_flight",
                "Blob transfers from upstream under way.",
                &["upstream"],
            )?,
            fill_resumes: counters(
                r,
                "pierglass_fill_resumes_total",
                "Blob transfers that broke off and went on at that place.",
                &["upstream"],
            )?,
            store_bytes: register(
                r,
                Gauge::new(
                    "pierglass_store_bytes",
                    "Bytes the store accounts for, ingests in progress included.",
                )?,
            )?,
            store_capacity: register(
                r,
                Gauge::new(
                    "pierglass_store_capacity_bytes",
                    "Configured limit of the store in bytes.",
                )?,
            )?,
            store_blobs: register(r, IntGauge::new("pierglass_store_blobs", "Blobs stored.")?)?,
            evicted_bytes: register(
                r,
                IntCounter::new(
                    "pierglass_store_evicted_bytes_total",
                    "Bytes removed to make room.",
                )?,
            )?,
            store_pinned: register(
                r,
                Gauge::new(
                    "pierglass_store_pinned_bytes",
                    "Bytes of what is stored that are pinned and not evicted.",
                )?,
            )?,
            damaged: counters(
                r,
                "pierglass_store_damaged_total",
                "Stored content found damaged and dropped.",
                &["found_by"],
            )?,
            scrubbed_bytes: register(
                r,
                IntCounter::new(
                    "pierglass_store_scrubbed_bytes_total",
                    "Bytes read again to see whether they are still what they were.",
                )?,
            )?,
            ingest_failures: counters(
                r,
                "pierglass_store_ingest_failures_total",
                "Ingests that did not become a stored blob.",
                &["reason"],
            )?,
            store_disk_errors: counters(
                r,
                "pierglass_store_disk_errors_total",
                "Failures of the disk the store is on.",
                &["cause"],
            )?,
            store_trouble: int_gauges(
                r,
                "pierglass_store_trouble",
                "1 while this keeps the store from being written to, 0 otherwise.",
                &["cause"],
            )?,
            body_rescues: counters(
                r,
                "pierglass_body_rescues_total",
                "Bodies that the store could not send to their end, and that went on from upstream.",
                &["upstream"],
            )?,
            connections: register(
                r,
                IntGauge::new("pierglass_connections", "Client connections open.")?,
            )?,
            client_limited: counters(
                r,
                "pierglass_client_limited_total",
                "Times that a client had its share and waited for more, or was refused it.",
                &["limit", "result"],
            )?,
            closed_for_room: register(
                r,
                IntCounter::new(
                    "pierglass_connections_closed_for_room_total",
                    "Idle connections closed because places for connections ran short.",
                )?,
            )?,
            registry,
        })
    }

    /// Everything in Prometheus' text format (version 0.0.4), and its media type.
    pub fn render(&self) -> Result<(Vec<u8>, &'static str), prometheus::Error> {
        let mut text = Vec::with_capacity(16 * 1024);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok((text, prometheus::TEXT_FORMAT))
    }
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    metric: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn build_info(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    int_gauges(
        registry,
        "pierglass_build_info",
        "Always 1; the labels say what is running.",
        &["version"],
    )
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, prometheus::Error> {
    register(registry, GaugeVec::new(Opts::new(name, help), labels)?)
}

fn int_gauges(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    register(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn histograms(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let opts = HistogramOpts::new(name, help).buckets(FIRST_BYTE_BUCKETS.to_vec());
    register(registry, HistogramVec::new(opts, labels)?)
}
