//! Batches, providers, and whether points are covered.

use alloy::{eips::BlockId, primitives::Address};
use axum::{extract::State, http::HeaderMap, response::Response};
use sqlx::PgConnection;
use tidemark::contracts::DevToken;

use super::{
    App,
    answer::{Params, Segments, answer, number, snapshot},
};
use crate::{
    problem::Problem,
    read::{
        self, Answer, At, BatchEvents, BatchList, BatchView, ProviderList, ProviderView, Settlement, page::PageQuery,
    },
};

const CALL_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn find(connection: &mut PgConnection, at: &At, provider: &str) -> Result<Address, Problem> {
    let found = read::find_provider(connection, provider).await?;
    found.ok_or_else(|| {
        let shown: String = provider.chars().take(64).collect();
        Problem::unknown(
            "provider",
            format!("no provider {shown:?} up to block {}: an account or a name", at.block_number),
        )
    })
}

/// Batches, newest first; those that are only mined lead the first page.
#[utoipa::path(get, path = "/v1/batches", tag = "batches", params(PageQuery),
    responses((status = 200, body = Answer<BatchList>), (status = 400, body = Problem)))]
pub async fn batches(
    State(app): State<App>,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let page = query.page()?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let batches = read::batches(&mut snapshot, &app.chain.deployment, &page).await?;
    answer(&headers, at, batches)
}

/// One batch: header, transaction, and what became of it.
#[utoipa::path(get, path = "/v1/batches/{provider}/{number}", tag = "batches",
    params(("provider" = String, Path, description = "account or name"), ("number" = u64, Path)),
    responses((status = 200, body = Answer<BatchView>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn batch(
    State(app): State<App>,
    Segments((provider, batch_number)): Segments<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let batch_number: u64 = number("number", &batch_number)?;
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = find(&mut snapshot, &at, &provider).await?;
    match read::batch(&mut snapshot, &app.chain.deployment, address, batch_number).await? {
        Some(batch) => answer(&headers, at, batch),
        None => Err(Problem::unknown("number", format!("{address} has not anchored batch {batch_number}"))),
    }
}

/// Events of a valid batch in index order.
#[utoipa::path(get, path = "/v1/batches/{provider}/{number}/events", tag = "batches",
    params(("provider" = String, Path, description = "account or name"), ("number" = u64, Path), PageQuery),
    responses((status = 200, body = Answer<BatchEvents>), (status = 304), (status = 400, body = Problem),
        (status = 404, body = Problem)))]
pub async fn batch_events(
    State(app): State<App>,
    Segments((provider, batch_number)): Segments<(String, String)>,
    Params(query): Params<PageQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (page, batch_number) = (query.page()?, number("number", &batch_number)?);
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = find(&mut snapshot, &at, &provider).await?;
    let events = read::batch_events(&mut snapshot, address, batch_number, &page).await?;
    answer(&headers, at, events)
}

/// All providers.
#[utoipa::path(get, path = "/v1/providers", tag = "providers",
    responses((status = 200, body = Answer<ProviderList>), (status = 304)))]
pub async fn providers(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(&app).await?;
    let providers = read::providers(&mut snapshot).await?;
    answer(&headers, at, providers)
}

/// One provider with its tasks and policies.
#[utoipa::path(get, path = "/v1/providers/{provider}", tag = "providers",
    params(("provider" = String, Path, description = "account or name")),
    responses((status = 200, body = Answer<ProviderView>), (status = 304), (status = 404, body = Problem)))]
pub async fn provider(
    State(app): State<App>,
    Segments(provider): Segments<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (mut snapshot, at) = snapshot(&app).await?;
    let address = find(&mut snapshot, &at, &provider).await?;
    match read::provider(&mut snapshot, address).await? {
        Some(provider) => answer(&headers, at, provider),
        None => Err(Problem::unknown("provider", format!("no provider {address}"))),
    }
}

/// Points against tokens, per provider.
#[derive(serde::Serialize, utoipa::ToSchema)]
pub struct SettlementList {
    /// By name.
    pub providers: Vec<Settlement>,
}

/// Points issued, redeemed and outstanding per provider, and the tokens behind them at the block of the answer: what the
/// treasury holds and what the log has accrued for it.
#[utoipa::path(get, path = "/v1/settlement", tag = "points",
    responses((status = 200, body = Answer<SettlementList>), (status = 304)))]
pub async fn settlement(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let (at, providers) = settlements(&app).await?;
    answer(&headers, at, SettlementList { providers })
}

/// Every provider's settlement with its treasury's balance at the same block. The token is asked, not the treasury's
/// `backing()`, which a contract of a provider's own could answer as it likes.
pub(crate) async fn settlements(app: &App) -> Result<(At, Vec<Settlement>), Problem> {
    let (mut snapshot, at) = snapshot(app).await?;
    let mut providers = read::settlement(&mut snapshot).await?;
    // no connection is held while the node is asked
    drop(snapshot);
    for settlement in &mut providers {
        let balance = treasury_balance(app, &at, settlement).await;
        settlement.hold_against(balance);
    }
    Ok((at, providers))
}

/// None where the node keeps no state of that block, or the token is none.
async fn treasury_balance(app: &App, at: &At, settlement: &Settlement) -> Option<alloy::primitives::U256> {
    let token = DevToken::new(settlement.token.parse().ok()?, &app.chain.rpc);
    let call = token.balanceOf(settlement.treasury.parse().ok()?).block(BlockId::number(at.block_number));
    match tokio::time::timeout(CALL_TIME_MAX, call.call().into_future()).await {
        Ok(Ok(balance)) => Some(balance),
        Ok(Err(error)) => {
            tracing::warn!(%error, block = at.block_number, "the node does not tell a treasury's balance");
            None
        }
        Err(_) => None,
    }
}
