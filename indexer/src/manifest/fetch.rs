//! Getting one file: what can still come is asked for again, ever more rarely; what can't be right is wrong for good.

use bytes::Bytes;
use cid::Cid;
use sqlx::{PgConnection, PgExecutor, PgPool, Row};
use tidemark::{
    service::causes,
    store::{Store, StoreError},
};

/// Milliseconds until the second attempt; doubles from there.
const RETRY_MS_MIN: u64 = 200;
const RETRY_MS_MAX: u64 = 15_000;

/// How fetching went.
#[derive(Debug)]
pub enum Fetched {
    /// Here it is.
    File(Bytes),
    /// Not now; noted, with the time of the next attempt.
    Later,
    /// Never: the CID itself rules it out.
    Never(String),
}

/// A file that is waited for.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
pub struct Waiting {
    /// For example `batch/0x…/3`.
    pub what: String,
    /// Its CID.
    pub cid: String,
    /// How often it was asked for.
    pub attempts: i64,
    /// What the store said last.
    pub last_error: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Milliseconds to wait after this many attempts.
pub fn backoff_ms(attempts: u32) -> u64 {
    RETRY_MS_MIN.saturating_mul(1u64.checked_shl(attempts.saturating_sub(1)).unwrap_or(u64::MAX)).min(RETRY_MS_MAX)
}

/// Fetches a file of at most `size_max` bytes, and keeps book of failures under `what`.
pub async fn fetch(
    pool: &PgPool,
    store: &Store,
    what: &str,
    cid: &[u8],
    size_max: u64,
) -> Result<Fetched, sqlx::Error> {
    let cid = match Cid::try_from(cid) {
        Ok(cid) => cid,
        Err(error) => return Ok(Fetched::Never(format!("manifest CID 0x{}: {error}", hex::encode(cid)))),
    };
    match store.get(&cid, size_max).await {
        Ok(bytes) => Ok(Fetched::File(bytes)),
        Err(error @ StoreError::TooLarge { .. }) => Ok(Fetched::Never(error.to_string())),
        Err(error) => {
            note_failure(pool, what, &cid, &error).await?;
            Ok(Fetched::Later)
        }
    }
}

async fn note_failure(pool: &PgPool, what: &str, cid: &Cid, error: &StoreError) -> Result<(), sqlx::Error> {
    let text: String = causes(error).replace('\0', "").chars().take(500).collect();
    let attempts: i64 = sqlx::query_scalar(
        "INSERT INTO missing_file AS f (what, cid, attempts, last_error, next_attempt_at) VALUES ($1, $2, 1, $3, now())
         ON CONFLICT (what) DO UPDATE SET attempts = f.attempts + 1, last_error = excluded.last_error
         RETURNING attempts",
    )
    .bind(what)
    .bind(cid.to_string())
    .bind(&text)
    .fetch_one(pool)
    .await?;
    let wait_ms = backoff_ms(u32::try_from(attempts).unwrap_or(u32::MAX));
    sqlx::query("UPDATE missing_file SET next_attempt_at = now() + $2 * INTERVAL '1 millisecond' WHERE what = $1")
        .bind(what)
        .bind(i64::try_from(wait_ms).unwrap_or(i64::MAX))
        .execute(pool)
        .await?;
    tracing::warn!(what, %cid, attempts, wait_ms, error = text, "a file is not here yet");
    metrics::counter!("tidemark_indexer_fetch_failures_total").increment(1);
    Ok(())
}

/// Asks for everything again at once: after a start, whatever was wrong may have been put right.
pub async fn ask_again(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE missing_file SET next_attempt_at = now()").execute(pool).await?;
    Ok(())
}

/// Notes a file to be asked for now, in place of another of the same purpose.
pub async fn ask_for(executor: impl PgExecutor<'_>, what: &str, cid: &Cid) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO missing_file (what, cid, attempts, last_error, next_attempt_at) VALUES ($1, $2, 1, 'not asked for yet', now())
         ON CONFLICT (what) DO UPDATE SET cid = excluded.cid, attempts = 1, next_attempt_at = now()",
    )
    .bind(what)
    .bind(cid.to_string())
    .execute(executor)
    .await?;
    Ok(())
}

/// Forgets a file that came, in the transaction that writes what is in it; not where another is asked for in its place by now.
pub async fn came(connection: &mut PgConnection, what: &str, cid: &Cid) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM missing_file WHERE what = $1 AND cid = $2")
        .bind(what)
        .bind(cid.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Forgets what is waited for no more.
pub async fn forget(executor: impl PgExecutor<'_>, what: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM missing_file WHERE what = $1").bind(what).execute(executor).await?;
    Ok(())
}

/// All files that are waited for, the longest wait first, at most `limit`.
pub async fn waiting(pool: &PgPool, limit: i64) -> Result<Vec<Waiting>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT what, cid, attempts, last_error,
             to_char(first_failed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')
         FROM missing_file ORDER BY first_failed_at, what LIMIT $1",
    )
    .bind(limit)
    .fetch_all(pool)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(Waiting {
                what: row.try_get(0)?,
                cid: row.try_get(1)?,
                attempts: row.try_get(2)?,
                last_error: row.try_get(3)?,
                since: row.try_get(4)?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_become_rarer_and_never_stop() {
        assert_eq!([1, 2, 3].map(backoff_ms), [200, 400, 800]);
        assert_eq!([10, 64, 65, u32::MAX].map(backoff_ms), [RETRY_MS_MAX; 4]);
    }
}
