//! What happens on the chain meanwhile: events of all kinds in block after block, and reorgs that move, drop and change them.
//!
//! What each transaction means for the tables is not known here: an index made anew says so. Where a reorg took what one
//! needs, it reverts, or it anchors what does not follow, and both are worth a row somewhere.

use std::collections::{BTreeMap, VecDeque};

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    providers::DynProvider,
    signers::{SignerSync, local::PrivateKeySigner},
    sol_types::SolCall,
};
use anyhow::{Context, Result};
use bytes::Bytes as FileBytes;
use cid::Cid;
use serde_json::{Value, json};
use tidemark::{
    batch::summarise,
    canonical::{jcs, metadata_root},
    chain::Deployment,
    consent::SignedConsent,
    contracts::{ConsentRegistry, DevToken, Disputes, IPRegistry, LicenseRegistry, PointsTreasury, ProvenanceLog},
    dataset::{self, Member, MemberRow, VersionContent},
    event::{Event, EventKind, pseudonym},
    ids::{ContentHash, DataId, sha256},
    manifest::{Disclosure, Manifest, encode_disclosures},
    payload::Payload,
    store::Store,
    verdict::{Outcome, Verdict},
};

use crate::{
    chain::{call, funds},
    forge::{Forge, OwnBatch},
    keys::{dev_address, role},
    random::Random,
    stack::PROVIDER_NAME,
    story::{doors::kept_metadata, market::terms},
};

/// Blocks below the newest one from which on a block is final, and no reorg takes it.
pub const FINALITY_BLOCKS: u64 = 64;
const CALLS_PER_BLOCK_MAX: u64 = 4;
/// More than any transaction of these takes.
const GAS: &str = "0x300000";
/// Records that are still spoken of.
const RECORDS_MAX: usize = 200;
const WALLETS: u64 = 4;
/// Bytes of a manifest that is 64 times the same block, so that little is stored and much is read.
const UNFOLDED_BYTES: usize = 64 << 20;

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Batch,
    Policy,
    Withdrawal,
    Version,
    Contribution,
    Offer,
    Sale,
    Transfer,
    Redemption,
    Claim,
    Royalty,
    Sweep,
    Challenge,
    Settings,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Batch => "batches",
            Self::Policy => "policies",
            Self::Withdrawal => "withdrawn consents",
            Self::Version => "dataset versions",
            Self::Contribution => "single contributions",
            Self::Offer => "offers",
            Self::Sale => "sales",
            Self::Transfer => "licences that change wallets",
            Self::Redemption => "redemptions",
            Self::Claim => "claims of wallets",
            Self::Royalty => "royalty claims of wallets",
            Self::Sweep => "sweeps",
            Self::Challenge => "bonds and challenges",
            Self::Settings => "other attestors, operators and windows",
        }
    }
}

/// How often each is among a few.
const MIX: [(Kind, usize); 14] = [
    (Kind::Batch, 8),
    (Kind::Policy, 4),
    (Kind::Withdrawal, 2),
    (Kind::Version, 2),
    (Kind::Contribution, 1),
    (Kind::Offer, 1),
    (Kind::Sale, 3),
    (Kind::Transfer, 1),
    (Kind::Redemption, 3),
    (Kind::Claim, 2),
    (Kind::Royalty, 1),
    (Kind::Sweep, 1),
    (Kind::Challenge, 1),
    (Kind::Settings, 1),
];

/// A transaction as it was sent.
#[derive(Clone, Debug)]
struct Call {
    kind: Kind,
    from: Address,
    to: Address,
    input: Bytes,
}

impl Call {
    fn new(kind: Kind, from: Address, to: Address, call: &impl SolCall) -> Self {
        Self { kind, from, to, input: call.abi_encode().into() }
    }
}

/// A record that was accepted in a batch, which a reorg may have taken since.
#[derive(Clone, Debug)]
struct Record {
    number: u64,
    root: B256,
    accepted: Event,
    proof: Vec<B256>,
    /// The newest event about it.
    last: Event,
    consent: SignedConsent,
    source_id: String,
    updates: u32,
}

#[derive(Clone, Debug)]
struct Version {
    ip_id: U256,
    number: u32,
    rows: Vec<MemberRow>,
}

/// What was done so far.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// Blocks that were mined, also those that a reorg took.
    pub mined: u64,
    /// Blocks that reorgs took.
    pub taken: u64,
    /// Reorgs.
    pub reorgs: u64,
    /// Transactions by kind.
    pub sent: BTreeMap<&'static str, u64>,
    /// What became of those that a reorg took: sent again as they were, dropped, sent with other content.
    pub again: [u64; 3],
}

/// Sends transactions and mines.
pub struct Flow {
    chain: DynProvider,
    store: Store,
    deployment: Deployment,
    attestor: PrivateKeySigner,
    provider: Address,
    treasury: Address,
    token: Address,
    policy_hash: B256,
    task: u64,
    reward: u128,
    random: Random,
    /// Of the blocks that a reorg may still take.
    sent: VecDeque<(u64, Vec<Call>)>,
    records: VecDeque<Record>,
    versions: VecDeque<Version>,
    /// Files that are not in the store yet.
    withheld: Vec<FileBytes>,
    /// Stands where a manifest should: far too long once it is read.
    unfolds: Cid,
    /// What is numbered here: each thing that is made is another one.
    made: u64,
    /// Batches in the block that is being filled.
    batches_in_block: u64,
    /// The newest block that there ever was.
    highest: u64,
    /// No reorg goes below it.
    floor: u64,
    /// What was done.
    pub done: Done,
}

impl Flow {
    /// On a forge's chain, whose accounts it may send from; all that was before is final.
    pub async fn new(forge: &Forge, random: Random) -> Result<Self> {
        let (stack, world) = (&forge.stack, &forge.world);
        let store = stack.store()?;
        let unfolds = store.put(&vec![0_u8; UNFOLDED_BYTES]).await?;
        let mut flow = Self {
            chain: stack.provider().clone(),
            store,
            deployment: world.deployment.clone(),
            attestor: forge.attestor.clone(),
            provider: world.provider,
            treasury: world.treasury,
            token: world.token,
            policy_hash: world.policy_hash,
            task: forge.task,
            reward: forge.reward,
            random,
            sent: VecDeque::new(),
            records: VecDeque::new(),
            versions: VecDeque::new(),
            withheld: Vec::new(),
            unfolds,
            made: 0,
            batches_in_block: 0,
            highest: 0,
            floor: 0,
            done: Done::default(),
        };
        flow.prepare().await?;
        Ok(flow)
    }

    async fn prepare(&mut self) -> Result<()> {
        self.call("anvil_autoImpersonateAccount", json!([true])).await?;
        self.call("evm_setIntervalMining", json!([0])).await?;
        self.call("evm_setAutomine", json!([false])).await?;
        let buyer = dev_address(role::BUYER)?;
        let wallets = (0..WALLETS).map(wallet);
        for account in wallets.chain([buyer, self.provider, dev_address(role::TREASURY_OPERATOR)?]) {
            self.call("anvil_setBalance", json!([account, funds()])).await?;
        }
        let much = U256::from(u128::MAX);
        let mut calls = Vec::new();
        for (from, spender) in [
            (buyer, self.deployment.license_registry),
            (buyer, self.deployment.disputes),
            (self.provider, self.deployment.disputes),
        ] {
            calls.push(Call::new(
                Kind::Settings,
                from,
                self.token,
                &DevToken::approveCall { spender, value: U256::MAX },
            ));
            let mint = DevToken::mintCall { to: from, amount: much };
            calls.push(Call::new(Kind::Settings, self.provider, self.token, &mint));
        }
        self.mine(calls).await?;
        self.call("anvil_mine", json!([format!("{:#x}", 2 * FINALITY_BLOCKS)])).await?;
        self.floor = self.block_number().await?;
        (self.highest, self.done) = (self.floor, Done::default());
        Ok(())
    }

    async fn call(&self, method: &'static str, params: Value) -> Result<Value> {
        call(&self.chain, method, params).await
    }

    async fn block_number(&self) -> Result<u64> {
        alloy::providers::Provider::get_block_number(&self.chain).await.context("failed to read the block number")
    }

    /// One more block, with none to four transactions.
    pub async fn block(&mut self) -> Result<()> {
        let mut calls = Vec::new();
        self.batches_in_block = 0;
        for _ in 0..self.random.below(CALLS_PER_BLOCK_MAX + 1) {
            let kinds: Vec<Kind> = MIX.iter().flat_map(|(kind, count)| std::iter::repeat_n(*kind, *count)).collect();
            let kind = *self.random.pick(&kinds).context("an empty mix")?;
            calls.extend(self.transaction(kind).await?);
        }
        if self.random.below(8) == 0 {
            self.release().await?;
        }
        self.mine(calls).await
    }

    /// Blocks without anything, until all before is final.
    pub async fn finish(&mut self) -> Result<()> {
        for _ in 0..=FINALITY_BLOCKS {
            self.mine(Vec::new()).await?;
        }
        Ok(())
    }

    /// Files that were late are there.
    pub async fn release(&mut self) -> Result<()> {
        for bytes in std::mem::take(&mut self.withheld) {
            self.store.put(&bytes).await?;
        }
        Ok(())
    }

    async fn mine(&mut self, calls: Vec<Call>) -> Result<()> {
        for call in &calls {
            let transaction = json!({"from": call.from, "to": call.to, "data": call.input, "gas": GAS});
            self.call("eth_sendTransaction", json!([transaction])).await?;
            *self.done.sent.entry(call.kind.name()).or_default() += 1;
        }
        self.call("anvil_mine", json!(["0x1"])).await?;
        let number = self.block_number().await?;
        self.highest = self.highest.max(number);
        self.done.mined += 1;
        self.sent.push_back((number, calls));
        let least = self.highest.saturating_sub(2 * FINALITY_BLOCKS);
        while self.sent.front().is_some_and(|(number, _)| *number < least) {
            self.sent.pop_front();
        }
        Ok(())
    }

    /// Takes 1 to 64 of the newest blocks back, but none that was final ever; what was in them comes again in the same order or
    /// another, not at all, or with other content. Gives how many were taken.
    pub async fn reorg(&mut self) -> Result<u64> {
        let latest = self.block_number().await?;
        let least = self.floor.max(self.highest.saturating_sub(FINALITY_BLOCKS));
        let depth = (1 + self.random.below(FINALITY_BLOCKS)).min(latest.saturating_sub(least));
        if depth == 0 {
            return Ok(0);
        }
        // other blocks of the same heights, or for a while none: the chain is then shorter than it was
        match self.random.below(2) {
            0 => self.call("anvil_reorg", json!([depth, []])).await?,
            _ => self.call("anvil_rollback", json!([depth])).await?,
        };
        self.done.reorgs += 1;
        self.done.taken += depth;
        let mut gone = Vec::new();
        while self.sent.back().is_some_and(|(number, _)| *number > latest - depth) {
            gone.extend(self.sent.pop_back());
        }
        let mut again = VecDeque::new();
        for call in gone.into_iter().rev().flat_map(|(_, calls)| calls) {
            match self.random.below(4) {
                0 => self.done.again[1] += 1,
                1 => {
                    self.batches_in_block = 0;
                    again.extend(self.transaction(call.kind).await?);
                    self.done.again[2] += 1;
                }
                _ => {
                    again.push_back(call);
                    self.done.again[0] += 1;
                }
            }
        }
        if self.random.below(2) == 0 {
            self.random.shuffle(again.make_contiguous());
        }
        while !again.is_empty() {
            let count = usize::try_from(self.random.below(CALLS_PER_BLOCK_MAX + 1))?.min(again.len());
            self.mine(again.drain(..count).collect()).await?;
        }
        Ok(depth)
    }

    fn next(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// A transaction of a kind; none where there is nothing yet that it could be about.
    async fn transaction(&mut self, kind: Kind) -> Result<Option<Call>> {
        let (log, provider) = (self.deployment.provenance_log, self.provider);
        let from_provider = |to: Address, input: Vec<u8>| Call { kind, from: provider, to, input: input.into() };
        Ok(match kind {
            Kind::Batch => Some(self.batch().await?),
            Kind::Policy => {
                let made = self.next();
                let call = ConsentRegistry::publishPolicyCall {
                    policyHash: sha256(&[&made.to_be_bytes()]),
                    version: made.to_string(),
                    uri: "https://example.invalid/policy".into(),
                };
                Some(from_provider(self.deployment.consent_registry, call.abi_encode()))
            }
            Kind::Withdrawal => self.standing().await?.map(|record| {
                let call = ConsentRegistry::withdrawCall { consent: (&record.consent).into() };
                from_provider(self.deployment.consent_registry, call.abi_encode())
            }),
            Kind::Version => self.version().await?,
            Kind::Contribution => self.standing().await?.map(|record| {
                let call = IPRegistry::registerContributionCall {
                    provider,
                    number: record.number,
                    e: (&record.accepted).into(),
                    proof: record.proof,
                };
                let from = if record.accepted.payee.is_zero() { provider } else { record.accepted.payee };
                Call::new(kind, from, self.deployment.ip_registry, &call)
            }),
            Kind::Offer => match self.newest_version() {
                Some(version) => {
                    let call = LicenseRegistry::publishOfferCall { ipId: version.ip_id, terms: terms() };
                    Some(from_provider(self.deployment.license_registry, call.abi_encode()))
                }
                None => None,
            },
            Kind::Sale => self.sale().await?,
            Kind::Transfer => self.transfer().await?,
            Kind::Redemption => match self.standing().await? {
                Some(record) => {
                    let debit = PointsTreasury::PointsDebit {
                        payoutId: sha256(&[b"payout", &self.next().to_be_bytes()]),
                        account: record.accepted.contributor,
                        // now and then more than there is, which is posted never
                        amount: self.reward / 3 * u128::from(1 + self.random.below(4)),
                    };
                    let call = PointsTreasury::redeemCall { debits: vec![debit], to: wallet(0) };
                    Some(Call::new(kind, dev_address(role::TREASURY_OPERATOR)?, self.treasury, &call))
                }
                None => None,
            },
            Kind::Claim => self.standing().await?.map(|record| {
                let call = ProvenanceLog::claimCall {
                    provider,
                    number: record.number,
                    e: (&record.accepted).into(),
                    proof: record.proof,
                };
                Call::new(kind, wallet(0), log, &call)
            }),
            Kind::Royalty => self.royalty()?,
            Kind::Sweep => Some(Call::new(kind, wallet(1), log, &ProvenanceLog::sweepPointsCall { provider })),
            Kind::Challenge => self.challenge().await?,
            Kind::Settings => Some(match self.random.below(3) {
                0 => {
                    let call = ProvenanceLog::setAttestorCall { attestor: self.attestor.address() };
                    from_provider(log, call.abi_encode())
                }
                1 => {
                    let call = PointsTreasury::setOperatorCall { operator_: dev_address(role::TREASURY_OPERATOR)? };
                    from_provider(self.treasury, call.abi_encode())
                }
                _ => {
                    let window = u32::try_from(20 * self.random.below(3))?;
                    let call = ProvenanceLog::setChallengeWindowCall { challengeWindow: window };
                    from_provider(log, call.abi_encode())
                }
            }),
        })
    }

    /// A record whose batch is on the chain now; none where a few that were tried are not.
    async fn standing(&mut self) -> Result<Option<Record>> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.chain);
        for _ in 0..4 {
            let Some(record) = self.random.pick(self.records.make_contiguous()).cloned() else { return Ok(None) };
            let root = log.rootOf(self.provider, record.number).call().await.context("failed to read a root")?;
            if root == record.root {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn newest_version(&mut self) -> Option<Version> {
        self.random.pick(self.versions.make_contiguous()).cloned()
    }

    async fn batch(&mut self) -> Result<Call> {
        let log = ProvenanceLog::new(self.deployment.provenance_log, &self.chain);
        let next = log.providerOf(self.provider).call().await.context("failed to read the provider")?.nextBatch;
        let number = next + self.batches_in_block;
        self.batches_in_block += 1;
        let (mut events, mut disclosures, mut records) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..=self.random.below(3) {
            records.push(self.record(&mut events, &mut disclosures)?);
        }
        let mut about = None;
        if self.random.below(2) == 0
            && let Some(mut record) = self.standing().await?
        {
            self.follow_up(&mut record, &mut events, &mut disclosures)?;
            about = Some(record);
        }
        let is_disclosed = self.random.below(3) > 0;
        let disclosed = encode_disclosures(&disclosures)?;
        let cid = if is_disclosed { Some(self.store.put(&disclosed).await?) } else { None };
        let made = OwnBatch::new(&self.deployment, &self.store, &self.attestor, self.provider, number, events, cid);
        let mut batch = made.await?;
        let manifest =
            Manifest { provider: self.provider, number, events: batch.events.clone(), disclosures: cid }.encode()?;
        // what came out of the store is kept back, or it is not what was promised
        match self.random.below(16) {
            0 | 1 => {
                self.store.delete(&batch.header.manifest_cid).await?;
                self.withheld.push(manifest.into());
            }
            2 if is_disclosed => {
                if let Some(cid) = cid {
                    self.store.delete(&cid).await?;
                }
                self.withheld.push(disclosed.into());
            }
            3 => {
                let half = manifest.get(..manifest.len() / 2).unwrap_or_default();
                batch.header.manifest_cid = self.store.put(half).await?;
                batch.sign(&self.deployment, &self.attestor)?;
            }
            4 => {
                let other = Manifest {
                    provider: self.provider,
                    number: number + 1,
                    events: batch.events.clone(),
                    disclosures: None,
                };
                batch.header.manifest_cid = self.store.put(&other.encode()?).await?;
                batch.sign(&self.deployment, &self.attestor)?;
            }
            5 if self.random.below(8) == 0 => {
                batch.header.manifest_cid = self.unfolds;
                batch.sign(&self.deployment, &self.attestor)?;
            }
            _ => {}
        }
        let tree = summarise(&batch.events)?.tree;
        for record in &mut records {
            (record.number, record.root) = (number, tree.root());
            record.proof = tree.proof(usize::try_from(record.accepted.index)?).context("an event outside its tree")?;
        }
        if let Some(record) = about {
            // what it is about has a newer event now, if this batch stays
            self.records.iter_mut().filter(|known| known.accepted == record.accepted).for_each(|known| {
                (known.last, known.updates) = (record.last.clone(), record.updates);
            });
        }
        self.records.extend(records);
        while self.records.len() > RECORDS_MAX {
            self.records.pop_front();
        }
        let call = ProvenanceLog::anchorCall { batch: (&batch.header).into(), signature: batch.signature };
        Ok(Call::new(Kind::Batch, self.provider, self.deployment.provenance_log, &call))
    }

    /// A new record, registered and accepted, or rejected; in points or for a wallet.
    fn record(&mut self, events: &mut Vec<Event>, disclosures: &mut Vec<Disclosure>) -> Result<Record> {
        let made = self.next();
        let source_id = format!("flow-{made}");
        let data_id = DataId::new(PROVIDER_NAME, &source_id)?;
        let payee = if self.random.below(3) == 0 { wallet(self.random.below(WALLETS)) } else { Address::ZERO };
        let consent = SignedConsent {
            contributor: wallet(made % 50),
            provider: self.provider,
            policy_hash: self.policy_hash,
            purposes: 0b1_1111,
            data_types: 0b1,
            territory: B256::ZERO,
            valid_from: 0,
            valid_until: u64::MAX,
            nonce: U256::from(made),
            signature: Bytes::new(),
        };
        let content_hash = ContentHash::of(source_id.as_bytes());
        let index = u32::try_from(events.len())?;
        let mut registered = Event {
            index,
            data_id,
            sequence: 0,
            kind: EventKind::Registered,
            contributor: pseudonym(&[7; 32], data_id),
            content_hash,
            consent_id: consent.id(&self.deployment.consent_domain()),
            commitment: B256::ZERO,
            previous: B256::ZERO,
            occurred_at: 1_790_000_000,
            task_id: self.task,
            reward: 0,
            payee,
        };
        let metadata = kept_metadata(&source_id, content_hash, 0);
        let registration = Payload::Registered {
            source_record_id: source_id.clone(),
            metadata_root: metadata_root(&metadata)?,
            metadata,
            purposes: consent.purposes,
            delivery: None,
        };
        disclose(&mut registered, &registration, disclosures)?;
        let is_accepted = self.random.below(6) > 0;
        let kind = if is_accepted { EventKind::Accepted } else { EventKind::Rejected };
        let mut judged = Event {
            index: index + 1,
            sequence: 1,
            kind,
            previous: registered.leaf(),
            reward: if is_accepted { self.reward } else { 0 },
            ..registered.clone()
        };
        let mut verdict = Verdict {
            data_id,
            content_hash,
            outcome: if is_accepted { Outcome::Accepted } else { Outcome::Undecodable },
            detail: "as the flow wants it".into(),
            gate: "tidemark-gate-1".into(),
            decided_at: judged.occurred_at,
            attestor: self.attestor.address(),
            signature: Bytes::new(),
        };
        let digest = verdict.digest(&self.deployment.batch_domain());
        verdict.signature = self.attestor.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into();
        let payload = if is_accepted { Payload::Accepted { verdict } } else { Payload::Rejected { verdict } };
        disclose(&mut judged, &payload, disclosures)?;
        events.extend([registered, judged.clone()]);
        Ok(Record {
            number: 0,
            root: B256::ZERO,
            accepted: judged.clone(),
            proof: Vec::new(),
            last: judged,
            consent,
            source_id,
            updates: 0,
        })
    }

    /// What comes later to a record: other metadata, or the end of its consent, or its erasure.
    fn follow_up(
        &mut self,
        record: &mut Record,
        events: &mut Vec<Event>,
        disclosures: &mut Vec<Disclosure>,
    ) -> Result<()> {
        let (kind, payload) = match self.random.below(4) {
            0 => {
                let consent_id = record.accepted.consent_id;
                (EventKind::ConsentWithdrawn, Payload::ConsentWithdrawn { consent_id, signature: Bytes::new() })
            }
            1 => (EventKind::Erased, Payload::Erased { disclosures: Vec::new() }),
            _ => {
                let state = |updates| kept_metadata(&record.source_id, record.accepted.content_hash, updates);
                let (before, metadata) = (state(record.updates), state(record.updates + 1));
                record.updates += 1;
                let payload = Payload::MetadataUpdated {
                    seq: record.updates,
                    prev_metadata_root: metadata_root(&before)?,
                    metadata_root: metadata_root(&metadata)?,
                    metadata,
                };
                (EventKind::MetadataUpdated, payload)
            }
        };
        let mut event = Event {
            index: u32::try_from(events.len())?,
            sequence: record.last.sequence + 1,
            kind,
            previous: record.last.leaf(),
            reward: 0,
            ..record.last.clone()
        };
        disclose(&mut event, &payload, disclosures)?;
        record.last = event.clone();
        events.push(event);
        Ok(())
    }

    /// A dataset of a few records, or the next version of one.
    async fn version(&mut self) -> Result<Option<Call>> {
        let mut members = BTreeMap::new();
        for _ in 0..=self.random.below(4) {
            if let Some(record) = self.standing().await?
                && record.accepted.kind == EventKind::Accepted
            {
                members.insert(record.accepted.data_id, record);
            }
        }
        if members.is_empty() {
            return Ok(None);
        }
        let cid = self.store.put(b"ciphertext").await?;
        let rows: Vec<MemberRow> = members
            .into_values()
            .map(|record| MemberRow {
                member: Member {
                    data_id: record.accepted.data_id,
                    contributor: record.accepted.contributor,
                    consent_id: record.accepted.consent_id,
                    payee: record.accepted.payee,
                    weight: u128::from(1 + self.random.below(5)),
                },
                content_hash: record.accepted.content_hash,
                ciphertext_cid: cid,
                key_cid: cid,
                batch_number: record.number,
                event_index: record.accepted.index,
                purposes: record.consent.purposes,
            })
            .collect();
        let summary = dataset::summarise(&rows)?;
        let manifest = dataset::encode_members(&rows)?;
        let content = VersionContent {
            root: summary.tree.root(),
            member_count: u32::try_from(rows.len())?,
            total_weight: summary.total_weight,
            points_weight: summary.points_weight,
            purposes: summary.purposes,
            manifest_cid: self.store.put(&manifest).await?,
        };
        if self.random.below(8) == 0 {
            self.store.delete(&content.manifest_cid).await?;
            self.withheld.push(manifest.into());
        }
        let name = format!("set-{}", self.random.below(5));
        let ip_id = dataset::dataset_id(self.provider, &name);
        let registry = IPRegistry::new(self.deployment.ip_registry, &self.chain);
        // an error where there is no such dataset yet
        let latest = registry.latestVersionOf(ip_id).call().await.unwrap_or_default();
        let number = latest + 1;
        let digest = dataset::version_digest(&self.deployment.dataset_domain(), ip_id, number, &content);
        let signature: Bytes = self.attestor.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into();
        let (from, to, content) = (self.provider, self.deployment.ip_registry, (&content).into());
        let call = match latest {
            0 => Call::new(Kind::Version, from, to, &IPRegistry::registerDatasetCall { name, content, signature }),
            _ => {
                let call = IPRegistry::registerVersionCall { ipId: ip_id, content, signature };
                Call::new(Kind::Version, from, to, &call)
            }
        };
        self.versions.push_back(Version { ip_id, number, rows });
        if self.versions.len() > RECORDS_MAX {
            self.versions.pop_front();
        }
        Ok(Some(call))
    }

    /// The buyer buys the newest version of what one of the offers is about.
    async fn sale(&mut self) -> Result<Option<Call>> {
        let licenses = LicenseRegistry::new(self.deployment.license_registry, &self.chain);
        let registry = IPRegistry::new(self.deployment.ip_registry, &self.chain);
        let offer = 1 + self.random.below(20);
        let Ok(offered) = licenses.offerOf(offer).call().await else { return Ok(None) };
        let Ok(version) = registry.latestVersionOf(offered.ipId).call().await else { return Ok(None) };
        let buyer = dev_address(role::BUYER)?;
        let call = LicenseRegistry::buyCall { offerId: offer, version, payment: offered.terms.price, recipient: buyer };
        Ok(Some(Call::new(Kind::Sale, buyer, self.deployment.license_registry, &call)))
    }

    async fn transfer(&mut self) -> Result<Option<Call>> {
        let licenses = LicenseRegistry::new(self.deployment.license_registry, &self.chain);
        let count = licenses.licenseCount().call().await.context("failed to count licences")?;
        if count == 0 {
            return Ok(None);
        }
        let id = U256::from(1 + self.random.below(u64::try_from(count)?));
        let Ok(owner) = licenses.ownerOf(id).call().await else { return Ok(None) };
        self.call("anvil_setBalance", json!([owner, funds()])).await?;
        let to = wallet(self.random.below(WALLETS));
        let call = LicenseRegistry::transferFromCall { from: owner, to, tokenId: id };
        Ok(Some(Call::new(Kind::Transfer, owner, self.deployment.license_registry, &call)))
    }

    fn royalty(&mut self) -> Result<Option<Call>> {
        let Some(version) = self.newest_version() else { return Ok(None) };
        let tree = dataset::summarise(&version.rows)?.tree;
        let wallets = version.rows.iter().enumerate().find(|(_, row)| !row.member.payee.is_zero());
        let Some((at, row)) = wallets else { return Ok(None) };
        let call = LicenseRegistry::claimRoyaltyCall {
            ipId: version.ip_id,
            version: version.number,
            member: (&row.member).into(),
            proof: tree.proof(at).context("a member outside its tree")?,
        };
        Ok(Some(Call::new(Kind::Royalty, wallet(0), self.deployment.license_registry, &call)))
    }

    /// The provider deposits a bond, or the buyer challenges a verdict; both may revert.
    async fn challenge(&mut self) -> Result<Option<Call>> {
        if self.random.below(2) == 0 {
            let call = Disputes::depositBondCall { provider: self.provider, amount: self.reward };
            return Ok(Some(Call::new(Kind::Challenge, self.provider, self.deployment.disputes, &call)));
        }
        let Some(record) = self.standing().await? else { return Ok(None) };
        let call = Disputes::challengeCall {
            provider: self.provider,
            number: record.number,
            e: (&record.accepted).into(),
            proof: record.proof,
            ground: 0,
            evidenceHash: B256::repeat_byte(1),
            evidenceUri: "https://example.invalid/evidence".into(),
        };
        Ok(Some(Call::new(Kind::Challenge, dev_address(role::BUYER)?, self.deployment.disputes, &call)))
    }
}

fn wallet(number: u64) -> Address {
    Address::from_word(sha256(&[b"wallet", &number.to_be_bytes()]))
}

/// Commits an event to a payload.
fn disclose(event: &mut Event, payload: &Payload, disclosures: &mut Vec<Disclosure>) -> Result<()> {
    let salt = sha256(&[event.data_id.bytes().as_slice(), &event.sequence.to_be_bytes()]).0;
    let payload = String::from_utf8(jcs(payload)?).context("a payload that is no text")?;
    let disclosure = Disclosure { index: event.index, salt, payload };
    event.commitment = disclosure.commitment();
    disclosures.push(disclosure);
    Ok(())
}
