//! What the write side reads from the chain: providers, tasks, policies, withdrawals.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use alloy::{
    contract,
    eips::BlockNumberOrTag,
    primitives::{Address, B256},
    providers::{DynProvider, Provider},
};
use anyhow::Context;
use tidemark::{
    chain::Deployment,
    contracts::{ConsentRegistry, ProvenanceLog},
    ids::ConsentId,
    nodes::said::Said,
};

/// Policies remembered as published; they can't be taken back.
const POLICIES_MAX: usize = 10_000;
const TASKS_MAX: usize = 10_000;

/// A reader of the contracts.
pub struct Chain {
    /// The node.
    pub provider: DynProvider,
    /// Where the contracts are.
    pub deployment: Deployment,
    policies: Mutex<HashSet<(Address, B256)>>,
    terms: Mutex<HashMap<u64, TaskTerms>>,
    /// Blocks to finality where the chain has no tag for it.
    finality_depth: u64,
    /// Whether a node has said what is final: then the chain has a tag for it.
    has_finality_tag: AtomicBool,
}

/// Where the chain stands.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// The newest block.
    pub latest: u64,
    /// The newest that stays.
    pub finalized: u64,
}

/// What never changes about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskTerms {
    /// Payment-token units for each accepted submission.
    pub price: u128,
    /// Whose task it is.
    pub provider: Address,
    /// Unix seconds.
    pub closes_at: u64,
}

/// What a task has left, and which batches have taken their part already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Payment-token units.
    pub escrow: u128,
    /// Batches below this number are anchored.
    pub next_batch: u64,
}

impl Chain {
    /// A reader over a node that was checked to be of the right chain.
    pub fn new(provider: DynProvider, deployment: Deployment, finality_depth: u64) -> Self {
        Self {
            provider,
            deployment,
            policies: Mutex::default(),
            terms: Mutex::default(),
            finality_depth,
            has_finality_tag: AtomicBool::new(false),
        }
    }

    /// The newest block, and the newest final one: by the chain's tag, else by depth.
    pub async fn heads(&self) -> anyhow::Result<Heads> {
        let latest = self.provider.get_block_number().await.context("ask for the block number")?;
        let tagged = self.provider.get_block_by_number(BlockNumberOrTag::Finalized).await;
        let finalized = match tagged {
            Ok(Some(block)) => {
                self.has_finality_tag.store(true, Relaxed);
                block.header.number
            }
            // a chain that has no such tag says so by an error or by nothing; "too many requests" says no such thing, and a chain
            // that had the tag before has it still
            Ok(None) if !self.has_finality_tag.load(Relaxed) => latest.saturating_sub(self.finality_depth),
            Ok(None) => anyhow::bail!("the node does not say what is final, and did before"),
            Err(error)
                if !self.has_finality_tag.load(Relaxed)
                    && error.as_error_resp().is_some_and(|said| Said::in_answer(said) != Said::RateLimited) =>
            {
                latest.saturating_sub(self.finality_depth)
            }
            Err(error) => return Err(anyhow::Error::from(error).context("ask for the finalized block")),
        };
        Ok(Heads { latest, finalized })
    }

    /// What the log knows of an account; `None` where it is no provider.
    pub async fn provider_of(&self, account: Address) -> anyhow::Result<Option<ProvenanceLog::Provider>> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.provider);
        let found = log.providerOf(account).call().await.context("ask the log for a provider")?;
        Ok((!found.attestor.is_zero()).then_some(found))
    }

    /// The account that holds a name.
    pub async fn provider_named(&self, name: &str) -> anyhow::Result<Option<Address>> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.provider);
        let found = log.providerNamed(name.to_owned()).call().await.context("ask the log for a name")?;
        Ok((!found.is_zero()).then_some(found))
    }

    /// The fixed terms of a task; `None` where no final block has it. A reorg could give its number to another task, and what
    /// is accepted at one price can't be anchored at another.
    pub async fn task_terms(&self, task_id: u64) -> anyhow::Result<Option<TaskTerms>> {
        if let Some(terms) = self.terms.lock().unwrap_or_else(PoisonError::into_inner).get(&task_id) {
            return Ok(Some(*terms));
        }
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.provider);
        let finalized = self.heads().await?.finalized;
        let task = match log.taskOf(task_id).block(finalized.into()).call().await {
            Ok(task) if !task.provider.is_zero() => task,
            // the log itself is younger than that block
            Ok(_) | Err(contract::Error::ZeroData(..)) => return Ok(None),
            Err(error) => return Err(anyhow::Error::from(error).context("ask the log for a task")),
        };
        let terms = TaskTerms { price: task.price, provider: task.provider, closes_at: task.closesAt };
        let mut known = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < TASKS_MAX {
            known.insert(task_id, terms);
        }
        Ok(Some(terms))
    }

    /// A task's escrow and its provider's batches in the state of the newest block.
    pub async fn budget(&self, provider: Address, task_id: u64) -> anyhow::Result<Budget> {
        let block = self.provider.get_block_number().await.context("ask for the block number")?;
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.provider);
        let (task, log) = (log.taskOf(task_id).block(block.into()), log.providerOf(provider).block(block.into()));
        let (task, found) = tokio::try_join!(task.call(), log.call()).context("ask for a task and its provider")?;
        Ok(Budget { escrow: task.escrow, next_batch: found.nextBatch })
    }

    /// Whether a provider published a policy.
    pub async fn policy_published(&self, provider: Address, policy: B256) -> anyhow::Result<bool> {
        if self.policies.lock().unwrap_or_else(PoisonError::into_inner).contains(&(provider, policy)) {
            return Ok(true);
        }
        let registry = ConsentRegistry::new(self.deployment.consent_registry, &self.provider);
        let at = registry.policyPublishedAt(provider, policy).call().await.context("ask the registry for a policy")?;
        if at == 0 {
            return Ok(false);
        }
        let mut known = self.policies.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < POLICIES_MAX {
            known.insert((provider, policy));
        }
        Ok(true)
    }

    /// Whether a consent was withdrawn on chain.
    pub async fn is_withdrawn(&self, consent: ConsentId) -> anyhow::Result<bool> {
        let registry = ConsentRegistry::new(self.deployment.consent_registry, &self.provider);
        let at = registry.withdrawnAt(consent.0).call().await.context("ask the registry for a withdrawal")?;
        Ok(at != 0)
    }
}
