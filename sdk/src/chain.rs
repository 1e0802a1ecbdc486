//! The chain side: where the contracts are, and how to reach a node.

use std::{collections::BTreeMap, path::Path};

use alloy::{
    eips::eip1559::Eip1559Estimation,
    primitives::{Address, B256, Bytes},
    providers::{DynProvider, Provider, ProviderBuilder, utils::EIP1559_MIN_PRIORITY_FEE},
    signers::local::PrivateKeySigner,
    sol_types::Eip712Domain,
    transports::TransportResult,
};
use serde::{Deserialize, Serialize};

use crate::deploy::Roles;

/// As HTTP says it, and "limit exceeded" of EIP-1474.
const TOO_MANY_REQUESTS: [i64; 2] = [429, -32_005];

/// Where the contracts of one chain are: `deployments/<chain>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployment {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// First block that can hold an event of ours.
    pub block: u64,
    /// `Authority`: who may pause and who rules on disputes.
    pub authority: Address,
    /// `ProvenanceLog`, which is the reward pool too.
    pub provenance_log: Address,
    /// `Disputes`, which the log deployed.
    pub disputes: Address,
    /// `ConsentRegistry`.
    pub consent_registry: Address,
    /// `Renderer`.
    pub renderer: Address,
    /// `IPRegistry`.
    pub ip_registry: Address,
    /// `LicenseRegistry`.
    pub license_registry: Address,
    /// CREATE2 salt of all of them but `Disputes`.
    pub salt: B256,
    /// Who was given the roles; absent where the deployer kept them, for development.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Roles>,
    /// By contract name: what a verifier of source code needs.
    pub code: BTreeMap<String, Code>,
}

/// What is at one contract's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// keccak256 of the code, as `EXTCODEHASH` gives it.
    pub hash: B256,
    /// ABI-encoded, as block explorers ask for them.
    pub constructor_arguments: Bytes,
}

/// Why the chain can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The deployment file can't be read.
    #[error("deployment file {path}: {reason}; write one with `tidemark deploy`")]
    Deployment {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The RPC URL is none.
    #[error("RPC URL: expected http(s)://…, got {0:?}")]
    Url(String),
    /// The node can't be reached, or answered with an error.
    #[error("RPC {url}: {doing}")]
    Rpc {
        /// The node, without credentials.
        url: String,
        /// What was asked.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: alloy::transports::TransportError,
    },
    /// Another chain.
    #[error("RPC {url}: expected chain {expected}, got {actual}")]
    ChainId {
        /// The node.
        url: String,
        /// The deployment's.
        expected: u64,
        /// The node's.
        actual: u64,
    },
}

impl Deployment {
    /// Reads a deployment file.
    pub fn load(path: &Path) -> Result<Self, ChainError> {
        let failed = |reason: String| ChainError::Deployment { path: path.display().to_string(), reason };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| failed(e.to_string()))
    }

    /// EIP-712 domain of batches and verdicts.
    pub fn batch_domain(&self) -> Eip712Domain {
        crate::batch::domain(self.chain_id, self.provenance_log)
    }

    /// EIP-712 domain of consents and withdrawals.
    pub fn consent_domain(&self) -> Eip712Domain {
        crate::consent::domain(self.chain_id, self.consent_registry)
    }

    /// EIP-712 domain of dataset versions.
    pub fn dataset_domain(&self) -> Eip712Domain {
        crate::dataset::domain(self.chain_id, self.ip_registry)
    }

    /// All contracts with events that matter to people's data and money, for log filters.
    pub fn addresses(&self) -> [Address; 5] {
        [self.provenance_log, self.disputes, self.consent_registry, self.ip_registry, self.license_registry]
    }
}

/// A URL without what may be secret in it.
fn public_url(url: &reqwest::Url) -> String {
    format!("{}://{}:{}", url.scheme(), url.host_str().unwrap_or(""), url.port_or_known_default().unwrap_or(0))
}

fn parse_url(url: &str) -> Result<reqwest::Url, ChainError> {
    reqwest::Url::parse(url)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https"))
        .ok_or_else(|| ChainError::Url(url.chars().take(20).collect()))
}

/// A provider that only reads.
pub fn reader(url: &str) -> Result<DynProvider, ChainError> {
    Ok(ProviderBuilder::new().connect_http(parse_url(url)?).erased())
}

/// A provider that reads and sends from one key. Not for many transactions at once: the relayer has its own sender.
pub fn sender(url: &str, key: PrivateKeySigner) -> Result<DynProvider, ChainError> {
    let provider = ProviderBuilder::new().with_simple_nonce_management().wallet(key).connect_http(parse_url(url)?);
    provider.client().set_poll_interval(std::time::Duration::from_millis(200));
    Ok(provider.erased())
}

/// What the day asks, wei per gas: twice the base fee, and a tip as those paid who got into blocks of late, or as the node
/// suggests where nobody paid one. That is needed on a quiet chain: geth makes no block with a transaction that tips less than
/// its `--miner.gasprice`, a million wei, and suggests that much.
pub async fn fees(provider: &DynProvider) -> TransportResult<Eip1559Estimation> {
    let estimate = provider.estimate_eip1559_fees().await?;
    if estimate.max_priority_fee_per_gas > EIP1559_MIN_PRIORITY_FEE {
        return Ok(estimate);
    }
    match provider.get_max_priority_fee_per_gas().await {
        Ok(tip) => Ok(with_tip_of_at_least(tip, estimate)),
        // it knows no such method, in whatever words; "too many requests" is asked again
        Err(error) if error.as_error_resp().is_some_and(|said| !TOO_MANY_REQUESTS.contains(&said.code)) => Ok(estimate),
        Err(error) => Err(error),
    }
}

fn with_tip_of_at_least(tip: u128, fees: Eip1559Estimation) -> Eip1559Estimation {
    let more = tip.saturating_sub(fees.max_priority_fee_per_gas);
    Eip1559Estimation {
        max_fee_per_gas: fees.max_fee_per_gas.saturating_add(more),
        max_priority_fee_per_gas: fees.max_priority_fee_per_gas.saturating_add(more),
    }
}

/// A reader that has been asked for its chain id.
pub async fn checked_reader(url: &str, deployment: &Deployment) -> Result<DynProvider, ChainError> {
    let provider = reader(url)?;
    let public = public_url(&parse_url(url)?);
    let actual = provider.get_chain_id().await.map_err(|source| ChainError::Rpc {
        url: public.clone(),
        doing: "eth_chainId",
        source,
    })?;
    match actual == deployment.chain_id {
        true => Ok(provider),
        false => Err(ChainError::ChainId { url: public, expected: deployment.chain_id, actual }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tip_that_the_node_suggests_is_offered_on_top_of_the_base_fee() {
        let with_tip = |tip, max_fee_per_gas| {
            let fees = Eip1559Estimation { max_fee_per_gas, max_priority_fee_per_gas: 1 };
            let fees = with_tip_of_at_least(tip, fees);
            (fees.max_fee_per_gas, fees.max_priority_fee_per_gas)
        };
        assert_eq!(with_tip(30, 201), (230, 30));
        assert_eq!(with_tip(0, 201), (201, 1));
        assert_eq!(with_tip(u128::MAX, 201), (u128::MAX, u128::MAX));
    }
}
