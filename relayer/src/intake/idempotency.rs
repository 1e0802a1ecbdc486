//! Answers by `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): a second request gets the answer of the
//! first, or hears that it is still under way.
//!
//! A key is a row, written before the work begins; the answer is written into it after. Between the two a crash leaves
//! a row without an answer, which the next request takes over once nobody can be at work on it any more. That is safe
//! because uploads and withdrawals are idempotent by themselves: the key only saves the work.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use sqlx::{PgPool, Row};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    app::App,
    http::REQUEST_TIME_MAX,
    problem::{Kind, Problem},
};

/// After this nobody is at work any more: requests are given up earlier.
const HOLD: Duration = REQUEST_TIME_MAX.saturating_add(Duration::from_secs(60));
const CLEAN_EVERY: Duration = Duration::from_secs(60);
const CLEANED_AT_ONCE: i64 = 1000;

/// What a request with a key has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The work; then [`keep`] or [`release`].
    Work(Uuid),
    /// Nothing: this is the answer to an earlier try.
    Done {
        /// HTTP status.
        status: u16,
        /// JSON.
        answer: String,
    },
}

/// Takes a key, or says what came of it.
pub async fn begin(
    db: &PgPool,
    provider: Address,
    key: &str,
    fingerprint: B256,
    keep_hours: u32,
) -> Result<Turn, Problem> {
    let holder = Uuid::new_v4();
    let hold = i64::try_from(HOLD.as_secs()).map_err(Problem::internal)?;
    // a row that is too old is as good as none; one statement, so that of two at once one gets it
    let taken = sqlx::query(
        "INSERT INTO idempotency AS kept (provider, key, fingerprint, holder) VALUES ($1, $2, $3, $4)
         ON CONFLICT (provider, key) DO UPDATE SET
             fingerprint = excluded.fingerprint, holder = excluded.holder, status = NULL, answer = NULL, started_at = now()
         WHERE kept.started_at < now() - make_interval(hours => $5)
            OR (kept.status IS NULL AND kept.fingerprint = excluded.fingerprint
                AND kept.started_at < now() - make_interval(secs => $6))",
    )
    .bind(provider.0.0)
    .bind(key)
    .bind(fingerprint.0)
    .bind(holder)
    .bind(i32::try_from(keep_hours).map_err(Problem::internal)?)
    .bind(hold as f64)
    .execute(db)
    .await?;
    if taken.rows_affected() == 1 {
        return Ok(Turn::Work(holder));
    }
    let row = sqlx::query("SELECT fingerprint, status, answer FROM idempotency WHERE provider = $1 AND key = $2")
        .bind(provider.0.0)
        .bind(key)
        .fetch_optional(db)
        .await?;
    let under_way =
        || Problem::field(Kind::IdempotencyKeyBusy, "Idempotency-Key", "the answer to the first request", "none yet");
    // let go of meanwhile
    let Some(row) = row else { return Err(under_way()) };
    let before = B256::from(row.try_get::<[u8; 32], _>(0)?);
    if before != fingerprint {
        let expected = "the request that was sent with this key before, or another key";
        return Err(Problem::field(Kind::IdempotencyKeyReused, "Idempotency-Key", expected, "another request"));
    }
    match (row.try_get::<Option<i16>, _>(1)?, row.try_get::<Option<String>, _>(2)?) {
        (Some(status), Some(answer)) => {
            Ok(Turn::Done { status: u16::try_from(status).map_err(Problem::internal)?, answer })
        }
        _ => Err(under_way()),
    }
}

/// Keeps the answer, where the key was not given to another request meanwhile.
pub async fn keep(
    db: &PgPool,
    provider: Address,
    key: &str,
    holder: Uuid,
    status: u16,
    answer: &str,
) -> Result<(), Problem> {
    sqlx::query("UPDATE idempotency SET status = $4, answer = $5 WHERE provider = $1 AND key = $2 AND holder = $3")
        .bind(provider.0.0)
        .bind(key)
        .bind(holder)
        .bind(i16::try_from(status).map_err(Problem::internal)?)
        .bind(answer)
        .execute(db)
        .await?;
    Ok(())
}

/// Lets go of a key without an answer: what failed may be tried again under it.
pub async fn release(db: &PgPool, provider: Address, key: &str, holder: Uuid) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM idempotency WHERE provider = $1 AND key = $2 AND holder = $3")
        .bind(provider.0.0)
        .bind(key)
        .bind(holder)
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes answers that are too old, now and then, until it is told to stop.
pub async fn run(app: std::sync::Arc<App>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match clean(&app.db, app.config.idempotency_hours).await {
            // there may be more
            Ok(deleted) if deleted == CLEANED_AT_ONCE.unsigned_abs() => continue,
            Ok(_) => {}
            Err(error) => tracing::warn!(cause = tidemark::service::causes(&error), "old answers are not deleted"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(CLEAN_EVERY) => {}
        }
    }
}

async fn clean(db: &PgPool, keep_hours: u32) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "DELETE FROM idempotency WHERE (provider, key) IN (
             SELECT provider, key FROM idempotency WHERE started_at < now() - make_interval(hours => $1::int)
             ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .bind(i64::from(keep_hours))
    .bind(CLEANED_AT_ONCE)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
