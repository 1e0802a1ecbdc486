//! The development token and permits over it.

use std::time::{SystemTime, UNIX_EPOCH};

use alloy::{
    primitives::{Address, U256},
    providers::DynProvider,
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{SolStruct, eip712_domain},
};
use anyhow::{Context, Result};
use tidemark::contracts::{DevToken, LicenseRegistry, ProvenanceLog};

/// Payment-token units in one dKRW.
pub const UNITS: u128 = 1_000_000;
/// How long a permit is good.
const PERMIT_SECONDS: u64 = 3_600;

sol! {
    /// EIP-2612.
    struct Permit {
        address owner;
        address spender;
        uint256 value;
        uint256 nonce;
        uint256 deadline;
    }
}

/// Units as whole dKRW, or with decimals where there are any.
pub fn won(units: u128) -> String {
    let (whole, rest) = (units / UNITS, units % UNITS);
    match rest {
        0 => format!("{whole} dKRW"),
        _ => format!("{whole}.{} dKRW", format!("{rest:06}").trim_end_matches('0')),
    }
}

/// A signed permit, in the form of the contract that takes it.
#[derive(Clone, Debug)]
pub struct SignedPermit {
    deadline: U256,
    v: u8,
    r: alloy::primitives::B256,
    s: alloy::primitives::B256,
}

impl From<SignedPermit> for ProvenanceLog::Permit {
    fn from(p: SignedPermit) -> Self {
        Self { deadline: p.deadline, v: p.v, r: p.r, s: p.s }
    }
}

impl From<SignedPermit> for LicenseRegistry::Permit {
    fn from(p: SignedPermit) -> Self {
        Self { deadline: p.deadline, v: p.v, r: p.r, s: p.s }
    }
}

/// Lets `spender` take `value` from the signer, `ahead` permits after the one that the chain expects next.
pub async fn permit(
    reader: &DynProvider,
    chain_id: u64,
    token: Address,
    owner: &PrivateKeySigner,
    spender: Address,
    value: u128,
    ahead: u64,
) -> Result<SignedPermit> {
    let contract = DevToken::new(token, reader);
    let name = contract.name().call().await.context("failed to read the token's name")?;
    let nonce = contract.nonces(owner.address()).call().await.context("failed to read the permit's nonce")?;
    let deadline = U256::from(unix_seconds() + PERMIT_SECONDS);
    let domain = eip712_domain! { name: name, version: "1", chain_id: chain_id, verifying_contract: token, };
    let permit = Permit {
        owner: owner.address(),
        spender,
        value: U256::from(value),
        nonce: nonce + U256::from(ahead),
        deadline,
    };
    let signature = owner.sign_hash_sync(&permit.eip712_signing_hash(&domain)).context("failed to sign a permit")?;
    Ok(SignedPermit { deadline, v: 27 + u8::from(signature.v()), r: signature.r().into(), s: signature.s().into() })
}

/// What an account holds.
pub async fn balance(reader: &DynProvider, token: Address, account: Address) -> Result<u128> {
    let balance = DevToken::new(token, reader).balanceOf(account).call().await.context("failed to read a balance")?;
    u128::try_from(balance).context("a balance above 128 bits")
}

/// This machine's clock.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_like_money() {
        assert_eq!(won(300 * UNITS), "300 dKRW");
        assert_eq!(won(1_500_000), "1.5 dKRW");
    }
}
