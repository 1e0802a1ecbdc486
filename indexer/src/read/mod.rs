//! Queries behind the API and the explorer: every answer is one snapshot, and says at which block it is true.

mod account;
mod batch;
mod check;
mod dataset;
mod dispute;
mod leaf;
mod license;
mod license_list;
pub mod page;
mod provider;
mod record;
mod royalty;
mod similar;
pub mod trace;
mod wallet;

pub use account::{AccountBalance, AccountView, Period, TransferView, account, balances};
pub use batch::{BatchEvents, BatchList, BatchView, DebitView, batch, batch_events, batches};
pub use check::{ExcludedMember, LicenseCheck, MemberCounts, NotFinal, Reason, check};
pub use dataset::{
    DatasetFilter, DatasetList, DatasetView, MemberProof, OfferView, VersionView, dataset, datasets, member_proof,
};
pub use dispute::{DisputeFilter, DisputeList, DisputeState, DisputeView, dispute, disputes};
pub use leaf::{BatchHeader, BatchLeaves, LeafProof, LeafRow, leaf, leaves};
pub use license::{LicenseTransfer, LicenseView, TermsView, license};
pub use license_list::{LicenseFilter, LicenseList, LicenseSummary, licenses};
pub use provider::{
    BondView, PolicyView, ProviderList, ProviderRef, ProviderView, Settlement, TaskView, find as find_provider,
    provider, providers, settlement,
};
pub(crate) use record::trace_event_type;
pub use record::{
    ClaimView, DatasetPart, EventProof, EventView, OnChainWithdrawal, RecordProofs, RecordView, RoyaltyClaimView,
    proofs, record,
};
pub use royalty::{RoyaltyPart, SaleRoyalties, royalties};
pub use similar::{DISTANCE_MAX, SIMILAR, SimilarList, SimilarRecord, Wanted, hash_of, similar};
pub use wallet::{
    ContributorView, OwnRecord, OwnRecords, OwnRoyalties, OwnRoyalty, Payment, Payments, RewardSum, WalletView,
    contributor, own_records, own_royalties, payments, wallet,
};

use alloy::primitives::{Address, B256};
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, Row, Transaction};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use crate::manifest::SettleError;

/// Why a read failed; none of it is the reader's fault.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The database.
    #[error("read the tables")]
    Sql(#[from] sqlx::Error),
    /// A tree that does not give the anchored root: the tables were written by something else.
    #[error("the stored leaves of {0} do not give its root")]
    Root(String),
    /// A worker thread died.
    #[error("build a tree")]
    Worker(#[from] tokio::task::JoinError),
}

impl From<SettleError> for ReadError {
    fn from(error: SettleError) -> Self {
        match error {
            SettleError::Sql(error) => Self::Sql(error),
            SettleError::Worker(error) => Self::Worker(error),
        }
    }
}

/// The block that an answer is true at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct At {
    /// Newest final block that is in the tables.
    pub block_number: u64,
    /// Its hash; none before the first.
    pub block_hash: Option<String>,
    /// Its time, RFC 3339.
    pub block_time: String,
    /// Always true: what is not final is marked `mined` where it stands.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Final batches and dataset versions up to this block whose files have not arrived.
    pub waiting_files: u64,
    /// Chain id.
    pub chain_id: u64,
    /// Unix seconds of the block.
    #[serde(skip)]
    pub unix_seconds: i64,
}

/// An answer with the block that it is true at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Answer<T> {
    /// The block.
    pub at: At,
    /// What was asked.
    #[serde(flatten)]
    pub data: T,
}

/// The block since which something has been true that never changes.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FixedAt {
    /// Height.
    pub block_number: u64,
    /// Hash of the block.
    pub block_hash: String,
    /// RFC 3339.
    pub block_time: String,
    /// Always true: what is not final changes.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Chain id.
    pub chain_id: u64,
}

/// An answer that never changes, with the block that settled it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Fixed<T> {
    /// The block.
    pub at: FixedAt,
    /// What was asked.
    #[serde(flatten)]
    pub data: T,
}

/// A snapshot of all tables, for one answer.
pub async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Bounds each statement of a snapshot from here on: for rows that a stranger can multiply, and ask for again and again.
async fn bound_time(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SET LOCAL statement_timeout = '5s'").execute(connection).await?;
    Ok(())
}

/// The block of a snapshot.
pub async fn at(connection: &mut PgConnection) -> Result<At, sqlx::Error> {
    at_if_any(connection).await?.ok_or(sqlx::Error::RowNotFound)
}

/// The block of a snapshot; none in a database that mirrors no deployment yet.
pub async fn at_if_any(connection: &mut PgConnection) -> Result<Option<At>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT applied_number, applied_hash, applied_time, chain_id,
             (SELECT count(*) FROM batch WHERE state = 'waiting')
                 + (SELECT count(*) FROM dataset_version WHERE state = 'waiting')
         FROM cursor",
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| at_of(&row)).transpose()
}

fn at_of(row: &sqlx::postgres::PgRow) -> Result<At, sqlx::Error> {
    let time: i64 = row.try_get(2)?;
    let hash: Option<Vec<u8>> = row.try_get(1)?;
    Ok(At {
        block_number: number(row, 0)?,
        block_hash: hash.map(|hash| hex0x(&hash)),
        block_time: rfc3339(time),
        is_final: true,
        waiting_files: number(row, 4)?,
        chain_id: number(row, 3)?,
        unix_seconds: time,
    })
}

/// What the tables say of the indexer itself, beside [`At`].
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Newest block whose logs are mirrored.
    pub mirrored_block: u64,
    /// Batches whose manifest is not what was anchored.
    pub invalid_batches: u64,
}

/// How far the mirror is, and what was refused.
pub async fn progress(connection: &mut PgConnection) -> Result<Progress, sqlx::Error> {
    let row = sqlx::query(
        "SELECT mirrored_number, (SELECT coalesce(sum(invalid_batches), 0)::bigint FROM provider_total) FROM cursor",
    )
    .fetch_one(connection)
    .await?;
    Ok(Progress { mirrored_block: number(&row, 0)?, invalid_batches: number(&row, 1)? })
}

/// Unix seconds as RFC 3339; seconds beyond the year 9999 as digits.
pub fn rfc3339(seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok());
    time.unwrap_or_else(|| seconds.to_string())
}

/// The same for the protocol's u64.
pub fn rfc3339_u64(seconds: u64) -> String {
    i64::try_from(seconds).map_or_else(|_| seconds.to_string(), rfc3339)
}

pub(crate) fn hex0x(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

pub(crate) fn number(row: &sqlx::postgres::PgRow, at: usize) -> Result<u64, sqlx::Error> {
    crate::manifest::stored::count(row, at)
}

pub(crate) fn hash_text(row: &sqlx::postgres::PgRow, at: usize) -> Result<String, sqlx::Error> {
    Ok(hex0x(&row.try_get::<Vec<u8>, _>(at)?))
}

pub(crate) fn address_text(row: &sqlx::postgres::PgRow, at: usize) -> Result<String, sqlx::Error> {
    Ok(crate::manifest::stored::address(row, at)?.to_string())
}

pub(crate) fn cid_text(bytes: &[u8]) -> String {
    cid::Cid::try_from(bytes).map_or_else(|_| hex0x(bytes), |cid| cid.to_string())
}

/// Hashes of a proof as text.
pub(crate) fn proof_text(proof: &[B256]) -> Vec<String> {
    proof.iter().map(ToString::to_string).collect()
}

/// An address column's value as text; none for the zero address.
pub(crate) fn some_address(address: Address) -> Option<String> {
    (!address.is_zero()).then(|| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_times_that_never_come_are_digits() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339_u64(u64::MAX), "18446744073709551615");
    }
}
