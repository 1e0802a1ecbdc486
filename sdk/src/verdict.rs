//! Verdicts: what an attestor says of one submission, signed.

use alloy::{
    primitives::{Address, B256, Bytes},
    sol_types::{Eip712Domain, SolStruct},
};
use serde::{Deserialize, Serialize};

use crate::{
    consent::{ConsentError, check_signature},
    ids::{ContentHash, DataId},
};

mod typed {
    alloy::sol! {
        /// EIP-712 form, in the domain of the provenance log.
        struct Verdict {
            bytes16 dataId;
            bytes32 contentHash;
            uint8 outcome;
            string gate;
            uint64 decidedAt;
        }
    }
}

/// Why a submission was rejected; `Accepted` where it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Outcome {
    /// Passed.
    Accepted = 0,
    /// No bytes.
    Empty = 1,
    /// The bytes are of another type than claimed.
    TypeMismatch = 2,
    /// The bytes can't be decoded to the end.
    Undecodable = 3,
    /// The same bytes were accepted before.
    Duplicate = 4,
    /// Below the least duration.
    TooShort = 5,
    /// Above the greatest duration.
    TooLong = 6,
    /// Below the least dimensions or sample rate.
    TooSmall = 7,
    /// Above the greatest dimensions or size.
    TooLarge = 8,
}

impl Outcome {
    /// The name in payloads and APIs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Empty => "empty",
            Self::TypeMismatch => "type_mismatch",
            Self::Undecodable => "undecodable",
            Self::Duplicate => "duplicate",
            Self::TooShort => "too_short",
            Self::TooLong => "too_long",
            Self::TooSmall => "too_small",
            Self::TooLarge => "too_large",
        }
    }
}

/// An attestor's signed verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Which record.
    pub data_id: DataId,
    /// Which bytes.
    pub content_hash: ContentHash,
    /// Accepted, or why not.
    pub outcome: Outcome,
    /// One sentence with what was expected and what came.
    pub detail: String,
    /// Name and version of the checks, for example `tidemark-gate-1`.
    pub gate: String,
    /// Unix seconds.
    pub decided_at: u64,
    /// Who signed.
    pub attestor: Address,
    /// Over the EIP-712 digest.
    pub signature: Bytes,
}

impl Verdict {
    /// The digest that the attestor signs.
    pub fn digest(&self, domain: &Eip712Domain) -> B256 {
        typed::Verdict {
            dataId: self.data_id.sol(),
            contentHash: self.content_hash.0,
            outcome: self.outcome as u8,
            gate: self.gate.clone(),
            decidedAt: self.decided_at,
        }
        .eip712_signing_hash(domain)
    }

    /// Checks the signature.
    pub fn check(&self, domain: &Eip712Domain) -> Result<(), ConsentError> {
        check_signature(self.attestor, self.digest(domain), &self.signature)
    }
}
