//! Mirrored logs into Postgres by binary COPY.

use sqlx::PgConnection;

use super::{SyncError, node::PlacedLog, signed};

/// <https://www.postgresql.org/docs/current/sql-copy.html>: signature, flags, length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const END: [u8; 2] = (-1_i16).to_be_bytes();
const COLUMNS: [u8; 2] = 8_i16.to_be_bytes();
const BYTEA: u32 = 17;
/// What is sent at once, and a log more: each connection keeps room for as much as it has ever sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Writes logs; their blocks must not be there yet.
pub async fn copy_logs(connection: &mut PgConnection, logs: &[PlacedLog]) -> Result<(), SyncError> {
    if logs.is_empty() {
        return Ok(());
    }
    let mut rows = Vec::with_capacity(2 * CHUNK_BYTES);
    rows.extend_from_slice(HEADER);
    let mut copy = connection
        .copy_in_raw(
            "COPY chain_log (block_hash, log_index, block_number, block_time, tx_hash, address, topics, data)
             FROM STDIN (FORMAT binary)",
        )
        .await?;
    for log in logs {
        row(&mut rows, log)?;
        if rows.len() >= CHUNK_BYTES {
            copy.send(rows.as_slice()).await?;
            rows.clear();
        }
    }
    rows.extend_from_slice(&END);
    copy.send(rows).await?;
    copy.finish().await?;
    metrics::counter!("tidemark_indexer_logs_mirrored_total").increment(logs.len() as u64);
    Ok(())
}

fn row(to: &mut Vec<u8>, log: &PlacedLog) -> Result<(), SyncError> {
    to.extend_from_slice(&COLUMNS);
    bytes(to, log.block_hash.as_slice())?;
    number(to, signed(log.log_index, "log index")?)?;
    number(to, signed(log.block_number, "block")?)?;
    number(to, signed(log.block_time, "time")?)?;
    bytes(to, log.tx_hash.as_slice())?;
    bytes(to, log.address.as_slice())?;
    let mut topics = Vec::with_capacity(5 * 4 + log.topics.len() * 36);
    // dimensions, no nulls, type of the elements; then length and lower bound
    topics.extend_from_slice(&i32::from(!log.topics.is_empty()).to_be_bytes());
    topics.extend_from_slice(&0_i32.to_be_bytes());
    topics.extend_from_slice(&BYTEA.to_be_bytes());
    if !log.topics.is_empty() {
        topics.extend_from_slice(&length(log.topics.len())?.to_be_bytes());
        topics.extend_from_slice(&1_i32.to_be_bytes());
        for topic in &log.topics {
            bytes(&mut topics, topic.as_slice())?;
        }
    }
    bytes(to, &topics)?;
    bytes(to, &log.data)
}

fn length(of: usize) -> Result<i32, SyncError> {
    i32::try_from(of).map_err(|_| super::OutOfRange("length of a log").into())
}

fn bytes(to: &mut Vec<u8>, bytes: &[u8]) -> Result<(), SyncError> {
    to.extend_from_slice(&length(bytes.len())?.to_be_bytes());
    to.extend_from_slice(bytes);
    Ok(())
}

fn number(to: &mut Vec<u8>, number: i64) -> Result<(), SyncError> {
    bytes(to, &number.to_be_bytes())
}
