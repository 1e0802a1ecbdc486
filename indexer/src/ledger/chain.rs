//! Links of the ledger's chain: each transfer commits to the one before it in its lane.
//!
//! A lane is what one cause writes in an order that the chain gives: `reward/<provider>`, `royalty/<license id>` or
//! `redeem/<provider>/<account>`. Lanes have no order among them: manifests come in any order, and every indexer has to
//! reach the same hashes. What is hashed: `docs/ledger.md`.

use std::collections::HashMap;

use alloy::primitives::{Address, B256};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, Row};

use super::{Cause, Kind, Posting};

/// SHA-256 over fields, each behind its length in 4 bytes, most significant first.
#[derive(Clone, Debug, Default)]
pub struct FieldHash(Sha256);

impl FieldHash {
    /// One that begins with the link before.
    pub fn after(link: B256) -> Self {
        Self(Sha256::new_with_prefix(link))
    }

    /// Takes a field in. Fields come out of Postgres, whose values are below 2^30 bytes.
    pub fn field(&mut self, value: impl AsRef<[u8]>) -> &mut Self {
        let value = value.as_ref();
        self.0.update(u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.0.update(value);
        self
    }

    /// Takes a number in, as decimal digits.
    pub fn number(&mut self, value: i64) -> &mut Self {
        self.field(value.to_string())
    }

    /// The hash.
    pub fn finish(self) -> B256 {
        B256::from(<[u8; 32]>::from(self.0.finalize()))
    }
}

/// A transfer as it is hashed: every column but the link.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Its lane.
    pub lane: &'a str,
    /// Place in it, from 1.
    pub position: i64,
    /// Names the cause.
    pub id: &'a str,
    /// reward, royalty or redeem.
    pub cause: &'a str,
    /// Who owes the points.
    pub provider: &'a [u8],
    /// Account that gives.
    pub debit: (&'a str, &'a [u8]),
    /// Account that takes.
    pub credit: (&'a str, &'a [u8]),
    /// Decimal digits.
    pub amount: &'a str,
    /// The contributor's side; zero on a royalty.
    pub account: &'a [u8],
    /// 16 bytes, or none.
    pub data_id: &'a [u8],
    /// Height of the cause.
    pub block_number: i64,
    /// Unix seconds.
    pub block_time: i64,
    /// The cause's transaction.
    pub tx_hash: &'a [u8],
}

impl Fields<'_> {
    /// The link of this transfer behind the link before.
    pub fn link(&self, before: B256) -> B256 {
        let mut hash = FieldHash::after(before);
        hash.field(self.lane).number(self.position).field(self.id).field(self.cause).field(self.provider);
        hash.field(self.debit.0).field(self.debit.1).field(self.credit.0).field(self.credit.1);
        hash.field(self.amount).field(self.account).field(self.data_id);
        hash.number(self.block_number).number(self.block_time).field(self.tx_hash);
        hash.finish()
    }
}

/// The lane of a transfer: its id up to the second slash; a redemption's goes on with the account.
fn lane_of(kind: Kind, posting: &Posting) -> String {
    let end = posting.id.match_indices('/').nth(1).map_or(posting.id.len(), |(at, _)| at);
    let cause = posting.id.get(..end).unwrap_or(&posting.id);
    match kind {
        Kind::Redeem => format!("{cause}/{:#x}", posting.account),
        Kind::Reward | Kind::Royalty => cause.to_owned(),
    }
}

/// Ends of the lanes that are written to.
#[derive(Debug)]
pub struct Lanes {
    ends: HashMap<String, (i64, B256)>,
}

impl Lanes {
    /// Ends of the lanes of these transfers.
    pub async fn load(connection: &mut PgConnection, kind: Kind, postings: &[Posting]) -> Result<Self, sqlx::Error> {
        let mut lanes: Vec<String> = postings.iter().map(|posting| lane_of(kind, posting)).collect();
        lanes.sort_unstable();
        lanes.dedup();
        let rows = sqlx::query("SELECT lane, transfers, head FROM ledger_lane WHERE lane = ANY($1)")
            .bind(lanes)
            .fetch_all(connection)
            .await?;
        let mut ends = HashMap::with_capacity(rows.len());
        for row in &rows {
            ends.insert(row.try_get(0)?, (row.try_get(1)?, crate::manifest::stored::hash(row, 2)?));
        }
        Ok(Self { ends })
    }

    /// Position and link of the next transfer.
    pub fn append(&mut self, provider: Address, kind: Kind, cause: &Cause, posting: &Posting) -> (i64, B256) {
        let lane = lane_of(kind, posting);
        let (transfers, before) = self.ends.get(&lane).copied().unwrap_or((0, B256::ZERO));
        let position = transfers.saturating_add(1);
        let (debit, credit) = kind.sides();
        let key = |side: &str| if side == "contributor" { posting.account } else { B256::ZERO };
        let link = Fields {
            lane: &lane,
            position,
            id: &posting.id,
            cause: kind.name(),
            provider: provider.as_slice(),
            debit: (debit, key(debit).as_slice()),
            credit: (credit, key(credit).as_slice()),
            amount: &posting.amount.to_string(),
            account: posting.account.as_slice(),
            data_id: posting.data_id.as_ref().map_or(&[][..], |id| id.0.as_bytes().as_slice()),
            block_number: cause.block_number,
            block_time: cause.block_time,
            tx_hash: &cause.tx_hash,
        }
        .link(before);
        self.ends.insert(lane, (position, link));
        (position, link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posting(id: &str) -> Posting {
        Posting { id: id.to_owned(), account: B256::repeat_byte(0xab), amount: 5, data_id: None }
    }

    #[test]
    fn a_lane_is_the_provider_the_licence_or_the_account() {
        assert_eq!(lane_of(Kind::Reward, &posting("reward/0xaa/7/3")), "reward/0xaa");
        assert_eq!(lane_of(Kind::Royalty, &posting("royalty/12")), "royalty/12");
        let account = "ab".repeat(32);
        assert_eq!(lane_of(Kind::Redeem, &posting("redeem/0xaa/0xbb")), format!("redeem/0xaa/0x{account}"));
    }

    #[test]
    fn a_link_depends_on_the_one_before_and_on_where_a_field_ends() {
        let hash = |fields: &[&str], before: B256| {
            let mut hash = FieldHash::after(before);
            fields.iter().for_each(|field| {
                hash.field(field);
            });
            hash.finish()
        };
        assert_ne!(hash(&["ab", "c"], B256::ZERO), hash(&["a", "bc"], B256::ZERO));
        assert_ne!(hash(&["ab"], B256::ZERO), hash(&["ab"], B256::repeat_byte(1)));
        // printf '\0%.0s' {1..32} then 00000002 'ab', through sha256sum
        let bytes = [[0u8; 32].as_slice(), &[0, 0, 0, 2], b"ab"].concat();
        assert_eq!(hash(&["ab"], B256::ZERO).as_slice(), Sha256::digest(bytes).as_slice());
    }

    #[test]
    fn transfers_of_one_lane_follow_each_other() {
        let mut lanes = Lanes { ends: HashMap::new() };
        let cause = Cause { block_number: 1, block_time: 2, tx_hash: vec![3; 32] };
        let mut append = |id| lanes.append(Address::ZERO, Kind::Reward, &cause, &posting(id));
        let (first, second, other) = (append("reward/0xaa/0/0"), append("reward/0xaa/0/1"), append("reward/0xbb/0/0"));
        assert_eq!((first.0, second.0, other.0), (1, 2, 1));
        assert!(first.1 != second.1 && first.1 != other.1);
    }
}
