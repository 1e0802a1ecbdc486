//! The outbox: what becomes of each batch, told to its provider's webhook at least once and in order.
//!
//! ```text
//!  batch changes state ─► message (trigger, same transaction) ─► body ─► claim the endpoint ─► post ─► delivered
//!                                                                             ▲      │ backoff         or dead ─► replay
//!                                                                             └──────┘
//! ```

pub mod address;
pub mod deliver;

use std::{sync::Arc, time::Duration};

use alloy::primitives::Address;
use serde_json::json;
use sqlx::{PgPool, Row, postgres::PgRow};
use tidemark::service::causes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zeroize::Zeroizing;

use self::deliver::{Client, Outcome};
use crate::{
    anchor::follow::carriers,
    app::App,
    batch,
    intake::{Provider, unix_now},
    storage_key::{ROWS_AT_ONCE, Rotation, StorageKey},
};

/// Endpoints that are sent to at once.
const ENDPOINTS_AT_ONCE: usize = 16;
/// Messages that get their body in one round.
const BODIES_PER_ROUND: i64 = 256;
/// Messages sent under one claim, and how long it may go on; then others have their turn.
const MESSAGES_PER_CLAIM: usize = 64;
const CLAIM_TIME_MAX: Duration = Duration::from_secs(30);
/// The longest pause between two attempts.
const PAUSE_MS_MAX: u64 = 6 * 3_600_000;
const CLEAN_EVERY: Duration = Duration::from_secs(60);
const ROWS_PER_CLEANING: i64 = 10_000;
/// No contributor's reference has a control character, so the secrets can't be mistaken for each other.
const SEALED_AS: &str = "\u{2}webhook";

/// Sets a provider's endpoint; gives the new secret, as it is shown once. The one before signs too for a day.
pub async fn set_endpoint(db: &PgPool, key: &StorageKey, provider: Address, url: &str) -> anyhow::Result<String> {
    let mut secret = Zeroizing::new([0u8; 32]);
    getrandom::fill(secret.as_mut_slice())?;
    let sealed = key.seal(provider, SEALED_AS, &secret)?;
    sqlx::query(
        "INSERT INTO outbox_endpoint AS e (provider, url, sealed_secret) VALUES ($1, $2, $3)
         ON CONFLICT (provider) DO UPDATE SET
             url = excluded.url, sealed_secret = excluded.sealed_secret, former_secret = e.sealed_secret,
             former_until = now() + interval '24 hours', set_at = now()",
    )
    .bind(provider.0.0)
    .bind(url)
    .bind(sealed)
    .execute(db)
    .await?;
    Ok(deliver::shown(&secret))
}

/// Ends a provider's webhook, with all its messages; false where there was none.
pub async fn remove_endpoint(db: &PgPool, provider: Address) -> sqlx::Result<bool> {
    let gone = sqlx::query("DELETE FROM outbox_endpoint WHERE provider = $1").bind(provider.0.0).execute(db).await?;
    Ok(gone.rows_affected() == 1)
}

/// Has messages sent again: all dead ones, or with `from` every one that ended from this id on. Gives how many.
pub async fn replay(db: &PgPool, provider: Address, from: Option<i64>) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "UPDATE outbox_message SET state = 'waiting', attempts = 0, next_attempt_at = now(), created_at = now(), ended_at = NULL
         WHERE provider = $1 AND state <> 'waiting' AND CASE WHEN $2::bigint IS NULL THEN state = 'dead' ELSE id >= $2 END",
    )
    .bind(provider.0.0)
    .bind(from)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Gives messages their bodies, sends what is due, cleans up, until `stop`.
pub async fn run(app: Arc<App>, client: Client, stop: CancellationToken) {
    let client = Arc::new(client);
    let mut under_way = JoinSet::new();
    let mut cleaned_at: Option<tokio::time::Instant> = None;
    loop {
        while under_way.try_join_next().is_some() {}
        if let Err(error) = round(&app, &client, &mut under_way).await {
            tracing::warn!(cause = causes(error.as_ref()), "webhooks have to wait");
        }
        if cleaned_at.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
            cleaned_at = Some(tokio::time::Instant::now());
            if let Err(error) = clean(&app.db, app.config.webhook_keep_hours).await {
                tracing::warn!(cause = causes(&error), "old webhook messages stay for now");
            }
        }
        tokio::select! {
            // a delivery that is cut off is repeated when its lease is over
            () = stop.cancelled() => return,
            () = tokio::time::sleep(app.config.poll()) => {}
        }
    }
}

async fn round(app: &Arc<App>, client: &Arc<Client>, under_way: &mut JoinSet<()>) -> anyhow::Result<()> {
    write_bodies(&app.db).await?;
    let free = ENDPOINTS_AT_ONCE.saturating_sub(under_way.len());
    for claim in claim(&app.db, i64::try_from(free)?).await? {
        let (app, client) = (Arc::clone(app), Arc::clone(client));
        under_way.spawn(async move {
            let provider = claim.provider;
            if let Err(error) = serve_claim(&app, &client, claim).await {
                tracing::warn!(%provider, cause = causes(error.as_ref()), "a webhook has to wait");
            }
        });
    }
    Ok(())
}

/// Writes the bodies of new messages, so that every attempt sends the same bytes.
async fn write_bodies(db: &PgPool) -> anyhow::Result<()> {
    let rows = sqlx::query(
        "SELECT m.id, m.provider, m.number, m.batch_state, m.state_before, extract(epoch FROM m.created_at)::bigint
         FROM outbox_message m WHERE m.body IS NULL AND m.state = 'waiting' ORDER BY m.id LIMIT $1",
    )
    .bind(BODIES_PER_ROUND)
    .fetch_all(db)
    .await?;
    for row in &rows {
        let id: i64 = row.try_get(0)?;
        let body = match body(db, row).await {
            Ok(body) => body,
            Err(error) => {
                // it waits, and those of its provider behind it; the other providers' do not
                tracing::error!(id, cause = causes(error.as_ref()), "a webhook message can't be written");
                continue;
            }
        };
        // another process may have been faster: its bytes stay
        sqlx::query("UPDATE outbox_message SET body = $2 WHERE id = $1 AND body IS NULL")
            .bind(id)
            .bind(body)
            .execute(db)
            .await?;
    }
    Ok(())
}

async fn body(db: &PgPool, row: &PgRow) -> anyhow::Result<String> {
    let provider = Address::from(row.try_get::<[u8; 20], _>(1)?);
    let (number, state): (i64, &str) = (row.try_get(2)?, row.try_get(3)?);
    let batch = batch::list(db, provider, None, number, 1).await?.into_iter().next();
    let header = batch.as_ref().and_then(|batch| batch.header.as_ref());
    let carrier = match state {
        "submitted" | "mined" | "final" => carriers(db, provider, &[number]).await?.into_iter().next(),
        _ => None,
    };
    let block = carrier.as_ref().and_then(|carrier| carrier.block_number).filter(|_| state != "submitted");
    let at = time::OffsetDateTime::from_unix_timestamp(row.try_get(5)?)?;
    let body = json!({
        "type": format!("batch.{state}"),
        "timestamp": at.format(&time::format_description::well_known::Rfc3339)?,
        "data": {
            "provider": provider,
            "number": number,
            "state": state,
            "previous_state": row.try_get::<Option<&str>, _>(4)?,
            "event_count": batch.as_ref().map(|batch| batch.event_count),
            "root": header.map(|header| header.root),
            "manifest_cid": header.map(|header| header.manifest_cid.to_string()),
            "transaction": carrier.as_ref().map(|carrier| carrier.hash),
            "block_number": block,
            "records": format!("/v1/batches/{number}/records"),
        },
    });
    Ok(body.to_string())
}

/// An endpoint that this process alone may send to, as long as it renews the lease.
struct Claim {
    id: Uuid,
    provider: Address,
    url: String,
    sealed: Vec<Vec<u8>>,
}

/// Claims endpoints whose oldest waiting message is due, for longer than a delivery can take.
async fn claim(db: &PgPool, limit: i64) -> anyhow::Result<Vec<Claim>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let id = Uuid::new_v4();
    let rows = sqlx::query(
        "UPDATE outbox_endpoint SET claim = $1, claimed_until = now() + interval '20 seconds' WHERE provider IN (
             SELECT e.provider FROM outbox_endpoint e CROSS JOIN LATERAL (
                 SELECT m.next_attempt_at, m.body FROM outbox_message m
                 WHERE m.provider = e.provider AND m.state = 'waiting' ORDER BY m.id LIMIT 1) AS head
             WHERE e.claimed_until <= now() AND head.next_attempt_at <= now() AND head.body IS NOT NULL
             ORDER BY head.next_attempt_at LIMIT $2 FOR UPDATE OF e SKIP LOCKED)
         RETURNING provider, url, sealed_secret, CASE WHEN former_until > now() THEN former_secret END",
    )
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    rows.iter()
        .map(|row| {
            let sealed = [Some(row.try_get::<Vec<u8>, _>(2)?), row.try_get::<Option<Vec<u8>>, _>(3)?];
            Ok(Claim {
                id,
                provider: Address::from(row.try_get::<[u8; 20], _>(0)?),
                url: row.try_get(1)?,
                sealed: sealed.into_iter().flatten().collect(),
            })
        })
        .collect()
}

struct Message {
    id: i64,
    message: Uuid,
    body: String,
    attempts: i32,
}

/// Sends an endpoint's messages one after another until one is not taken, none is left or its time is over.
async fn serve_claim(app: &App, client: &Client, claim: Claim) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    let opened = claim.sealed.iter().map(|sealed| app.storage_key.open(claim.provider, SEALED_AS, sealed));
    let secrets = opened.collect::<anyhow::Result<Vec<_>>>()?;
    let secrets: Vec<&[u8]> = secrets.iter().map(|secret| secret.as_slice()).collect();
    for _ in 0..MESSAGES_PER_CLAIM {
        let Some(message) = next(&app.db, claim.provider).await? else { break };
        let outcome = client.post(&claim.url, message.message, unix_now(), &message.body, &secrets).await;
        let goes_on = note(app, &message, &outcome).await?;
        if !goes_on || started.elapsed() >= CLAIM_TIME_MAX || !renew(&app.db, &claim).await? {
            break;
        }
    }
    sqlx::query("UPDATE outbox_endpoint SET claimed_until = now() WHERE provider = $1 AND claim = $2")
        .bind(claim.provider.0.0)
        .bind(claim.id)
        .execute(&app.db)
        .await?;
    Ok(())
}

/// The oldest waiting message, where it is due.
async fn next(db: &PgPool, provider: Address) -> sqlx::Result<Option<Message>> {
    let row = sqlx::query(
        "SELECT id, message_id, body, attempts FROM (
             SELECT * FROM outbox_message WHERE provider = $1 AND state = 'waiting' ORDER BY id LIMIT 1) AS head
         WHERE next_attempt_at <= now() AND body IS NOT NULL",
    )
    .bind(provider.0.0)
    .fetch_optional(db)
    .await?;
    row.map(|row| {
        Ok(Message { id: row.try_get(0)?, message: row.try_get(1)?, body: row.try_get(2)?, attempts: row.try_get(3)? })
    })
    .transpose()
}

async fn renew(db: &PgPool, claim: &Claim) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "UPDATE outbox_endpoint SET claimed_until = now() + interval '20 seconds' WHERE provider = $1 AND claim = $2",
    )
    .bind(claim.provider.0.0)
    .bind(claim.id)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes down what came of an attempt; true where the next message may go.
async fn note(app: &App, message: &Message, outcome: &Outcome) -> anyhow::Result<bool> {
    let attempts = message.attempts.saturating_add(1);
    let is_last = u32::try_from(attempts)? >= app.config.webhook_attempts_max;
    let state = match (&outcome.error, is_last) {
        (None, _) => "delivered",
        (Some(_), true) => "dead",
        (Some(_), false) => "waiting",
    };
    let pause_ms = pause_ms(app.config.webhook_retry_ms, u32::try_from(attempts)?, random()?);
    let error: Option<String> = outcome.error.as_ref().map(|error| error.chars().take(500).collect());
    sqlx::query(
        "UPDATE outbox_message SET state = $2, attempts = $3, last_status = $4, last_error = $5,
             next_attempt_at = now() + $6 * interval '1 millisecond',
             ended_at = CASE WHEN $2 = 'waiting' THEN NULL ELSE now() END
         WHERE id = $1 AND state = 'waiting'",
    )
    .bind(message.id)
    .bind(state)
    .bind(attempts)
    .bind(outcome.status.map(i16::try_from).transpose()?)
    .bind(error)
    .bind(i64::try_from(pause_ms)?)
    .execute(&app.db)
    .await?;
    metrics::counter!("outbox_attempts_total", "outcome" => state).increment(1);
    Ok(state != "waiting")
}

fn random() -> anyhow::Result<u8> {
    let mut byte = [0u8; 1];
    getrandom::fill(&mut byte)?;
    Ok(byte[0])
}

/// Milliseconds until the next attempt: three times as long after each, at most six hours, give or take a quarter.
fn pause_ms(first_ms: u64, attempts: u32, random: u8) -> u64 {
    let pause = first_ms.saturating_mul(3u64.saturating_pow(attempts.saturating_sub(1))).min(PAUSE_MS_MAX);
    // 192/256 to 319.5/256
    pause.saturating_mul(384 + u64::from(random)) / 512
}

/// Ends what nobody took for three days, so that an endpoint that is gone has a bounded queue; deletes what ended long ago.
pub async fn clean(db: &PgPool, keep_hours: u32) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE outbox_message SET state = 'dead', ended_at = now(), last_error = coalesce(last_error, 'nobody took it in time')
         WHERE id IN (SELECT id FROM outbox_message WHERE state = 'waiting' AND created_at < now() - interval '72 hours'
                      ORDER BY id LIMIT $1)",
    )
    .bind(ROWS_PER_CLEANING)
    .execute(db)
    .await?;
    sqlx::query(
        "DELETE FROM outbox_message WHERE id IN (
             SELECT id FROM outbox_message WHERE state <> 'waiting' AND ended_at < now() - $1 * interval '1 hour' LIMIT $2)",
    )
    .bind(i64::from(keep_hours))
    .bind(ROWS_PER_CLEANING)
    .execute(db)
    .await?;
    Ok(())
}

/// A message as its provider sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// For `webhook replay --from`.
    pub id: i64,
    /// The `webhook-id`.
    pub message: Uuid,
    /// Which batch.
    pub number: i64,
    /// What became of it.
    pub batch_state: String,
    /// waiting, delivered or dead.
    pub state: String,
    /// How often it was sent.
    pub attempts: i32,
    /// HTTP status of the last answer.
    pub last_status: Option<i16>,
    /// Why it was not taken.
    pub last_error: Option<String>,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; of what waits.
    pub next_attempt_at: Option<i64>,
    /// Unix seconds.
    pub ended_at: Option<i64>,
}

/// Where a provider's messages go.
pub async fn endpoint(db: &PgPool, provider: &Provider) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("SELECT url FROM outbox_endpoint WHERE provider = $1")
        .bind(provider.account.0.0)
        .fetch_optional(db)
        .await
}

/// A provider's messages from an id on, ascending; of one state, where asked.
pub async fn list(
    db: &PgPool,
    provider: Address,
    state: Option<&str>,
    from: i64,
    limit: i64,
) -> sqlx::Result<Vec<Seen>> {
    let rows = sqlx::query(
        "SELECT id, message_id, number, batch_state, state, attempts, last_status, last_error,
                extract(epoch FROM created_at)::bigint,
                CASE WHEN state = 'waiting' THEN extract(epoch FROM next_attempt_at)::bigint END,
                extract(epoch FROM ended_at)::bigint
         FROM outbox_message WHERE provider = $1 AND id >= $2 AND ($3::text IS NULL OR state = $3) ORDER BY id LIMIT $4",
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
                id: row.try_get(0)?,
                message: row.try_get(1)?,
                number: row.try_get(2)?,
                batch_state: row.try_get(3)?,
                state: row.try_get(4)?,
                attempts: row.try_get(5)?,
                last_status: row.try_get(6)?,
                last_error: row.try_get(7)?,
                created_at: row.try_get(8)?,
                next_attempt_at: row.try_get(9)?,
                ended_at: row.try_get(10)?,
            })
        })
        .collect()
}

/// How many messages wait and are dead, and the age of the oldest that waits, in seconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, utoipa::ToSchema)]
pub struct Backlog {
    /// Not taken yet.
    pub waiting: i64,
    /// Given up on; see `webhook replay`.
    pub dead: i64,
    /// Seconds; none where none waits.
    pub oldest_age_seconds: Option<i64>,
}

/// What waits in the outbox.
pub async fn backlog(db: &PgPool) -> sqlx::Result<Backlog> {
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM outbox_message WHERE state = 'waiting'),
                (SELECT count(*) FROM outbox_message WHERE state = 'dead'),
                (SELECT extract(epoch FROM now() - min(created_at))::bigint FROM outbox_message WHERE state = 'waiting')",
    )
    .fetch_one(db)
    .await?;
    Ok(Backlog { waiting: row.try_get(0)?, dead: row.try_get(1)?, oldest_age_seconds: row.try_get(2)? })
}

/// Whether a storage key opens a sealed secret; none where there is none.
pub async fn opens_a_secret(db: &PgPool, key: &StorageKey) -> anyhow::Result<Option<bool>> {
    let row = sqlx::query("SELECT provider, sealed_secret FROM outbox_endpoint LIMIT 1").fetch_optional(db).await?;
    let Some(row) = row else { return Ok(None) };
    let provider = Address::from(row.try_get::<[u8; 20], _>(0)?);
    Ok(Some(key.open(provider, SEALED_AS, row.try_get::<&[u8], _>(1)?).is_ok()))
}

/// Seals some endpoints' secrets again, those after `from`, where the current key has not sealed them; gives where to go on.
pub async fn seal_again(
    db: &PgPool,
    key: &StorageKey,
    from: Vec<u8>,
    done: &mut Rotation,
) -> anyhow::Result<Option<Vec<u8>>> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query(
        "SELECT provider, sealed_secret, former_secret FROM outbox_endpoint WHERE provider > $1
         ORDER BY provider LIMIT $2 FOR UPDATE",
    )
    .bind(from)
    .bind(ROWS_AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    let mut last = None;
    for row in rows {
        let provider: [u8; 20] = row.try_get(0)?;
        let mut again = |sealed: &[u8]| {
            let again = key.seal_again(Address::from(provider), SEALED_AS, sealed)?;
            done.count(again.as_ref());
            anyhow::Ok(again)
        };
        let sealed = again(row.try_get(1)?)?;
        let former = row.try_get::<Option<&[u8]>, _>(2)?.map(again).transpose()?.flatten();
        sqlx::query(
            "UPDATE outbox_endpoint SET sealed_secret = coalesce($2, sealed_secret),
                 former_secret = coalesce($3, former_secret) WHERE provider = $1",
        )
        .bind(provider)
        .bind(sealed)
        .bind(former)
        .execute(&mut *tx)
        .await?;
        last = Some(provider.to_vec());
    }
    tx.commit().await?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_threefold_and_are_bounded() {
        let middle = |attempts| pause_ms(5_000, attempts, 128);
        assert_eq!([middle(1), middle(2), middle(3)], [5_000, 15_000, 45_000]);
        assert_eq!((middle(20), middle(u32::MAX)), (PAUSE_MS_MAX, PAUSE_MS_MAX));
        assert!((pause_ms(5_000, 1, 0), pause_ms(5_000, 1, 255)) == (3_750, 6_240));
    }
}
