//! Computes groups one after another, each in one transaction at one block: what dies with its process is taken up again.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Row};
use tidemark::service::causes;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{DAYS_MAX, GROUPS_MAX, RECEIPTS_MAX, ROWS_MAX};
use crate::read;

const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(2);
const SWEEP_PERIOD: Duration = Duration::from_secs(60);
/// After so many the group is failed.
const ATTEMPTS_MAX: i64 = 5;
const ROWS_PER_STATEMENT: usize = 5_000;

/// Computes what waits and removes what is old, until `stop`.
pub async fn work(pool: &PgPool, stop: &CancellationToken) {
    let mut swept: Option<Instant> = None;
    loop {
        if swept.is_none_or(|at| at.elapsed() >= SWEEP_PERIOD) {
            if let Err(error) = sweep(pool).await {
                tracing::warn!(error = causes(&error), "old scoped groups could not be removed: trying again");
            }
            swept = Some(Instant::now());
        }
        let pause = match step(pool).await {
            Ok(true) => Duration::ZERO,
            Ok(false) => PAUSE,
            Err(error) => {
                tracing::warn!(error = causes(&error), "a scoped group could not be computed: trying again");
                PAUSE_AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Computes one group; false where none waits.
async fn step(pool: &PgPool) -> Result<bool, sqlx::Error> {
    // shown to readers before the work begins
    let begun = sqlx::query(
        "UPDATE local.scoped_group SET status = 'processing', attempts = attempts + 1 WHERE group_id = (
             SELECT group_id FROM local.scoped_group WHERE status IN ('pending', 'processing')
             ORDER BY attempts, created_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING group_id, attempts",
    )
    .fetch_optional(pool)
    .await?;
    let Some(begun) = begun else { return Ok(false) };
    let (group_id, attempts): (String, i64) = (begun.try_get(0)?, begun.try_get(1)?);
    if attempts > ATTEMPTS_MAX {
        fail(&mut *pool.acquire().await?, &group_id, "it could not be computed here; ask for it again later").await?;
        return Ok(true);
    }
    let mut transaction = pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
    let row = sqlx::query(
        "SELECT manifest_kind, input FROM local.scoped_group WHERE group_id = $1 AND status = 'processing'
         FOR UPDATE SKIP LOCKED",
    )
    .bind(&group_id)
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(row) = row else { return Ok(false) };
    let (kind, input): (String, Value) = (row.try_get(0)?, row.try_get(1)?);
    let entries = input.as_array().cloned().unwrap_or_default();
    let computed = match kind.as_str() {
        "source_record" => records(&mut transaction, &group_id, &entries).await?,
        _ => hashes(&mut transaction, &group_id, &entries).await?,
    };
    match computed {
        Err(reason) => {
            drop(transaction);
            fail(&mut *pool.acquire().await?, &group_id, &reason).await?;
        }
        Ok(()) => {
            complete(&mut transaction, &group_id).await?;
            transaction.commit().await?;
        }
    }
    Ok(true)
}

async fn fail(connection: &mut PgConnection, group_id: &str, reason: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE local.scoped_group SET status = 'failed', error = $2, input = NULL
         WHERE group_id = $1 AND status = 'processing'",
    )
    .bind(group_id)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

async fn complete(connection: &mut PgConnection, group_id: &str) -> Result<(), sqlx::Error> {
    let at = read::at(&mut *connection).await?;
    sqlx::query(
        "UPDATE local.scoped_group AS g SET status = 'complete', input = NULL, computed_at = now(), block_number = $2,
             block_hash = $3, matched_items = found.items, matched_receipts = found.receipts
         FROM (SELECT count(DISTINCT input) FILTER (WHERE data_id IS NOT NULL) AS items, count(data_id) AS receipts
             FROM local.scoped_item WHERE group_id = $1) AS found
         WHERE g.group_id = $1",
    )
    .bind(group_id)
    .bind(i64::try_from(at.block_number).unwrap_or(i64::MAX))
    .bind(at.block_hash.and_then(|hash| hash.parse::<B256>().ok()).map(|hash| hash.to_vec()))
    .execute(connection)
    .await?;
    Ok(())
}

/// All records or none: one that was erased in the meantime fails the group.
async fn records(
    connection: &mut PgConnection,
    group_id: &str,
    entries: &[Value],
) -> Result<Result<(), String>, sqlx::Error> {
    let mut position = 0i64;
    for chunk in entries.chunks(ROWS_PER_STATEMENT) {
        let (mut positions, mut providers, mut ids, mut inputs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for entry in chunk {
            let part = |at: usize| entry.get(at).and_then(Value::as_str).unwrap_or_default();
            let (Ok(provider), Ok(id)) = (part(0).parse::<Address>(), part(1).parse::<Uuid>()) else {
                return Ok(Err("what was asked for can't be read any more".to_owned()));
            };
            positions.push(position);
            providers.push(provider.to_vec());
            ids.push(id);
            inputs.push(part(2).to_owned());
            position += 1;
        }
        let inserted = sqlx::query(
            "INSERT INTO local.scoped_item
                 (group_id, position, input, provider, data_id, source_record_id, asset_hash, lifecycle_status, mime_type,
                  media_category, kyc_status, geo_region, tos_version, privacy_policy_version, size_bytes, tx_hash)
             SELECT $1, asked.position, asked.input, r.provider, r.data_id, r.source_record_id, r.content_hash, c.status,
                 r.mime_type, r.media_category, r.kyc_status, r.geo_region, r.tos_version, r.privacy_policy_version,
                 r.size_bytes, b.tx_hash
             FROM unnest($2::bigint[], $3::bytea[], $4::uuid[], $5::text[]) AS asked (position, provider, data_id, input)
             JOIN trace_record AS r ON r.provider = asked.provider AND r.data_id = asked.data_id
             JOIN record AS c ON c.provider = r.provider AND c.data_id = r.data_id
             JOIN batch AS b ON b.provider = r.provider AND b.number = r.number",
        )
        .bind(group_id)
        .bind(&positions)
        .bind(&providers)
        .bind(&ids)
        .bind(&inputs)
        .execute(&mut *connection)
        .await?;
        let lost = u64::try_from(chunk.len()).unwrap_or(u64::MAX).saturating_sub(inserted.rows_affected());
        if lost > 0 {
            return Ok(Err(format!("{lost} of its records were erased before it was computed")));
        }
    }
    Ok(Ok(()))
}

/// Each hash with every record that has it; a row without a record where none has.
async fn hashes(
    connection: &mut PgConnection,
    group_id: &str,
    entries: &[Value],
) -> Result<Result<(), String>, sqlx::Error> {
    let hashes: Option<Vec<Vec<u8>>> =
        entries.iter().map(|entry| Some(entry.as_str()?.parse::<B256>().ok()?.to_vec())).collect();
    let Some(hashes) = hashes else { return Ok(Err("what was asked for can't be read any more".to_owned())) };
    let inserted = sqlx::query(
        "INSERT INTO local.scoped_item
             (group_id, position, input, provider, data_id, source_record_id, asset_hash, lifecycle_status, mime_type,
              media_category, kyc_status, geo_region, tos_version, privacy_policy_version, size_bytes, tx_hash)
         SELECT $1, row_number() OVER (ORDER BY asked_at, block_number, place) - 1,
             'sha256:' || encode(hash, 'hex'), provider, data_id, source_record_id, hash, status, mime_type, media_category,
             kyc_status, geo_region, tos_version, privacy_policy_version, size_bytes, tx_hash
         FROM (
             -- cut before it is sorted: a hash may have millions, and who asks for that many gets none
             SELECT asked.place AS asked_at, asked.hash, found.*
             FROM unnest($2::bytea[]) WITH ORDINALITY AS asked (hash, place)
             LEFT JOIN LATERAL (
                 SELECT r.provider, r.data_id, r.source_record_id, c.status, r.mime_type, r.media_category, r.kyc_status,
                     r.geo_region, r.tos_version, r.privacy_policy_version, r.size_bytes, b.tx_hash, r.block_number, r.place
                 FROM record AS c JOIN trace_record AS r ON r.provider = c.provider AND r.data_id = c.data_id
                 JOIN batch AS b ON b.provider = r.provider AND b.number = r.number
                 WHERE c.content_hash = asked.hash LIMIT $3
             ) AS found ON TRUE
             LIMIT $3
         ) AS cut",
    )
    .bind(group_id)
    .bind(&hashes)
    .bind(RECEIPTS_MAX + 1)
    .execute(connection)
    .await?;
    match inserted.rows_affected() > u64::try_from(RECEIPTS_MAX).unwrap_or_default() {
        true => Ok(Err(format!("more than {RECEIPTS_MAX} records have these hashes: ask for fewer"))),
        false => Ok(Ok(())),
    }
}

/// Removes groups that are old or too many, and uploads that nobody used in time.
async fn sweep(pool: &PgPool) -> Result<(), sqlx::Error> {
    let removed = sqlx::query(
        "DELETE FROM local.scoped_group AS g USING (
             SELECT group_id, created_at, status, row_number() OVER newest AS groups,
                 sum(coalesce(matched_receipts - matched_items, 0) + unique_items) OVER newest AS rows
             FROM local.scoped_group WINDOW newest AS (ORDER BY created_at DESC, group_id DESC)
         ) AS ranked
         WHERE g.group_id = ranked.group_id AND ranked.status IN ('complete', 'failed')
           AND (ranked.created_at < now() - make_interval(days => $1) OR ranked.groups > $2 OR ranked.rows > $3)",
    )
    .bind(DAYS_MAX)
    .bind(GROUPS_MAX)
    .bind(ROWS_MAX)
    .execute(pool)
    .await?;
    sqlx::query("DELETE FROM local.scoped_upload WHERE expires_at <= now()").execute(pool).await?;
    if removed.rows_affected() > 0 {
        tracing::info!(groups = removed.rows_affected(), "old scoped groups were removed");
    }
    Ok(())
}
