//! Taking a request in: one transaction that answers an idempotency key once and holds the entries' points.

use alloy::primitives::{Address, B256};
use axum::http::StatusCode;
use sqlx::{Postgres, Row, Transaction};
use tidemark::{canonical::jcs, ids::sha256};
use uuid::Uuid;

use super::{
    Payouts, debit_id,
    request::{PayoutRequest, Wanted},
    routes::{self, PayoutView},
};
use crate::problem::Problem;

/// An answer as it was first given.
pub struct FirstAnswer {
    /// HTTP status.
    pub status: u16,
    /// JSON.
    pub body: String,
    /// Whether this request was a repetition.
    pub replayed: bool,
}

/// Answers a request of the provider named `provider_name`: makes the payout, or replays what was answered before.
pub async fn reserve(
    payouts: &Payouts,
    provider_name: &str,
    key: &str,
    request: PayoutRequest,
) -> Result<FirstAnswer, Problem> {
    let digest = sha256(&[&jcs(&request).map_err(|error| Problem::internal(&error))?]);
    let wanted = request.check(payouts.inner.config.units_per_point)?;
    let mut transaction = payouts.inner.pool.begin().await?;
    let (provider, treasury) = provider(&mut transaction, provider_name).await?;
    lock_key(&mut transaction, provider, key).await?;
    if let Some(first) = first_answer(&mut transaction, provider, key, digest).await? {
        return Ok(first);
    }
    lock_provider(&mut transaction, provider).await?;
    let (payout_id, status, body) = match short_of_balance(&mut transaction, provider, &wanted).await? {
        Some(problem) => (None, problem.status, to_json(&problem)?),
        None => {
            let id = Uuid::new_v4();
            let view = insert(&mut transaction, id, provider, treasury, wanted).await?;
            (Some(id), StatusCode::CREATED.as_u16(), to_json(&view)?)
        }
    };
    sqlx::query(
        "INSERT INTO local.payout_request (provider, idempotency_key, digest, payout_id, status, answer)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(provider.as_slice())
    .bind(key)
    .bind(digest.as_slice())
    .bind(payout_id)
    .bind(i16::try_from(status).unwrap_or(i16::MAX))
    .bind(&body)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    if let Some(payout_id) = payout_id {
        tracing::info!(%payout_id, provider = provider_name, "payout reserved");
        metrics::counter!("tidemark_payout_steps_total", "to" => "reserved").increment(1);
        payouts.inner.made.notify_one();
    }
    Ok(FirstAnswer { status, body, replayed: false })
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|error| Problem::internal(&error))
}

async fn provider(transaction: &mut Transaction<'_, Postgres>, name: &str) -> Result<(Address, Address), Problem> {
    let row = sqlx::query("SELECT address, points_treasury FROM provider WHERE name = $1")
        .bind(name)
        .fetch_optional(&mut **transaction)
        .await?
        .ok_or_else(|| {
            Problem::unavailable(format!("provider {name} is not on chain yet at the block applied here"))
        })?;
    Ok((routes::address(&row, 0)?, routes::address(&row, 1)?))
}

/// Two requests with one key at the same time: the second one is told so instead of waiting.
async fn lock_key(transaction: &mut Transaction<'_, Postgres>, provider: Address, key: &str) -> Result<(), Problem> {
    let free: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("tidemark/payout-key/{provider}/{key}"))
        .fetch_one(&mut **transaction)
        .await?;
    match free {
        true => Ok(()),
        false => Err(Problem::new(
            StatusCode::CONFLICT,
            "idempotency-in-flight",
            "A request with this key is being answered",
            "the first request with this Idempotency-Key is still in flight; send the same again in a moment",
        )),
    }
}

async fn first_answer(
    transaction: &mut Transaction<'_, Postgres>,
    provider: Address,
    key: &str,
    digest: B256,
) -> Result<Option<FirstAnswer>, Problem> {
    let row = sqlx::query(
        "SELECT digest, status, answer FROM local.payout_request WHERE provider = $1 AND idempotency_key = $2",
    )
    .bind(provider.as_slice())
    .bind(key)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if routes::hash(&row, 0)? != digest {
        let problem = Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            "This key belongs to another request",
            "the Idempotency-Key was used with another body; a new payout needs a new key",
        );
        return Err(problem.at("Idempotency-Key"));
    }
    let status = u16::try_from(row.try_get::<i16, _>(1)?).unwrap_or(500);
    Ok(Some(FirstAnswer { status, body: row.try_get(2)?, replayed: true }))
}

/// Payouts of one provider are taken in one after another, so that two can't spend the same balance. The ledger is not
/// locked: it only adds to a balance, or takes off what is held here in the same transaction.
async fn lock_provider(transaction: &mut Transaction<'_, Postgres>, provider: Address) -> Result<(), Problem> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("tidemark/payout-provider/{provider}"))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// The first entry that asks for more than its account has free. Free is the ledger's balance, less what open payouts
/// hold, less what was redeemed on chain and waits for the ledger; one statement, so one snapshot.
async fn short_of_balance(
    transaction: &mut Transaction<'_, Postgres>,
    provider: Address,
    wanted: &Wanted,
) -> Result<Option<Problem>, Problem> {
    let accounts: Vec<&[u8]> = wanted.entries.iter().map(|(account, _)| account.as_slice()).collect();
    let amounts: Vec<String> = wanted.entries.iter().map(|(_, amount)| amount.to_string()).collect();
    let row = sqlx::query(
        "SELECT wanted.position, wanted.amount, greatest(account.balance - open.held - redeemed.waiting, 0)::text
         FROM unnest($2::bytea[], $3::text[]) WITH ORDINALITY AS wanted (key, amount, position)
         CROSS JOIN LATERAL (
             SELECT coalesce(max(balance), 0) AS balance FROM ledger_account
             WHERE provider = $1 AND kind = 'contributor' AND key = wanted.key
         ) AS account
         CROSS JOIN LATERAL (
             SELECT coalesce(sum(entry.amount), 0) AS held
             FROM local.payout_entry AS entry JOIN local.payout USING (payout_id)
             WHERE payout.provider = $1 AND entry.account = wanted.key AND payout.state <> 'voided'
                 AND NOT EXISTS (
                     SELECT FROM points_redeemed AS mirrored
                     WHERE mirrored.provider = payout.provider AND mirrored.payout_id = entry.debit_id
                 )
         ) AS open
         CROSS JOIN LATERAL (
             SELECT coalesce(sum(amount), 0) AS waiting FROM points_redeemed
             WHERE provider = $1 AND account = wanted.key AND state = 'waiting'
         ) AS redeemed
         WHERE account.balance - open.held - redeemed.waiting < wanted.amount::numeric
         ORDER BY wanted.position LIMIT 1",
    )
    .bind(provider.as_slice())
    .bind(accounts)
    .bind(amounts)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (position, asked, free): (i64, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let field = format!("entries[{}].amount", position - 1);
    let detail = format!("{field}: the account has {free} units free with this provider, asked for {asked}");
    let problem = Problem::new(StatusCode::CONFLICT, "balance-exceeded", "The account holds fewer points", detail);
    Ok(Some(problem.compared(field, format!("at most {free} units"), asked)))
}

async fn insert(
    transaction: &mut Transaction<'_, Postgres>,
    id: Uuid,
    provider: Address,
    treasury: Address,
    wanted: Wanted,
) -> Result<PayoutView, Problem> {
    sqlx::query(
        "INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points)
         VALUES ($1, $2, $3, $4, $5::text::numeric, $6)",
    )
    .bind(id)
    .bind(provider.as_slice())
    .bind(treasury.as_slice())
    .bind(&wanted.destination)
    .bind(wanted.amount.to_string())
    .bind(i64::try_from(wanted.points).unwrap_or(i64::MAX))
    .execute(&mut **transaction)
    .await?;
    let accounts: Vec<&[u8]> = wanted.entries.iter().map(|(account, _)| account.as_slice()).collect();
    let amounts: Vec<String> = wanted.entries.iter().map(|(_, amount)| amount.to_string()).collect();
    let debits: Vec<Vec<u8>> = wanted.entries.iter().map(|(account, _)| debit_id(id, *account).to_vec()).collect();
    sqlx::query(
        "INSERT INTO local.payout_entry (payout_id, position, account, amount, debit_id)
         SELECT $1, (position - 1)::integer, account, amount::numeric, debit_id
         FROM unnest($2::bytea[], $3::text[], $4::bytea[]) WITH ORDINALITY AS e (account, amount, debit_id, position)",
    )
    .bind(id)
    .bind(accounts)
    .bind(amounts)
    .bind(debits)
    .execute(&mut **transaction)
    .await?;
    routes::view(transaction, id, provider).await?.ok_or_else(|| Problem::unavailable("the payout was not kept"))
}
