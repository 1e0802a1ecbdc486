//! Health, readiness, status and metrics.

use std::sync::Arc;

use alloy::{primitives::Address, providers::Provider};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    anchor::follow::lane,
    app::App,
    batch,
    intake::{contents, erase, event, withdraw},
    outbox,
    problem::Problem,
};

/// Whether the process runs.
#[utoipa::path(get, path = "/health", responses((status = 200, description = "it does")))]
pub async fn health() -> &'static str {
    "ok"
}

/// Whether requests can be answered: database, chain and attestor do.
#[utoipa::path(get, path = "/ready",
    responses((status = 200, description = "they can"), (status = 503, description = "they can't", body = tidemark::service::Problem)))]
pub async fn ready(State(app): State<Arc<App>>) -> Response {
    if let Err(error) = sqlx::query("SELECT 1").execute(&app.db).await {
        return Problem::unavailable("the database", error).into_response();
    }
    if let Err(error) = app.chain.provider.get_block_number().await {
        return Problem::unavailable("the chain", error).into_response();
    }
    if !app.attestor.is_ready().await {
        return Problem::unavailable("the attestor", anyhow::anyhow!("not ready")).into_response();
    }
    (StatusCode::OK, "ready").into_response()
}

/// What waits, and where.
#[derive(Serialize, ToSchema)]
pub struct Status {
    /// Events without a batch.
    backlog_events: i64,
    /// Age of the oldest of them.
    backlog_age_ms: Option<i64>,
    /// Batches that are not final, by state.
    batches: Vec<Count>,
    /// Age of the oldest batch that is in no block.
    unanchored_age_ms: Option<i64>,
    /// Why batches wait.
    errors: Vec<BatchError>,
    /// Withdrawals that the chain does not know yet.
    withdrawals: i64,
    /// Why the oldest of them that failed did.
    withdrawal_error: Option<String>,
    /// Transactions by state.
    transactions: Vec<Count>,
    /// Who sends.
    #[schema(value_type = String)]
    signer: Address,
    /// Nonce that the next transaction gets; none before the first.
    next_nonce: Option<i64>,
    /// Transactions of the signer in the newest block; none where the chain does not answer.
    chain_nonce: Option<u64>,
    /// Wei, decimal digits; none where the chain does not answer.
    signer_balance_wei: Option<String>,
    /// Age of the oldest record that has something in no block.
    oldest_unanchored_age_seconds: Option<i64>,
    /// Messages to webhooks.
    outbox: outbox::Backlog,
    /// Erasures that are under way.
    erasures: i64,
    /// Age of the oldest of them.
    erasure_age_seconds: Option<i64>,
}

/// How many in a state.
#[derive(Serialize, ToSchema)]
pub struct Count {
    state: String,
    count: i64,
}

/// Why a batch waits.
#[derive(Serialize, ToSchema)]
pub struct BatchError {
    #[schema(value_type = String)]
    provider: Address,
    number: i64,
    error: String,
}

/// What waits, and where.
#[utoipa::path(get, path = "/status", responses((status = 200, description = "now", body = Status)))]
pub async fn status(State(app): State<Arc<App>>) -> Result<Json<Status>, Problem> {
    gather(&app).await.map(Json)
}

async fn gather(app: &App) -> Result<Status, Problem> {
    let counts = |counts: Vec<(String, i64)>| counts.into_iter().map(|(state, count)| Count { state, count }).collect();
    let (backlog_events, backlog_age_ms) = event::backlog(&app.db).await?;
    let open = batch::open(&app.db).await?;
    let (next_nonce, transactions) = lane(&app.db, &app.sender).await?;
    let (withdrawals, withdrawal_error) = withdraw::waiting(&app.db).await?;
    let (erasures, erasure_age_seconds) = erase::backlog(&app.db).await?;
    let signer = app.sender.address();
    let chain_nonce = app.chain.provider.get_transaction_count(signer).await.ok();
    let balance = app.chain.provider.get_balance(signer).await.ok();
    Ok(Status {
        backlog_events,
        backlog_age_ms,
        batches: counts(open.counts),
        unanchored_age_ms: open.unanchored_age_ms,
        errors: open
            .errors
            .into_iter()
            .map(|(provider, number, error)| BatchError { provider, number, error })
            .collect(),
        withdrawals,
        withdrawal_error,
        transactions: counts(transactions),
        signer,
        next_nonce,
        chain_nonce,
        signer_balance_wei: balance.map(|balance| balance.to_string()),
        oldest_unanchored_age_seconds: contents::oldest_unanchored(&app.db).await?,
        outbox: outbox::backlog(&app.db).await?,
        erasures,
        erasure_age_seconds,
    })
}

/// Prometheus text; the gauges are read now, and left out where they can't be, rather than told wrong.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<String, Problem> {
    let status = gather(&app).await?;
    // beyond 2^53 a gauge would be rounded, and none of these gets there
    #[allow(clippy::cast_precision_loss, reason = "counts and seconds")]
    let number = |value: i64| value as f64;
    let seconds = |value: Option<i64>| number(value.unwrap_or(0));
    metrics::gauge!("backlog_events").set(number(status.backlog_events));
    metrics::gauge!("backlog_age_seconds").set(seconds(status.backlog_age_ms.map(|age| age / 1000)));
    metrics::gauge!("unanchored_age_seconds").set(seconds(status.oldest_unanchored_age_seconds));
    metrics::gauge!("batch_errors").set(number(i64::try_from(status.errors.len()).map_err(anyhow::Error::from)?));
    for state in ["sealed", "signed", "submitted", "mined"] {
        let count = status.batches.iter().find(|count| count.state == state).map_or(0, |count| count.count);
        metrics::gauge!("batches_open", "state" => state).set(number(count));
    }
    metrics::gauge!("withdrawals_waiting").set(number(status.withdrawals));
    metrics::gauge!("outbox_waiting").set(number(status.outbox.waiting));
    metrics::gauge!("outbox_dead").set(number(status.outbox.dead));
    metrics::gauge!("outbox_age_seconds").set(seconds(status.outbox.oldest_age_seconds));
    metrics::gauge!("erasures_open").set(number(status.erasures));
    metrics::gauge!("erasure_age_seconds").set(seconds(status.erasure_age_seconds));
    if let Some(balance) = status.signer_balance_wei.and_then(|wei| wei.parse::<f64>().ok()) {
        metrics::gauge!("signer_balance_wei", "signer" => status.signer.to_string()).set(balance);
    }
    metrics::gauge!("database_connections", "state" => "open").set(f64::from(app.db.size()));
    let idle = u32::try_from(app.db.num_idle()).unwrap_or(u32::MAX);
    metrics::gauge!("database_connections", "state" => "idle").set(f64::from(idle));
    Ok(app.metrics.render())
}
