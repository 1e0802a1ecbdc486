//! Development keys: derived from their names, so that anybody can compute them; never put value behind one.

use alloy::{
    primitives::{Address, B256, keccak256},
    signers::local::PrivateKeySigner,
};
use anyhow::{Context, Result};

/// Prefix of what is hashed into a development key.
const MARK: &str = "tidemark development key, worthless: ";

/// The key named `role`.
pub fn dev_key(role: &str) -> B256 {
    keccak256(format!("{MARK}{role}"))
}

/// The key named `role`, able to sign.
pub fn dev_signer(role: &str) -> Result<PrivateKeySigner> {
    PrivateKeySigner::from_bytes(&dev_key(role)).with_context(|| format!("the development key {role:?} is no key"))
}

/// The account of [`dev_signer`].
pub fn dev_address(role: &str) -> Result<Address> {
    Ok(dev_signer(role)?.address())
}

/// A secret text named `role`: API keys, bearer tokens, storage keys (32 bytes as hex).
pub fn dev_secret(role: &str) -> String {
    hex::encode(dev_key(role))
}

/// Who holds a key in the local stack.
pub mod role {
    /// Deploys the contracts.
    pub const DEPLOYER: &str = "deployer";
    /// Pays for the tasks.
    pub const SPONSOR: &str = "sponsor";
    /// The app that collects data.
    pub const PROVIDER: &str = "provider";
    /// Signs verdicts, batches and dataset versions.
    pub const ATTESTOR: &str = "attestor";
    /// Sends the anchoring transactions.
    pub const RELAYER: &str = "relayer";
    /// Redeems points from the treasury.
    pub const TREASURY_OPERATOR: &str = "treasury-operator";
    /// Holds the decryption key.
    pub const CUSTODIAN: &str = "custodian";
    /// Buys the licence.
    pub const BUYER: &str = "buyer";
    /// Where the payout partner receives settled points.
    pub const PARTNER: &str = "payout-partner";
}
