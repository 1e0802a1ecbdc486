//! The shapes of the `sdk`'s JSON for the OpenAPI document; a test holds them to what the `sdk` writes.
#![allow(dead_code, reason = "described, never built: the sdk's own types are what is read and written")]

use utoipa::ToSchema;
use uuid::Uuid;

/// A request for the key of one record under one licence.
#[derive(ToSchema)]
#[schema(as = ReleaseRequest)]
pub struct ReleaseRequestBody {
    /// Decimal digits.
    #[schema(example = "1")]
    license_id: String,
    member: MemberBody,
    /// Sibling hashes from the member's leaf to the licensed version's root, 32 bytes each, as 0x hex; at most 20.
    #[schema(max_items = 20)]
    member_proof: Vec<String>,
    sealed_key: SealedKeyBody,
    /// Compressed secp256k1 point, 33 bytes as 0x hex: only its secret reads the answer.
    #[schema(example = "0x0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")]
    recipient_key: String,
    /// Unix seconds, at most 600 ahead.
    deadline: u64,
    /// The holder's, as 0x hex, over EIP-712
    /// `ReleaseRequest(uint256 licenseId,bytes16 dataId,bytes recipientKey,uint64 deadline)` in the domain
    /// {name "Tidemark Custodian", version "1", chainId, verifyingContract = LicenseRegistry}: 65 bytes, or what the
    /// holder's ERC-1271 contract takes.
    signature: String,
}

/// One record's part in a dataset version.
#[derive(ToSchema)]
#[schema(as = Member)]
pub struct MemberBody {
    data_id: Uuid,
    /// Per-record pseudonym, 32 bytes as 0x hex.
    contributor: String,
    /// 32 bytes as 0x hex.
    consent_id: String,
    /// Address; zero where royalties are points.
    payee: String,
    /// Decimal digits, below 2^96.
    weight: String,
}

/// A content key sealed to the custodian, as the content store holds it.
#[derive(ToSchema)]
#[schema(as = SealedKey)]
pub struct SealedKeyBody {
    /// Account of the provider that took the content in: the licensed dataset's.
    provider: String,
    /// The member's.
    data_id: Uuid,
    /// The member's, 32 bytes as 0x hex.
    consent_id: String,
    /// This custodian's public key, 33 bytes as 0x hex.
    public_key: String,
    /// `R = rG`, 33 bytes as 0x hex.
    ephemeral: String,
    /// 48 bytes as 0x hex.
    ciphertext: String,
    /// Of the proof that the sealer knew `r`, 32 bytes as 0x hex.
    challenge: String,
    /// 32 bytes as 0x hex.
    response: String,
}

/// What the custodian answers.
#[derive(ToSchema)]
#[schema(as = ReleaseAnswer)]
pub struct ReleaseAnswerBody {
    /// Its entry in the audit list.
    release_id: Uuid,
    data_id: Uuid,
    /// Which custodian: its place in the committee, from 1.
    index: u16,
    /// `S = dR` ‖ challenge ‖ response of the Chaum–Pedersen proof, encrypted to the recipient key; 0x hex.
    encrypted_partial: String,
    /// The block at which the chain allowed the release.
    block_number: u64,
    /// 32 bytes as 0x hex.
    block_hash: String,
}

/// The key to seal to.
#[derive(ToSchema)]
#[schema(as = PublicKeyAnswer)]
pub struct PublicKeyBody {
    /// Compressed secp256k1 point, 33 bytes as 0x hex.
    public_key: String,
    /// The custodian's place in the committee, from 1.
    index: u16,
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, Bytes, U256};
    use serde_json::Value;
    use tidemark::{
        dataset::Member,
        ids::{ConsentId, DataId},
        release::{PublicKeyAnswer, ReleaseAnswer, ReleaseRequest},
        sealing::{Binding, ContentKey, SecretKey, seal_key},
    };

    use super::*;

    /// The schema's properties, all required, are the fields that the `sdk` writes.
    fn assert_described(document: &Value, schema: &str, written: &Value) {
        let names = |value: &Value| {
            let mut names: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
            names.sort();
            names
        };
        let described = &document["components"]["schemas"][schema];
        assert_eq!(names(&described["properties"]), names(written), "{schema}");
        assert_eq!(described["required"].as_array().unwrap().len(), names(written).len(), "{schema}");
        for (name, property) in described["properties"].as_object().unwrap() {
            let kind = match &written[name] {
                Value::String(_) => "string",
                Value::Number(_) => "integer",
                Value::Array(_) => "array",
                _ => continue,
            };
            assert_eq!(property["type"], kind, "{schema}.{name}");
        }
    }

    #[test]
    fn what_is_described_is_what_is_written() {
        let custodian = SecretKey::random().unwrap();
        let data_id = DataId::new("numo", "a").unwrap();
        let binding = Binding { provider: Address::ZERO, data_id, consent_id: ConsentId::ZERO };
        let sealed_key = seal_key(&custodian.public_key(), binding, &ContentKey::random().unwrap()).unwrap();
        let member =
            Member { data_id, contributor: B256::ZERO, consent_id: ConsentId::ZERO, payee: Address::ZERO, weight: 1 };
        let request = ReleaseRequest {
            license_id: U256::from(1),
            member,
            member_proof: Vec::new(),
            sealed_key,
            recipient_key: custodian.public_key(),
            deadline: 1,
            signature: Bytes::new(),
        };
        let answer = ReleaseAnswer {
            release_id: Uuid::nil(),
            data_id,
            index: 1,
            encrypted_partial: Bytes::new(),
            block_number: 1,
            block_hash: B256::ZERO,
        };
        let key = PublicKeyAnswer { public_key: custodian.public_key(), index: 1 };
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let request = serde_json::to_value(request).unwrap();
        assert_described(&document, "ReleaseRequest", &request);
        assert_described(&document, "Member", &request["member"]);
        assert_described(&document, "SealedKey", &request["sealed_key"]);
        assert_described(&document, "ReleaseAnswer", &serde_json::to_value(answer).unwrap());
        assert_described(&document, "PublicKeyAnswer", &serde_json::to_value(key).unwrap());
    }
}
