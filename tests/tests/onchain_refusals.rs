//! What the contracts refuse, asked of a real chain: wrong signatures, replays, overdrawn budgets, other people's money.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use tidemark::{
    contracts::{LicenseRegistry, RewardPool},
    dataset::version_digest,
    event::Event,
    merkle::Tree,
};
use tidemark_tests::{
    keys::{dev_signer, role},
    mined,
    onchain::{self, OwnBatch, PRICE, UNIT, World, why},
};

async fn refusal(world: &World, batch: &OwnBatch) -> String {
    match world.anchor(batch).await {
        Ok(receipt) => panic!("anchored in {}", receipt.transaction_hash),
        Err(error) => format!("{error:#}"),
    }
}

fn proof(events: &[Event], index: usize) -> Vec<B256> {
    let leaves: Vec<B256> = events.iter().map(Event::leaf).collect();
    Tree::new(&leaves).unwrap().proof(index).unwrap()
}

#[tokio::test]
async fn a_batch_needs_the_attestor_s_signature_its_turn_and_its_budget() -> anyhow::Result<()> {
    let world = World::new().await?;
    let good = world.batch(0, world.accepted(0, "a", Address::ZERO).to_vec()).await?;

    let mut forged = world.batch(0, good.events.clone()).await?;
    forged.sign(&world.stack.deployment, &dev_signer("somebody")?)?;
    assert!(refusal(&world, &forged).await.contains("AttestationInvalid"), "a key that is no attestor");
    let mut altered = world.batch(0, good.events.clone()).await?;
    altered.header.points_total += 1;
    assert!(refusal(&world, &altered).await.contains("AttestationInvalid"), "a header changed after it was signed");
    let mut unsigned = world.batch(0, good.events.clone()).await?;
    unsigned.signature = Bytes::new();
    assert!(refusal(&world, &unsigned).await.contains("AttestationInvalid"), "no signature");

    let early = world.batch(1, good.events.clone()).await?;
    assert!(refusal(&world, &early).await.contains("BatchNumberUnexpected"), "a number ahead of its turn");
    world.anchor(&good).await?;
    assert!(refusal(&world, &good).await.contains("BatchNumberUnexpected"), "the same number again");

    let eleven: Vec<Event> =
        (0..11).flat_map(|i| world.accepted(2 * i, &format!("budget {i}"), Address::ZERO)).collect();
    let overdrawn = world.batch(1, eleven).await?;
    assert!(refusal(&world, &overdrawn).await.contains("BudgetExceeded"), "more than the escrow holds");
    Ok(())
}

#[tokio::test]
async fn a_reward_goes_to_its_payee_once_and_to_nobody_else() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (Address::repeat_byte(0xa1), Address::repeat_byte(0xb0));
    let mut events = world.accepted(0, "alice", alice).to_vec();
    events.extend(world.accepted(2, "bob", bob));
    events.extend(world.accepted(4, "points", Address::ZERO));
    world.anchor(&world.batch(0, events.clone()).await?).await?;
    let pool = RewardPool::new(world.stack.deployment.reward_pool, &world.sender);
    let account = world.provider.account;
    let refusal = async |event: &Event, proof: Vec<B256>| {
        why(&pool.claim(account, 0, event.into(), proof).send().await.unwrap_err())
    };

    assert!(refusal(&events[1], proof(&events, 3)).await.contains("ProofInvalid"), "somebody else's proof");
    let stolen = Event { payee: bob, ..events[1].clone() };
    assert!(refusal(&stolen, proof(&events, 1)).await.contains("ProofInvalid"), "another payee than anchored");
    let raised = Event { reward: 2 * PRICE, ..events[1].clone() };
    assert!(refusal(&raised, proof(&events, 1)).await.contains("ProofInvalid"), "another amount than anchored");
    assert!(refusal(&events[5], proof(&events, 5)).await.contains("PaidInPoints"), "paid in points");
    assert!(refusal(&events[0], proof(&events, 0)).await.contains("RewardZero"), "an event without a reward");

    let token = tidemark::contracts::DevToken::new(world.provider.token, &world.sender);
    mined!("claim", pool.claim(account, 0, (&events[1]).into(), proof(&events, 1)));
    assert_eq!(token.balanceOf(alice).call().await?, U256::from(PRICE), "anyone may send it, the payee is paid");
    assert!(refusal(&events[1], proof(&events, 1)).await.contains("AlreadyClaimed"), "a second claim");
    assert_eq!(token.balanceOf(alice).call().await?, U256::from(PRICE));
    Ok(())
}

#[tokio::test]
async fn a_licence_is_not_sold_below_its_price_nor_for_an_old_version() -> anyhow::Result<()> {
    let world = World::new().await?;
    let deployment = &world.stack.deployment;
    let events = world.accepted(0, "member", Address::ZERO).to_vec();
    world.anchor(&world.batch(0, events.clone()).await?).await?;
    let content = world.version(&events[1]).await?;
    let ip_id = tidemark::dataset::dataset_id(world.provider.account, "one");
    let registry = tidemark::contracts::IPRegistry::new(deployment.ip_registry, &world.sender);
    let domain = deployment.dataset_domain();
    let sign = |signer: &PrivateKeySigner, version| {
        let signature = signer.sign_hash_sync(&version_digest(&domain, ip_id, version, &content)).unwrap();
        Bytes::from(signature.as_bytes())
    };

    let forged = registry.registerDataset("one".into(), (&content).into(), sign(&dev_signer("somebody")?, 1));
    let forged = why(&forged.send().await.unwrap_err());
    assert!(forged.contains("AttestationInvalid"), "a version signed by a key that is no attestor: {forged}");
    let signature = sign(&world.attestor, 1);
    mined!("register", registry.registerDataset("one".into(), (&content).into(), signature));
    let price = 1_000 * UNIT;
    let offer = onchain::publish_offer(deployment, &world.sender, ip_id, onchain::terms(price, 7_000)).await?;

    let buyer = dev_signer(role::BUYER)?;
    let buying = world.stack.sender_of(buyer.clone()).await?;
    onchain::mint(&buying, world.provider.token, buyer.address(), price).await?;
    let buy = async |version, payment| {
        onchain::buy(deployment, &buying, &buyer, world.provider.token, offer, version, payment).await
    };
    let refusal = format!("{:#}", buy(1, price - 1).await.unwrap_err());
    assert!(refusal.contains("PaymentBelowPrice"), "{refusal}");
    let signature = sign(&world.attestor, 2);
    mined!("second version", registry.registerVersion(ip_id, (&content).into(), signature));
    let refusal = format!("{:#}", buy(1, price).await.unwrap_err());
    assert!(refusal.contains("VersionNotForSale"), "{refusal}");

    let (sale, _) = buy(2, price).await?;
    assert_eq!(sale.providerShare + sale.pointsShare + sale.walletShare, price);
    let licenses = LicenseRegistry::new(deployment.license_registry, &world.sender);
    assert!(licenses.verify(sale.licenseId).call().await?.active);
    Ok(())
}
