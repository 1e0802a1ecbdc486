//! Whether it runs, whether it is level with the chain, and what it waits for.

use axum::{Json, extract::State, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use crate::{
    follow::gauge,
    manifest::{self, Waiting},
    payout,
    problem::Problem,
    read,
};

const WAITING_SHOWN_MAX: i64 = 100;

/// The process runs.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, body = String)))]
pub async fn health() -> &'static str {
    "ok"
}

/// The tables are level with the chain, and the database answers.
#[utoipa::path(get, path = "/ready", tag = "operation",
    responses((status = 200, body = String), (status = 503, body = Problem)))]
pub async fn ready(State(app): State<App>) -> Result<&'static str, Problem> {
    app.status.ready().map_err(Problem::unavailable)?;
    sqlx::query("SELECT 1").execute(&app.pool).await.map_err(|error| {
        tracing::error!(%error, "the database does not answer");
        Problem::unavailable("the database does not answer")
    })?;
    Ok("ready")
}

/// How far the indexer is.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusView {
    /// Version of the program.
    pub version: &'static str,
    /// Chain id.
    pub chain_id: u64,
    /// The node's newest block, as last seen.
    pub latest_block: Option<u64>,
    /// The node's newest final block, as last seen.
    pub finalized_block: Option<u64>,
    /// Newest block whose logs are mirrored.
    pub mirrored_block: u64,
    /// Newest final block in the tables.
    pub applied_block: u64,
    /// Its hash.
    pub applied_block_hash: Option<String>,
    /// Its time, RFC 3339.
    pub applied_block_time: String,
    /// Seconds since the tables were last level with the node.
    pub behind_seconds: u64,
    /// Whether /ready says yes.
    pub ready: bool,
    /// Why not.
    pub not_ready_because: Option<String>,
    /// What failed last; none after a good step.
    pub last_error: Option<String>,
    /// Why following ended for good; a person must decide.
    pub halted: Option<String>,
    /// Final batches and dataset versions whose files have not arrived.
    pub waiting_files: u64,
    /// Batches whose manifest is not what was anchored.
    pub invalid_batches: u64,
    /// The files, longest wait first, at most 100.
    pub waiting: Vec<Waiting>,
}

/// How far the indexer is and what it waits for.
#[utoipa::path(get, path = "/status", tag = "operation", responses((status = 200, body = StatusView)))]
pub async fn status(State(app): State<App>) -> Result<Json<StatusView>, Problem> {
    let mut snapshot = read::snapshot(&app.pool).await?;
    let at = read::at(&mut snapshot).await?;
    let progress = read::progress(&mut snapshot).await?;
    drop(snapshot);
    let seen = app.status.seen();
    let ready = app.status.ready();
    Ok(Json(StatusView {
        version: env!("CARGO_PKG_VERSION"),
        chain_id: app.chain.deployment.chain_id,
        latest_block: seen.latest,
        finalized_block: seen.finalized,
        mirrored_block: progress.mirrored_block,
        applied_block: at.block_number,
        applied_block_hash: at.block_hash,
        applied_block_time: at.block_time,
        behind_seconds: app.status.behind().as_secs(),
        ready: ready.is_ok(),
        not_ready_because: ready.err(),
        last_error: seen.last_error.or(seen.files_error),
        halted: seen.halted,
        waiting_files: at.waiting_files,
        invalid_batches: progress.invalid_batches,
        waiting: manifest::waiting(&app.pool, WAITING_SHOWN_MAX).await?,
    }))
}

/// Prometheus text. Fails where the database does, rather than tell old numbers.
#[utoipa::path(get, path = "/metrics", tag = "operation",
    responses((status = 200, body = String), (status = 500, body = Problem)))]
pub async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, Problem> {
    let mut snapshot = read::snapshot(&app.pool).await?;
    let at = read::at(&mut snapshot).await?;
    let progress = read::progress(&mut snapshot).await?;
    let open = payout::open(&mut snapshot).await?;
    drop(snapshot);
    // whole numbers: a gauge takes nothing but a float
    metrics::gauge!("tidemark_indexer_behind_seconds").set(app.status.behind().as_secs_f64());
    metrics::gauge!("tidemark_indexer_halted").set(if app.status.seen().halted.is_some() { 1.0 } else { 0.0 });
    metrics::gauge!("tidemark_indexer_waiting_files").set(gauge(at.waiting_files));
    metrics::gauge!("tidemark_indexer_invalid_batches").set(gauge(progress.invalid_batches));
    for state in open {
        metrics::gauge!("tidemark_payouts_open", "state" => state.name).set(gauge(state.count));
        metrics::gauge!("tidemark_payouts_open_age_seconds", "state" => state.name).set(gauge(state.age_seconds));
    }
    Ok(([(axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()))
}
