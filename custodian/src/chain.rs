//! The facts a release depends on, all read at one block: the node's latest.

use std::{future::Future, time::Duration};

use alloy::{
    eips::{BlockId, BlockNumberOrTag},
    primitives::{Address, B256, Bytes, FixedBytes, U256},
    providers::{DynProvider, Provider},
    transports::RpcError,
};
use tidemark::{
    chain::Deployment,
    consent::check_signature,
    contracts::{
        ConsentRegistry, IPRegistry,
        LicenseRegistry::{self, LicenseRegistryErrors},
    },
    release::{self, IERC1271, ReleaseRequest},
};

use crate::check::member_fits;

/// How long all reads of one request may take together.
const READ_TIME_MAX: Duration = Duration::from_secs(10);
/// Gas of a holder contract's signature check: several times what one over P-256 in Solidity takes.
const SIGNATURE_CHECK_GAS_MAX: u64 = 3_000_000;
/// `isValidSignature(bytes32,bytes)`, which is also the answer that means yes.
const SIGNATURE_VALID: FixedBytes<4> = FixedBytes([0x16, 0x26, 0xba, 0x7e]);
/// JSON-RPC code of a reverted call.
const REVERTED: i64 = 3;

/// Why the chain gave no facts: our fault or the node's, never the caller's.
#[derive(Debug, thiserror::Error)]
pub enum ChainFault {
    /// No answer, or an error.
    #[error("failed to {doing}")]
    Read {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: Box<alloy::contract::Error>,
    },
    /// No answer in time.
    #[error("the node took more than {} seconds", READ_TIME_MAX.as_secs())]
    Slow,
    /// The node has no block at all.
    #[error("the node has no latest block")]
    Empty,
    /// The node has fallen behind, and could miss a withdrawal.
    #[error("the node's latest block {number} is {age_seconds} seconds old; at most {max} are allowed")]
    Stale {
        /// The block.
        number: u64,
        /// Since its timestamp.
        age_seconds: u64,
        /// What is allowed.
        max: u64,
    },
}

fn failed(doing: &'static str) -> impl FnOnce(alloy::contract::Error) -> ChainFault {
    move |source| ChainFault::Read { doing, source: Box::new(source) }
}

/// The block that facts were read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
    /// Unix seconds.
    pub timestamp: u64,
}

/// What the registry says of a licence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    /// Neither expired nor revoked.
    pub active: bool,
    /// `active`, `expired` or `revoked`.
    pub status: String,
    /// The token's owner.
    pub holder: Address,
    /// Licensed dataset.
    pub ip_id: U256,
    /// Licensed version.
    pub version: u32,
    /// Bits of [`tidemark::consent::purpose`].
    pub purposes: u32,
}

/// All that a release depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Where they were read.
    pub block: Block,
    /// `None`: there is no such licence, and nothing else was asked.
    pub license: Option<License>,
    /// The request's signature is the holder's: ECDSA, or ERC-1271 where the holder is a contract.
    pub signed_by_holder: bool,
    /// The member is a leaf of the licensed version.
    pub is_member: bool,
    /// Whose the licensed dataset is.
    pub provider: Address,
    /// What every member of the licensed version consented to; bits of [`tidemark::consent::purpose`].
    pub consented_purposes: u32,
    /// Unix seconds; 0 while the consent stands.
    pub consent_withdrawn_at: u64,
}

/// Reads facts from a node.
#[derive(Clone, Debug)]
pub struct Chain {
    provider: DynProvider,
    deployment: Deployment,
    block_age_seconds_max: u64,
}

impl Chain {
    /// A node that was asked for its chain id before; a latest block older than the bound is a fault.
    pub fn new(provider: DynProvider, deployment: Deployment, block_age_seconds_max: u64) -> Self {
        Self { provider, deployment, block_age_seconds_max }
    }

    /// Where the contracts are.
    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    /// The node's latest block, if it is young enough.
    pub async fn latest(&self, now: u64) -> Result<Block, ChainFault> {
        in_time(self.latest_block(now)).await
    }

    /// Everything [`crate::check::facts`] asks for, at the latest block.
    pub async fn facts(&self, request: &ReleaseRequest, now: u64) -> Result<Facts, ChainFault> {
        in_time(Box::pin(self.read_facts(request, now))).await
    }

    async fn latest_block(&self, now: u64) -> Result<Block, ChainFault> {
        let block = self
            .provider
            .get_block_by_number(BlockNumberOrTag::Latest)
            .await
            .map_err(|error| failed("read the latest block")(error.into()))?
            .ok_or(ChainFault::Empty)?;
        let header = &block.header;
        let age_seconds = now.saturating_sub(header.timestamp);
        if age_seconds > self.block_age_seconds_max {
            return Err(ChainFault::Stale { number: header.number, age_seconds, max: self.block_age_seconds_max });
        }
        Ok(Block { number: header.number, hash: header.hash, timestamp: header.timestamp })
    }

    async fn read_facts(&self, request: &ReleaseRequest, now: u64) -> Result<Facts, ChainFault> {
        let block = self.latest_block(now).await?;
        // by hash: a reorganisation between two reads is an error, not a mix of two chains
        let at = BlockId::hash(block.hash);
        let Some(license) = self.license(request.license_id, at).await? else {
            return Ok(Facts {
                block,
                license: None,
                signed_by_holder: false,
                is_member: false,
                provider: Address::ZERO,
                consented_purposes: 0,
                consent_withdrawn_at: 0,
            });
        };
        let (signed_by_holder, is_member, provider, consented_purposes, consent_withdrawn_at) = futures::try_join!(
            self.signed_by(license.holder, request, at),
            self.is_member(&license, request, at),
            self.provider_of(&license, at),
            self.consented_purposes(&license, at),
            self.consent_withdrawn_at(request, at),
        )?;
        Ok(Facts {
            block,
            license: Some(license),
            signed_by_holder,
            is_member,
            provider,
            consented_purposes,
            consent_withdrawn_at,
        })
    }

    async fn license(&self, license_id: U256, at: BlockId) -> Result<Option<License>, ChainFault> {
        let registry = LicenseRegistry::new(self.deployment.license_registry, &self.provider);
        match registry.verify(license_id).block(at).call().await {
            Ok(view) => Ok(Some(License {
                active: view.active,
                status: view.status,
                holder: view.holder,
                ip_id: view.ipId,
                version: view.version,
                purposes: view.terms.purposes,
            })),
            Err(error) => match error.as_decoded_interface_error::<LicenseRegistryErrors>() {
                Some(LicenseRegistryErrors::LicenseUnknown(_)) => Ok(None),
                _ => Err(failed("read the licence")(error)),
            },
        }
    }

    async fn is_member(&self, license: &License, request: &ReleaseRequest, at: BlockId) -> Result<bool, ChainFault> {
        // before the conversion, which takes no weight past 96 bits
        if !member_fits(request) {
            return Ok(false);
        }
        IPRegistry::new(self.deployment.ip_registry, &self.provider)
            .isMember(license.ip_id, license.version, (&request.member).into(), request.member_proof.clone())
            .block(at)
            .call()
            .await
            .map_err(failed("check the member's proof"))
    }

    async fn provider_of(&self, license: &License, at: BlockId) -> Result<Address, ChainFault> {
        IPRegistry::new(self.deployment.ip_registry, &self.provider)
            .providerOf(license.ip_id)
            .block(at)
            .call()
            .await
            .map_err(failed("read whose the dataset is"))
    }

    async fn consented_purposes(&self, license: &License, at: BlockId) -> Result<u32, ChainFault> {
        let version = IPRegistry::new(self.deployment.ip_registry, &self.provider)
            .versionOf(license.ip_id, license.version)
            .block(at)
            .call()
            .await
            .map_err(failed("read what the members consented to"))?;
        Ok(version.purposes)
    }

    async fn consent_withdrawn_at(&self, request: &ReleaseRequest, at: BlockId) -> Result<u64, ChainFault> {
        ConsentRegistry::new(self.deployment.consent_registry, &self.provider)
            .withdrawnAt(request.member.consent_id.0)
            .block(at)
            .call()
            .await
            .map_err(failed("read the consent"))
    }

    async fn signed_by(&self, holder: Address, request: &ReleaseRequest, at: BlockId) -> Result<bool, ChainFault> {
        let digest = request.digest(&release::domain(self.deployment.chain_id, self.deployment.license_registry));
        if check_signature(holder, digest, &request.signature).is_ok() {
            return Ok(true);
        }
        let code = self
            .provider
            .get_code_at(holder)
            .block_id(at)
            .await
            .map_err(|error| failed("read the holder's code")(error.into()))?;
        if code.is_empty() {
            return Ok(false);
        }
        self.contract_accepts(holder, digest, request.signature.clone(), at).await
    }

    async fn contract_accepts(
        &self,
        holder: Address,
        digest: B256,
        signature: Bytes,
        at: BlockId,
    ) -> Result<bool, ChainFault> {
        let answer = IERC1271::new(holder, &self.provider)
            .isValidSignature(digest, signature)
            .gas(SIGNATURE_CHECK_GAS_MAX)
            .block(at)
            .call()
            .await;
        match answer {
            Ok(magic) => Ok(magic == SIGNATURE_VALID),
            Err(error) if is_no(&error) => Ok(false),
            Err(error) => Err(failed("ask the holder's contract for its signature")(error)),
        }
    }
}

/// A contract that reverts, or answers with something else, has not accepted the signature.
fn is_no(error: &alloy::contract::Error) -> bool {
    match error {
        alloy::contract::Error::TransportError(RpcError::ErrorResp(error)) => {
            error.code == REVERTED || error.as_revert_data().is_some()
        }
        alloy::contract::Error::TransportError(_) => false,
        _ => true,
    }
}

async fn in_time<T>(reads: impl Future<Output = Result<T, ChainFault>>) -> Result<T, ChainFault> {
    tokio::time::timeout(READ_TIME_MAX, reads).await.map_err(|_| ChainFault::Slow)?
}
