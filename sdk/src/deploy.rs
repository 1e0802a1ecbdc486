//! Puts the contracts on a chain, gives the roles, says where everything is, and checks that it is what this crate holds.

use std::collections::BTreeMap;

use alloy::{
    primitives::{Address, B256, Bytes, U256, address, bytes, keccak256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionRequest,
    sol_types::{SolCall, SolValue},
};
use serde::{Deserialize, Serialize};

use crate::{
    chain::{Code, Deployment},
    contracts::{
        Authority, ConsentRegistry, Disputes, IPRegistry, LicenseRegistry, ProvenanceLog,
        ProvenanceLog::{pauseCall, unpauseCall},
        Renderer,
    },
    verify::Report,
};

/// The deterministic deployment proxy that most chains have, anvil too: salt ‖ init code in, contract at its CREATE2 address.
pub const CREATE2_PROXY: Address = address!("4e59b44847b379578588920cA78FbF26c0B4956C");
/// Who deployed the proxy on every chain, by a transaction without a chain id: nobody has the key.
const PROXY_DEPLOYER: Address = address!("3fAB184622Dc19b6109349B94811493BF2a45362");
const PROXY_DEPLOYMENT: Bytes = bytes!(
    "f8a58085174876e800830186a08080b853604580600e600039806000f350fe7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffe03601600081602082378035828234f58015156039578182fd5b8082525050506014600cf31ba02222222222222222222222222222222222222222222222222222222222222222a02222222222222222222222222222222222222222222222222222222222222222"
);
/// What that transaction may cost: 100,000 gas at 100 gwei.
const PROXY_COST_WEI: u64 = 10_000_000_000_000_000;

/// Role of who may pause and resume anchors and sales.
pub const PAUSER: u64 = 1;
/// Role of who rules on disputes.
pub const ARBITER: u64 = 2;
/// Role of who may cancel a ruling that is scheduled.
pub const GUARDIAN: u64 = 3;
/// Role of who grants roles, as OpenZeppelin's AccessManager numbers it.
pub const ADMIN: u64 = 0;
const DAY_SECONDS: u32 = 86_400;
/// Between an admin's decision and its execution.
pub const ADMIN_DELAY_SECONDS: u32 = 3 * DAY_SECONDS;
/// Between a ruling and its execution.
pub const RULING_DELAY_SECONDS: u32 = DAY_SECONDS;
/// Between deciding and executing who may call what.
pub const TARGET_DELAY_SECONDS: u32 = 5 * DAY_SECONDS;

/// Who holds the roles of a deployment that is meant to last; see docs/access.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roles {
    /// Grants roles, after [`ADMIN_DELAY_SECONDS`]; best a multisig.
    pub admin: Address,
    /// Pauses and resumes, at once.
    pub pauser: Address,
    /// Rules, after [`RULING_DELAY_SECONDS`].
    pub arbiter: Address,
    /// Cancels scheduled rulings.
    pub guardian: Address,
}

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
    /// The chain lacks the proxy and does not take the transaction that makes it.
    #[error(
        "chain {0} has no CREATE2 proxy at {CREATE2_PROXY} and refused its deployment: start the node with --rpc.allow-unprotected-txs, or \
         deploy the proxy first (github.com/Arachnid/deterministic-deployment-proxy)"
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
    /// The transaction that gives the roles failed.
    #[error("give the roles: transaction {0} was reverted")]
    Roles(B256),
}

fn rpc<E: std::error::Error + Send + Sync + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> DeployError {
    let doing = doing.into();
    move |source| DeployError::Rpc { doing, source: Box::new(source) }
}

/// Deploys all contracts at addresses that follow from their code, `salt` and `deployer`, who must be the sender's account;
/// what is already there is left as it is. Without `roles` the deployer keeps all of them, without delays: for development.
pub async fn deploy(
    sender: &DynProvider,
    deployer: Address,
    salt: B256,
    roles: Option<Roles>,
) -> Result<Deployment, DeployError> {
    let chain_id = sender.get_chain_id().await.map_err(rpc("ask for the chain id"))?;
    ensure_proxy(sender, chain_id).await?;
    let block = sender.get_block_number().await.map_err(rpc("ask for the block number"))?;
    let mut plan = Plan { sender, salt, code: BTreeMap::new() };
    let authority = plan.create2("Authority", &Authority::BYTECODE, deployer.abi_encode()).await?;
    let provenance_log = plan.create2("ProvenanceLog", &ProvenanceLog::BYTECODE, authority.abi_encode()).await?;
    let disputes = ProvenanceLog::new(provenance_log, sender)
        .disputes()
        .call()
        .await
        .map_err(rpc("ask the ProvenanceLog for its Disputes"))?;
    plan.record("Disputes", disputes, (provenance_log, authority).abi_encode_params()).await?;
    let consent_registry = plan.create2("ConsentRegistry", &ConsentRegistry::BYTECODE, Vec::new()).await?;
    let renderer = plan.create2("Renderer", &Renderer::BYTECODE, Vec::new()).await?;
    let arguments = (provenance_log, consent_registry, renderer).abi_encode_params();
    let ip_registry = plan.create2("IPRegistry", &IPRegistry::BYTECODE, arguments).await?;
    let arguments = (provenance_log, ip_registry, renderer, authority).abi_encode_params();
    let license_registry = plan.create2("LicenseRegistry", &LicenseRegistry::BYTECODE, arguments).await?;
    let code = plan.code;
    let deployment = Deployment {
        chain_id,
        block,
        authority,
        provenance_log,
        disputes,
        consent_registry,
        renderer,
        ip_registry,
        license_registry,
        salt,
        roles,
        code,
    };
    give_roles(sender, deployer, &deployment, roles).await?;
    Ok(deployment)
}

/// Deploys the CREATE2 proxy where a chain lacks it, which only a development chain does.
async fn ensure_proxy(sender: &DynProvider, chain_id: u64) -> Result<(), DeployError> {
    let has_proxy = async || {
        let code = sender.get_code_at(CREATE2_PROXY).await.map_err(rpc("read the CREATE2 proxy"))?;
        Ok::<_, DeployError>(!code.is_empty())
    };
    if has_proxy().await? {
        return Ok(());
    }
    let value = U256::from(PROXY_COST_WEI);
    let request = TransactionRequest::default().to(PROXY_DEPLOYER).value(value);
    let pending = sender.send_transaction(request).await.map_err(rpc("send the CREATE2 proxy's deployer its gas"))?;
    pending.get_receipt().await.map_err(rpc("wait for the CREATE2 proxy's gas"))?;
    let sent = sender.send_raw_transaction(&PROXY_DEPLOYMENT).await;
    let Ok(pending) = sent else { return Err(DeployError::NoProxy(chain_id)) };
    pending.get_receipt().await.map_err(rpc("wait for the CREATE2 proxy"))?;
    match has_proxy().await? {
        true => Ok(()),
        false => Err(DeployError::NoProxy(chain_id)),
    }
}

struct Plan<'a> {
    sender: &'a DynProvider,
    salt: B256,
    code: BTreeMap<String, Code>,
}

impl Plan<'_> {
    /// One contract through the proxy.
    async fn create2(
        &mut self,
        contract: &'static str,
        bytecode: &Bytes,
        arguments: Vec<u8>,
    ) -> Result<Address, DeployError> {
        let init_code = [bytecode.as_ref(), &arguments].concat();
        let address = CREATE2_PROXY.create2(self.salt, keccak256(&init_code));
        if self.code_at(contract, address).await?.is_empty() {
            let input: Bytes = [self.salt.as_slice(), &init_code].concat().into();
            let request = TransactionRequest::default().to(CREATE2_PROXY).input(input.into());
            let pending = self.sender.send_transaction(request).await;
            let pending = pending.map_err(rpc(format!("send the deployment of {contract}")))?;
            pending.get_receipt().await.map_err(rpc(format!("wait for the deployment of {contract}")))?;
        }
        self.record(contract, address, arguments).await?;
        Ok(address)
    }

    async fn record(
        &mut self,
        contract: &'static str,
        address: Address,
        arguments: Vec<u8>,
    ) -> Result<(), DeployError> {
        let code = self.code_at(contract, address).await?;
        if code.is_empty() {
            return Err(DeployError::NoCode { contract, address });
        }
        let code = Code { hash: keccak256(&code), constructor_arguments: arguments.into() };
        self.code.insert(contract.to_owned(), code);
        Ok(())
    }

    async fn code_at(&self, contract: &str, address: Address) -> Result<Bytes, DeployError> {
        self.sender.get_code_at(address).await.map_err(rpc(format!("read the code of {contract}")))
    }
}

/// All roles in one transaction; nothing where the deployer is not the admin any more, which is how a second run finds it.
async fn give_roles(
    sender: &DynProvider,
    deployer: Address,
    deployment: &Deployment,
    roles: Option<Roles>,
) -> Result<(), DeployError> {
    let authority = Authority::new(deployment.authority, sender);
    let is_admin = authority.hasRole(ADMIN, deployer).call().await.map_err(rpc("ask for the admin"))?;
    let configured = authority
        .getTargetFunctionRole(deployment.provenance_log, pauseCall::SELECTOR.into())
        .call()
        .await
        .map_err(rpc("ask for the role that pauses"))?;
    if !is_admin.isMember || configured == PAUSER {
        return Ok(());
    }
    let (log, licenses, disputes) = (deployment.provenance_log, deployment.license_registry, deployment.disputes);
    let pausing = vec![pauseCall::SELECTOR.into(), unpauseCall::SELECTOR.into()];
    let mut calls = vec![
        Authority::setTargetFunctionRoleCall { target: log, selectors: pausing.clone(), roleId: PAUSER }.abi_encode(),
        Authority::setTargetFunctionRoleCall { target: licenses, selectors: pausing, roleId: PAUSER }.abi_encode(),
        Authority::setTargetFunctionRoleCall {
            target: disputes,
            selectors: vec![Disputes::ruleCall::SELECTOR.into()],
            roleId: ARBITER,
        }
        .abi_encode(),
        Authority::labelRoleCall { roleId: PAUSER, label: "PAUSER".into() }.abi_encode(),
        Authority::labelRoleCall { roleId: ARBITER, label: "ARBITER".into() }.abi_encode(),
        Authority::labelRoleCall { roleId: GUARDIAN, label: "GUARDIAN".into() }.abi_encode(),
        Authority::setRoleGuardianCall { roleId: ARBITER, guardian: GUARDIAN }.abi_encode(),
    ];
    let grant =
        |role, account, delay| Authority::grantRoleCall { roleId: role, account, executionDelay: delay }.abi_encode();
    match roles {
        None => {
            calls.extend([PAUSER, ARBITER, GUARDIAN].map(|role| grant(role, deployer, 0)));
        }
        Some(roles) => {
            calls.push(grant(PAUSER, roles.pauser, 0));
            calls.push(grant(ARBITER, roles.arbiter, RULING_DELAY_SECONDS));
            calls.push(grant(GUARDIAN, roles.guardian, 0));
            for target in [log, licenses, disputes] {
                calls.push(Authority::setTargetAdminDelayCall { target, newDelay: TARGET_DELAY_SECONDS }.abi_encode());
            }
            // the last two: from here on nothing of this happens without a delay
            calls.push(grant(ADMIN, roles.admin, ADMIN_DELAY_SECONDS));
            if roles.admin != deployer {
                let renounce = Authority::renounceRoleCall { roleId: ADMIN, callerConfirmation: deployer };
                calls.push(renounce.abi_encode());
            }
        }
    }
    let calls = calls.into_iter().map(Bytes::from).collect();
    let pending = authority.multicall(calls).send().await.map_err(rpc("send the roles"))?;
    let receipt = pending.get_receipt().await.map_err(rpc("wait for the roles"))?;
    match receipt.status() {
        true => Ok(()),
        false => Err(DeployError::Roles(receipt.transaction_hash)),
    }
}

/// Compares what is on chain with this crate's bytecode and with the deployment file: CREATE2 addresses from code, salt and
/// constructor arguments, code hashes, links between the contracts, and the role that each restricted function needs.
pub async fn check(reader: &DynProvider, deployment: &Deployment) -> Result<Report, DeployError> {
    let mut report = Report::new(format!("deployment on chain {}", deployment.chain_id));
    let contracts = [
        ("Authority", deployment.authority, Some(&Authority::BYTECODE)),
        ("ProvenanceLog", deployment.provenance_log, Some(&ProvenanceLog::BYTECODE)),
        ("Disputes", deployment.disputes, None),
        ("ConsentRegistry", deployment.consent_registry, Some(&ConsentRegistry::BYTECODE)),
        ("Renderer", deployment.renderer, Some(&Renderer::BYTECODE)),
        ("IPRegistry", deployment.ip_registry, Some(&IPRegistry::BYTECODE)),
        ("LicenseRegistry", deployment.license_registry, Some(&LicenseRegistry::BYTECODE)),
    ];
    for (name, at, bytecode) in contracts {
        let Some(code) = deployment.code.get(name) else {
            report.check(name, false, "not in the deployment file's code");
            continue;
        };
        if let Some(bytecode) = bytecode {
            let init_code = [bytecode.as_ref(), &code.constructor_arguments].concat();
            let expected = CREATE2_PROXY.create2(deployment.salt, keccak256(init_code));
            report.check(name, at == expected, format!("at {at}; code, salt and arguments give {expected}"));
        }
        let there = reader.get_code_at(at).await.map_err(rpc(format!("read the code of {name}")))?;
        let hash = keccak256(&there);
        report.check(name, hash == code.hash && !there.is_empty(), format!("code hash {hash}, {} bytes", there.len()));
    }
    let log = ProvenanceLog::new(deployment.provenance_log, reader);
    let disputes = log.disputes().call().await.map_err(rpc("ask the log for its Disputes"))?;
    report.check("Disputes", disputes == deployment.disputes, format!("the log names {disputes}"));
    let authority = Authority::new(deployment.authority, reader);
    let (pause, unpause) = (pauseCall::SELECTOR, unpauseCall::SELECTOR);
    let restricted = [
        ("ProvenanceLog.pause", deployment.provenance_log, pause, PAUSER),
        ("ProvenanceLog.unpause", deployment.provenance_log, unpause, PAUSER),
        ("LicenseRegistry.pause", deployment.license_registry, pause, PAUSER),
        ("LicenseRegistry.unpause", deployment.license_registry, unpause, PAUSER),
        ("Disputes.rule", deployment.disputes, Disputes::ruleCall::SELECTOR, ARBITER),
    ];
    for (name, target, selector, expected) in restricted {
        let role =
            authority.getTargetFunctionRole(target, selector.into()).call().await.map_err(rpc("ask for a role"))?;
        report.check(name, role == expected, format!("needs role {role}, expected {expected}"));
    }
    check_roles(&mut report, &authority, deployment).await?;
    Ok(report)
}

/// Who has the roles, and with which delay; whether the deployer has let go.
async fn check_roles(
    report: &mut Report,
    authority: &Authority::AuthorityInstance<&DynProvider>,
    deployment: &Deployment,
) -> Result<(), DeployError> {
    let holds = async |role, account| authority.hasRole(role, account).call().await.map_err(rpc("ask who has a role"));
    let arguments = deployment.code.get("Authority").map(|code| code.constructor_arguments.clone()).unwrap_or_default();
    let Ok(deployer) = Address::abi_decode(&arguments) else {
        report.check("roles", false, "the deployment file does not say who deployed the Authority");
        return Ok(());
    };
    let Some(roles) = deployment.roles else {
        report
            .fact("roles", format!("{deployer} deployed and keeps all of them, without delays: for development only"));
        return Ok(());
    };
    let expected = [
        ("admin", ADMIN, roles.admin, ADMIN_DELAY_SECONDS),
        ("pauser", PAUSER, roles.pauser, 0),
        ("arbiter", ARBITER, roles.arbiter, RULING_DELAY_SECONDS),
        ("guardian", GUARDIAN, roles.guardian, 0),
    ];
    for (name, role, account, delay) in expected {
        let held = holds(role, account).await?;
        let right = held.isMember && held.executionDelay == delay;
        report.check(
            name,
            right,
            format!(
                "{account}: {}, delay {} s, expected {delay} s",
                if held.isMember { "holds the role" } else { "does not hold the role" },
                held.executionDelay
            ),
        );
    }
    if roles.admin != deployer {
        let held = holds(ADMIN, deployer).await?;
        report.check(
            "deployer",
            !held.isMember,
            format!("{deployer} is {}admin", if held.isMember { "still " } else { "no longer " }),
        );
    }
    Ok(())
}
