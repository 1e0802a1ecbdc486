//! Task budgets: rewards accepted here and not debited on chain yet must fit into the task's escrow.

use alloy::primitives::Address;
use sqlx::PgConnection;

use super::{Tx, bigint};
use crate::{
    batch,
    chain::Chain,
    problem::{Kind, Problem},
};

/// Says early that a reward does not fit; [`reserve`] decides.
pub async fn check(
    db: &mut PgConnection,
    chain: &Chain,
    provider: Address,
    task_id: u64,
    reward: u128,
) -> Result<(), Problem> {
    let reserved: Option<String> = sqlx::query_scalar("SELECT reserved::text FROM task_budget WHERE task_id = $1")
        .bind(bigint(task_id)?)
        .fetch_optional(&mut *db)
        .await?;
    let reserved: u128 = reserved.map_or(Ok(0), |text| text.parse()).map_err(Problem::internal)?;
    fits(db, chain, provider, task_id, reserved.saturating_add(reward)).await
}

/// Reserves a reward for good. The row's lock makes uploads for one task wait for each other here.
pub async fn reserve(
    tx: &mut Tx<'_>,
    chain: &Chain,
    provider: Address,
    task_id: u64,
    reward: u128,
) -> Result<(), Problem> {
    let reserved: String = sqlx::query_scalar(
        "INSERT INTO task_budget (task_id, reserved) VALUES ($1, $2::text::numeric)
         ON CONFLICT (task_id) DO UPDATE SET reserved = task_budget.reserved + excluded.reserved
         RETURNING reserved::text",
    )
    .bind(bigint(task_id)?)
    .bind(reward.to_string())
    .fetch_one(&mut **tx)
    .await?;
    let reserved: u128 = reserved.parse().map_err(Problem::internal)?;
    fits(&mut *tx, chain, provider, task_id, reserved).await
}

/// Compares in the state of one block: what its batches have debited is out of its escrow, and nothing else is.
async fn fits(
    db: &mut PgConnection,
    chain: &Chain,
    provider: Address,
    task_id: u64,
    reserved: u128,
) -> Result<(), Problem> {
    let budget = chain.budget(provider, task_id).await.map_err(|error| Problem::unavailable("the chain", error))?;
    let debited = batch::debited(db, provider, task_id, budget.next_batch).await?;
    let needed = reserved.saturating_sub(debited);
    if needed <= budget.escrow {
        return Ok(());
    }
    let expected = format!("an escrow of at least {needed} payment-token units in task {task_id}");
    Err(Problem::field(Kind::BudgetExceeded, "meta.task_id", expected, budget.escrow.to_string()))
}
