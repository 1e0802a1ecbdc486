//! What the contracts refuse, asked of a real chain: wrong signatures, replays, overdrawn budgets, other people's money.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::primitives::{Address, B256, Bytes, U256};
use tidemark::{
    contracts::{IPRegistry, LicenseRegistry, ProvenanceLog},
    dataset::dataset_id,
    event::Event,
    merkle::Tree,
};
use tidemark_tests::{
    forge::{BUDGETED, Forge, OwnBatch},
    keys::dev_signer,
    mined,
    story::{
        market::{self, LICENSE_PRICE},
        transactions::why,
    },
};

async fn refusal(forge: &Forge, batch: &OwnBatch) -> String {
    match forge.anchor(batch).await {
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
    let forge = Forge::new().await?;
    let good = forge.batch(0, forge.accepted(0, "a", Address::ZERO)?.to_vec()).await?;

    let mut forged = forge.batch(0, good.events.clone()).await?;
    forged.sign(&forge.world.deployment, &dev_signer("somebody")?)?;
    assert!(refusal(&forge, &forged).await.contains("AttestationInvalid"), "a key that is no attestor");
    let mut altered = forge.batch(0, good.events.clone()).await?;
    altered.header.points_total += 1;
    assert!(refusal(&forge, &altered).await.contains("AttestationInvalid"), "a header changed after it was signed");
    let mut unsigned = forge.batch(0, good.events.clone()).await?;
    unsigned.signature = Bytes::new();
    assert!(refusal(&forge, &unsigned).await.contains("AttestationInvalid"), "no signature");

    let early = forge.batch(1, good.events.clone()).await?;
    assert!(refusal(&forge, &early).await.contains("BatchNumberUnexpected"), "a number ahead of its turn");
    forge.anchor(&good).await?;
    assert!(refusal(&forge, &good).await.contains("BatchNumberUnexpected"), "the same number again");

    let mut eleven = Vec::new();
    for i in 0..=BUDGETED {
        eleven.extend(forge.accepted(2 * i, &format!("budget {i}"), Address::ZERO)?);
    }
    let overdrawn = forge.batch(1, eleven).await?;
    assert!(refusal(&forge, &overdrawn).await.contains("BudgetExceeded"), "more than the escrow holds");
    Ok(())
}

#[tokio::test]
async fn a_reward_goes_to_its_payee_once_and_to_nobody_else() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let (alice, bob) = (Address::repeat_byte(0xa1), Address::repeat_byte(0xb0));
    let mut events = forge.accepted(0, "alice", alice)?.to_vec();
    events.extend(forge.accepted(2, "bob", bob)?);
    events.extend(forge.accepted(4, "points", Address::ZERO)?);
    forge.anchor(&forge.batch(0, events.clone()).await?).await?;
    let log = ProvenanceLog::new(forge.world.deployment.provenance_log, &forge.sender);
    let account = forge.world.provider;
    let refusal = async |event: &Event, proof: Vec<B256>| {
        why(&log.claim(account, 0, event.into(), proof).send().await.unwrap_err())
    };

    assert!(refusal(&events[1], proof(&events, 3)).await.contains("ProofInvalid"), "somebody else's proof");
    let stolen = Event { payee: bob, ..events[1].clone() };
    assert!(refusal(&stolen, proof(&events, 1)).await.contains("ProofInvalid"), "another payee than anchored");
    let raised = Event { reward: 2 * forge.reward, ..events[1].clone() };
    assert!(refusal(&raised, proof(&events, 1)).await.contains("ProofInvalid"), "another amount than anchored");
    assert!(refusal(&events[5], proof(&events, 5)).await.contains("PaidInPoints"), "paid in points");
    assert!(refusal(&events[0], proof(&events, 0)).await.contains("RewardZero"), "an event without a reward");

    let token = tidemark::contracts::DevToken::new(forge.world.token, &forge.sender);
    mined!("claim", log.claim(account, 0, (&events[1]).into(), proof(&events, 1)));
    assert_eq!(token.balanceOf(alice).call().await?, U256::from(forge.reward), "anyone may send it, the payee is paid");
    assert!(refusal(&events[1], proof(&events, 1)).await.contains("AlreadyClaimed"), "a second claim");
    assert_eq!(token.balanceOf(alice).call().await?, U256::from(forge.reward));
    Ok(())
}

#[tokio::test]
async fn a_licence_is_not_sold_below_its_price_nor_for_an_old_version() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let deployment = &forge.world.deployment;
    let events = forge.accepted(0, "member", Address::ZERO)?;
    forge.anchor(&forge.batch(0, events.to_vec()).await?).await?;
    let content = forge.version(&events[1]).await?;
    let ip_id = dataset_id(forge.world.provider, "one");
    let registry = IPRegistry::new(deployment.ip_registry, &forge.sender);

    let signature = forge.sign_version(&dev_signer("somebody")?, ip_id, 1, &content)?;
    let forged = registry.registerDataset("one".into(), (&content).into(), signature);
    let forged = why(&forged.send().await.unwrap_err());
    assert!(forged.contains("AttestationInvalid"), "a version signed by a key that is no attestor: {forged}");
    assert_eq!(forge.register_dataset(&content).await?, ip_id);
    let offer = market::publish_offer(&forge.stack, &forge.world, ip_id).await?;
    let buy = async |version, payment| market::buy(&forge.stack, &forge.world, offer, version, payment).await;

    let refusal = format!("{:#}", buy(1, LICENSE_PRICE - 1).await.unwrap_err());
    assert!(refusal.contains("PaymentBelowPrice"), "{refusal}");
    let signature = forge.sign_version(&forge.attestor, ip_id, 2, &content)?;
    mined!("second version", registry.registerVersion(ip_id, (&content).into(), signature));
    let refusal = format!("{:#}", buy(1, LICENSE_PRICE).await.unwrap_err());
    assert!(refusal.contains("VersionNotForSale"), "{refusal}");

    let sale = buy(2, LICENSE_PRICE).await?;
    assert_eq!(sale.providerShare + sale.pointsShare + sale.walletShare, LICENSE_PRICE);
    let licenses = LicenseRegistry::new(deployment.license_registry, &forge.sender);
    assert!(licenses.verify(sale.licenseId).call().await?.active);
    Ok(())
}
