//! Dataset versions: which records a licence covers, and with what weight each is paid.

use std::{collections::HashSet, ops::Range};

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol,
    sol_types::{Eip712Domain, SolStruct, SolValue, eip712_domain},
};
use bytes::Bytes as Buffer;
use cid::Cid;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    batch::cid_text,
    event::decimal,
    ids::{ConsentId, ContentHash, DataId},
    manifest::ManifestError,
    merkle::Tree,
    table::{self, Column},
};

/// The most members of one version: 2^20.
pub const MEMBERS_MAX: usize = 1 << 20;
/// The greatest weight of a member.
pub const WEIGHT_MAX: u128 = (1 << 96) - 1;
/// The greatest members manifest, in bytes.
pub const MEMBERS_BYTES_MAX: u64 = 512 << 20;

sol! {
    /// EIP-712 form, as in `IIPRegistry.sol`.
    struct DatasetVersion {
        uint256 ipId;
        uint32 version;
        bytes32 root;
        uint32 memberCount;
        uint128 totalWeight;
        uint128 pointsWeight;
        uint32 purposes;
        bytes manifestCid;
    }
}

const MEMBERS: &str = "message dataset_members {
  REQUIRED FIXED_LEN_BYTE_ARRAY (16) data_id (UUID);
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) contributor;
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) consent_id;
  REQUIRED FIXED_LEN_BYTE_ARRAY (20) payee;
  REQUIRED FIXED_LEN_BYTE_ARRAY (16) weight (DECIMAL(38,0));
  REQUIRED FIXED_LEN_BYTE_ARRAY (32) content_hash;
  REQUIRED BYTE_ARRAY ciphertext_cid (STRING);
  REQUIRED BYTE_ARRAY key_cid (STRING);
  REQUIRED INT64 batch_number (INTEGER(64,false));
  REQUIRED INT32 event_index (INTEGER(32,false));
  REQUIRED INT32 purposes (INTEGER(32,false));
}";

/// One record's part in a version: one leaf.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Which record.
    pub data_id: DataId,
    /// Its pseudonym.
    pub contributor: B256,
    /// The consent that it was given under.
    pub consent_id: ConsentId,
    /// Zero: its royalties are points.
    pub payee: Address,
    /// Below 2^96.
    #[serde(with = "decimal")]
    pub weight: u128,
}

impl Member {
    /// `keccak256(keccak256(abi.encode(fields)))`.
    pub fn leaf(&self) -> B256 {
        let words = (self.data_id.sol(), self.contributor, self.consent_id.0, self.payee, U256::from(self.weight));
        keccak256(keccak256(words.abi_encode()))
    }
}

/// A member with where its event and its bytes are: one row of the members manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRow {
    /// What the leaf holds.
    pub member: Member,
    /// SHA-256 of the plaintext.
    pub content_hash: ContentHash,
    /// Encrypted bytes.
    pub ciphertext_cid: Cid,
    /// The sealed key.
    pub key_cid: Cid,
    /// Batch of its Accepted event.
    pub batch_number: u64,
    /// Index of its Accepted event.
    pub event_index: u32,
    /// What its consent allows: bits of [`crate::consent::purpose`].
    pub purposes: u32,
}

/// What a version commits to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionContent {
    /// Root over the members' leaves.
    pub root: B256,
    /// How many.
    pub member_count: u32,
    /// Sum of all weights.
    #[serde(with = "decimal")]
    pub total_weight: u128,
    /// Sum of the weights of members without a payee.
    #[serde(with = "decimal")]
    pub points_weight: u128,
    /// What every member's consent allows: bits of [`crate::consent::purpose`]. Nothing else is sold.
    pub purposes: u32,
    /// The members manifest.
    #[serde(with = "cid_text")]
    pub manifest_cid: Cid,
}

/// What follows from the members alone.
#[derive(Clone, Debug)]
pub struct VersionSummary {
    /// For proofs.
    pub tree: Tree,
    /// See [`VersionContent::total_weight`].
    pub total_weight: u128,
    /// See [`VersionContent::points_weight`].
    pub points_weight: u128,
    /// See [`VersionContent::purposes`].
    pub purposes: u32,
}

/// Why rows are no version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DatasetError {
    /// None, or more than [`MEMBERS_MAX`].
    #[error("expected 1 to {MEMBERS_MAX} members, got {0}")]
    Count(usize),
    /// A weight of 0 or above [`WEIGHT_MAX`].
    #[error("{data_id}: weight: expected 1 to {WEIGHT_MAX}, got {weight}")]
    Weight {
        /// Whose.
        data_id: DataId,
        /// The weight.
        weight: u128,
    },
    /// Weights of more than [`WEIGHT_MAX`] together, which the contracts can't hold.
    #[error("weights: expected a sum of at most {WEIGHT_MAX}, got {0}")]
    TotalWeight(u128),
    /// Rows must ascend by data id, each once.
    #[error("{0}: expected ascending data ids, each once")]
    Order(DataId),
    /// A pseudonym is made of the data id, so no two members that are paid in points have the same.
    #[error("{0}: contributor: expected a pseudonym of its own, got one that stands before")]
    Contributor(DataId),
}

/// Tree and sums of rows, which ascend by data id.
pub fn summarise(rows: &[MemberRow]) -> Result<VersionSummary, DatasetError> {
    if rows.is_empty() || rows.len() > MEMBERS_MAX {
        return Err(DatasetError::Count(rows.len()));
    }
    let mut total_weight = 0u128;
    let mut points_weight = 0u128;
    let mut purposes = u32::MAX;
    let mut pseudonyms = HashSet::with_capacity(rows.len());
    for (at, MemberRow { member, purposes: allowed, .. }) in rows.iter().enumerate() {
        if at > 0 && rows[at - 1].member.data_id >= member.data_id {
            return Err(DatasetError::Order(member.data_id));
        }
        if member.weight == 0 || member.weight > WEIGHT_MAX {
            return Err(DatasetError::Weight { data_id: member.data_id, weight: member.weight });
        }
        // 2^20 members of less than 2^96 stay below 2^117
        total_weight += member.weight;
        if member.payee.is_zero() {
            points_weight += member.weight;
            if !pseudonyms.insert(member.contributor) {
                return Err(DatasetError::Contributor(member.data_id));
            }
        }
        purposes &= allowed;
    }
    if total_weight > WEIGHT_MAX {
        return Err(DatasetError::TotalWeight(total_weight));
    }
    let leaves: Vec<B256> = rows.par_iter().with_min_len(256).map(|row| row.member.leaf()).collect();
    let tree = Tree::new(&leaves).ok_or(DatasetError::Count(rows.len()))?;
    Ok(VersionSummary { tree, total_weight, points_weight, purposes })
}

/// The Parquet bytes of a members manifest.
pub fn encode_members(rows: &[MemberRow]) -> Result<Vec<u8>, ManifestError> {
    let columns = |range: Range<usize>| {
        let rows = &rows[range];
        vec![
            Column::fixed(rows.iter().map(|r| r.member.data_id.bytes())),
            Column::fixed(rows.iter().map(|r| r.member.contributor.0)),
            Column::fixed(rows.iter().map(|r| r.member.consent_id.0.0)),
            Column::fixed(rows.iter().map(|r| r.member.payee.0.0)),
            Column::fixed(rows.iter().map(|r| r.member.weight.to_be_bytes())),
            Column::fixed(rows.iter().map(|r| r.content_hash.0.0)),
            Column::Text(rows.iter().map(|r| r.ciphertext_cid.to_string()).collect()),
            Column::Text(rows.iter().map(|r| r.key_cid.to_string()).collect()),
            Column::U64(rows.iter().map(|r| r.batch_number).collect()),
            Column::U32(rows.iter().map(|r| r.event_index).collect()),
            Column::U32(rows.iter().map(|r| r.purposes).collect()),
        ]
    };
    Ok(table::write(MEMBERS, rows.len(), columns, Vec::new())?)
}

/// Reads a members manifest; [`summarise`] says whether it is one.
pub fn decode_members(bytes: Buffer) -> Result<Vec<MemberRow>, ManifestError> {
    let mut table = table::read(MEMBERS, MEMBERS_MAX, bytes)?;
    let columns = &mut table.columns;
    let data_id = columns.fixed::<16>()?;
    let contributor = columns.fixed::<32>()?;
    let consent_id = columns.fixed::<32>()?;
    let payee = columns.fixed::<20>()?;
    let weight = columns.fixed::<16>()?;
    let content_hash = columns.fixed::<32>()?;
    let ciphertext_cid = columns.text()?;
    let key_cid = columns.text()?;
    let batch_number = columns.u64()?;
    let event_index = columns.u32()?;
    let purposes = columns.u32()?;
    let cid_at = |row: usize, field, text: &str| {
        text.parse::<Cid>().map_err(|_| ManifestError::Row { row, field, reason: "not a CID" })
    };
    (0..table.rows)
        .map(|row| {
            Ok(MemberRow {
                member: Member {
                    data_id: DataId::from_bytes(data_id[row]),
                    contributor: B256::from(contributor[row]),
                    consent_id: ConsentId(B256::from(consent_id[row])),
                    payee: Address::from(payee[row]),
                    weight: u128::from_be_bytes(weight[row]),
                },
                content_hash: ContentHash(B256::from(content_hash[row])),
                ciphertext_cid: cid_at(row, "ciphertext_cid", &ciphertext_cid[row])?,
                key_cid: cid_at(row, "key_cid", &key_cid[row])?,
                batch_number: batch_number[row],
                event_index: event_index[row],
                purposes: purposes[row],
            })
        })
        .collect()
}

/// EIP-712 domain of the IP registry.
pub fn domain(chain_id: u64, ip_registry: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Tidemark IPRegistry",
        version: "1",
        chain_id: chain_id,
        verifying_contract: ip_registry,
    }
}

/// The digest that the attestor signs for a version.
pub fn version_digest(domain: &Eip712Domain, ip_id: U256, version: u32, content: &VersionContent) -> B256 {
    DatasetVersion {
        ipId: ip_id,
        version,
        root: content.root,
        memberCount: content.member_count,
        totalWeight: content.total_weight,
        pointsWeight: content.points_weight,
        purposes: content.purposes,
        manifestCid: Bytes::from(content.manifest_cid.to_bytes()),
    }
    .eip712_signing_hash(domain)
}

/// A dataset's id: `keccak256(abi.encode(provider, name))`.
pub fn dataset_id(provider: Address, name: &str) -> U256 {
    U256::from_be_bytes(keccak256((provider, name.to_owned()).abi_encode_params()).0)
}

/// Splits an amount by weight so that the parts sum to the whole: floors first, then one unit each to the largest
/// remainders (Hamilton's method), ties to the earlier. `None` for no weights, a zero sum, or sums above 128 bits.
pub fn split_points(amount: u128, weights: &[u128]) -> Option<Vec<u128>> {
    let total = weights.iter().try_fold(0u128, |sum, weight| sum.checked_add(*weight))?;
    if total == 0 {
        return None;
    }
    let total = U256::from(total);
    let mut parts = Vec::with_capacity(weights.len());
    let mut remainders = Vec::with_capacity(weights.len());
    let mut given = 0u128;
    for (at, weight) in weights.iter().enumerate() {
        // both factors are below 2^128
        let (part, remainder) = (U256::from(amount) * U256::from(*weight)).div_rem(total);
        // part ≤ amount
        let part = u128::try_from(part).ok()?;
        given += part;
        parts.push(part);
        remainders.push((remainder, at));
    }
    remainders.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let left = usize::try_from(amount - given).ok()?;
    for (_, at) in remainders.iter().take(left) {
        parts[*at] += 1;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_to_the_whole_and_lie_within_one_unit_of_the_exact_share() {
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..200 {
            let count = next() % 50 + 1;
            let weights: Vec<u128> = (0..count).map(|_| u128::from(next() % 1_000)).collect();
            let amount = u128::from(next());
            let total: u128 = weights.iter().sum();
            let Some(parts) = split_points(amount, &weights) else {
                assert_eq!(total, 0);
                continue;
            };
            assert_eq!(parts.iter().sum::<u128>(), amount);
            for (part, weight) in parts.iter().zip(&weights) {
                let floor = U256::from(amount) * U256::from(*weight) / U256::from(total);
                assert!(U256::from(*part) == floor || U256::from(*part) == floor + U256::from(1));
            }
        }
    }

    #[test]
    fn largest_remainders_are_served_first_and_ties_go_to_the_earlier() {
        assert_eq!(split_points(10, &[1, 1, 1]), Some(vec![4, 3, 3]));
        assert_eq!(split_points(3, &[1, 2, 3]), Some(vec![1, 1, 1]));
        assert_eq!(split_points(1, &[0, 5]), Some(vec![0, 1]));
        assert_eq!(split_points(1, &[]), None);
        assert!(split_points(u128::MAX, &[u128::MAX]).is_some());
    }

    #[test]
    fn a_pseudonym_stands_once_among_the_members_that_are_paid_in_points() {
        let row = |id: u8, pseudonym: u8, payee: Address| {
            let cid = crate::store::cid_of(&[id]);
            MemberRow {
                member: Member {
                    data_id: DataId::from_bytes([id; 16]),
                    contributor: B256::repeat_byte(pseudonym),
                    consent_id: ConsentId::ZERO,
                    payee,
                    weight: 1,
                },
                content_hash: ContentHash::of(&[id]),
                ciphertext_cid: cid,
                key_cid: cid,
                batch_number: 0,
                event_index: 0,
                purposes: 1,
            }
        };
        let wallet = Address::repeat_byte(1);
        assert!(summarise(&[row(1, 1, Address::ZERO), row(2, 2, Address::ZERO), row(3, 2, wallet)]).is_ok());
        let again = summarise(&[row(1, 1, Address::ZERO), row(2, 1, Address::ZERO)]).unwrap_err();
        assert_eq!(again, DatasetError::Contributor(DataId::from_bytes([2; 16])));
    }
}
