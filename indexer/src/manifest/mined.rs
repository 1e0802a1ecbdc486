//! Events of batches that are mined but not final: for readers who do not want to wait, gone with their block in a reorg.

use std::{collections::HashSet, time::Duration};

use alloy::{primitives::Address, sol_types::SolEvent};
use sqlx::types::Json;
use tidemark::{contracts::ProvenanceLog::BatchAnchored, manifest::Manifest};

use super::{
    Files, SettleError,
    verify::{Promised, check_header},
};
use crate::project::{Placed, Said};

/// Larger manifests show their events at finality only.
const BYTES_MAX: u64 = 8 << 20;
const LOGS_PER_STEP: i64 = 16;
const FETCH_TIME_MAX: Duration = Duration::from_secs(3);
/// Remembered logs; the oldest go when there are more.
const TRIED_MAX: usize = 10_000;

/// Which mined batches were looked at already.
#[derive(Debug, Default)]
pub struct Mined {
    tried: HashSet<(Vec<u8>, i64)>,
}

impl Mined {
    /// Shows events of newly mined batches. What can't be fetched now waits for finality.
    pub async fn preview(&mut self, files: &Files) -> Result<(), SettleError> {
        // of batches that were settled while their events were written
        sqlx::query(
            "WITH RECURSIVE shown AS (
                 (SELECT block_number, log_index, provider, number FROM mined_event ORDER BY block_number, log_index LIMIT 1)
                 UNION ALL
                 SELECT next.* FROM shown CROSS JOIN LATERAL (
                     SELECT block_number, log_index, provider, number FROM mined_event AS m
                     WHERE (m.block_number, m.log_index) > (shown.block_number, shown.log_index)
                     ORDER BY block_number, log_index LIMIT 1
                 ) AS next
             )
             DELETE FROM mined_event AS m USING shown JOIN batch AS b USING (provider, number)
             WHERE b.state <> 'waiting' AND (m.block_number, m.log_index) = (shown.block_number, shown.log_index)",
        )
        .execute(&files.pool)
        .await?;
        let rows = sqlx::query(
            // between two numbers: of one bound, or of a join, Postgres takes a third of all logs to be meant
            "SELECT l.block_number, l.block_hash, l.block_time, l.log_index, l.tx_hash, l.address, l.topics, l.data
             FROM chain_log AS l
             WHERE l.block_number > (SELECT applied_number FROM cursor)
               AND l.block_number <= (SELECT mirrored_number FROM cursor)
               AND l.address = $1 AND l.topics[1] = $2
               AND NOT EXISTS (SELECT 1 FROM mined_event AS m
                   WHERE (m.block_number, m.log_index) = (l.block_number, l.log_index))
             ORDER BY l.block_number, l.log_index LIMIT $3",
        )
        .bind(files.deployment.provenance_log.as_slice())
        .bind(BatchAnchored::SIGNATURE_HASH.as_slice())
        .bind(LOGS_PER_STEP)
        .fetch_all(&files.pool)
        .await?;
        if self.tried.len() > TRIED_MAX {
            self.tried.clear();
        }
        for row in &rows {
            let placed = Placed::from_row(row)?;
            if !self.tried.insert((placed.block_hash.clone(), placed.log_index)) {
                continue;
            }
            show(files, &placed).await?;
        }
        Ok(())
    }
}

async fn show(files: &Files, placed: &Placed) -> Result<(), SettleError> {
    let Some(Said::Log(tidemark::contracts::ProvenanceLog::ProvenanceLogEvents::BatchAnchored(anchored))) =
        placed.said(&files.deployment)
    else {
        return Ok(());
    };
    let Ok(cid) = cid::Cid::try_from(anchored.manifestCid.as_ref()) else { return Ok(()) };
    let Ok(Ok(bytes)) = tokio::time::timeout(FETCH_TIME_MAX, files.store.get(&cid, BYTES_MAX)).await else {
        return Ok(());
    };
    let promised = Promised {
        provider: anchored.provider,
        number: anchored.number,
        root: anchored.root,
        event_count: u64::from(anchored.eventCount),
        points_total: anchored.pointsTotal,
        wallet_total: anchored.walletTotal,
        debits: anchored
            .debits
            .iter()
            .map(|debit| tidemark::batch::Debit { task_id: debit.taskId, amount: debit.amount })
            .collect(),
    };
    let events = tokio::task::spawn_blocking(move || {
        let manifest = Manifest::decode(bytes).ok()?;
        check_header(&promised, &manifest).ok()?;
        Some(manifest.events)
    })
    .await?;
    let (Some(events), Ok(number)) = (events, i64::try_from(anchored.number)) else { return Ok(()) };
    insert(files, placed, anchored.provider, number, &events).await
}

async fn insert(
    files: &Files,
    placed: &Placed,
    provider: Address,
    number: i64,
    events: &[tidemark::event::Event],
) -> Result<(), SettleError> {
    for chunk in events.chunks(super::stored::ROWS_PER_STATEMENT) {
        let inserted = sqlx::query(
            // held, so that no other block's log takes its place before these rows are there
            "WITH log AS (
                 SELECT block_number, log_index FROM chain_log
                 WHERE block_number = $1 AND log_index = $2 AND block_hash = $3 FOR KEY SHARE
             )
             INSERT INTO mined_event (block_number, log_index, provider, number, index, data_id, sequence, event)
             SELECT log.block_number, log.log_index, $4, $5, index, data_id, sequence, event
             FROM log, unnest($6::bigint[], $7::uuid[], $8::bigint[], $9::jsonb[]) AS row (index, data_id, sequence, event)
             ON CONFLICT DO NOTHING",
        )
        .bind(placed.block_number)
        .bind(placed.log_index)
        .bind(&placed.block_hash)
        .bind(provider.as_slice())
        .bind(number)
        .bind(chunk.iter().map(|event| i64::from(event.index)).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| event.data_id.0).collect::<Vec<_>>())
        .bind(chunk.iter().map(|event| i64::from(event.sequence)).collect::<Vec<_>>())
        .bind(chunk.iter().map(Json).collect::<Vec<_>>())
        .execute(&files.pool)
        .await?;
        tracing::debug!(number, rows = inserted.rows_affected(), "events of a mined batch are shown");
    }
    Ok(())
}
