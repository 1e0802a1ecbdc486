//! Consent: what a contributor agreed to, signed under EIP-712, and its withdrawal.

use alloy::{
    primitives::{Address, B256, Signature, U256},
    sol,
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};
use serde::{Deserialize, Serialize};

use crate::ids::ConsentId;

sol! {
    /// EIP-712 form, as in `IConsentRegistry.sol`.
    #[derive(Debug, PartialEq, Eq)]
    struct Consent {
        address contributor;
        address provider;
        bytes32 policyHash;
        uint32 purposes;
        uint32 dataTypes;
        bytes32 territory;
        uint64 validFrom;
        uint64 validUntil;
        uint256 nonce;
    }

    /// What a contributor signs to take a consent back.
    struct Withdrawal {
        bytes32 consentId;
    }
}

/// Bits of `purposes`, and of a licence's purposes.
pub mod purpose {
    /// Train models.
    pub const TRAIN: u32 = 1;
    /// Evaluate models.
    pub const EVALUATE: u32 = 1 << 1;
    /// Fine-tune models.
    pub const FINE_TUNE: u32 = 1 << 2;
    /// Pass the data on.
    pub const REDISTRIBUTE: u32 = 1 << 3;
    /// Commercial use.
    pub const COMMERCIAL: u32 = 1 << 4;
    /// All of them with their names.
    pub const NAMES: [(u32, &str); 5] = [
        (TRAIN, "train"),
        (EVALUATE, "evaluate"),
        (FINE_TUNE, "fine_tune"),
        (REDISTRIBUTE, "redistribute"),
        (COMMERCIAL, "commercial"),
    ];

    /// Names of the bits that are set.
    pub fn names(bits: u32) -> Vec<&'static str> {
        NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
    }
}

/// Bits of `dataTypes`.
pub mod data_type {
    /// Speech and other sound.
    pub const VOICE: u32 = 1;
    /// Still pictures.
    pub const PHOTO: u32 = 1 << 1;
    /// Moving pictures.
    pub const VIDEO: u32 = 1 << 2;
    /// Text.
    pub const TEXT: u32 = 1 << 3;
    /// Only metadata of a file that the provider keeps.
    pub const METADATA: u32 = 1 << 4;
}

/// A consent as JSON carries it, with its signature (65 bytes, or ERC-1271 bytes).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedConsent {
    /// Key that signs: a wallet, or a key that the app keeps on the contributor's device.
    pub contributor: Address,
    /// The provider's account.
    pub provider: Address,
    /// SHA-256 of a policy that the provider published on chain.
    pub policy_hash: B256,
    /// Bits of [`purpose`].
    pub purposes: u32,
    /// Bits of [`data_type`].
    pub data_types: u32,
    /// SHA-256 of the territory's name; zero is the whole world.
    pub territory: B256,
    /// Unix seconds, inclusive.
    pub valid_from: u64,
    /// Unix seconds, inclusive.
    pub valid_until: u64,
    /// Random.
    pub nonce: U256,
    /// Over the EIP-712 digest.
    pub signature: alloy::primitives::Bytes,
}

/// Why a consent does not cover a submission.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConsentError {
    /// The signature is missing, malformed or of another key.
    #[error("signature: expected one by {expected} over {digest}, got {actual}")]
    Signature {
        /// The consent's contributor.
        expected: Address,
        /// What should have been signed.
        digest: B256,
        /// Who signed, or what is wrong with the bytes.
        actual: String,
    },
    /// Given to somebody else.
    #[error("provider: expected {expected}, got {actual}")]
    Provider {
        /// The provider that asks.
        expected: Address,
        /// The consent's.
        actual: Address,
    },
    /// Not valid at the time of the submission.
    #[error("valid_from/valid_until: expected {at} (Unix seconds) to lie in it, got {from} to {until}")]
    Period {
        /// When the submission happened.
        at: u64,
        /// First second.
        from: u64,
        /// Last second.
        until: u64,
    },
    /// The kind of data is not covered.
    #[error("data_types: expected bit {expected:#b} to be set, got {actual:#b}")]
    DataType {
        /// The submission's bit.
        expected: u32,
        /// The consent's bits.
        actual: u32,
    },
}

/// EIP-712 domain of the consent registry.
pub fn domain(chain_id: u64, consent_registry: Address) -> Eip712Domain {
    eip712_domain! {
        name: "Tidemark ConsentRegistry",
        version: "1",
        chain_id: chain_id,
        verifying_contract: consent_registry,
    }
}

impl SignedConsent {
    /// The EIP-712 struct.
    pub fn sol(&self) -> Consent {
        Consent {
            contributor: self.contributor,
            provider: self.provider,
            policyHash: self.policy_hash,
            purposes: self.purposes,
            dataTypes: self.data_types,
            territory: self.territory,
            validFrom: self.valid_from,
            validUntil: self.valid_until,
            nonce: self.nonce,
        }
    }

    /// Its id: the digest that is signed.
    pub fn id(&self, domain: &Eip712Domain) -> ConsentId {
        ConsentId(self.sol().eip712_signing_hash(domain))
    }

    /// Checks signature (ECDSA), provider, period and data type; gives the id.
    pub fn check(
        &self,
        domain: &Eip712Domain,
        provider: Address,
        data_type: u32,
        at: u64,
    ) -> Result<ConsentId, ConsentError> {
        if self.provider != provider {
            return Err(ConsentError::Provider { expected: provider, actual: self.provider });
        }
        let id = self.id(domain);
        check_signature(self.contributor, id.0, &self.signature)?;
        if at < self.valid_from || at > self.valid_until {
            return Err(ConsentError::Period { at, from: self.valid_from, until: self.valid_until });
        }
        if self.data_types & data_type != data_type {
            return Err(ConsentError::DataType { expected: data_type, actual: self.data_types });
        }
        Ok(id)
    }
}

/// EIP-712 digest of a withdrawal.
pub fn withdrawal_digest(domain: &Eip712Domain, consent_id: ConsentId) -> B256 {
    Withdrawal { consentId: consent_id.0 }.eip712_signing_hash(domain)
}

/// Checks that `expected` signed `digest` with a 65-byte ECDSA signature with low s (EIP-2) and v 27 or 28: what the
/// contracts take, and nothing else, so that what is taken here can be carried there.
pub fn check_signature(expected: Address, digest: B256, signature: &[u8]) -> Result<(), ConsentError> {
    let failed = |actual: String| ConsentError::Signature { expected, digest, actual };
    if signature.is_empty() {
        return Err(failed("none".into()));
    }
    if let Some(v) = signature.get(64).filter(|v| !matches!(v, 27 | 28)) {
        return Err(failed(format!("one whose last byte, v, is {v}, not 27 or 28")));
    }
    let signature = Signature::from_raw(signature).map_err(|error| failed(error.to_string()))?;
    if signature.normalize_s().is_some() {
        return Err(failed("a signature with high s".into()));
    }
    match signature.recover_address_from_prehash(&digest) {
        Ok(signer) if signer == expected => Ok(()),
        Ok(signer) => Err(failed(format!("one by {signer}"))),
        Err(error) => Err(failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use alloy::signers::{SignerSync, local::PrivateKeySigner};

    use super::*;

    #[test]
    fn a_signature_has_one_form_the_one_that_the_contracts_take() {
        let (key, digest) = (PrivateKeySigner::random(), B256::repeat_byte(7));
        let good = key.sign_hash_sync(&digest).unwrap().as_bytes();
        let check = |signature: &[u8]| check_signature(key.address(), digest, signature);
        check(&good).unwrap();
        // other spellings of v, which would recover to the same signer
        for v in [good[64] - 27, good[64] + 8, good[64] + 10] {
            let mut other = good;
            other[64] = v;
            assert!(check(&other).unwrap_err().to_string().contains("27 or 28"), "{v}");
        }
        // the same with high s
        let s = U256::from_be_slice(&good[32..64]);
        let order = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";
        let mut high = good;
        high[32..64].copy_from_slice(&(U256::from_str_radix(order, 16).unwrap() - s).to_be_bytes::<32>());
        high[64] = 55 - good[64];
        assert!(check(&high).unwrap_err().to_string().contains("high s"));
        for length in [0, 64, 66] {
            let mut other = good.to_vec();
            other.resize(length, 27);
            assert!(check(&other).is_err(), "{length}");
        }
        // r and s of 0 recover nobody, and so not the zero address either
        let mut nobody = [0u8; 65];
        nobody[64] = 27;
        assert!(check_signature(Address::ZERO, digest, &nobody).is_err());
    }
}
