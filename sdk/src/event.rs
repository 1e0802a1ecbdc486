//! Provenance events: one thing that happened to one piece of data, one Merkle leaf.

use alloy::primitives::{Address, B256, keccak256};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::{ConsentId, ContentHash, DataId};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EventKind {
    /// The record exists.
    Registered = 0,
    /// It passed the quality gate.
    Accepted = 1,
    /// It did not; the reason is in the payload.
    Rejected = 2,
    /// Its public metadata has a new full state.
    MetadataUpdated = 3,
    /// The contributor took the consent back.
    ConsentWithdrawn = 4,
    /// Key ciphertext and salts were destroyed.
    Erased = 5,
}

impl EventKind {
    /// From the leaf's `uint8`.
    pub fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            0 => Self::Registered,
            1 => Self::Accepted,
            2 => Self::Rejected,
            3 => Self::MetadataUpdated,
            4 => Self::ConsentWithdrawn,
            5 => Self::Erased,
            _ => return None,
        })
    }

    /// The name in APIs and payloads.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::MetadataUpdated => "metadata_updated",
            Self::ConsentWithdrawn => "consent_withdrawn",
            Self::Erased => "erased",
        }
    }

    /// Whether a record may go from `previous` to `next`; `None` before the first event. A verdict comes right after
    /// the registration or never, so that no record is judged, and paid, twice.
    pub fn may_follow(previous: Option<Self>, next: Self) -> bool {
        use EventKind::*;
        match (previous, next) {
            (None, Registered) => true,
            (None, _) | (Some(_), Registered) | (Some(Erased), _) => false,
            (Some(Registered), Accepted | Rejected) => true,
            (Some(_), Accepted | Rejected) => false,
            (Some(_), MetadataUpdated | ConsentWithdrawn | Erased) => true,
        }
    }
}

/// One leaf of a batch. Fields, order and widths are those of `ProvenanceEvent` in `ProvenanceEvent.sol`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Position in its batch, from 0; the bit of the claim bitmap.
    pub index: u32,
    /// Which record.
    pub data_id: DataId,
    /// Position in the record's chain, from 0, no gaps.
    pub sequence: u32,
    /// What happened.
    pub kind: EventKind,
    /// Per-record pseudonym, see [`pseudonym`].
    pub contributor: B256,
    /// SHA-256 of the submitted bytes.
    pub content_hash: ContentHash,
    /// Consent it was given under; zero where none.
    pub consent_id: ConsentId,
    /// SHA-256(salt ‖ JCS(payload)), see [`crate::canonical::commitment`].
    pub commitment: B256,
    /// Leaf of the record's event before; zero at sequence 0.
    pub previous: B256,
    /// Unix seconds.
    pub occurred_at: u64,
    /// Task it was submitted for; 0 where none.
    pub task_id: u64,
    /// Payment-token units; non-zero only on [`EventKind::Accepted`].
    #[serde(with = "decimal")]
    pub reward: u128,
    /// Zero: paid in points; else claims on chain.
    pub payee: Address,
}

impl Event {
    /// `abi.encode` of the fields: thirteen 32-byte words.
    pub fn abi_encode(&self) -> [u8; 13 * 32] {
        let mut words = [0u8; 13 * 32];
        let mut at = 0;
        let mut right = |bytes: &[u8]| {
            words[at + 32 - bytes.len()..at + 32].copy_from_slice(bytes);
            at += 32;
        };
        right(&self.index.to_be_bytes());
        // bytes16 is left-aligned
        let mut data_id = [0u8; 32];
        data_id[..16].copy_from_slice(&self.data_id.bytes());
        right(&data_id);
        right(&self.sequence.to_be_bytes());
        right(&[self.kind as u8]);
        right(self.contributor.as_slice());
        right(self.content_hash.0.as_slice());
        right(self.consent_id.0.as_slice());
        right(self.commitment.as_slice());
        right(self.previous.as_slice());
        right(&self.occurred_at.to_be_bytes());
        right(&self.task_id.to_be_bytes());
        right(&self.reward.to_be_bytes());
        right(self.payee.as_slice());
        words
    }

    /// The leaf of OpenZeppelin's `StandardMerkleTree`: `keccak256(keccak256(abi.encode(fields)))`.
    pub fn leaf(&self) -> B256 {
        keccak256(keccak256(self.abi_encode()))
    }
}

/// Per-record pseudonym: `HMAC-SHA256(contributor secret, dataId)` (RFC 2104). Two records of one person do not match,
/// and whoever holds the secret can show that they belong together.
pub fn pseudonym(contributor_secret: &[u8; 32], data_id: DataId) -> B256 {
    let mut mac = match Hmac::<Sha256>::new_from_slice(contributor_secret) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes a key of any length"),
    };
    mac.update(&data_id.bytes());
    B256::from(<[u8; 32]>::from(mac.finalize().into_bytes()))
}

/// `u128` as a decimal string in JSON, because a JSON number loses digits above 2^53.
pub mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// Writes the decimal digits.
    pub fn serialize<S: Serializer>(value: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads decimal digits.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
            return Err(D::Error::custom(format!("expected decimal digits, got {text:?}")));
        }
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_judged_once_and_right_after_its_registration() {
        use EventKind::*;
        let all = [Registered, Accepted, Rejected, MetadataUpdated, ConsentWithdrawn, Erased];
        for verdict in [Accepted, Rejected] {
            for previous in all {
                assert_eq!(EventKind::may_follow(Some(previous), verdict), previous == Registered);
            }
            assert!(!EventKind::may_follow(None, verdict));
        }
        assert!(all.iter().all(|next| !EventKind::may_follow(Some(Erased), *next)));
        assert!(all.iter().all(|next| EventKind::may_follow(None, *next) == (*next == Registered)));
    }
}
