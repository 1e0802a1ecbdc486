//! The points ledger: double entry, each transfer named by what caused it, so that nothing is posted twice.
//!
//! ```text
//!  reward, royalty:  issuer ──► contributor      redeem:  contributor ──► redeemed
//! ```
//!
//! Tables, triggers and constraints are in `migrations/0001_read_side.sql`; balances move only there. Each transfer commits
//! to the one before it in its lane (`chain`), and `verify` finds what was changed behind the triggers' back.

pub mod chain;
mod redeem;
pub mod verify;

use alloy::primitives::{Address, B256, U256};
use sqlx::{PgConnection, Row};
use tidemark::{dataset::split_points, event::Event, ids::DataId};

pub use redeem::settle_redemptions;

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
    /// The contributor's side.
    pub account: B256,
    /// Payment-token units, above 0.
    pub amount: u128,
    /// Whose reward or royalty; none on a redemption.
    pub data_id: Option<DataId>,
}

/// What a transfer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An accepted submission of a valid batch.
    Reward,
    /// A member's part of a sale.
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
            Self::Reward | Self::Royalty => ("issuer", "contributor"),
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

/// A member as royalties see it.
#[derive(Clone, Copy, Debug)]
pub struct PointsMember {
    /// Which record.
    pub data_id: DataId,
    /// Its pseudonym.
    pub contributor: B256,
    /// Its weight.
    pub weight: u128,
}

/// Transfers of a sale: the points share by weight over the members without a payee, in manifest order. `None` where
/// nobody can take it.
pub fn royalties(license_id: U256, points_share: u128, members: &[PointsMember]) -> Option<Vec<Posting>> {
    let weights: Vec<u128> = members.iter().map(|member| member.weight).collect();
    let parts = split_points(points_share, &weights)?;
    let postings = members.iter().zip(parts).filter(|(_, amount)| *amount > 0).map(|(member, amount)| Posting {
        id: format!("royalty/{license_id}/{}", member.data_id),
        account: member.contributor,
        amount,
        data_id: Some(member.data_id),
    });
    Some(postings.collect())
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

/// Balance of a contributor's account, 0 where nothing was ever posted to it.
pub async fn balance(connection: &mut PgConnection, account: AccountKey) -> Result<u128, sqlx::Error> {
    balances(connection, account.provider, &[account.key], false).await.map(|balances| balances[0])
}

/// Balances of contributors' accounts under one provider, in the order asked, locked against every other transaction
/// until this one ends: for reservations. Accounts that do not exist have 0 and are not locked.
pub async fn lock_balances(
    connection: &mut PgConnection,
    provider: Address,
    keys: &[B256],
) -> Result<Vec<u128>, sqlx::Error> {
    balances(connection, provider, keys, true).await
}

async fn balances(
    connection: &mut PgConnection,
    provider: Address,
    keys: &[B256],
    lock: bool,
) -> Result<Vec<u128>, sqlx::Error> {
    // always in one order, so that two who lock the same accounts do not wait for each other
    let sql = match lock {
        true => {
            "SELECT key, balance::text FROM ledger_account
             WHERE provider = $1 AND kind = 'contributor' AND key = ANY($2) ORDER BY key FOR UPDATE"
        }
        false => {
            "SELECT key, balance::text FROM ledger_account
             WHERE provider = $1 AND kind = 'contributor' AND key = ANY($2)"
        }
    };
    let bytes: Vec<&[u8]> = keys.iter().map(|key| key.as_slice()).collect();
    let rows = sqlx::query(sql).bind(provider.as_slice()).bind(bytes).fetch_all(connection).await?;
    let mut found = std::collections::HashMap::with_capacity(rows.len());
    for row in rows {
        let (key, balance): (Vec<u8>, String) = (row.try_get(0)?, row.try_get(1)?);
        // above 128 bits only where a provider's token is worthless; a redemption is never larger
        let balance: u128 = balance.parse().unwrap_or(u128::MAX);
        found.insert(key, balance);
    }
    Ok(keys.iter().map(|key| found.get(key.as_slice()).copied().unwrap_or_default()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8, weight: u128) -> PointsMember {
        PointsMember { data_id: DataId::from_bytes([id; 16]), contributor: B256::repeat_byte(id), weight }
    }

    #[test]
    fn royalties_sum_to_the_share_and_name_licence_and_record() {
        let members = [member(1, 1), member(2, 1), member(3, 1)];
        let postings = royalties(U256::from(7), 100, &members).unwrap();
        assert_eq!(postings.iter().map(|posting| posting.amount).collect::<Vec<_>>(), [34, 33, 33]);
        assert_eq!(postings[0].id, "royalty/7/01010101-0101-0101-0101-010101010101");
        assert_eq!(postings[0].account, B256::repeat_byte(1));
    }

    #[test]
    fn a_part_of_nothing_is_not_posted_and_a_share_without_members_is_refused() {
        assert_eq!(royalties(U256::from(7), 1, &[member(1, 1), member(2, 1)]).unwrap().len(), 1);
        assert!(royalties(U256::from(7), 1, &[]).is_none());
    }
}
