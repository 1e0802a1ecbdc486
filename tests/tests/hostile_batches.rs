//! A batch whose manifest is not what was anchored credits nobody and says so; one whose manifest is late is waited for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::primitives::{Address, B256, U256};
use serde_json::Value;
use tidemark::{
    contracts::{DevToken, PointsTreasury, ProvenanceLog},
    manifest::Manifest,
};
use tidemark_tests::{
    Options, Stack,
    forge::Forge,
    keys::{dev_address, dev_signer, role},
    mined,
    services::Service,
    stack::Services,
    story::{
        samples::Kind,
        transactions::why,
        world::{World, price},
    },
};

/// The batch once its state is `wanted`.
async fn batch_in_state(forge: &Forge, indexer: &Service, number: u64, wanted: &str) -> Value {
    let path = format!("/v1/batches/{}/{number}", forge.world.provider);
    indexer.until(&path, |_, batch| batch["state"] == wanted).await.unwrap()
}

async fn balance(indexer: &Service, pseudonym: B256) -> String {
    let (_, account) = indexer.get(&format!("/v1/accounts/{pseudonym}?provider=numo")).await.unwrap();
    account["balance"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_wrong_manifest_credits_nobody_and_the_batches_around_it_do() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let good = forge.accepted(0, "good", Address::ZERO)?;
    forge.anchor(&forge.batch(0, good.to_vec()).await?).await?;
    // a header over one record's events, with the manifest of another's
    let (told, shown) = (forge.accepted(0, "told", Address::ZERO)?, forge.accepted(0, "shown", Address::ZERO)?);
    let mut lying = forge.batch(1, told.to_vec()).await?;
    lying.header.manifest_cid = forge.batch(1, shown.to_vec()).await?.header.manifest_cid;
    lying.sign(&forge.world.deployment, &forge.attestor)?;
    forge.anchor(&lying).await?;
    let after = forge.accepted(0, "after", Address::ZERO)?;
    forge.anchor(&forge.batch(2, after.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("hostile").await?;
    batch_in_state(&forge, &indexer, 0, "valid").await;
    let invalid = batch_in_state(&forge, &indexer, 1, "invalid").await;
    assert!(invalid["reason"].as_str().unwrap().contains("root"), "it says why: {invalid}");
    batch_in_state(&forge, &indexer, 2, "valid").await;

    assert_eq!(balance(&indexer, good[1].contributor).await, forge.reward.to_string());
    assert_eq!(balance(&indexer, after[1].contributor).await, forge.reward.to_string());
    for nobody in [&told[1], &shown[1]] {
        assert_eq!(balance(&indexer, nobody.contributor).await, "0");
    }
    let (_, status) = indexer.get("/status").await?;
    assert_eq!(status["invalid_batches"], 1, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_late_manifest_is_waited_for_and_then_credits_in_order() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let late = forge.accepted(0, "late", Address::ZERO)?;
    let batch = forge.batch(0, late.to_vec()).await?;
    let store = forge.stack.store()?;
    store.delete(&batch.header.manifest_cid).await?;
    forge.anchor(&batch).await?;
    let next = forge.accepted(0, "next", Address::ZERO)?;
    forge.anchor(&forge.batch(1, next.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("late").await?;
    batch_in_state(&forge, &indexer, 0, "waiting").await;
    assert_eq!(balance(&indexer, next[1].contributor).await, "0", "a provider's batches count in order");
    let manifest =
        Manifest { provider: forge.world.provider, number: 0, events: batch.events.clone(), disclosures: None };
    store.put(&manifest.encode()?).await?;
    batch_in_state(&forge, &indexer, 0, "valid").await;
    batch_in_state(&forge, &indexer, 1, "valid").await;
    assert_eq!(balance(&indexer, late[1].contributor).await, forge.reward.to_string());
    assert_eq!(balance(&indexer, next[1].contributor).await, forge.reward.to_string());
    Ok(())
}

/// The same record accepted twice, in two batches that each look right by themselves.
#[tokio::test]
async fn a_record_is_not_paid_twice_by_two_honest_looking_batches() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let first = forge.accepted(0, "twice", Address::ZERO)?;
    forge.anchor(&forge.batch(0, first.to_vec()).await?).await?;
    let mut again = first[1].clone();
    again.index = 0;
    again.sequence = 2;
    again.previous = first[1].leaf();
    forge.anchor(&forge.batch(1, vec![again]).await?).await?;
    // and registered and accepted again from the beginning, as if it had never been
    forge.anchor(&forge.batch(2, first.to_vec()).await?).await?;
    let after = forge.accepted(0, "after", Address::ZERO)?;
    forge.anchor(&forge.batch(3, after.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("twice").await?;
    batch_in_state(&forge, &indexer, 0, "valid").await;
    batch_in_state(&forge, &indexer, 1, "invalid").await;
    let anew = batch_in_state(&forge, &indexer, 2, "invalid").await;
    assert!(anew["reason"].as_str().unwrap().contains("row 0: sequence of"), "{anew}");
    batch_in_state(&forge, &indexer, 3, "valid").await;
    assert_eq!(balance(&indexer, first[1].contributor).await, forge.reward.to_string());
    Ok(())
}

/// What is accepted without a task earns nothing; those around it in its batch are paid all the same.
#[tokio::test]
async fn an_acceptance_without_a_task_spoils_nothing() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let [mut registered, mut without] = forge.accepted(0, "without", Address::ZERO)?;
    registered.task_id = 0;
    (without.task_id, without.reward, without.previous) = (0, 0, registered.leaf());
    let paid = forge.accepted(2, "paid", Address::ZERO)?;
    let events = [registered, without.clone(), paid[0].clone(), paid[1].clone()];
    forge.anchor(&forge.batch(0, events.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("without").await?;
    batch_in_state(&forge, &indexer, 0, "valid").await;
    assert_eq!(balance(&indexer, without.contributor).await, "0");
    assert_eq!(balance(&indexer, paid[1].contributor).await, forge.reward.to_string());
    Ok(())
}

/// Where a treasury will be is no secret. Nobody else can name it as its own, neither before nor after it is there, or what
/// was paid out would be there to be paid out again.
#[tokio::test]
async fn a_stranger_can_t_name_a_provider_s_treasury_nor_touch_its_books() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await?;
    stack.chain.mine_at_once().await?;
    let stranger = stack.sender("stranger").await?;
    let log = ProvenanceLog::new(stack.deployment.provenance_log, &stranger);
    let (anyone, treasury) = (Address::repeat_byte(1), dev_address(role::PROVIDER)?.create(1));
    let named = async |token| {
        let register = log.registerProvider("stranger".into(), anyone, treasury, token, 0);
        register.send().await.map(|_| String::new()).unwrap_or_else(|error| why(&error))
    };
    assert!(!named(anyone).await.is_empty(), "a treasury that is not there yet");
    let world = World::build(&stack, [10, 1, 1]).await?;
    assert_eq!(world.treasury, treasury);
    assert!(named(world.token).await.contains("TreasuryMismatch"), "somebody else's treasury");
    stack.chain.mine_at_once().await?;
    let (task, reward) = (world.task(Kind::Voice)?.id, price(Kind::Voice));
    let sender = stack.sender(role::PROVIDER).await?;
    let forge = Forge { sender, attestor: dev_signer(role::ATTESTOR)?, task, reward, stack, world };

    let paid = forge.accepted(0, "paid", Address::ZERO)?;
    forge.anchor(&forge.batch(0, paid.to_vec()).await?).await?;
    let operator = forge.stack.sender(role::TREASURY_OPERATOR).await?;
    let payout_id = B256::repeat_byte(1);
    let debit = PointsTreasury::PointsDebit { payoutId: payout_id, account: paid[1].contributor, amount: reward };
    mined!("redeem", PointsTreasury::new(treasury, &operator).redeem(vec![debit], Address::repeat_byte(2)));
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("named").await?;
    batch_in_state(&forge, &indexer, 0, "valid").await;
    let (_, settlement) = indexer.get("/v1/settlement").await?;
    let numo =
        settlement["providers"].as_array().unwrap().iter().find(|provider| provider["provider"]["name"] == "numo");
    assert_eq!(numo.unwrap()["redeemed"], reward.to_string(), "{settlement}");
    assert_eq!(balance(&indexer, paid[1].contributor).await, "0");
    Ok(())
}

/// Why a batch is invalid follows from what was there when it was anchored, whenever an indexer looks.
#[tokio::test]
async fn a_task_made_later_changes_nothing_about_an_earlier_batch() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let sponsor = forge.stack.sender(role::SPONSOR).await?;
    let log = ProvenanceLog::new(forge.world.deployment.provenance_log, &sponsor);
    let [registered, mut early] = forge.accepted(0, "early", Address::ZERO)?;
    (early.task_id, early.reward) = (log.taskCount().call().await? + 1, 0);
    forge.anchor(&forge.batch(0, vec![registered, early.clone()]).await?).await?;
    forge.stack.chain.mine(3).await?;
    let first = forge.stack.start_second_indexer("before").await?;
    let before = batch_in_state(&forge, &first, 0, "invalid").await;

    let token = DevToken::new(forge.world.token, &sponsor);
    mined!("mint", token.mint(dev_address(role::SPONSOR)?, U256::from(1)));
    mined!("approve", token.approve(*log.address(), U256::from(1)));
    mined!("create", log.createTask(forge.world.provider, 1, u64::MAX, B256::ZERO, String::new(), 1));
    assert_eq!(log.taskCount().call().await?, early.task_id);
    forge.stack.chain.mine(3).await?;
    let second = forge.stack.start_second_indexer("afterwards").await?;
    let after = batch_in_state(&forge, &second, 0, "invalid").await;
    assert_eq!(before["reason"], after["reason"]);
    Ok(())
}
