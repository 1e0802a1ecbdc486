//! The metrics recorder of a service.

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Upper bounds of every histogram's buckets: from a row in memory to an hour until finality.
pub const SECONDS_BUCKETS: [f64; 18] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];

/// Installs the recorder of the process; all its histograms are of seconds. What is counted before is lost.
pub fn metrics() -> anyhow::Result<PrometheusHandle> {
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS_BUCKETS).context("set the histograms' buckets")?;
    builder.install_recorder().context("install the metrics recorder")
}
