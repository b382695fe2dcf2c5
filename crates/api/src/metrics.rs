//! The Prometheus recorder, its histogram buckets, and the names of the metrics this crate writes.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use std::time::Duration;

/// Histogram: time from the request's head to the answer's head, by `route` and `status` class.
pub const HTTP_REQUEST_SECONDS: &str = "chargeplane_http_request_seconds";

/// Counter: requests refused because too many were in flight.
pub const HTTP_SHED_TOTAL: &str = "chargeplane_http_shed_total";

/// Gauge: requests in flight.
pub const HTTP_IN_FLIGHT: &str = "chargeplane_http_in_flight";

/// Gauge: open connections.
pub const HTTP_CONNECTIONS: &str = "chargeplane_http_connections";

/// Counter: connections refused because too many were open.
pub const HTTP_CONNECTIONS_REFUSED_TOTAL: &str = "chargeplane_http_connections_refused_total";

/// Gauge: open connections of the books' TCP front.
pub const LEDGER_CONNECTIONS: &str = "chargeplane_ledger_connections";

/// Counter: connections of the books' TCP front refused because too many were open.
pub const LEDGER_CONNECTIONS_REFUSED_TOTAL: &str = "chargeplane_ledger_connections_refused_total";

/// Counter: requests answered over the books' TCP front, by `outcome`: `done`, `refused`, `failed`, `invalid`.
pub const LEDGER_ANSWERS_TOTAL: &str = "chargeplane_ledger_answers_total";

/// Histogram: time from a request's read to its answer, of one answer in each write.
pub const LEDGER_REQUEST_SECONDS: &str = "chargeplane_ledger_request_seconds";

/// Counter: frames that could not be read and ended their connection, by `reason`.
pub const LEDGER_BAD_FRAMES_TOTAL: &str = "chargeplane_ledger_bad_frames_total";

/// Counter: connections that the node closed, by `reason`.
pub const LEDGER_CLOSED_TOTAL: &str = "chargeplane_ledger_closed_total";

/// Buckets of every `*_seconds`: 0.1 ms to 60 s, about six a decade. Fine enough to read a 99th percentile
/// of a tick or a commit; 30 s and 40 s bound the telemetry acknowledgement.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.0001, 0.00015, 0.0002, 0.0003, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02,
    0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 20.0, 30.0, 40.0, 60.0,
];

/// Buckets of every `*_bytes`: 64 B to 16 MiB by fours.
pub const BYTES_BUCKETS: &[f64] =
    &[64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Buckets of every other histogram, which counts things: 1 to 100,000.
pub const COUNT_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0, 100_000.0];

/// How often a histogram's pending values are folded; without it they would grow while nobody scrapes.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets(COUNT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES_BUCKETS)
}

/// Installs the process's recorder and describes this crate's metrics.
///
/// The caller runs [`PrometheusHandle::run_upkeep`] every [`UPKEEP_EVERY`].
///
/// # Errors
///
/// When a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_histogram!(HTTP_REQUEST_SECONDS, Unit::Seconds, "Time to answer a request, by route and status class");
    describe_counter!(HTTP_SHED_TOTAL, "Requests refused because too many were in flight");
    describe_gauge!(HTTP_IN_FLIGHT, "Requests in flight");
    describe_gauge!(HTTP_CONNECTIONS, "Open connections");
    describe_counter!(HTTP_CONNECTIONS_REFUSED_TOTAL, "Connections refused because too many were open");
    describe_gauge!(LEDGER_CONNECTIONS, "Open connections of the books' TCP front");
    describe_counter!(LEDGER_CONNECTIONS_REFUSED_TOTAL, "Connections refused because too many were open");
    describe_counter!(LEDGER_ANSWERS_TOTAL, "Requests answered over TCP, by outcome");
    describe_histogram!(LEDGER_REQUEST_SECONDS, Unit::Seconds, "Time to answer a request, of one answer in each write");
    describe_counter!(LEDGER_BAD_FRAMES_TOTAL, "Frames that could not be read, by reason");
    describe_counter!(LEDGER_CLOSED_TOTAL, "Connections that the node closed, by reason");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_decides_the_buckets() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("chargeplane_tick_seconds").record(0.0004);
            metrics::histogram!("chargeplane_batch_items").record(150.0);
        });
        let text = handle.render();
        assert!(text.contains("chargeplane_tick_seconds_bucket{le=\"0.0003\"} 0"), "{text}");
        assert!(text.contains("chargeplane_tick_seconds_bucket{le=\"0.0005\"} 1"), "{text}");
        assert!(text.contains("chargeplane_batch_items_bucket{le=\"200\"} 1"), "{text}");
    }

    #[test]
    fn buckets_ascend() {
        for buckets in [SECONDS_BUCKETS, BYTES_BUCKETS, COUNT_BUCKETS] {
            assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]));
        }
    }

    /// The page lists the metrics of this crate, of the actors and of the broker, and no others.
    #[test]
    fn the_reference_page_lists_what_exists() {
        let sources = [
            include_str!("metrics.rs"),
            include_str!("../../actors/src/metric.rs"),
            include_str!("../../adapters/mqtt/src/lib.rs"),
        ];
        let constants = sources.iter().flat_map(|source| source.lines()).filter(|line| line.starts_with("pub const"));
        let names: std::collections::BTreeSet<&str> = constants
            .filter_map(|line| line.split('"').nth(1))
            .filter(|name| name.starts_with("chargeplane_"))
            .collect();
        let page = include_str!("../../../docs/reference/metrics.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.collect::<std::collections::BTreeSet<_>>(), names);
    }
}
