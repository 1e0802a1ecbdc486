//! Rows of a valid, final batch's manifest and their proofs: what was anchored, which nothing changes any more. Erasure takes
//! payloads, salts and sealed keys; the leaf's fields stay, or its batch could not be verified.

use alloy::primitives::Address;
use serde::Serialize;
use sqlx::{PgConnection, Row};
use utoipa::ToSchema;

use super::{
    FixedAt, ProviderRef, ReadError, address_text, cid_text, hash_text, number,
    page::{Page, Place, cut},
    proof_text,
    record::{EVENT_TYPES, paths, value},
    rfc3339,
};
use crate::manifest::stored;

/// What of a batch never changes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchHeader {
    /// Whose.
    pub provider: ProviderRef,
    /// From 0, no gaps.
    pub number: u64,
    /// Root over the leaves.
    pub root: String,
    /// How many events.
    pub event_count: u64,
    /// Payment-token units that back points.
    pub points_total: String,
    /// Payment-token units that back wallet claims.
    pub wallet_total: String,
    /// The Parquet file with one row per event.
    pub manifest_cid: String,
    /// Who signed the header.
    pub attestor: String,
    /// The anchoring transaction.
    pub tx_hash: String,
}

/// One row of a manifest.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeafRow {
    /// Place in the batch.
    pub index: u64,
    /// Leaf fields, as StandardMerkleTree takes them.
    pub value: Vec<String>,
    /// Their hash.
    pub leaf: String,
}

/// Rows of a manifest in index order.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatchLeaves {
    /// The batch.
    pub batch: BatchHeader,
    /// ABI types of each `value`.
    pub types: Vec<&'static str>,
    /// In index order.
    pub leaves: Vec<LeafRow>,
    /// For the page after.
    pub next_cursor: Option<String>,
}

/// One row of a manifest with its proof.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LeafProof {
    /// The batch.
    pub batch: BatchHeader,
    /// ABI types of `value`.
    pub types: Vec<&'static str>,
    /// The row.
    #[serde(flatten)]
    pub row: LeafRow,
    /// Siblings up to the root.
    pub proof: Vec<String>,
}

async fn header(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: i64,
) -> Result<Option<(FixedAt, BatchHeader)>, ReadError> {
    let row = sqlx::query(
        "SELECT b.provider, p.name, b.number, b.root, b.event_count, b.points_total::text, b.wallet_total::text,
             b.manifest_cid, b.attestor, b.tx_hash, b.block_number, b.block_hash, b.block_time, c.chain_id
         FROM batch AS b JOIN provider AS p ON p.address = b.provider CROSS JOIN cursor AS c
         WHERE b.provider = $1 AND b.number = $2 AND b.state = 'valid'",
    )
    .bind(provider.as_slice())
    .bind(batch_number)
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let at = FixedAt {
        block_number: number(&row, 10)?,
        block_hash: hash_text(&row, 11)?,
        block_time: rfc3339(row.try_get(12)?),
        is_final: true,
        chain_id: number(&row, 13)?,
    };
    let header = BatchHeader {
        provider: ProviderRef { address: address_text(&row, 0)?, name: row.try_get(1)? },
        number: number(&row, 2)?,
        root: hash_text(&row, 3)?,
        event_count: number(&row, 4)?,
        points_total: row.try_get(5)?,
        wallet_total: row.try_get(6)?,
        manifest_cid: cid_text(&row.try_get::<Vec<u8>, _>(7)?),
        attestor: address_text(&row, 8)?,
        tx_hash: hash_text(&row, 9)?,
    };
    Ok(Some((at, header)))
}

async fn rows(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: i64,
    after: i64,
    limit: i64,
) -> Result<Vec<LeafRow>, ReadError> {
    let rows = sqlx::query(
        "SELECT number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment, previous,
             occurred_at::text, task_id::text, reward::text, payee, leaf
         FROM event WHERE provider = $1 AND number = $2 AND index > $3 ORDER BY index LIMIT $4",
    )
    .bind(provider.as_slice())
    .bind(batch_number)
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    let rows = rows.iter().map(|row| {
        let stored = stored::event(row, 0)?;
        Ok(LeafRow { index: u64::from(stored.event.index), value: value(&stored.event), leaf: stored.leaf.to_string() })
    });
    Ok(rows.collect::<Result<_, sqlx::Error>>()?)
}

/// A page of a valid batch's rows.
pub async fn leaves(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
    page: &Page,
) -> Result<Option<(FixedAt, BatchLeaves)>, ReadError> {
    let batch_number = i64::try_from(batch_number).unwrap_or(i64::MAX);
    let Some((at, batch)) = header(connection, provider, batch_number).await? else { return Ok(None) };
    let after = page.after.as_ref().map_or(-1, |place| place.0);
    let mut leaves = rows(connection, provider, batch_number, after, i64::from(page.limit) + 1).await?;
    let next_cursor =
        cut(&mut leaves, page.limit, |row| Place(i64::try_from(row.index).unwrap_or(i64::MAX), String::new()));
    Ok(Some((at, BatchLeaves { batch, types: EVENT_TYPES.to_vec(), leaves, next_cursor })))
}

/// One row of a valid batch with its proof.
pub async fn leaf(
    connection: &mut PgConnection,
    provider: Address,
    batch_number: u64,
    index: u32,
) -> Result<Option<(FixedAt, LeafProof)>, ReadError> {
    let signed = i64::try_from(batch_number).unwrap_or(i64::MAX);
    let Some((at, batch)) = header(connection, provider, signed).await? else { return Ok(None) };
    let row = rows(connection, provider, signed, i64::from(index) - 1, 1).await?.pop();
    let Some(row) = row.filter(|row| row.index == u64::from(index)) else { return Ok(None) };
    let wrong = || ReadError::Root(format!("batch {batch_number} of {provider}"));
    let (root, hash) = (batch.root.parse().map_err(|_| wrong())?, row.leaf.parse().map_err(|_| wrong())?);
    let path = paths(connection, provider, batch_number, root, &[(index, hash)]).await?.pop().ok_or_else(wrong)?;
    let proof = proof_text(&path);
    Ok(Some((at, LeafProof { batch, types: EVENT_TYPES.to_vec(), row, proof })))
}
