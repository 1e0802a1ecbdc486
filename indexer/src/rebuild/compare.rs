//! Holds new tables against old ones: whether the new ones are as far, and where their rows differ at the same block.

use std::time::Duration;

use anyhow::Context;
use sqlx::{PgConnection, PgPool, Row};

use crate::{
    checksum::{TableChecksum, of_schema},
    read::snapshot,
};

/// How often it is tried to catch both at the same block.
const LOOKS_MAX: u32 = 300;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// A table whose rows are others than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// As it was served.
    pub before: TableChecksum,
    /// As it was built.
    pub now: TableChecksum,
}

/// What came out of comparing.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The block that both stood at; none where they never did, and nothing was compared.
    pub block: Option<i64>,
    /// Tables that were compared.
    pub tables: usize,
    /// Those that differ.
    pub differences: Vec<Difference>,
}

/// What keeps the new tables from being as far as the served ones, in words; none where nothing does.
pub async fn behind(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT n.mirrored_number, s.mirrored_number, n.applied_number, s.applied_number
         FROM mirror.cursor AS s LEFT JOIN mirror_next.cursor AS n ON TRUE",
    )
    .fetch_one(&mut *connection)
    .await?;
    let number = |at: usize| row.try_get::<Option<i64>, _>(at).map(|number| number.unwrap_or(-1));
    let (mirrored, mirrored_before, applied, applied_before) = (number(0)?, number(1)?, number(2)?, number(3)?);
    if mirrored < mirrored_before || applied < applied_before {
        return Ok(Some(format!(
            "they are at block {applied} ({mirrored} mirrored), the served ones at {applied_before} ({mirrored_before})"
        )));
    }
    // what waits for these, as points of a sale, is settled with them; a redemption may wait for ever, where too much was taken
    let waiting: Option<String> = sqlx::query_scalar(
        "SELECT 'batch 0x' || encode(n.provider, 'hex') || '/' || n.number || ' waits for a file'
             FROM public_next.batch AS n JOIN public.batch AS s USING (provider, number)
             WHERE n.state = 'waiting' AND s.state <> 'waiting'
         UNION ALL
         SELECT 'version ' || n.version || ' of dataset ' || n.ip_id || ' waits for a file'
             FROM public_next.dataset_version AS n JOIN public.dataset_version AS s USING (ip_id, version)
             WHERE n.state = 'waiting' AND s.state <> 'waiting'
         ORDER BY 1 LIMIT 1",
    )
    .fetch_optional(&mut *connection)
    .await?;
    if waiting.is_some() {
        return Ok(waiting);
    }
    // what the served ones never had either keeps nobody waiting, nor what was erased meanwhile; who gave up on a file did not get it
    sqlx::query_scalar(
        "SELECT 'disclosures of batch 0x' || encode(s.provider, 'hex') || '/' || s.number || ' are not here' || coalesce(': ' || (
             SELECT f.last_error FROM mirror_next.missing_file AS f
             WHERE f.what = 'disclosures/0x' || encode(s.provider, 'hex') || '/' || s.number), '')
         FROM public.batch AS s
         WHERE s.state = 'valid'
           AND NOT EXISTS (SELECT FROM public_next.disclosure AS n WHERE (n.provider, n.number) = (s.provider, s.number))
           AND EXISTS (
             SELECT FROM public.disclosure AS d JOIN public_next.event AS e USING (provider, number, index)
             WHERE (d.provider, d.number) = (s.provider, s.number) AND NOT EXISTS (
                 SELECT FROM public_next.event AS erased
                 WHERE (erased.provider, erased.data_id) = (e.provider, e.data_id) AND erased.kind = 5))
         ORDER BY s.provider, s.number LIMIT 1",
    )
    .fetch_optional(connection)
    .await
}

/// Sums both at one snapshot in which they are at the same block and wait for the same files. What writes either goes on.
pub async fn compare(pool: &PgPool) -> anyhow::Result<Comparison> {
    for _ in 0..LOOKS_MAX {
        let mut both = snapshot(pool).await.context("begin a snapshot of both")?;
        if let Some(block) = same_block(&mut both).await.context("read the block that both are at")? {
            let before = of_schema(&mut both, "public", Some(block)).await.context("sum the served tables")?;
            let now = of_schema(&mut both, "public_next", Some(block)).await.context("sum the new tables")?;
            let differences = before
                .into_iter()
                .filter_map(|before| {
                    let now = now.iter().find(|now| now.table == before.table)?.clone();
                    (now != before).then_some(Difference { before, now })
                })
                .collect();
            return Ok(Comparison { block: Some(block), tables: now.len(), differences });
        }
        drop(both);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
    Ok(Comparison { block: None, tables: 0, differences: Vec::new() })
}

async fn same_block(connection: &mut PgConnection) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT s.applied_number FROM mirror.cursor AS s, mirror_next.cursor AS n
         WHERE (s.applied_number, s.applied_hash) = (n.applied_number, n.applied_hash)
           AND (SELECT count(*) FROM public.batch WHERE state = 'waiting')
             = (SELECT count(*) FROM public_next.batch WHERE state = 'waiting')
           AND (SELECT count(*) FROM public.dataset_version WHERE state = 'waiting')
             = (SELECT count(*) FROM public_next.dataset_version WHERE state = 'waiting')",
    )
    .fetch_optional(connection)
    .await
}
