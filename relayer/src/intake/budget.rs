//! Task budgets: rewards accepted here and not debited on chain yet must fit into the task's escrow.

use sqlx::PgPool;
use tidemark::batch::Debit;

use super::{Tx, bigint};
use crate::{
    chain::Chain,
    problem::{Kind, Problem},
};

fn exceeded(task_id: u64, escrow: u128, needed: u128) -> Problem {
    let expected = format!("an escrow of at least {needed} payment-token units in task {task_id}");
    Problem::field(Kind::BudgetExceeded, "task_id", expected, escrow.to_string())
}

/// Says early that a reward does not fit; [`reserve`] decides.
pub async fn check(db: &PgPool, chain: &Chain, task_id: u64, reward: u128) -> Result<(), Problem> {
    let unanchored: Option<String> = sqlx::query_scalar("SELECT unanchored::text FROM task_budget WHERE task_id = $1")
        .bind(bigint(task_id)?)
        .fetch_optional(db)
        .await?;
    let unanchored: u128 = unanchored.map_or(Ok(0), |text| text.parse()).map_err(Problem::internal)?;
    let escrow = chain.task_escrow(task_id).await.map_err(|error| Problem::unavailable("the chain", error))?;
    let needed = unanchored.saturating_add(reward);
    if needed > escrow { Err(exceeded(task_id, escrow, needed)) } else { Ok(()) }
}

/// Reserves a reward until the chain debits it. The row's lock makes uploads for one task wait for each other here, and
/// the escrow is read after it is held, so that a batch anchored meanwhile counts twice rather than not at all.
pub async fn reserve(tx: &mut Tx<'_>, chain: &Chain, task_id: u64, reward: u128) -> Result<(), Problem> {
    let needed: String = sqlx::query_scalar(
        "INSERT INTO task_budget (task_id, unanchored) VALUES ($1, $2::text::numeric)
         ON CONFLICT (task_id) DO UPDATE SET unanchored = task_budget.unanchored + excluded.unanchored
         RETURNING unanchored::text",
    )
    .bind(bigint(task_id)?)
    .bind(reward.to_string())
    .fetch_one(&mut **tx)
    .await?;
    let needed: u128 = needed.parse().map_err(Problem::internal)?;
    let escrow = chain.task_escrow(task_id).await.map_err(|error| Problem::unavailable("the chain", error))?;
    if needed > escrow { Err(exceeded(task_id, escrow, needed)) } else { Ok(()) }
}

/// Takes off what a mined batch has debited, or puts it back where the batch vanished in a reorg.
pub async fn settle(tx: &mut Tx<'_>, debits: &[Debit], is_debited: bool) -> anyhow::Result<()> {
    for debit in debits {
        let sign = if is_debited { "-" } else { "" };
        sqlx::query("UPDATE task_budget SET unanchored = unanchored + $2::text::numeric WHERE task_id = $1")
            .bind(bigint(debit.task_id)?)
            .bind(format!("{sign}{}", debit.amount))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}
