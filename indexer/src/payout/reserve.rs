//! Taking a request in: one transaction that answers an idempotency key once and holds the entries' points.

use alloy::primitives::{Address, B256};
use axum::http::StatusCode;
use sqlx::{Postgres, Row, Transaction};
use tidemark::{canonical::jcs, ids::sha256};
use uuid::Uuid;

use super::{
    Payouts, debit_id,
    rails::RailName,
    rate::{self, Worth},
    request::{PayoutRequest, Wanted},
    routes::{self, PayoutView},
};
use crate::{problem::Problem, read::rfc3339};

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
    let mut transaction = payouts.inner.pool.begin().await?;
    let (provider, treasury) = provider(&mut transaction, provider_name).await?;
    lock_key(&mut transaction, provider, key).await?;
    if let Some(first) = first_answer(&mut transaction, provider, key, digest).await? {
        return Ok(first);
    }
    // after the answer that was given before, which no change of this operator's settings may undo
    let wanted = request.check(payouts.inner.config.units_per_point)?;
    let rail = wanted.rail(&payouts.inner.config.rails())?;
    lock_provider(&mut transaction, provider).await?;
    let worth = match payouts.inner.config.currency(rail) {
        // no refusal is kept of what the operator may set at any time
        Some(currency) => Some(rate::worth(&mut transaction, provider, rail, &currency, wanted.points).await?),
        None => None,
    };
    let (payout_id, status, body) = match short_of_balance(&mut transaction, provider, &wanted).await? {
        Some(problem) => (None, problem.status, to_json(&problem)?),
        None => {
            let id = Uuid::new_v4();
            let view = insert(&mut transaction, id, Payee { provider, treasury, rail, worth }, wanted).await?;
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
        // as the trigger `payout_within_balance` says it
        .bind(format!("tidemark/payout-provider/{provider:#x}"))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// The first entry that asks for more than its account has free. Free is what the account has, its parts of sales included,
/// less what open payouts hold, less what was redeemed on chain and waits for the ledger, less what was earned too short a
/// time ago; one statement, so one snapshot. The schema refuses an overdraw once more (`payout_within_balance`).
async fn short_of_balance(
    transaction: &mut Transaction<'_, Postgres>,
    provider: Address,
    wanted: &Wanted,
) -> Result<Option<Problem>, Problem> {
    let accounts: Vec<&[u8]> = wanted.entries.iter().map(|(account, _)| account.as_slice()).collect();
    let amounts: Vec<String> = wanted.entries.iter().map(|(_, amount)| amount.to_string()).collect();
    let row = sqlx::query(
        "SELECT wanted.position, wanted.amount, greatest(room.free, 0)::text, room.on_hold::text, wanted.key,
             room.free + room.on_hold >= wanted.amount::numeric, room.free::text
         FROM unnest($2::bytea[], $3::text[]) WITH ORDINALITY AS wanted (key, amount, position)
         CROSS JOIN LATERAL (
             SELECT balance - held - waiting - on_hold AS free, on_hold FROM local.payout_room($1, ARRAY[wanted.key])
         ) AS room
         WHERE room.free < wanted.amount::numeric
         ORDER BY wanted.position LIMIT 1",
    )
    .bind(provider.as_slice())
    .bind(accounts)
    .bind(amounts)
    .fetch_optional(&mut **transaction)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (position, asked, free): (i64, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let (on_hold, key, is_hold): (String, Vec<u8>, bool) = (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
    let field = format!("entries[{}].amount", position - 1);
    if is_hold {
        let (enough, all) = end_of_hold(transaction, provider, &key, &asked, row.try_get(6)?).await?;
        let detail = format!(
            "{field}: {on_hold} units of the account were earned a short time ago and are on hold until {all}, {free} are free, \
             asked for {asked}; so much is free at {enough}"
        );
        let title = "Points of the account are on hold";
        let problem = Problem::new(StatusCode::CONFLICT, "points-on-hold", title, detail);
        return Ok(Some(problem.compared(field, format!("at most {free} units before {enough}"), asked)));
    }
    let detail = format!("{field}: the account has {free} units free with this provider, asked for {asked}");
    let problem = Problem::new(StatusCode::CONFLICT, "balance-exceeded", "The account holds fewer points", detail);
    Ok(Some(problem.compared(field, format!("at most {free} units"), asked)))
}

/// When so much of an account is free, and when all of it is, as far as it goes by what is on hold now; RFC 3339.
async fn end_of_hold(
    transaction: &mut Transaction<'_, Postgres>,
    provider: Address,
    account: &[u8],
    asked: &str,
    free: &str,
) -> Result<(String, String), Problem> {
    let row = sqlx::query(
        "SELECT min(ends_at) FILTER (WHERE freed + $4::text::numeric >= $3::text::numeric), max(ends_at) FROM (
             SELECT t.block_time + h.seconds AS ends_at, sum(t.amount) OVER (ORDER BY t.block_time) AS freed
             FROM ledger_statement AS t JOIN local.payout_hold AS h ON h.provider = t.provider
             WHERE t.provider = $1 AND t.account = $2 AND t.cause <> 'redeem'
                 AND t.block_time + h.seconds > extract(epoch FROM now())
         ) AS young",
    )
    .bind(provider.as_slice())
    .bind(account)
    .bind(asked)
    .bind(free)
    .fetch_one(&mut **transaction)
    .await?;
    let time =
        |column: usize| Ok::<_, sqlx::Error>(rfc3339(row.try_get::<Option<i64>, _>(column)?.unwrap_or_default()));
    Ok((time(0)?, time(1)?))
}

/// Who owes, and who pays what.
struct Payee {
    provider: Address,
    treasury: Address,
    rail: RailName,
    worth: Option<Worth>,
}

async fn insert(
    transaction: &mut Transaction<'_, Postgres>,
    id: Uuid,
    payee: Payee,
    wanted: Wanted,
) -> Result<PayoutView, Problem> {
    let Payee { provider, treasury, rail, worth } = payee;
    sqlx::query(
        "INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points, rail, recipient_name,
             recipient_bic, currency, minor, rate_id, rate_minor, rate_points)
         VALUES ($1, $2, $3, $4, $5::text::numeric, $6, $7, $8, $9, $10, $11::text::numeric, $12, $13::text::numeric, $14)",
    )
    .bind(id)
    .bind(provider.as_slice())
    .bind(treasury.as_slice())
    .bind(&wanted.destination)
    .bind(wanted.amount.to_string())
    .bind(i64::try_from(wanted.points).unwrap_or(i64::MAX))
    .bind(rail.text())
    .bind(&wanted.name)
    .bind(&wanted.bic)
    .bind(worth.as_ref().map(|worth| worth.currency.as_str()))
    .bind(worth.as_ref().map(|worth| worth.minor.to_string()))
    .bind(worth.as_ref().map(|worth| worth.rate_id))
    .bind(worth.as_ref().map(|worth| worth.rate_minor.to_string()))
    .bind(worth.as_ref().map(|worth| worth.rate_points))
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
