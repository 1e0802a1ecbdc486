//! Puts the contracts on a chain and says where they are.

use alloy::{
    primitives::{Address, B256, Bytes, address, keccak256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionRequest,
    sol_types::SolValue,
};

use crate::{
    chain::Deployment,
    contracts::{ConsentRegistry, IPRegistry, LicenseRegistry, ProvenanceLog},
};

/// The deterministic deployment proxy that most chains have, anvil too: salt ‖ init code in, contract at its CREATE2 address.
pub const CREATE2_PROXY: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");

/// Why a deployment failed.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// The node refused or can't be reached.
    #[error("{doing}")]
    Rpc {
        /// What was being done.
        doing: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The chain lacks the proxy.
    #[error(
        "chain {0} has no CREATE2 proxy at {CREATE2_PROXY}: deploy it first (github.com/Arachnid/deterministic-deployment-proxy)"
    )]
    NoProxy(u64),
    /// The transaction went through and the code is not there.
    #[error("{contract}: no code at {address} after deployment")]
    NoCode {
        /// Which.
        contract: &'static str,
        /// Where it should be.
        address: Address,
    },
}

fn rpc<E: std::error::Error + Send + Sync + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> DeployError {
    let doing = doing.into();
    move |source| DeployError::Rpc { doing, source: Box::new(source) }
}

/// Deploys all contracts at addresses that follow from their code and `salt`; what is already there is left as it is.
pub async fn deploy(sender: &DynProvider, salt: B256) -> Result<Deployment, DeployError> {
    let chain_id = sender.get_chain_id().await.map_err(rpc("ask for the chain id"))?;
    if sender.get_code_at(CREATE2_PROXY).await.map_err(rpc("read the CREATE2 proxy"))?.is_empty() {
        return Err(DeployError::NoProxy(chain_id));
    }
    let block = sender.get_block_number().await.map_err(rpc("ask for the block number"))?;
    let provenance_log = create2(sender, salt, "ProvenanceLog", &ProvenanceLog::BYTECODE, &[]).await?;
    let consent_registry = create2(sender, salt, "ConsentRegistry", &ConsentRegistry::BYTECODE, &[]).await?;
    let arguments = (provenance_log, consent_registry).abi_encode_params();
    let ip_registry = create2(sender, salt, "IPRegistry", &IPRegistry::BYTECODE, &arguments).await?;
    let arguments = (provenance_log, ip_registry).abi_encode_params();
    let license_registry = create2(sender, salt, "LicenseRegistry", &LicenseRegistry::BYTECODE, &arguments).await?;
    let reward_pool = ProvenanceLog::new(provenance_log, sender)
        .rewardPool()
        .call()
        .await
        .map_err(rpc("ask the ProvenanceLog for its RewardPool"))?;
    Ok(Deployment { chain_id, block, provenance_log, reward_pool, consent_registry, ip_registry, license_registry })
}

/// One contract through the proxy.
async fn create2(
    sender: &DynProvider,
    salt: B256,
    contract: &'static str,
    bytecode: &Bytes,
    arguments: &[u8],
) -> Result<Address, DeployError> {
    let init_code = [bytecode, arguments].concat();
    let address = CREATE2_PROXY.create2(salt, keccak256(&init_code));
    let has_code = async || {
        let code = sender.get_code_at(address).await.map_err(rpc(format!("read the code of {contract}")))?;
        Ok::<_, DeployError>(!code.is_empty())
    };
    if has_code().await? {
        return Ok(address);
    }
    let input: Bytes = [salt.as_slice(), &init_code].concat().into();
    let request = TransactionRequest::default().to(CREATE2_PROXY).input(input.into());
    let pending = sender.send_transaction(request).await.map_err(rpc(format!("send the deployment of {contract}")))?;
    pending.get_receipt().await.map_err(rpc(format!("wait for the deployment of {contract}")))?;
    match has_code().await? {
        true => Ok(address),
        false => Err(DeployError::NoCode { contract, address }),
    }
}
