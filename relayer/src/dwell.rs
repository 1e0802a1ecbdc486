//! How long records and batches stay in each stage, out of the times in the tables: no step has to remember to measure, and
//! what somebody else anchored counts too.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, Row};
use tidemark::service::causes;
use tokio_util::sync::CancellationToken;

use tidemark::service::SECONDS_BUCKETS;

use crate::app::App;

const EVERY: Duration = Duration::from_secs(5);
/// A stamp is visible once its transaction is over; it is looked for this much later, in microseconds.
const LAG_US: i64 = 10_000_000;
/// What is older is not looked for any more, after hours without the database.
const WINDOW_US_MAX: i64 = 3_600_000_000;

/// Observes what moved since the last look, until `stop`. Each process sees all that its database does.
pub async fn run(app: Arc<App>, stop: CancellationToken) {
    let mut seen_us = None;
    loop {
        match observe(&app.db, seen_us).await {
            Ok(now_us) => seen_us = Some(now_us),
            Err(error) => tracing::warn!(cause = causes(error.as_ref()), "dwell times have to wait"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Records what moved after one look and before this one; gives where the next begins, in microseconds since 1970.
async fn observe(db: &PgPool, from_us: Option<i64>) -> anyhow::Result<i64> {
    let now_us: i64 =
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").fetch_one(db).await?;
    let to_us = now_us.saturating_sub(LAG_US);
    let Some(from_us) = from_us else { return Ok(to_us) };
    let from_us = from_us.max(to_us.saturating_sub(WINDOW_US_MAX));
    let stages = sqlx::query(
        "SELECT stage.name, extract(epoch FROM stage.ended - stage.began)::float8
         FROM batch b CROSS JOIN LATERAL (VALUES
             ('sealed_to_signed', b.sealed_at, b.signed_at),
             ('signed_to_mined', b.signed_at, b.mined_at),
             ('mined_to_final', b.mined_at, b.final_at)) AS stage (name, began, ended)
         WHERE b.changed_at > to_timestamp($1::float8 / 1000000)
           AND stage.ended > to_timestamp($1::float8 / 1000000) AND stage.ended <= to_timestamp($2::float8 / 1000000)
           AND stage.began IS NOT NULL",
    )
    .bind(from_us)
    .bind(to_us)
    .fetch_all(db)
    .await?;
    for row in &stages {
        let stage: String = row.try_get(0)?;
        metrics::histogram!("batch_stage_seconds", "stage" => stage).record(row.try_get::<f64, _>(1)?);
    }
    // counted by the histogram's own buckets, each with its mean: so buckets, count and sum are those of single events
    let waits = sqlx::query(
        "SELECT count(*), avg(wait.seconds) FROM batch b
         JOIN event e ON e.provider = b.provider AND e.batch_number = b.number
         CROSS JOIN LATERAL (SELECT greatest(extract(epoch FROM b.sealed_at - e.received_at)::float8, 0) AS seconds) AS wait
         WHERE b.changed_at > to_timestamp($1::float8 / 1000000)
           AND b.sealed_at > to_timestamp($1::float8 / 1000000) AND b.sealed_at <= to_timestamp($2::float8 / 1000000)
         GROUP BY width_bucket(wait.seconds, $3::float8[])",
    )
    .bind(from_us)
    .bind(to_us)
    .bind(SECONDS_BUCKETS.as_slice())
    .fetch_all(db)
    .await?;
    for row in &waits {
        let count = usize::try_from(row.try_get::<i64, _>(0)?)?;
        metrics::histogram!("batch_stage_seconds", "stage" => "received_to_sealed")
            .record_many(row.try_get::<f64, _>(1)?, count);
    }
    Ok(to_us)
}
