//! The world before the first submission: token, provider with its points treasury, policy, and three funded tasks.

use alloy::{
    primitives::{Address, B256, U256},
    providers::DynProvider,
};
use anyhow::{Context, Result};
use tidemark::{
    chain::Deployment,
    contracts::{ConsentRegistry, DevToken, PointsTreasury, ProvenanceLog},
    ids::sha256,
};

use super::{
    money::{UNITS, permit, unix_seconds},
    samples::Kind,
    transactions::Transactions,
};
use crate::{
    keys::{dev_address, dev_signer, role},
    stack::{PROVIDER_NAME, Stack},
};

/// The text that contributors consent to.
pub const POLICY: &str = "Tidemark development policy, version 1: your recordings may be licensed for training, \
    evaluation and fine-tuning, also commercially; you are paid for each accepted one and for each licence; you may \
    withdraw at any time.";
const TASK_OPEN_SECONDS: u64 = 30 * 86_400;
const BUYER_FUNDS: u128 = 1_000_000 * UNITS;

/// A funded task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Of which kind.
    pub kind: Kind,
    /// On chain.
    pub id: u64,
    /// Units for each accepted submission.
    pub price: u128,
    /// Units in escrow at the start.
    pub budget: u128,
}

/// What every later step refers to.
#[derive(Debug)]
pub struct World {
    /// Where the contracts are.
    pub deployment: Deployment,
    /// The development ERC-20.
    pub token: Address,
    /// Backs the provider's points.
    pub treasury: Address,
    /// The provider's account.
    pub provider: Address,
    /// SHA-256 of [`POLICY`].
    pub policy_hash: B256,
    /// One task a kind.
    pub tasks: Vec<Task>,
    /// For the relayer's write API; empty in a stack without a relayer.
    pub api_key: String,
    /// Everything sent so far.
    pub transactions: Transactions,
}

/// Units for one accepted submission.
pub fn price(kind: Kind) -> u128 {
    match kind {
        Kind::Voice => 300 * UNITS,
        Kind::Photo => 200 * UNITS,
        Kind::Video => 500 * UNITS,
    }
}

impl World {
    /// Builds it on a fresh stack, with budgets for `submissions` of each kind. Nobody waits for blocks meanwhile; then
    /// the chain's clock, which starts in the past, is set to ours.
    pub async fn build(stack: &Stack, submissions: [u128; 3]) -> Result<Self> {
        stack.chain.mine_at_once().await?;
        let world = Self::build_at_once(stack, submissions).await?;
        // tasks can be worked on once they are final
        stack.chain.mine(2 * u64::from(stack.options.epoch_blocks) + 1).await?;
        stack.chain.set_clock().await?;
        stack.chain.resume_mining().await?;
        Ok(world)
    }

    async fn build_at_once(stack: &Stack, submissions: [u128; 3]) -> Result<Self> {
        let transactions = Transactions::default();
        let provider = dev_address(role::PROVIDER)?;
        let (provider_sender, sponsor) = (stack.sender(role::PROVIDER).await?, stack.sender(role::SPONSOR).await?);
        let token = deploy_token(stack, &provider_sender).await?;
        let (treasury, funded) =
            tokio::join!(deploy_treasury(stack, &provider_sender, provider, token), fund(&sponsor, token, submissions));
        let treasury = treasury?;
        funded?;
        let mut world = Self {
            deployment: stack.deployment.clone(),
            token,
            treasury,
            provider,
            policy_hash: sha256(&[POLICY.as_bytes()]),
            tasks: Vec::new(),
            api_key: String::new(),
            transactions,
        };
        world.register(&provider_sender).await?;
        world.tasks = world.create_tasks(stack, &sponsor, submissions).await?;
        if stack.relayer.is_some() {
            world.api_key = stack.add_provider()?;
        }
        Ok(world)
    }

    /// The task of a kind.
    pub fn task(&self, kind: Kind) -> Result<&Task> {
        self.tasks.iter().find(|task| task.kind == kind).with_context(|| format!("there is no {} task", kind.name()))
    }

    async fn register(&self, sender: &DynProvider) -> Result<()> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, sender);
        let consents = ConsentRegistry::new(self.deployment.consent_registry, sender);
        let attestor = dev_address(role::ATTESTOR)?;
        let registered =
            log.registerProvider(PROVIDER_NAME.into(), attestor, self.treasury, self.token, 0).send().await;
        self.transactions.mined("register the provider", registered).await?;
        let uri = "https://example.invalid/policy-1.txt".to_owned();
        let published = consents.publishPolicy(self.policy_hash, "1".into(), uri).send().await;
        self.transactions.mined("publish the policy", published).await?;
        Ok(())
    }

    /// One a kind; all permits are signed first, each for the nonce after the one before it.
    async fn create_tasks(&self, stack: &Stack, sponsor: &DynProvider, submissions: [u128; 3]) -> Result<Vec<Task>> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, sponsor);
        let (key, chain_id, spender) = (dev_signer(role::SPONSOR)?, self.deployment.chain_id, *log.address());
        let mut permits = Vec::new();
        for (ahead, (kind, count)) in (0u64..).zip(Kind::ALL.into_iter().zip(submissions)) {
            let budget = price(kind) * count;
            let permit = permit(stack.provider(), chain_id, self.token, &key, spender, budget, ahead).await?;
            permits.push((kind, budget, permit));
        }
        let closes_at = unix_seconds() + TASK_OPEN_SECONDS;
        let mut tasks = Vec::new();
        for (kind, budget, permit) in permits {
            let (price, terms) = (price(kind), sha256(&[kind.name().as_bytes()]));
            let uri = format!("https://example.invalid/tasks/{}", kind.name());
            let create = log.createTaskWithPermit(self.provider, price, closes_at, terms, uri, budget, permit.into());
            let what = format!("create the {} task", kind.name());
            let receipt = self.transactions.mined(&what, create.send().await).await?;
            let created = receipt.decoded_log::<ProvenanceLog::TaskCreated>().context("the task was not created")?;
            tasks.push(Task { kind, id: created.taskId, price, budget });
        }
        Ok(tasks)
    }
}

async fn deploy_token(stack: &Stack, sender: &DynProvider) -> Result<Address> {
    let token = DevToken::deploy(sender).await.context("failed to deploy the development token")?;
    let buyer = dev_address(role::BUYER)?;
    stack.chain.fund(buyer).await?;
    Ok(*token.address())
}

async fn deploy_treasury(stack: &Stack, sender: &DynProvider, provider: Address, token: Address) -> Result<Address> {
    let operator = dev_address(role::TREASURY_OPERATOR)?;
    let log = stack.deployment.provenance_log;
    let treasury = PointsTreasury::deploy(sender, log, provider, token, operator).await;
    Ok(*treasury.context("failed to deploy the points treasury")?.address())
}

/// Mints what the sponsor and the buyer will spend.
async fn fund(sender: &DynProvider, token: Address, submissions: [u128; 3]) -> Result<()> {
    let token = DevToken::new(token, sender);
    let budget: u128 = Kind::ALL.into_iter().zip(submissions).map(|(kind, count)| price(kind) * count).sum();
    // one after the other: geth counts a transaction that it has just taken a moment later
    for (role, amount) in [(role::SPONSOR, budget), (role::BUYER, BUYER_FUNDS)] {
        let sent = token.mint(dev_address(role)?, U256::from(amount)).send().await;
        let pending = sent.context("failed to mint development tokens")?;
        pending.get_receipt().await.context("failed to wait for development tokens")?;
    }
    Ok(())
}
