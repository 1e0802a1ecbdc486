//! The market: a dataset version as an IP asset, an offer, a sale with permit, and what wallets claim on chain.

use alloy::{
    primitives::{Address, B256, U256},
    providers::DynProvider,
};
use anyhow::{Context, Result, ensure};
use tidemark::{
    batch::summarise,
    consent::purpose,
    contracts::{LicenseRegistry, ProvenanceLog},
    dataset,
    event::{Event, EventKind},
    history::{History, LoadedBatch},
    ids::{DataId, sha256},
    publish::{AttestorClient, Published, publish},
};

use super::{
    money::{UNITS, permit},
    people::Contributor,
    world::World,
};
use crate::{
    keys::{dev_address, dev_signer, role},
    stack::Stack,
    wirings::attestor_token,
};

/// What a licence costs in the demo.
pub const LICENSE_PRICE: u128 = 10_000 * UNITS;
/// The members' part of it, in basis points.
pub const CONTRIBUTOR_BPS: u16 = 7_000;
const LICENSE_SECONDS: u64 = 365 * 86_400;

/// Chain and content store, as a stranger reads them.
pub fn history(stack: &Stack) -> Result<History> {
    Ok(History { provider: stack.provider().clone(), deployment: stack.deployment.clone(), store: stack.store()? })
}

/// Registers the dataset of all accepted records, or its next version.
pub async fn register_dataset(stack: &Stack, world: &World, name: &str) -> Result<Published> {
    let attestor = stack.attestor.as_ref().context("the stack was started without an attestor")?;
    let attestor = AttestorClient { url: attestor.url().into(), token: attestor_token() };
    let sender = stack.sender(role::PROVIDER).await?;
    let published = publish(&history(stack)?, &sender, &attestor, world.provider, name).await;
    let published = published.context("failed to register the dataset")?;
    world.transactions.note("register the dataset", published.transaction, published.gas_used, 0);
    Ok(published)
}

/// The demo's terms.
pub fn terms() -> LicenseRegistry::Terms {
    LicenseRegistry::Terms {
        price: LICENSE_PRICE,
        duration: LICENSE_SECONDS,
        purposes: purpose::TRAIN | purpose::EVALUATE,
        seats: 5,
        contributorBps: CONTRIBUTOR_BPS,
        transferable: true,
        aiTraining: true,
        resaleBps: 500,
        legalHash: sha256(&[b"Tidemark development licence, version 1"]),
        legalUri: "https://example.invalid/licence-1.txt".into(),
    }
}

/// Offers the newest version of a dataset.
pub async fn publish_offer(stack: &Stack, world: &World, ip_id: U256) -> Result<u64> {
    let sender = stack.sender(role::PROVIDER).await?;
    let registry = LicenseRegistry::new(world.deployment.license_registry, &sender);
    let sent = registry.publishOffer(ip_id, terms()).send().await;
    let receipt = world.transactions.mined("publish the offer", sent).await?;
    let offer = receipt.decoded_log::<LicenseRegistry::OfferPublished>().context("no offer was published")?;
    Ok(offer.offerId)
}

/// Buys a licence for the buyer, with a permit over what it offers to pay.
pub async fn buy(
    stack: &Stack,
    world: &World,
    offer: u64,
    version: u32,
    payment: u128,
) -> Result<LicenseRegistry::LicenseSold> {
    let (sender, key) = (stack.sender(role::BUYER).await?, dev_signer(role::BUYER)?);
    let registry = LicenseRegistry::new(world.deployment.license_registry, &sender);
    let spender = world.deployment.license_registry;
    let permit = permit(stack.provider(), world.deployment.chain_id, world.token, &key, spender, payment, 0).await?;
    let recipient = dev_address(role::BUYER)?;
    let sent = registry.buyWithPermit(offer, version, payment, recipient, permit.into()).send().await;
    let receipt = world.transactions.mined("buy the licence", sent).await?;
    let sold = receipt.decoded_log::<LicenseRegistry::LicenseSold>().context("no licence was sold")?;
    ensure!(sold.buyer == recipient, "the licence went to {}, not to the buyer", sold.buyer);
    Ok(sold.data)
}

/// An accepted event with what its payee needs to claim.
#[derive(Clone, Debug)]
pub struct Claimable {
    /// The batch of the event.
    pub batch_number: u64,
    /// The event.
    pub event: Event,
    /// From its leaf to the batch's root.
    pub proof: Vec<B256>,
}

/// The accepted event of a record, out of the provider's batches.
pub fn claimable(batches: &[LoadedBatch], data_id: DataId) -> Result<Claimable> {
    for batch in batches {
        let events = &batch.manifest.events;
        let is_ours = |event: &Event| event.data_id == data_id && event.kind == EventKind::Accepted;
        if let Some(at) = events.iter().position(is_ours) {
            let tree = summarise(events).context("a manifest that is no batch")?.tree;
            let proof = tree.proof(at).context("an event outside its tree")?;
            return Ok(Claimable { batch_number: batch.anchored.header.number, event: events[at].clone(), proof });
        }
    }
    anyhow::bail!("no batch accepts {data_id}")
}

/// What one wallet contributor got.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The wallet.
    pub wallet: Address,
    /// The record.
    pub data_id: DataId,
    /// Units for the accepted submission.
    pub reward: u128,
    /// Units of the licence's price.
    pub royalty: u128,
}

/// A wallet contributor claims the reward and the royalty of one record, from its own account.
pub async fn claim(
    stack: &Stack,
    world: &World,
    contributor: &Contributor,
    batches: &[LoadedBatch],
    published: &Published,
    data_id: DataId,
) -> Result<Claimed> {
    let sender = stack.sender_of(contributor.key.clone()).await?;
    let claimable = claimable(batches, data_id)?;
    claim_reward(&sender, world, &claimable).await?;
    let royalty = claim_royalty(&sender, world, published, data_id).await?;
    Ok(Claimed { wallet: contributor.address(), data_id, reward: claimable.event.reward, royalty })
}

async fn claim_reward(sender: &DynProvider, world: &World, claimable: &Claimable) -> Result<()> {
    let log = ProvenanceLog::new(world.deployment.provenance_log, sender);
    let event = (&claimable.event).into();
    let sent = log.claim(world.provider, claimable.batch_number, event, claimable.proof.clone()).send().await;
    world.transactions.mined("claim a reward", sent).await?;
    Ok(())
}

async fn claim_royalty(sender: &DynProvider, world: &World, published: &Published, data_id: DataId) -> Result<u128> {
    let at = published.members.iter().position(|row| row.member.data_id == data_id);
    let at = at.with_context(|| format!("{data_id} is no member of the dataset"))?;
    let tree = dataset::summarise(&published.members).context("members that are no version")?.tree;
    let proof = tree.proof(at).context("a member outside its tree")?;
    let registry = LicenseRegistry::new(world.deployment.license_registry, sender);
    let member = (&published.members[at].member).into();
    let sent = registry.claimRoyalty(published.ip_id, published.version, member, proof).send().await;
    let receipt = world.transactions.mined("claim a royalty", sent).await?;
    let claimed = receipt.decoded_log::<LicenseRegistry::RoyaltyClaimed>().context("no royalty was claimed")?;
    Ok(claimed.amount)
}
