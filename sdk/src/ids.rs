//! Identifiers that are not just bytes.

use std::{fmt, str::FromStr};

use alloy::primitives::{B256, FixedBytes};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// UUIDv5 namespace of data ids: UUIDv5 of the DNS name `tidemark.protocol`.
pub const DATA_ID_NAMESPACE: Uuid = Uuid::from_u128(0x0684_bb20_4265_5fe5_9609_1b74_2630_4729);

/// The longest `source_record_id`, in bytes.
pub const SOURCE_RECORD_ID_BYTES_MAX: usize = 512;

/// Why an identifier was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// A source record id that is empty, too long or holds control characters.
    #[error("expected 1 to {SOURCE_RECORD_ID_BYTES_MAX} bytes without control characters, got {0}")]
    SourceRecordId(String),
    /// A text that is not the identifier's form.
    #[error("expected {expected}, got {actual:?}")]
    Form {
        /// What the text should look like.
        expected: &'static str,
        /// The text.
        actual: String,
    },
}

/// The id of one submission: the same provider and source record always get the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataId(pub Uuid);

impl DataId {
    /// UUIDv5 (RFC 9562) over the provider's name, a zero byte and the trimmed source record id.
    pub fn new(provider_name: &str, source_record_id: &str) -> Result<Self, IdError> {
        let id = source_record_id.trim();
        if id.is_empty() || id.len() > SOURCE_RECORD_ID_BYTES_MAX {
            return Err(IdError::SourceRecordId(format!("{} bytes", id.len())));
        }
        if id.chars().any(char::is_control) {
            return Err(IdError::SourceRecordId("a control character".into()));
        }
        let mut name = Vec::with_capacity(provider_name.len() + 1 + id.len());
        name.extend_from_slice(provider_name.as_bytes());
        name.push(0);
        name.extend_from_slice(id.as_bytes());
        Ok(Self(Uuid::new_v5(&DATA_ID_NAMESPACE, &name)))
    }

    /// The sixteen bytes, as they stand in the leaf.
    pub fn bytes(&self) -> [u8; 16] {
        *self.0.as_bytes()
    }

    /// From the sixteen bytes of a leaf.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// As Solidity's `bytes16`.
    pub fn sol(&self) -> FixedBytes<16> {
        FixedBytes(self.bytes())
    }
}

impl fmt::Display for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DataId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for DataId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::from_str(text)
            .map(Self)
            .map_err(|_| IdError::Form { expected: "a UUID", actual: text.chars().take(64).collect() })
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub B256);

        impl $name {
            /// No such thing: 32 zero bytes.
            pub const ZERO: Self = Self(B256::ZERO);

            /// Whether it stands for none.
            pub fn is_zero(&self) -> bool {
                self.0.is_zero()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl From<B256> for $name {
            fn from(hash: B256) -> Self {
                Self(hash)
            }
        }
    };
}

hash_type! {
    /// EIP-712 digest of a consent; zero where a record was registered without one.
    ConsentId
}
hash_type! {
    /// SHA-256 of the submitted bytes.
    ContentHash
}

impl ContentHash {
    /// Of bytes at hand.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(&[bytes]))
    }

    /// The Trace API's form, `sha256:<64 lowercase hex>`.
    pub fn prefixed(&self) -> String {
        format!("sha256:{}", hex::encode(self.0))
    }

    /// Reads `sha256:<hex>`, bare hex, `0x<hex>` and the multihash form `0x1220<hex>`, in either case.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let lower = text.trim().to_ascii_lowercase();
        let bare = lower.strip_prefix("sha256:").unwrap_or(&lower);
        let bare = bare.strip_prefix("0x").unwrap_or(bare);
        let bare = match bare.len() {
            68 => bare.strip_prefix("1220").unwrap_or(bare),
            _ => bare,
        };
        let mut bytes = [0u8; 32];
        match hex::decode_to_slice(bare, &mut bytes) {
            Ok(()) => Ok(Self(B256::from(bytes))),
            Err(_) => {
                Err(IdError::Form { expected: "sha256:<64 hex digits>", actual: text.chars().take(80).collect() })
            }
        }
    }
}

/// SHA-256 over the parts, one after another.
pub fn sha256(parts: &[&[u8]]) -> B256 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    B256::from(<[u8; 32]>::from(hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_what_its_comment_says() {
        assert_eq!(DATA_ID_NAMESPACE, Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"tidemark.protocol"));
    }

    #[test]
    fn a_data_id_ignores_surrounding_space_and_keeps_case() {
        let id = DataId::new("numo", "Rec-1").unwrap();
        assert_eq!(id, DataId::new("numo", "  Rec-1 ").unwrap());
        assert_ne!(id, DataId::new("numo", "rec-1").unwrap());
        assert_ne!(id, DataId::new("num", "oRec-1").unwrap());
        assert!(DataId::new("numo", "a\nb").is_err());
        assert!(DataId::new("numo", &"x".repeat(513)).is_err());
        assert!(DataId::new("numo", " ").is_err());
    }

    #[test]
    fn every_published_form_of_a_content_hash_reads_the_same() {
        let hash = ContentHash::of(b"x");
        let hex = hex::encode(hash.0);
        for form in [hash.prefixed(), hex.clone(), format!("0x{hex}"), format!("0x1220{hex}"), hex.to_uppercase()] {
            assert_eq!(ContentHash::parse(&form).unwrap(), hash);
        }
        assert!(ContentHash::parse("sha256:12").is_err());
    }
}
