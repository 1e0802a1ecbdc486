//! The points ledger: double entry, each transfer named by what caused it, so that nothing is posted twice.
//!
//! ```text
//!  reward:  issuer ──► contributor      redeem:  contributor ──► redeemed      royalty:  issuer ──► royalties
//! ```
//!
//! A sale is one transfer; what each member has of it follows from `royalty_split` ([`split`]), so that a contributor has its
//! account's balance and its parts. Tables, triggers and constraints are in `migrations`; balances move only there. Each transfer
//! commits to the one before it in its lane (`chain`), and `verify` finds what was changed behind the triggers' back.

pub mod chain;
mod redeem;
pub mod split;
pub mod verify;

use alloy::primitives::{Address, B256, U256};
use sqlx::PgConnection;
use tidemark::{event::Event, ids::DataId};

pub use redeem::{settle_redemptions, settle_redemptions_of_members};

/// Transfers inserted by one statement.
const ROWS_PER_INSERT: usize = 5_000;

/// A contributor's points account: the per-record pseudonym under a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountKey {
    /// Who owes the points.
    pub provider: Address,
    /// The pseudonym.
    pub key: B256,
}

/// Where in the chain a transfer's cause stands.
#[derive(Clone, Debug)]
pub struct Cause {
    /// Height.
    pub block_number: i64,
    /// Unix seconds.
    pub block_time: i64,
    /// The transaction.
    pub tx_hash: Vec<u8>,
}

/// One transfer in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Names the cause: the primary key.
    pub id: String,
    /// The contributor's side; zero where it has none.
    pub account: B256,
    /// Payment-token units, above 0.
    pub amount: u128,
    /// Whose reward; none on others.
    pub data_id: Option<DataId>,
}

/// What a transfer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An accepted submission of a valid batch.
    Reward,
    /// The points share of a sale, for all members.
    Royalty,
    /// Points that became money.
    Redeem,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Royalty => "royalty",
            Self::Redeem => "redeem",
        }
    }

    /// Kinds of the account that gives and of the one that takes.
    fn sides(self) -> (&'static str, &'static str) {
        match self {
            Self::Reward => ("issuer", "contributor"),
            Self::Royalty => ("issuer", "royalties"),
            Self::Redeem => ("contributor", "redeemed"),
        }
    }
}

/// Transfers of a valid batch: one for each accepted submission that is paid in points.
pub fn rewards(provider: Address, number: u64, events: &[Event]) -> Vec<Posting> {
    events
        .iter()
        .filter(|event| event.reward > 0 && event.payee.is_zero())
        .map(|event| Posting {
            id: format!("reward/{provider:#x}/{number}/{}", event.index),
            account: event.contributor,
            amount: event.reward,
            data_id: Some(event.data_id),
        })
        .collect()
}

/// The transfer of a sale, whatever the number of members. The schema takes it only for a posted sale of a version whose members
/// are in the tables, with just this amount, and keeps with it what their parts are made of.
pub fn royalty(license_id: U256, points_share: u128) -> Posting {
    Posting { id: format!("royalty/{license_id}"), account: B256::ZERO, amount: points_share, data_id: None }
}

/// Posts transfers of one cause. A second posting of the same id is an error: callers post what they have not posted.
pub async fn post(
    connection: &mut PgConnection,
    provider: Address,
    kind: Kind,
    cause: &Cause,
    postings: &[Posting],
) -> Result<(), sqlx::Error> {
    let (debit, credit) = kind.sides();
    let mut lanes = chain::Lanes::load(connection, kind, postings).await?;
    for chunk in postings.chunks(ROWS_PER_INSERT) {
        let mut positions = Vec::with_capacity(chunk.len());
        let mut links = Vec::with_capacity(chunk.len());
        for posting in chunk {
            let (position, link) = lanes.append(provider, kind, cause, posting);
            positions.push(position);
            links.push(link.to_vec());
        }
        let ids: Vec<&str> = chunk.iter().map(|posting| posting.id.as_str()).collect();
        let accounts: Vec<&[u8]> = chunk.iter().map(|posting| posting.account.as_slice()).collect();
        let amounts: Vec<String> = chunk.iter().map(|posting| posting.amount.to_string()).collect();
        let data_ids: Vec<Option<uuid::Uuid>> = chunk.iter().map(|posting| posting.data_id.map(|id| id.0)).collect();
        sqlx::query(
            "INSERT INTO ledger_transfer
                 (id, cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id,
                  block_number, block_time, tx_hash, position, link)
             SELECT id, $1, $2,
                 $3, CASE $3 WHEN 'contributor' THEN account ELSE $11 END,
                 $4, CASE $4 WHEN 'contributor' THEN account ELSE $11 END,
                 amount::numeric, account, data_id, $5, $6, $7, position, link
             FROM unnest($8::text[], $9::bytea[], $10::text[], $12::uuid[], $13::bigint[], $14::bytea[])
                 AS row (id, account, amount, data_id, position, link)",
        )
        .bind(kind.name())
        .bind(provider.as_slice())
        .bind(debit)
        .bind(credit)
        .bind(cause.block_number)
        .bind(cause.block_time)
        .bind(&cause.tx_hash)
        .bind(ids)
        .bind(accounts)
        .bind(amounts)
        .bind(B256::ZERO.as_slice())
        .bind(data_ids)
        .bind(positions)
        .bind(links)
        .execute(&mut *connection)
        .await?;
    }
    metrics::counter!("tidemark_indexer_transfers_posted_total", "cause" => kind.name())
        .increment(postings.len() as u64);
    Ok(())
}

/// What contributors have under one provider, in the order asked: their accounts' balances and their parts of sales. Accounts
/// that are there are locked against every other transaction until this one ends.
pub async fn lock_balances(
    connection: &mut PgConnection,
    provider: Address,
    keys: &[B256],
) -> Result<Vec<u128>, sqlx::Error> {
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
    // always in one order, so that two who lock the same accounts do not wait for each other
    sqlx::query(
        "SELECT FROM ledger_account WHERE provider = $1 AND kind = 'contributor' AND key = ANY($2) ORDER BY key FOR UPDATE",
    )
    .bind(provider.as_slice())
    .bind(&bytes)
    .execute(&mut *connection)
    .await?;
    let balances: Vec<String> = sqlx::query_scalar(
        "SELECT greatest(coalesce(a.balance, 0) + (SELECT coalesce(sum(r.amount), 0) FROM royalty_part AS r
             WHERE r.provider = $1 AND r.account = asked.key), 0)::text
         FROM unnest($2::bytea[]) WITH ORDINALITY AS asked (key, place)
         LEFT JOIN ledger_account AS a ON a.provider = $1 AND a.kind = 'contributor' AND a.key = asked.key
         ORDER BY asked.place",
    )
    .bind(provider.as_slice())
    .bind(&bytes)
    .fetch_all(connection)
    .await?;
    // above 128 bits only where a provider's token is worthless; a redemption is never larger
    Ok(balances.iter().map(|balance| balance.parse().unwrap_or(u128::MAX)).collect())
}
