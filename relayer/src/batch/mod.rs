//! Batches: sealed by count or age, built into files, signed by the attestor; one gapless sequence a provider.
//!
//! ```text
//!  pending events ─► seal (number, index, previous, leaf: one transaction) ─► build (manifest, disclosures) ─► sign
//! ```

pub mod arrange;
pub mod build;
pub mod seal;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::{Address, Bytes};
use sqlx::{PgConnection, PgExecutor, PgPool, Row, postgres::PgRow, types::Json};
use tidemark::{batch::Header, service::causes};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    intake::{Tx, bigint},
};

/// A large batch takes a while to build and to be checked by the attestor.
const ROUND_TIME_MAX: Duration = Duration::from_secs(300);
/// Batches looked at in one round.
const BATCHES_PER_ROUND: i64 = 64;

/// Gives a provider its sequence of batch numbers, from the number that the chain expects next.
pub async fn start_lane(tx: &mut Tx<'_>, provider: Address, next_number: u64) -> anyhow::Result<()> {
    sqlx::query("INSERT INTO batch_lane (provider, next_number) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(provider.0.0)
        .bind(bigint(next_number)?)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The number that a provider's next batch gets; none where it has no lane.
pub async fn next_number(db: &PgPool, provider: Address) -> anyhow::Result<Option<u64>> {
    let next: Option<i64> = sqlx::query_scalar("SELECT next_number FROM batch_lane WHERE provider = $1")
        .bind(provider.0.0)
        .fetch_optional(db)
        .await?;
    Ok(next.map(u64::try_from).transpose()?)
}

/// Seals, builds and has signed whatever is due, until `stop`.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        // a round that hangs is dropped like one that is killed: every step of it is durable before the next
        let done = tokio::time::timeout(ROUND_TIME_MAX, round(&app)).await;
        match done.map_err(anyhow::Error::from).flatten() {
            // where something was signed there may be more
            Ok(true) if !stop.is_cancelled() => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(cause = causes(error.as_ref()), "batches have to wait"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(app.config.poll()) => {}
        }
    }
}

/// Whether anything was signed.
async fn round(app: &App) -> anyhow::Result<bool> {
    seal::seal_due(app).await?;
    let mut is_any = false;
    for (provider, number) in sealed(&app.db).await? {
        if !app.leases.hold(&lease_of(provider)).await? {
            continue;
        }
        match build::build_and_sign(app, provider, number).await {
            Ok(()) => is_any = true,
            Err(error) => {
                tracing::warn!(%provider, number, cause = causes(error.as_ref()), "a sealed batch is not signed yet");
                // another process may reach store and attestor
                app.leases.release(&lease_of(provider)).await?;
                fail(&app.db, provider, number, &causes(error.as_ref())).await?;
            }
        }
    }
    Ok(is_any)
}

/// Who holds it seals a provider's batches, builds them and has them signed.
fn lease_of(provider: Address) -> String {
    format!("batch {provider}")
}

/// Sealed batches in order, at most one a provider: the attestor signs them in order.
async fn sealed(db: &PgPool) -> anyhow::Result<Vec<(Address, u64)>> {
    let rows = sqlx::query(
        "SELECT DISTINCT ON (provider) provider, number FROM batch WHERE state = 'sealed' ORDER BY provider, number LIMIT $1",
    )
    .bind(BATCHES_PER_ROUND)
    .fetch_all(db)
    .await?;
    rows.iter().map(key).collect()
}

fn key(row: &PgRow) -> anyhow::Result<(Address, u64)> {
    Ok((Address::from(row.try_get::<[u8; 20], _>(0)?), u64::try_from(row.try_get::<i64, _>(1)?)?))
}

/// Notes why a batch's last step failed.
pub async fn fail(db: impl PgExecutor<'_>, provider: Address, number: u64, error: &str) -> anyhow::Result<()> {
    let error: String = error.chars().take(1000).collect();
    sqlx::query("UPDATE batch SET error = $3 WHERE provider = $1 AND number = $2 AND error IS DISTINCT FROM $3")
        .bind(provider.0.0)
        .bind(bigint(number)?)
        .bind(error)
        .execute(db)
        .await?;
    Ok(())
}

/// A batch as the anchor sees it.
#[derive(Clone, Debug)]
pub struct Signed {
    /// What was signed.
    pub header: Header,
    /// The attestor's.
    pub signature: Bytes,
}

/// For each provider the oldest batch that the chain does not have, where it is signed and no transaction carries it.
pub async fn to_anchor(db: &PgPool) -> anyhow::Result<Vec<Signed>> {
    let rows = sqlx::query(
        "SELECT header, signature FROM (
             SELECT DISTINCT ON (provider) state, header, signature FROM batch
             WHERE state NOT IN ('mined', 'final') ORDER BY provider, number
         ) AS oldest WHERE state = 'signed' LIMIT $1",
    )
    .bind(BATCHES_PER_ROUND)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let Json(header) = row.try_get::<Json<Header>, _>(0)?;
            Ok(Signed { header, signature: Bytes::from(row.try_get::<Vec<u8>, _>(1)?) })
        })
        .collect()
}

/// States of a batch once it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No transaction carries it.
    Signed,
    /// A transaction carries it.
    Submitted,
    /// In a block.
    Mined,
    /// In a final block.
    Final,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Signed => "signed",
            Self::Submitted => "submitted",
            Self::Mined => "mined",
            Self::Final => "final",
        }
    }
}

/// Moves a signed batch.
pub async fn set_state(tx: &mut Tx<'_>, provider: Address, number: u64, to: State) -> anyhow::Result<()> {
    let is_anchored = matches!(to, State::Mined | State::Final);
    let moved = sqlx::query(
        "UPDATE batch SET state = $3, error = CASE WHEN $4 THEN NULL ELSE error END
         WHERE provider = $1 AND number = $2 AND state <> 'sealed'",
    )
    .bind(provider.0.0)
    .bind(bigint(number)?)
    .bind(to.name())
    .bind(is_anchored)
    .execute(&mut **tx)
    .await?;
    anyhow::ensure!(moved.rows_affected() == 1, "batch {number} of {provider} is not there, or not signed");
    Ok(())
}

/// Marks a signed batch as carried by a transaction; false where another one carries it by now, or the chain has it.
pub async fn carry(tx: &mut Tx<'_>, provider: Address, number: u64) -> anyhow::Result<bool> {
    let moved =
        sqlx::query("UPDATE batch SET state = 'submitted' WHERE provider = $1 AND number = $2 AND state = 'signed'")
            .bind(provider.0.0)
            .bind(bigint(number)?)
            .execute(&mut **tx)
            .await?;
    Ok(moved.rows_affected() == 1)
}

/// Adds what a batch debits to what the batches before it did.
async fn keep_debits(tx: &mut Tx<'_>, header: &Header) -> anyhow::Result<()> {
    for debit in &header.debits {
        sqlx::query(
            "INSERT INTO task_debit (provider, task_id, number, cumulative)
             SELECT $1, $2, $3, $4::text::numeric + coalesce((
                 SELECT cumulative FROM task_debit WHERE provider = $1 AND task_id = $2 AND number < $3
                 ORDER BY number DESC LIMIT 1), 0)",
        )
        .bind(header.provider.0.0)
        .bind(bigint(debit.task_id)?)
        .bind(bigint(header.number)?)
        .bind(debit.amount.to_string())
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

/// What a provider's batches below a number debit a task with.
pub async fn debited(db: &mut PgConnection, provider: Address, task_id: u64, below: u64) -> anyhow::Result<u128> {
    let cumulative: Option<String> = sqlx::query_scalar(
        "SELECT cumulative::text FROM task_debit WHERE provider = $1 AND task_id = $2 AND number < $3
         ORDER BY number DESC LIMIT 1",
    )
    .bind(provider.0.0)
    .bind(bigint(task_id)?)
    .bind(bigint(below)?)
    .fetch_optional(db)
    .await?;
    Ok(cumulative.map_or(Ok(0), |text| text.parse())?)
}

/// A batch as its provider sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The provider's next one.
    pub number: i64,
    /// sealed, signed, submitted, mined, final.
    pub state: String,
    /// How many events.
    pub event_count: i32,
    /// What was signed, once it is.
    pub header: Option<Header>,
    /// Why the last step failed.
    pub error: Option<String>,
    /// Unix seconds.
    pub sealed_at: i64,
}

/// Batches of a provider from `from` on, ascending; of one state, where asked.
pub async fn list(
    db: &PgPool,
    provider: Address,
    state: Option<&str>,
    from: i64,
    limit: i64,
) -> sqlx::Result<Vec<Seen>> {
    let rows = sqlx::query(
        "SELECT number, state, event_count, header, error, extract(epoch FROM sealed_at)::bigint FROM batch
         WHERE provider = $1 AND number >= $2 AND ($3::text IS NULL OR state = $3) ORDER BY number LIMIT $4",
    )
    .bind(provider.0.0)
    .bind(from)
    .bind(state)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Seen {
                number: row.try_get(0)?,
                state: row.try_get(1)?,
                event_count: row.try_get(2)?,
                header: row.try_get::<Option<Json<Header>>, _>(3)?.map(|Json(header)| header),
                error: row.try_get(4)?,
                sealed_at: row.try_get(5)?,
            })
        })
        .collect()
}

/// Batches that are not final: how many a state, the age of the oldest, and the errors of those that have one.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// State and count.
    pub counts: Vec<(String, i64)>,
    /// Of the oldest that is not in a block.
    pub unanchored_age_ms: Option<i64>,
    /// Provider, number, error.
    pub errors: Vec<(Address, i64, String)>,
}

/// What is under way, for `/status`.
pub async fn open(db: &PgPool) -> anyhow::Result<Open> {
    let counts = sqlx::query("SELECT state, count(*) FROM batch WHERE state <> 'final' GROUP BY state ORDER BY state")
        .fetch_all(db)
        .await?;
    let unanchored_age_ms = sqlx::query_scalar(
        "SELECT (extract(epoch FROM now() - min(sealed_at)) * 1000)::bigint FROM batch WHERE state NOT IN ('mined', 'final')",
    )
    .fetch_one(db)
    .await?;
    let errors = sqlx::query(
        "SELECT provider, number, error FROM batch WHERE state <> 'final' AND error IS NOT NULL ORDER BY provider, number LIMIT 20",
    )
    .fetch_all(db)
    .await?;
    Ok(Open {
        counts: counts.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<sqlx::Result<_>>()?,
        unanchored_age_ms,
        errors: errors
            .iter()
            .map(|row| Ok((Address::from(row.try_get::<[u8; 20], _>(0)?), row.try_get(1)?, row.try_get(2)?)))
            .collect::<sqlx::Result<_>>()?,
    })
}

/// Batches that are in the chain's log though no transaction of ours is followed for them: somebody else sent them.
pub async fn anchored_by_others(db: &PgPool) -> anyhow::Result<Vec<Header>> {
    let rows = sqlx::query(
        "SELECT b.header FROM batch b WHERE b.state = 'mined' AND NOT EXISTS (
             SELECT FROM transaction t
             WHERE t.provider = b.provider AND t.number = b.number AND t.state IN ('submitted', 'mined', 'final'))
         LIMIT $1",
    )
    .bind(BATCHES_PER_ROUND)
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| Ok(row.try_get::<Json<Header>, _>(0)?.0)).collect()
}

/// States of these batches of a provider.
pub async fn states(db: &PgPool, provider: Address, numbers: &[i64]) -> sqlx::Result<BTreeMap<i64, String>> {
    let rows = sqlx::query("SELECT number, state FROM batch WHERE provider = $1 AND number = ANY($2)")
        .bind(provider.0.0)
        .bind(numbers)
        .fetch_all(db)
        .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
