//! Canonical JSON (RFC 8785, JCS) and what is hashed over it.

use alloy::primitives::B256;
use serde::Serialize;

use crate::ids::sha256;

/// A value that can't be written canonically.
#[derive(Debug, thiserror::Error)]
#[error("JSON has no canonical form")]
pub struct CanonicalError(#[source] serde_json::Error);

/// The canonical bytes of a value (RFC 8785).
pub fn jcs<T: Serialize>(value: &T) -> Result<Vec<u8>, CanonicalError> {
    serde_json_canonicalizer::to_vec(value).map_err(CanonicalError)
}

/// `metadata_root` of the Trace API: SHA-256 over the canonical metadata.
pub fn metadata_root(metadata: &serde_json::Value) -> Result<B256, CanonicalError> {
    Ok(sha256(&[&jcs(metadata)?]))
}

/// An event's commitment: SHA-256(salt ‖ canonical payload). The salt hides the payload once it is erased.
pub fn commitment(salt: &[u8; 32], canonical_payload: &[u8]) -> B256 {
    sha256(&[salt, canonical_payload])
}
