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
use tidemark::nodes::Seen;
use utoipa::ToSchema;

use crate::{
    anchor::{Sender, follow},
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
    /// Age of the oldest record that has something in no block.
    oldest_unanchored_age_seconds: Option<i64>,
    /// Messages to webhooks.
    outbox: outbox::Backlog,
    /// Erasures that are under way.
    erasures: i64,
    /// Age of the oldest of them.
    erasure_age_seconds: Option<i64>,
    /// Who sends, a lane a key.
    lanes: Vec<Lane>,
    /// Nodes of the chain, in the order in which they are asked.
    nodes: Vec<NodeSeen>,
}

/// One key that sends.
#[derive(Serialize, ToSchema)]
pub struct Lane {
    #[schema(value_type = String)]
    signer: Address,
    /// Whether this process sends from it; where not, another one does, or will.
    active: bool,
    /// Why nothing new is sent: the fee cap or the balance. It goes on by itself.
    paused: Option<String>,
    /// Transactions that the nodes do not take.
    refused: Vec<Refused>,
    /// Nonce that the next transaction gets; none before the first look at the chain.
    next_nonce: Option<i64>,
    /// Transactions of the signer in the newest block; none where the chain does not answer.
    chain_nonce: Option<u64>,
    /// Wei, decimal digits; none where the chain does not answer.
    balance_wei: Option<String>,
}

/// A transaction that the nodes do not take.
#[derive(Serialize, ToSchema)]
pub struct Refused {
    nonce: i64,
    /// What they say, as a class: "balance too low", "underpriced", …
    why: String,
}

/// How a node is.
#[derive(Serialize, ToSchema)]
pub struct NodeSeen {
    /// Host and port.
    name: String,
    /// Why it is not asked now; none where it is.
    error: Option<String>,
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
    let transactions = follow::counts(&app.db).await?;
    let (withdrawals, withdrawal_error) = withdraw::waiting(&app.db).await?;
    let lanes = futures::future::try_join_all(app.senders.iter().map(|sender| lane(app, sender))).await?;
    let (erasures, erasure_age_seconds) = erase::backlog(&app.db).await?;
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
        oldest_unanchored_age_seconds: contents::oldest_unanchored(&app.db).await?,
        outbox: outbox::backlog(&app.db).await?,
        erasures,
        erasure_age_seconds,
        lanes,
        nodes: app.nodes.seen().into_iter().map(|Seen { name, error }| NodeSeen { name, error }).collect(),
    })
}

async fn lane(app: &App, sender: &Sender) -> Result<Lane, Problem> {
    let signer = sender.address();
    let follow::Lane { next_nonce, paused, refused } = follow::lane(&app.db, sender).await?;
    let balance = app.chain.provider.get_balance(signer).await.ok();
    let label = signer.to_string();
    metrics::gauge!("sending_paused", "signer" => label.clone()).set(f64::from(u8::from(paused.is_some())));
    if let Some(balance) = balance {
        metrics::gauge!("signer_balance_wei", "signer" => label).set(f64::from(balance));
    }
    Ok(Lane {
        signer,
        active: app.leases.is_mine(sender.lease()).await?,
        paused,
        refused: refused.into_iter().map(|(nonce, why)| Refused { nonce, why }).collect(),
        next_nonce,
        chain_nonce: app.chain.provider.get_transaction_count(signer).await.ok(),
        balance_wei: balance.map(|balance| balance.to_string()),
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
    metrics::gauge!("database_connections", "state" => "open").set(f64::from(app.db.size()));
    let idle = u32::try_from(app.db.num_idle()).unwrap_or(u32::MAX);
    metrics::gauge!("database_connections", "state" => "idle").set(f64::from(idle));
    Ok(app.metrics.render())
}
