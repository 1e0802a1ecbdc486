//! A provider whose attestor is the test itself, so that it can anchor what an honest attestor would not sign.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    providers::DynProvider,
    rpc::types::TransactionReceipt,
    signers::{SignerSync, local::PrivateKeySigner},
};
use anyhow::{Context, Result};
use cid::Cid;
use serde_json::Value;
use tidemark::{
    batch::{Header, summarise},
    canonical::{jcs, metadata_root},
    chain::Deployment,
    contracts::{IPRegistry, LicenseRegistry, ProvenanceLog},
    dataset::{self, Member, MemberRow, VersionContent},
    event::{Event, EventKind, pseudonym},
    ids::{ConsentId, ContentHash, DataId},
    manifest::{Disclosure, Manifest, encode_disclosures},
    payload::Payload,
    store::Store,
};

use crate::{
    Options, Stack,
    keys::{dev_signer, role},
    mined,
    stack::{PROVIDER_NAME, Services},
    story::{
        market,
        samples::Kind,
        world::{World, price},
    },
};

/// Submissions that the voice task's escrow pays for.
pub const BUDGETED: u32 = 10;

/// A batch that its maker attests itself: header, manifest in the store, signature.
pub struct OwnBatch {
    /// To be anchored.
    pub header: Header,
    /// The attestor's, over the header.
    pub signature: Bytes,
    /// Behind the header.
    pub events: Vec<Event>,
    /// The file of what they disclose.
    pub disclosures: Option<Cid>,
}

impl OwnBatch {
    /// Stores the manifest and signs the header that follows from the events.
    pub(crate) async fn new(
        deployment: &Deployment,
        store: &Store,
        attestor: &PrivateKeySigner,
        provider: Address,
        number: u64,
        events: Vec<Event>,
        disclosures: Option<Cid>,
    ) -> Result<Self> {
        let summary = summarise(&events).context("the events make no batch")?;
        let manifest = Manifest { provider, number, events, disclosures };
        let cid = store.put(&manifest.encode()?).await?;
        let header = Header::new(provider, number, &manifest.events, &summary, cid).context("too many events")?;
        let mut batch = Self { header, signature: Bytes::new(), events: manifest.events, disclosures };
        batch.sign(deployment, attestor)?;
        Ok(batch)
    }

    /// Signs the header as it now is.
    pub fn sign(&mut self, deployment: &Deployment, attestor: &PrivateKeySigner) -> Result<()> {
        let digest = self.header.digest(&deployment.batch_domain());
        self.signature = attestor.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into();
        Ok(())
    }
}

/// Chain, Postgres and content store without services, on a chain that mines at once; the story's provider and tasks.
pub struct Forge {
    /// What runs.
    pub stack: Stack,
    /// Provider, token and tasks.
    pub world: World,
    /// Sends as the provider.
    pub sender: DynProvider,
    /// The provider's attestor.
    pub attestor: PrivateKeySigner,
    /// The voice task.
    pub task: u64,
    /// What it pays.
    pub reward: u128,
}

impl Forge {
    /// Starts it.
    pub async fn new() -> Result<Self> {
        Self::with(Options::default(), BUDGETED).await
    }

    /// The same, with an escrow for so many voice submissions.
    pub async fn with(options: Options, budgeted: u32) -> Result<Self> {
        tidemark::install_tls();
        let stack = Stack::start(Options { services: Services::None, ..options }).await?;
        stack.chain.mine_at_once().await?;
        let world = World::build(&stack, [u128::from(budgeted), 1, 1]).await?;
        let sender = stack.sender(role::PROVIDER).await?;
        let (task, reward) = (world.task(Kind::Voice)?.id, price(Kind::Voice));
        Ok(Self { sender, attestor: dev_signer(role::ATTESTOR)?, task, reward, stack, world })
    }

    /// Attests events as the provider's batch `number`.
    pub async fn batch(&self, number: u64, events: Vec<Event>) -> Result<OwnBatch> {
        let store = self.stack.store()?;
        OwnBatch::new(&self.world.deployment, &store, &self.attestor, self.world.provider, number, events, None).await
    }

    /// The same with what its events commit to.
    pub async fn disclosed(&self, number: u64, events: Vec<Event>, disclosures: &[Disclosure]) -> Result<OwnBatch> {
        let store = self.stack.store()?;
        let cid = Some(store.put(&encode_disclosures(disclosures)?).await?);
        OwnBatch::new(&self.world.deployment, &store, &self.attestor, self.world.provider, number, events, cid).await
    }

    /// The attestor's signature over a digest.
    pub fn sign(&self, digest: B256) -> Result<Bytes> {
        Ok(self.attestor.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into())
    }

    /// Anchors a batch.
    pub async fn anchor(&self, batch: &OwnBatch) -> Result<TransactionReceipt> {
        let log = ProvenanceLog::new(self.world.deployment.provenance_log, &self.sender);
        Ok(mined!("anchor", log.anchor((&batch.header).into(), batch.signature.clone())))
    }

    /// One record: registered, then accepted for the voice task and paid to `payee`.
    pub fn accepted(&self, first_index: u32, record: &str, payee: Address) -> Result<[Event; 2]> {
        let data_id = DataId::new(PROVIDER_NAME, record)?;
        let registered = Event {
            index: first_index,
            data_id,
            sequence: 0,
            kind: EventKind::Registered,
            contributor: pseudonym(&[7; 32], data_id),
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
            reward: self.reward,
            ..registered.clone()
        };
        Ok([registered, accepted])
    }

    /// The same record with what its registration discloses: metadata, and purposes that are consented to.
    pub fn disclosing(
        &self,
        first_index: u32,
        record: &str,
        metadata: Value,
        purposes: u32,
    ) -> Result<([Event; 2], Disclosure)> {
        let [mut registered, mut accepted] = self.accepted(first_index, record, Address::ZERO)?;
        let payload = Payload::Registered {
            source_record_id: record.into(),
            metadata_root: metadata_root(&metadata)?,
            metadata,
            purposes,
            delivery: None,
        };
        let disclosure = Disclosure { index: first_index, salt: [3; 32], payload: String::from_utf8(jcs(&payload)?)? };
        registered.commitment = disclosure.commitment();
        accepted.previous = registered.leaf();
        Ok(([registered, accepted], disclosure))
    }

    /// What a dataset version of one accepted record commits to; its members manifest is in the store.
    pub async fn version(&self, accepted: &Event) -> Result<VersionContent> {
        self.version_of(&[self.member_row(accepted).await?]).await
    }

    /// An accepted record of the first batch as a member, with a weight of 1.
    pub async fn member_row(&self, accepted: &Event) -> Result<MemberRow> {
        let cid = self.stack.store()?.put(b"ciphertext").await?;
        let member = Member {
            data_id: accepted.data_id,
            contributor: accepted.contributor,
            consent_id: accepted.consent_id,
            payee: accepted.payee,
            weight: 1,
        };
        Ok(MemberRow {
            member,
            content_hash: accepted.content_hash,
            ciphertext_cid: cid,
            key_cid: cid,
            batch_number: 0,
            event_index: accepted.index,
            purposes: u32::MAX,
        })
    }

    /// What a dataset version of these members commits to; its members manifest is in the store.
    pub async fn version_of(&self, rows: &[MemberRow]) -> Result<VersionContent> {
        let summary = dataset::summarise(rows)?;
        Ok(VersionContent {
            root: summary.tree.root(),
            member_count: u32::try_from(rows.len()).context("too many members")?,
            total_weight: summary.total_weight,
            points_weight: summary.points_weight,
            purposes: summary.purposes,
            manifest_cid: self.stack.store()?.put(&dataset::encode_members(rows)?).await?,
        })
    }

    /// A signature over a version by any key.
    pub fn sign_version(
        &self,
        by: &PrivateKeySigner,
        ip_id: U256,
        version: u32,
        content: &VersionContent,
    ) -> Result<Bytes> {
        let digest = dataset::version_digest(&self.world.deployment.dataset_domain(), ip_id, version, content);
        Ok(by.sign_hash_sync(&digest).context("failed to sign")?.as_bytes().into())
    }

    /// Registers a dataset of one record; gives its id.
    pub async fn register_dataset(&self, content: &VersionContent) -> Result<U256> {
        let ip_id = dataset::dataset_id(self.world.provider, "one");
        let registry = IPRegistry::new(self.world.deployment.ip_registry, &self.sender);
        let signature = self.sign_version(&self.attestor, ip_id, 1, content)?;
        mined!("register a dataset", registry.registerDataset("one".into(), content.into(), signature));
        Ok(ip_id)
    }

    /// Registers a dataset of one record and sells a licence to it.
    pub async fn sell(&self, accepted: &Event) -> Result<LicenseRegistry::LicenseSold> {
        let ip_id = self.register_dataset(&self.version(accepted).await?).await?;
        let offer = market::publish_offer(&self.stack, &self.world, ip_id).await?;
        market::buy(&self.stack, &self.world, offer, 1, market::LICENSE_PRICE).await
    }
}
