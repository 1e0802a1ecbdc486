//! Contributors: a reference that only the provider knows, a key on their device, and for some of them a wallet.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use anyhow::{Context, Result};
use tidemark::consent::{SignedConsent, data_type, purpose};
use uuid::Uuid;

use super::{money::unix_seconds, world::World};

const DAY_SECONDS: u64 = 86_400;
/// Every so many-th contributor is paid to a wallet; the others are paid in points.
const WALLET_EVERY: usize = 4;

/// One contributor.
#[derive(Clone, Debug)]
pub struct Contributor {
    /// The provider's own reference.
    pub reference: String,
    /// Signs consents; also the wallet, where there is one.
    pub key: PrivateKeySigner,
    /// Paid on chain rather than in points.
    pub has_wallet: bool,
}

impl Contributor {
    /// So many fresh ones, a quarter of them with wallets.
    pub fn group(count: usize) -> Vec<Self> {
        let make = |at: usize| Self {
            reference: format!("user-{:03}", at + 1),
            key: PrivateKeySigner::random(),
            has_wallet: at % WALLET_EVERY == 1,
        };
        (0..count).map(make).collect()
    }

    /// The key's account.
    pub fn address(&self) -> Address {
        self.key.address()
    }

    /// A consent for one submission to everything that the demo's licence asks for, signed.
    pub fn consent(&self, world: &World) -> Result<SignedConsent> {
        self.sign(world, self.unsigned_consent(world))
    }

    /// The same before it is signed, for tests that spoil it.
    pub fn unsigned_consent(&self, world: &World) -> SignedConsent {
        let now = unix_seconds();
        SignedConsent {
            contributor: self.address(),
            provider: world.provider,
            policy_hash: world.policy_hash,
            purposes: purpose::TRAIN | purpose::EVALUATE | purpose::FINE_TUNE | purpose::COMMERCIAL,
            data_types: data_type::VOICE | data_type::PHOTO | data_type::VIDEO,
            territory: B256::ZERO,
            valid_from: now - DAY_SECONDS,
            valid_until: now + 365 * DAY_SECONDS,
            nonce: U256::from(Uuid::new_v4().as_u128()),
            signature: Bytes::new(),
        }
    }

    /// Signs a consent with this contributor's key, whoever it names.
    pub fn sign(&self, world: &World, mut consent: SignedConsent) -> Result<SignedConsent> {
        let digest = consent.id(&world.deployment.consent_domain()).0;
        let signature = self.key.sign_hash_sync(&digest).context("failed to sign a consent")?;
        consent.signature = Bytes::copy_from_slice(&signature.as_bytes());
        Ok(consent)
    }
}
