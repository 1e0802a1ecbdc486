//! Applies finalised logs in the order of the chain: one transaction a range, projections and cursor together. History comes
//! straight from [`sync`], in the transaction that mirrors it; blocks that were mirrored before they were final, from there.

mod tables;

use alloy::{
    primitives::{Address, B256, Log as PrimitiveLog, LogData},
    sol_types::SolEventInterface,
};
use sqlx::{PgConnection, PgPool, Row, postgres::PgRow};
use tidemark::{
    chain::Deployment,
    contracts::{
        ConsentRegistry::ConsentRegistryEvents, Disputes::DisputesEvents, IPRegistry::IPRegistryEvents,
        LicenseRegistry::LicenseRegistryEvents, PointsTreasury::PointsTreasuryEvents,
        ProvenanceLog::ProvenanceLogEvents,
    },
};

use crate::{
    ledger,
    sync::{
        self, OutOfRange,
        node::{Header, PlacedLog},
        signed,
    },
};

/// Logs applied in one transaction, up to the end of a block.
const LOGS_PER_RANGE: i64 = 5_000;

/// Why a final range could not be applied; nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// The database refused.
    #[error("apply {doing}")]
    Sql {
        /// Which log or step.
        doing: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A number that does not fit the database.
    #[error(transparent)]
    Range(#[from] OutOfRange),
}

impl From<sqlx::Error> for ProjectError {
    fn from(source: sqlx::Error) -> Self {
        Self::Sql { doing: "final blocks".into(), source }
    }
}

/// A mirrored log with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Height.
    pub block_number: i64,
    /// Hash of the block.
    pub block_hash: Vec<u8>,
    /// Unix seconds.
    pub block_time: i64,
    /// Place in the block.
    pub log_index: i64,
    /// The transaction.
    pub tx_hash: Vec<u8>,
    /// As it came.
    pub log: PrimitiveLog,
}

/// What one of our contracts says.
#[derive(Debug)]
pub enum Said {
    /// Providers, batches, tasks and claims.
    Log(ProvenanceLogEvents),
    /// Bonds and disputes.
    Disputes(DisputesEvents),
    /// Policies and withdrawals.
    Consents(ConsentRegistryEvents),
    /// Datasets and contributions.
    Ip(IPRegistryEvents),
    /// Offers, licences, royalties.
    Licenses(LicenseRegistryEvents),
    /// Redemptions.
    Treasury(PointsTreasuryEvents),
}

impl Placed {
    /// From a row of block_number, block_hash, block_time, log_index, tx_hash, address, topics, data.
    pub fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let (address, topics): (Vec<u8>, Vec<Vec<u8>>) = (row.try_get(5)?, row.try_get(6)?);
        let topics = topics.iter().filter_map(|topic| B256::try_from(topic.as_slice()).ok()).collect();
        let data: Vec<u8> = row.try_get(7)?;
        Ok(Self {
            block_number: row.try_get(0)?,
            block_hash: row.try_get(1)?,
            block_time: row.try_get(2)?,
            log_index: row.try_get(3)?,
            tx_hash: row.try_get(4)?,
            log: PrimitiveLog {
                address: Address::try_from(address.as_slice()).unwrap_or_default(),
                data: LogData::new_unchecked(topics, data.into()),
            },
        })
    }

    fn from_log(log: &PlacedLog) -> Result<Self, OutOfRange> {
        Ok(Self {
            block_number: signed(log.block_number, "block")?,
            block_hash: log.block_hash.to_vec(),
            block_time: signed(log.block_time, "time")?,
            log_index: signed(log.log_index, "log index")?,
            tx_hash: log.tx_hash.to_vec(),
            log: PrimitiveLog {
                address: log.address,
                data: LogData::new_unchecked(log.topics.clone(), log.data.clone()),
            },
        })
    }

    /// What it says; `None` where it is nothing that is projected (an approval, an event of a later contract version).
    pub fn said(&self, deployment: &Deployment) -> Option<Said> {
        let log = &self.log;
        if log.address == deployment.provenance_log {
            ProvenanceLogEvents::decode_log(log).ok().map(|said| Said::Log(said.data))
        } else if log.address == deployment.disputes {
            DisputesEvents::decode_log(log).ok().map(|said| Said::Disputes(said.data))
        } else if log.address == deployment.consent_registry {
            ConsentRegistryEvents::decode_log(log).ok().map(|said| Said::Consents(said.data))
        } else if log.address == deployment.ip_registry {
            IPRegistryEvents::decode_log(log).ok().map(|said| Said::Ip(said.data))
        } else if log.address == deployment.license_registry {
            LicenseRegistryEvents::decode_log(log).ok().map(|said| Said::Licenses(said.data))
        } else {
            // only treasuries are mirrored beside the contracts
            PointsTreasuryEvents::decode_log(log).ok().map(|said| Said::Treasury(said.data))
        }
    }
}

/// Applies one range of mirrored, final blocks; true where there is more.
pub async fn apply(pool: &PgPool, deployment: &Deployment, finalized: Header) -> Result<bool, ProjectError> {
    let mut transaction = pool.begin().await?;
    let connection = &mut *transaction;
    crate::manifest::lock_tables(connection).await?;
    let cursor = sync::cursor(connection).await?;
    let target_max = finalized.number.min(cursor.mirrored_number);
    if target_max <= cursor.applied_number {
        return Ok(false);
    }
    let from = signed(cursor.applied_number, "block")?;
    let Some((target, hash, time)) = end_of_range(connection, from, signed(target_max, "block")?).await? else {
        return Ok(false);
    };
    if signed(finalized.number, "block")? == target && hash != finalized.hash.as_slice() {
        // the mirror holds a block that lost; the next step takes it back
        return Ok(false);
    }
    let rows = sqlx::query(
        "SELECT block_number, block_hash, block_time, log_index, tx_hash, address, topics, data FROM chain_log
         WHERE block_number > $1 AND block_number <= $2 ORDER BY block_number, log_index",
    )
    .bind(from)
    .bind(target)
    .fetch_all(&mut *connection)
    .await?;
    let mut said = Vec::new();
    for row in &rows {
        said.extend(with_said(Placed::from_row(row)?, deployment));
    }
    apply_said(connection, said).await?;
    set_applied(connection, target, &hash, time).await?;
    transaction.commit().await?;
    metrics::counter!("tidemark_indexer_logs_applied_total").increment(rows.len() as u64);
    Ok(target < signed(target_max, "block")?)
}

/// A log with what it says, where that is something.
pub type Speaking = (Placed, Said);

fn with_said(placed: Placed, deployment: &Deployment) -> Option<Speaking> {
    placed.said(deployment).map(|said| (placed, said))
}

/// Those of the logs that say something.
pub fn speaking(logs: &[PlacedLog], deployment: &Deployment) -> Result<Vec<Speaking>, OutOfRange> {
    let placed = logs.iter().map(Placed::from_log);
    placed.filter_map(|placed| placed.map(|placed| with_said(placed, deployment)).transpose()).collect()
}

/// Applies logs inside the transaction that also moves the cursor, in which [`crate::manifest::lock_tables`] comes first.
pub async fn apply_said(connection: &mut PgConnection, logs: Vec<Speaking>) -> Result<(), ProjectError> {
    if logs.is_empty() {
        return Ok(());
    }
    let mut redeemed = Vec::new();
    for (placed, said) in logs {
        let at = tables::At { connection: &mut *connection, placed: &placed };
        let account = tables::apply(at, said).await.map_err(|source| ProjectError::Sql {
            doing: format!("log {} of block {}", placed.log_index, placed.block_number),
            source,
        })?;
        redeemed.extend(account);
    }
    // sales of versions whose members are here already; the others are posted when those come
    crate::manifest::settle_sales(connection).await?;
    ledger::settle_redemptions(connection, &redeemed).await?;
    Ok(())
}

/// Moves the cursor to a block whose logs are applied, and forgets headers below it.
pub async fn set_applied(
    connection: &mut PgConnection,
    number: i64,
    hash: &[u8],
    time: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE cursor SET applied_number = $1, applied_hash = $2, applied_time = $3")
        .bind(number)
        .bind(hash)
        .bind(time)
        .execute(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM block WHERE number < $1").bind(number).execute(connection).await?;
    Ok(())
}

/// The last block of the range after `from`, whole blocks with at most about [`LOGS_PER_RANGE`] logs, with hash and time.
async fn end_of_range(
    connection: &mut PgConnection,
    from: i64,
    target_max: i64,
) -> Result<Option<(i64, Vec<u8>, i64)>, sqlx::Error> {
    let full: Option<i64> = sqlx::query_scalar(
        "SELECT block_number FROM chain_log WHERE block_number > $1 AND block_number <= $2
         ORDER BY block_number, log_index OFFSET $3 LIMIT 1",
    )
    .bind(from)
    .bind(target_max)
    .bind(LOGS_PER_RANGE - 1)
    .fetch_optional(&mut *connection)
    .await?;
    let target = full.unwrap_or(target_max);
    let row = sqlx::query(
        "SELECT hash, time FROM block WHERE number = $1
         UNION ALL SELECT mirrored_hash, mirrored_time FROM cursor WHERE mirrored_number = $1
         UNION ALL SELECT block_hash, block_time FROM chain_log WHERE block_number = $1 LIMIT 1",
    )
    .bind(target)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok((target, row.try_get(0)?, row.try_get(1)?))).transpose()
}
