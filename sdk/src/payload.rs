//! Payloads: what an event's commitment hides, disclosed off chain as long as nobody erases it.

use alloy::primitives::{B256, Bytes};
use cid::Cid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    batch::cid_text,
    canonical::{CanonicalError, jcs},
    ids::ConsentId,
    verdict::Verdict,
};

/// Where the encrypted bytes of a submission are, and how to open them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// The ciphertext, see [`crate::sealing`].
    #[serde(with = "cid_text")]
    pub ciphertext_cid: Cid,
    /// The [`crate::sealing::SealedKey`] as JSON, in an erasable block of its own.
    #[serde(with = "cid_text")]
    pub key_cid: Cid,
    /// Bytes of the plaintext.
    pub size_bytes: u64,
}

/// A batch's disclosures are in another file than its manifest says, because rows of the first were erased.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Which batch of the same provider.
    pub number: u64,
    /// The file.
    #[serde(with = "cid_text")]
    pub cid: Cid,
}

/// The payload of one event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Payload {
    /// First event of a record.
    Registered {
        /// The provider's own id.
        source_record_id: String,
        /// SHA-256(JCS(metadata)).
        metadata_root: B256,
        /// Public metadata, trace-v1.0.
        metadata: Value,
        /// What the consent allows, bits of [`crate::consent::purpose`]; 0 where there is no consent. The attestor has seen the
        /// consent itself, which nobody else does: its key would link a person's records.
        purposes: u32,
        /// Where the bytes are; none where the provider keeps them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delivery: Option<Delivery>,
    },
    /// The gate's yes.
    Accepted {
        /// Signed.
        verdict: Verdict,
    },
    /// The gate's no.
    Rejected {
        /// Signed.
        verdict: Verdict,
    },
    /// A full new state of the metadata.
    MetadataUpdated {
        /// The Trace API's own sequence, 1 to 100.
        seq: u32,
        /// Root of the state before.
        prev_metadata_root: B256,
        /// SHA-256(JCS(metadata)).
        metadata_root: B256,
        /// The state.
        metadata: Value,
    },
    /// The consent is gone.
    ConsentWithdrawn {
        /// Which.
        consent_id: ConsentId,
        /// The contributor's signature over the withdrawal; empty where the provider withdrew.
        signature: Bytes,
    },
    /// The record's secrets are gone.
    Erased {
        /// Where the batches that held them keep what they still disclose.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        disclosures: Vec<Moved>,
    },
}

impl Payload {
    /// The state of the metadata that it brings.
    pub fn into_metadata(self) -> Option<Value> {
        match self {
            Self::Registered { metadata, .. } | Self::MetadataUpdated { metadata, .. } => Some(metadata),
            _ => None,
        }
    }

    /// The canonical text of a payload whose metadata is canonical already, and null here: it is written as it is, not
    /// parsed and sorted again.
    pub fn canonical_with(&self, metadata: &str) -> Result<String, CanonicalError> {
        const NULL: &str = "\"metadata\":null";
        let around = String::from_utf8_lossy(&jcs(self)?).into_owned();
        // no text stands before this member: kind and the CIDs of a delivery do, in the order of the keys
        Ok(match around.split_once(NULL) {
            Some((before, after)) => [before, "\"metadata\":", metadata, after].concat(),
            None => around,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn canonical_metadata_in_a_payload_is_what_the_whole_payload_would_have() {
        let metadata =
            json!({"z": 1, "a": {"\u{e000}": 1.5, "\u{1f600}": [null, "\"metadata\":null"]}, "metadata": null});
        let text = String::from_utf8(jcs(&metadata).unwrap()).unwrap();
        let cid = crate::store::cid_of(b"bytes");
        let delivery = Some(Delivery { ciphertext_cid: cid, key_cid: cid, size_bytes: 5 });
        for delivery in [None, delivery] {
            let registered = |metadata| Payload::Registered {
                source_record_id: "\"metadata\":null \u{1} \u{20ac}".into(),
                metadata_root: B256::repeat_byte(7),
                metadata,
                purposes: 3,
                delivery: delivery.clone(),
            };
            let whole = jcs(&registered(metadata.clone())).unwrap();
            assert_eq!(registered(Value::Null).canonical_with(&text).unwrap().as_bytes(), whole);
        }
        let updated = |metadata| Payload::MetadataUpdated {
            seq: 3,
            prev_metadata_root: B256::repeat_byte(6),
            metadata_root: B256::repeat_byte(7),
            metadata,
        };
        let whole = jcs(&updated(metadata.clone())).unwrap();
        assert_eq!(updated(Value::Null).canonical_with(&text).unwrap().as_bytes(), whole);
    }

    #[test]
    fn an_erasure_says_where_disclosures_are_and_nothing_where_none_moved() {
        let none = Payload::Erased { disclosures: Vec::new() };
        assert_eq!(serde_json::to_string(&none).unwrap(), r#"{"kind":"erased"}"#);
        assert_eq!(serde_json::from_str::<Payload>(r#"{"kind":"erased"}"#).unwrap(), none);
        let cid = crate::store::cid_of(b"rows");
        let moved = Payload::Erased { disclosures: vec![Moved { number: 7, cid }] };
        let text = format!(r#"{{"kind":"erased","disclosures":[{{"number":7,"cid":"{cid}"}}]}}"#);
        assert_eq!(serde_json::to_string(&moved).unwrap(), text);
        assert_eq!(serde_json::from_str::<Payload>(&text).unwrap(), moved);
    }
}
