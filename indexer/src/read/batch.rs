//! Batches: header, state, and a page of their events.

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;
use sqlx::{PgConnection, Row, postgres::PgRow};
use tidemark::{
    chain::Deployment,
    contracts::ProvenanceLog::{BatchAnchored, ProvenanceLogEvents},
};
use utoipa::ToSchema;

use super::{
    EventView, ProviderRef, ReadError, address_text, cid_text, hash_text, number,
    page::{Page, Place, cut},
    record, rfc3339, rfc3339_u64,
};
use crate::{
    manifest::stored,
    project::{Placed, Said},
};

/// What a batch takes out of one task's escrow.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DebitView {
    /// Which task.
    pub task_id: u64,
    /// Payment-token units.
    pub amount: String,
}

/// A batch as it was anchored, and what became of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchView {
    /// Whose.
    pub provider: ProviderRef,
    /// From 0, no gaps.
    pub number: u64,
    /// `mined`: anchored, not final · `waiting`: final, its manifest not here · `valid` · `invalid`: credits nobody.
    pub state: String,
    /// What differs, where invalid.
    pub reason: Option<String>,
    /// Root over the leaves.
    pub root: String,
    /// How many events.
    pub event_count: u64,
    /// Payment-token units that back points: in the log until they are swept into the points treasury.
    pub points_total: String,
    /// Payment-token units that back wallet claims.
    pub wallet_total: String,
    /// Payment-token units of it that nobody has claimed and no dispute has taken out.
    pub wallet_unclaimed: String,
    /// RFC 3339: until then its verdicts may be challenged, from then on its wallet rewards may be claimed.
    pub challenge_until: String,
    /// Ascending by task.
    pub debits: Vec<DebitView>,
    /// The Parquet file with one row per event.
    pub manifest_cid: String,
    /// The erasable file with salts and payloads.
    pub disclosures_cid: Option<String>,
    /// Who signed the header.
    pub attestor: String,
    /// Height.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: String,
    /// RFC 3339.
    pub block_time: String,
    /// The anchoring transaction.
    pub tx_hash: String,
}

/// Newest batches first.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchList {
    /// Final ones; mined ones come first on the first page.
    pub batches: Vec<BatchView>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// Events of a batch in index order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchEvents {
    /// In index order.
    pub events: Vec<EventView>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

pub(super) fn view(row: &PgRow) -> Result<BatchView, sqlx::Error> {
    let debits: serde_json::Value = row.try_get(8)?;
    let debits: Vec<tidemark::batch::Debit> =
        serde_json::from_value(debits).map_err(|_| stored::corrupt("batch.debits"))?;
    Ok(BatchView {
        provider: ProviderRef { address: address_text(row, 0)?, name: row.try_get(1)? },
        number: number(row, 2)?,
        state: row.try_get(3)?,
        reason: row.try_get(4)?,
        root: hash_text(row, 5)?,
        event_count: number(row, 6)?,
        points_total: row.try_get(7)?,
        debits: debits.iter().map(|d| DebitView { task_id: d.task_id, amount: d.amount.to_string() }).collect(),
        wallet_total: row.try_get(9)?,
        manifest_cid: cid_text(&row.try_get::<Vec<u8>, _>(10)?),
        disclosures_cid: row.try_get(11)?,
        attestor: address_text(row, 12)?,
        block_number: number(row, 13)?,
        block_hash: hash_text(row, 14)?,
        block_time: rfc3339(row.try_get(15)?),
        tx_hash: hash_text(row, 16)?,
        challenge_until: rfc3339(row.try_get(17)?),
        wallet_unclaimed: row.try_get(18)?,
    })
}

/// One batch, also one that is only mined.
pub async fn batch(
    connection: &mut PgConnection,
    deployment: &Deployment,
    provider: Address,
    batch_number: u64,
) -> Result<Option<BatchView>, ReadError> {
    let Ok(signed) = i64::try_from(batch_number) else { return Ok(None) };
    let row = sqlx::query(
        "SELECT b.provider, p.name, b.number, b.state, b.reason, b.root, b.event_count, b.points_total::text, b.debits,
             b.wallet_total::text, b.manifest_cid, b.disclosures_cid, b.attestor, b.block_number, b.block_hash,
             b.block_time, b.tx_hash, b.challenge_until,
             (b.wallet_total - coalesce((SELECT sum(c.amount) FROM reward_claim AS c
                 WHERE (c.provider, c.number) = (b.provider, b.number)), 0)
                 - coalesce((SELECT sum(h.amount) FROM reward_hold AS h
                 WHERE (h.provider, h.number) = (b.provider, b.number)), 0))::text
         FROM batch AS b JOIN provider AS p ON p.address = b.provider WHERE b.provider = $1 AND b.number = $2",
    )
    .bind(provider.as_slice())
    .bind(signed)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(row) = row {
        return Ok(Some(view(&row)?));
    }
    let topics = [provider.into_word(), B256::from(U256::from(batch_number))];
    let mined = mined(connection, deployment, Some(topics)).await?;
    Ok(mined.into_iter().next())
}

/// Batches above the applied block, newest first; only that of `topics` where given.
async fn mined(
    connection: &mut PgConnection,
    deployment: &Deployment,
    topics: Option<[B256; 2]>,
) -> Result<Vec<BatchView>, ReadError> {
    use alloy::sol_types::SolEvent;
    let rows = sqlx::query(
        // between two numbers: of one bound, or of a join, Postgres takes a third of all logs to be meant
        "SELECT l.block_number, l.block_hash, l.block_time, l.log_index, l.tx_hash, l.address, l.topics, l.data
         FROM chain_log AS l
         WHERE l.block_number > (SELECT applied_number FROM cursor)
           AND l.block_number <= (SELECT mirrored_number FROM cursor)
           AND l.address = $1 AND l.topics[1] = $2
           AND ($3::bytea IS NULL OR (l.topics[2] = $3 AND l.topics[3] = $4))
         ORDER BY l.block_number DESC, l.log_index DESC LIMIT 100",
    )
    .bind(deployment.provenance_log.as_slice())
    .bind(BatchAnchored::SIGNATURE_HASH.as_slice())
    .bind(topics.as_ref().map(|topics| topics[0].as_slice()))
    .bind(topics.as_ref().map(|topics| topics[1].as_slice()))
    .fetch_all(&mut *connection)
    .await?;
    let mut batches = Vec::with_capacity(rows.len());
    for row in &rows {
        let placed = Placed::from_row(row)?;
        let Some(Said::Log(ProvenanceLogEvents::BatchAnchored(anchored))) = placed.said(deployment) else { continue };
        let name: Option<String> = sqlx::query_scalar("SELECT name FROM provider WHERE address = $1")
            .bind(anchored.provider.as_slice())
            .fetch_optional(&mut *connection)
            .await?;
        let debits = anchored.debits.iter();
        batches.push(BatchView {
            // a provider that is not final itself has no name yet
            provider: ProviderRef { address: anchored.provider.to_string(), name: name.unwrap_or_default() },
            number: anchored.number,
            state: "mined".into(),
            reason: None,
            root: anchored.root.to_string(),
            event_count: u64::from(anchored.eventCount),
            points_total: anchored.pointsTotal.to_string(),
            wallet_total: anchored.walletTotal.to_string(),
            wallet_unclaimed: anchored.walletTotal.to_string(),
            challenge_until: rfc3339_u64(anchored.challengeUntil),
            debits: debits.map(|d| DebitView { task_id: d.taskId, amount: d.amount.to_string() }).collect(),
            manifest_cid: cid_text(&anchored.manifestCid),
            disclosures_cid: None,
            attestor: anchored.attestor.to_string(),
            block_number: u64::try_from(placed.block_number).unwrap_or_default(),
            block_hash: super::hex0x(&placed.block_hash),
            block_time: rfc3339(placed.block_time),
            tx_hash: super::hex0x(&placed.tx_hash),
        });
    }
    Ok(batches)
}

/// All batches, newest first.
pub async fn batches(
    connection: &mut PgConnection,
    deployment: &Deployment,
    page: &Page,
) -> Result<BatchList, ReadError> {
    let after = page.after.as_ref().map(|place| (place.0, place.1.parse::<i64>().unwrap_or_default()));
    let rows = sqlx::query(
        "SELECT b.provider, p.name, b.number, b.state, b.reason, b.root, b.event_count, b.points_total::text, b.debits,
             b.wallet_total::text, b.manifest_cid, b.disclosures_cid, b.attestor, b.block_number, b.block_hash,
             b.block_time, b.tx_hash, b.challenge_until,
             (b.wallet_total - coalesce((SELECT sum(c.amount) FROM reward_claim AS c
                 WHERE (c.provider, c.number) = (b.provider, b.number)), 0)
                 - coalesce((SELECT sum(h.amount) FROM reward_hold AS h
                 WHERE (h.provider, h.number) = (b.provider, b.number)), 0))::text, b.log_index
         FROM batch AS b JOIN provider AS p ON p.address = b.provider
         WHERE $1::bigint IS NULL OR (b.block_number, b.log_index) < ($1, $2)
         ORDER BY b.block_number DESC, b.log_index DESC LIMIT $3",
    )
    .bind(after.map(|after| after.0))
    .bind(after.map(|after| after.1))
    .bind(i64::from(page.limit) + 1)
    .fetch_all(&mut *connection)
    .await?;
    let mut placed = rows
        .iter()
        .map(|row| Ok((row.try_get(13)?, row.try_get::<i64, _>(19)?, view(row)?)))
        .collect::<Result<Vec<(i64, i64, BatchView)>, sqlx::Error>>()?;
    let next_cursor = cut(&mut placed, page.limit, |(block, log, _)| Place(*block, log.to_string()));
    let mut batches = match page.after {
        None => mined(connection, deployment, None).await?,
        Some(_) => Vec::new(),
    };
    batches.extend(placed.into_iter().map(|(_, _, batch)| batch));
    Ok(BatchList { batches, next_cursor })
}

/// Events of a valid batch in index order.
pub async fn batch_events(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
    page: &Page,
) -> Result<BatchEvents, ReadError> {
    let mut events =
        record::events_of_batch(connection, provider, batch_number, page.after.as_ref().map(|p| p.0), page.limit)
            .await?;
    let next_cursor = cut(&mut events, page.limit, |event| Place(i64::from(event.index), String::new()));
    Ok(BatchEvents { events, next_cursor })
}
