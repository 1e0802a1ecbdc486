//! What sponsor, provider, attestor and buyer do on chain, for the story and for tests.

use alloy::{
    eips::BlockNumberOrTag,
    primitives::{Address, B256, Bytes, U256},
    providers::{DynProvider, Provider},
    rpc::types::TransactionReceipt,
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{SolStruct, eip712_domain},
};
use anyhow::{Context, Result};
use tidemark::{
    batch::{Header, summarise},
    chain::Deployment,
    contracts::{ConsentRegistry, DevToken, IPRegistry, LicenseRegistry, PointsTreasury, ProvenanceLog, RewardPool},
    dataset::{self, Member, MemberRow, VersionContent},
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DATA_ID_NAMESPACE, DataId},
    manifest::Manifest,
    store::Store,
};

use crate::{
    Options, Stack,
    keys::{dev_signer, role},
    stack::Services,
};

/// Payment-token units of one dKRW, and of one point.
pub const UNIT: u128 = 1_000_000;
/// What a [`World`]'s task pays for each accepted record.
pub const PRICE: u128 = 300 * UNIT;
/// How long a task stays open.
const TASK_SECONDS: u64 = 30 * 24 * 3600;

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

/// Sends a contract call and waits for a receipt that says it succeeded.
#[macro_export]
macro_rules! mined {
    ($what:expr, $call:expr) => {{
        let what = $what;
        let pending = $call.send().await.map_err(|e| anyhow::anyhow!("{what}: {}", $crate::onchain::why(&e)))?;
        let receipt = pending.get_receipt().await.map_err(|e| anyhow::anyhow!("{what}: no receipt: {e}"))?;
        anyhow::ensure!(receipt.status(), "{what}: reverted in {}", receipt.transaction_hash);
        receipt
    }};
}

/// What a contract said no with, by the name of its error, else the node's words.
pub fn why(error: &alloy::contract::Error) -> String {
    macro_rules! decoded {
        ($($errors:ty),*) => {$(
            if let Some(known) = error.as_decoded_interface_error::<$errors>() {
                return format!("{known:?}");
            }
        )*};
    }
    decoded!(
        ProvenanceLog::ProvenanceLogErrors,
        RewardPool::RewardPoolErrors,
        IPRegistry::IPRegistryErrors,
        LicenseRegistry::LicenseRegistryErrors,
        PointsTreasury::PointsTreasuryErrors
    );
    error.to_string()
}

/// Seconds of the newest block.
pub async fn chain_time(provider: &DynProvider) -> Result<u64> {
    let block = provider.get_block_by_number(BlockNumberOrTag::Latest).await.context("failed to ask for a block")?;
    Ok(block.context("the chain has no newest block")?.header.timestamp)
}

/// A development token, worthless.
pub async fn deploy_token(sender: &DynProvider) -> Result<Address> {
    Ok(*DevToken::deploy(sender).await.context("failed to deploy DevToken")?.address())
}

/// Anybody can mint a development token.
pub async fn mint(sender: &DynProvider, token: Address, to: Address, amount: u128) -> Result<()> {
    mined!("mint", DevToken::new(token, sender).mint(to, U256::from(amount)));
    Ok(())
}

/// A provider as it stands on chain.
#[derive(Clone, Debug)]
pub struct OnchainProvider {
    /// Its account.
    pub account: Address,
    /// Holds the tokens behind its points.
    pub treasury: Address,
    /// What its rewards are counted in.
    pub token: Address,
}

/// Deploys the treasury and registers the sender as a provider.
pub async fn register_provider(
    deployment: &Deployment,
    sender: &DynProvider,
    account: Address,
    name: &str,
    attestor: Address,
    token: Address,
    treasury_operator: Address,
) -> Result<OnchainProvider> {
    let treasury = PointsTreasury::deploy(sender, account, token, treasury_operator).await;
    let treasury = *treasury.context("failed to deploy PointsTreasury")?.address();
    let log = ProvenanceLog::new(deployment.provenance_log, sender);
    mined!("register the provider", log.registerProvider(name.into(), attestor, treasury, token));
    Ok(OnchainProvider { account, treasury, token })
}

/// Publishes a policy of the sender; gives its hash.
pub async fn publish_policy(deployment: &Deployment, sender: &DynProvider, text: &str, version: &str) -> Result<B256> {
    let hash = tidemark::ids::sha256(&[text.as_bytes()]);
    let registry = ConsentRegistry::new(deployment.consent_registry, sender);
    let uri = format!("https://numo.example/policies/{version}");
    mined!("publish the policy", registry.publishPolicy(hash, version.into(), uri));
    Ok(hash)
}

/// A signed EIP-2612 permit.
pub struct SignedPermit {
    deadline: U256,
    v: u8,
    r: B256,
    s: B256,
}

/// Permits `spender` to take `amount` of the owner's tokens for an hour.
pub async fn permit(
    provider: &DynProvider,
    token: Address,
    owner: &PrivateKeySigner,
    spender: Address,
    amount: u128,
) -> Result<SignedPermit> {
    let contract = DevToken::new(token, provider);
    let nonce = contract.nonces(owner.address()).call().await.context("nonces")?;
    let name = contract.name().call().await.context("name")?;
    let chain_id = provider.get_chain_id().await.context("failed to ask for the chain id")?;
    let deadline = U256::from(chain_time(provider).await? + 3_600);
    let domain = eip712_domain! {
        name: name,
        version: "1",
        chain_id: chain_id,
        verifying_contract: token,
    };
    let value = U256::from(amount);
    let digest = Permit { owner: owner.address(), spender, value, nonce, deadline }.eip712_signing_hash(&domain);
    let signature = owner.sign_hash_sync(&digest).context("failed to sign the permit")?;
    let (r, s) = (B256::from(signature.r()), B256::from(signature.s()));
    Ok(SignedPermit { deadline, v: 27 + u8::from(signature.v()), r, s })
}

/// A sponsor's task: published price, escrowed budget, with a permit; gives its id and what it cost.
pub async fn create_task(
    deployment: &Deployment,
    sender: &DynProvider,
    sponsor: &PrivateKeySigner,
    provider: &OnchainProvider,
    uri: &str,
    price: u128,
    budget: u128,
) -> Result<(u64, TransactionReceipt)> {
    let pool = RewardPool::new(deployment.reward_pool, sender);
    let signed = permit(sender, provider.token, sponsor, deployment.reward_pool, budget).await?;
    let permit = RewardPool::Permit { deadline: signed.deadline, v: signed.v, r: signed.r, s: signed.s };
    let closes_at = chain_time(sender).await? + TASK_SECONDS;
    let terms = tidemark::ids::sha256(&[uri.as_bytes()]);
    let call = pool.createTaskWithPermit(provider.account, price, closes_at, terms, uri.into(), budget, permit);
    let receipt = mined!("create a task", call);
    let created = receipt.decoded_log::<RewardPool::TaskCreated>().context("no TaskCreated in the receipt")?;
    Ok((created.taskId, receipt))
}

/// What a licence of the story allows.
pub fn terms(price: u128, contributor_bps: u16) -> LicenseRegistry::Terms {
    use tidemark::consent::purpose;
    let legal = "https://numo.example/licences/training-1";
    LicenseRegistry::Terms {
        price,
        duration: 365 * 24 * 3600,
        purposes: purpose::TRAIN | purpose::EVALUATE | purpose::FINE_TUNE | purpose::COMMERCIAL,
        seats: 5,
        contributorBps: contributor_bps,
        transferable: false,
        aiTraining: true,
        legalHash: tidemark::ids::sha256(&[legal.as_bytes()]),
        legalUri: legal.into(),
    }
}

/// Offers a dataset; gives the offer's id.
pub async fn publish_offer(
    deployment: &Deployment,
    sender: &DynProvider,
    ip_id: U256,
    terms: LicenseRegistry::Terms,
) -> Result<u64> {
    let registry = LicenseRegistry::new(deployment.license_registry, sender);
    let receipt = mined!("publish an offer", registry.publishOffer(ip_id, terms));
    let published = receipt.decoded_log::<LicenseRegistry::OfferPublished>().context("no OfferPublished")?;
    Ok(published.offerId)
}

/// Buys a licence with a permit; gives the sale as the chain tells it.
pub async fn buy(
    deployment: &Deployment,
    sender: &DynProvider,
    buyer: &PrivateKeySigner,
    token: Address,
    offer: u64,
    version: u32,
    payment: u128,
) -> Result<(LicenseRegistry::LicenseSold, TransactionReceipt)> {
    let signed = permit(sender, token, buyer, deployment.license_registry, payment).await?;
    let permit = LicenseRegistry::Permit { deadline: signed.deadline, v: signed.v, r: signed.r, s: signed.s };
    let registry = LicenseRegistry::new(deployment.license_registry, sender);
    let call = registry.buyWithPermit(offer, version, payment, buyer.address(), permit);
    let receipt = mined!("buy a licence", call);
    let sold = receipt.decoded_log::<LicenseRegistry::LicenseSold>().context("no LicenseSold in the receipt")?;
    Ok((sold.data, receipt))
}

/// A batch that its maker attests itself: header, manifest in the store, signature.
pub struct OwnBatch {
    /// To be anchored.
    pub header: Header,
    /// The attestor's, over the header.
    pub signature: Bytes,
    /// Behind the header.
    pub events: Vec<Event>,
}

impl OwnBatch {
    /// Stores the manifest and signs the header that follows from the events.
    pub async fn new(
        deployment: &Deployment,
        store: &Store,
        attestor: &PrivateKeySigner,
        provider: Address,
        number: u64,
        events: Vec<Event>,
    ) -> Result<Self> {
        let summary = summarise(&events).context("the events make no batch")?;
        let manifest = Manifest { provider, number, events, disclosures: None };
        let cid = store.put(&manifest.encode()?).await?;
        let header = Header::new(provider, number, &manifest.events, &summary, cid).context("too many events")?;
        let mut batch = Self { header, signature: Bytes::new(), events: manifest.events };
        batch.sign(deployment, attestor)?;
        Ok(batch)
    }

    /// Signs the header as it now is.
    pub fn sign(&mut self, deployment: &Deployment, attestor: &PrivateKeySigner) -> Result<()> {
        let digest = self.header.digest(&deployment.batch_domain());
        self.signature = attestor.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into();
        Ok(())
    }

    /// Anchors it.
    pub async fn anchor(&self, deployment: &Deployment, sender: &DynProvider) -> Result<TransactionReceipt> {
        let log = ProvenanceLog::new(deployment.provenance_log, sender);
        Ok(mined!("anchor", log.anchor((&self.header).into(), self.signature.clone())))
    }
}

/// A provider with one task of ten rewards, whose attestor is the test itself, on a chain that mines at once.
pub struct World {
    /// Chain, Postgres and content store; no services.
    pub stack: Stack,
    /// Sends as the provider, which is also the sponsor.
    pub sender: DynProvider,
    /// The provider's attestor.
    pub attestor: PrivateKeySigner,
    /// Named `refusals`.
    pub provider: OnchainProvider,
    /// Its one task.
    pub task: u64,
}

impl World {
    /// Starts it.
    pub async fn new() -> Result<Self> {
        tidemark::install_tls();
        let options = Options { services: Services::None, ..Options::default() };
        let stack = Stack::start(options).await?;
        stack.anvil.mine_at_once().await?;
        let account = dev_signer(role::PROVIDER)?;
        let sender = stack.sender_of(account.clone()).await?;
        let attestor = dev_signer(role::ATTESTOR)?;
        let deployment = stack.deployment.clone();
        let token = deploy_token(&sender).await?;
        mint(&sender, token, account.address(), 1_000_000 * UNIT).await?;
        let provider = register_provider(
            &deployment,
            &sender,
            account.address(),
            "refusals",
            attestor.address(),
            token,
            account.address(),
        )
        .await?;
        let (task, _) = create_task(&deployment, &sender, &account, &provider, "voice", PRICE, 10 * PRICE).await?;
        Ok(Self { stack, sender, attestor, provider, task })
    }

    /// Attests events as the provider's batch `number`.
    pub async fn batch(&self, number: u64, events: Vec<Event>) -> Result<OwnBatch> {
        let (deployment, store) = (&self.stack.deployment, self.stack.store()?);
        OwnBatch::new(deployment, &store, &self.attestor, self.provider.account, number, events).await
    }

    /// Anchors a batch.
    pub async fn anchor(&self, batch: &OwnBatch) -> Result<TransactionReceipt> {
        batch.anchor(&self.stack.deployment, &self.sender).await
    }

    /// One record: registered, then accepted for the task and paid to `payee`.
    pub fn accepted(&self, first_index: u32, record: &str, payee: Address) -> [Event; 2] {
        let data_id = DataId(uuid::Uuid::new_v5(&DATA_ID_NAMESPACE, record.as_bytes()));
        let registered = Event {
            index: first_index,
            data_id,
            sequence: 0,
            kind: EventKind::Registered,
            contributor: tidemark::event::pseudonym(&[7; 32], data_id),
            content_hash: ContentHash::of(record.as_bytes()),
            consent_id: ConsentId(B256::repeat_byte(8)),
            commitment: B256::repeat_byte(9),
            previous: B256::ZERO,
            occurred_at: 1_790_000_000,
            task_id: self.task,
            reward: 0,
            payee,
        };
        let accepted = Event {
            index: first_index + 1,
            sequence: 1,
            kind: EventKind::Accepted,
            previous: registered.leaf(),
            reward: PRICE,
            ..registered.clone()
        };
        [registered, accepted]
    }

    /// What a dataset version of one accepted record commits to; its members manifest is in the store.
    pub async fn version(&self, accepted: &Event) -> Result<VersionContent> {
        let store = self.stack.store()?;
        let cid = store.put(b"ciphertext").await?;
        let member = Member {
            data_id: accepted.data_id,
            contributor: accepted.contributor,
            consent_id: accepted.consent_id,
            payee: accepted.payee,
            weight: 1,
        };
        let rows = [MemberRow {
            member,
            content_hash: accepted.content_hash,
            ciphertext_cid: cid,
            key_cid: cid,
            batch_number: 0,
            event_index: accepted.index,
        }];
        let summary = dataset::summarise(&rows)?;
        Ok(VersionContent {
            root: summary.tree.root(),
            member_count: 1,
            total_weight: summary.total_weight,
            points_weight: summary.points_weight,
            manifest_cid: store.put(&dataset::encode_members(&rows)?).await?,
        })
    }

    /// Registers a dataset of one record and sells a licence to it; gives the dataset and the sale.
    pub async fn sell(&self, accepted: &Event, price: u128) -> Result<(U256, LicenseRegistry::LicenseSold)> {
        let deployment = &self.stack.deployment;
        let content = self.version(accepted).await?;
        let ip_id = dataset::dataset_id(self.provider.account, "one");
        let digest = dataset::version_digest(&deployment.dataset_domain(), ip_id, 1, &content);
        let signature = self.attestor.sign_hash_sync(&digest).context("failed to sign")?;
        let registry = IPRegistry::new(deployment.ip_registry, &self.sender);
        let signature = Bytes::from(signature.as_bytes());
        mined!("register a dataset", registry.registerDataset("one".into(), (&content).into(), signature));
        let offer = publish_offer(deployment, &self.sender, ip_id, terms(price, 7_000)).await?;
        let buyer = dev_signer(role::BUYER)?;
        let buying = self.stack.sender_of(buyer.clone()).await?;
        mint(&buying, self.provider.token, buyer.address(), price).await?;
        let (sale, _) = buy(deployment, &buying, &buyer, self.provider.token, offer, 1, price).await?;
        Ok((ip_id, sale))
    }
}
