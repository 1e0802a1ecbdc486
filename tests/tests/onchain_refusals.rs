//! What the contracts refuse, asked of a real chain: wrong signatures, replays, overdrawn budgets, other people's money.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    providers::DynProvider,
    signers::{SignerSync, local::PrivateKeySigner},
};
use tidemark::{
    contracts::{LicenseRegistry, RewardPool},
    dataset::{Member, MemberRow, VersionContent, encode_members, summarise, version_digest},
    event::{Event, EventKind},
    ids::{ConsentId, ContentHash, DataId},
    merkle::Tree,
};
use tidemark_tests::{
    Options, Stack,
    keys::{dev_signer, role},
    mined,
    onchain::{self, OnchainProvider, OwnBatch, UNIT, why},
    stack::Services,
};

const PRICE: u128 = 300 * UNIT;

/// A provider with one task of ten rewards, whose attestor is the test.
struct World {
    stack: Stack,
    sender: DynProvider,
    attestor: PrivateKeySigner,
    provider: OnchainProvider,
    task: u64,
}

impl World {
    async fn new() -> anyhow::Result<Self> {
        tidemark::install_tls();
        let options = Options { services: Services::None, ..Options::default() };
        let stack = Stack::start(options).await?;
        stack.anvil.mine_at_once().await?;
        let account = dev_signer(role::PROVIDER)?;
        let sender = stack.sender_of(account.clone()).await?;
        let attestor = dev_signer(role::ATTESTOR)?;
        let deployment = stack.deployment.clone();
        let token = onchain::deploy_token(&sender).await?;
        onchain::mint(&sender, token, account.address(), 1_000_000 * UNIT).await?;
        let provider = onchain::register_provider(
            &deployment,
            &sender,
            account.address(),
            "refusals",
            attestor.address(),
            token,
            account.address(),
        )
        .await?;
        let (task, _) =
            onchain::create_task(&deployment, &sender, &account, &provider, "voice", PRICE, 10 * PRICE).await?;
        Ok(Self { stack, sender, attestor, provider, task })
    }

    async fn batch(&self, number: u64, events: Vec<Event>) -> anyhow::Result<OwnBatch> {
        let (deployment, store) = (&self.stack.deployment, self.stack.store()?);
        OwnBatch::new(deployment, &store, &self.attestor, self.provider.account, number, events).await
    }

    async fn refusal(&self, batch: &OwnBatch) -> String {
        match batch.anchor(&self.stack.deployment, &self.sender).await {
            Ok(receipt) => panic!("anchored in {}", receipt.transaction_hash),
            Err(error) => format!("{error:#}"),
        }
    }

    /// One record: registered, then accepted for the task and paid to `payee`.
    fn accepted(&self, first_index: u32, record: &str, payee: Address) -> [Event; 2] {
        let data_id = DataId::new("refusals", record).unwrap();
        let registered = Event {
            index: first_index,
            data_id,
            sequence: 0,
            kind: EventKind::Registered,
            contributor: B256::repeat_byte(7),
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
    assert!(world.refusal(&forged).await.contains("AttestationInvalid"), "a key that is no attestor");
    let mut altered = world.batch(0, good.events.clone()).await?;
    altered.header.points_total += 1;
    assert!(world.refusal(&altered).await.contains("AttestationInvalid"), "a header changed after it was signed");
    let mut unsigned = world.batch(0, good.events.clone()).await?;
    unsigned.signature = Bytes::new();
    assert!(world.refusal(&unsigned).await.contains("AttestationInvalid"), "no signature");

    let early = world.batch(1, good.events.clone()).await?;
    assert!(world.refusal(&early).await.contains("BatchNumberUnexpected"), "a number ahead of its turn");
    good.anchor(&world.stack.deployment, &world.sender).await?;
    assert!(world.refusal(&good).await.contains("BatchNumberUnexpected"), "the same number again");

    let eleven: Vec<Event> =
        (0..11).flat_map(|i| world.accepted(2 * i, &format!("budget {i}"), Address::ZERO)).collect();
    let overdrawn = world.batch(1, eleven).await?;
    assert!(world.refusal(&overdrawn).await.contains("BudgetExceeded"), "more than the escrow holds");
    Ok(())
}

#[tokio::test]
async fn a_reward_goes_to_its_payee_once_and_to_nobody_else() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (Address::repeat_byte(0xa1), Address::repeat_byte(0xb0));
    let mut events = world.accepted(0, "alice", alice).to_vec();
    events.extend(world.accepted(2, "bob", bob));
    events.extend(world.accepted(4, "points", Address::ZERO));
    world.batch(0, events.clone()).await?.anchor(&world.stack.deployment, &world.sender).await?;
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
    world.batch(0, events.clone()).await?.anchor(deployment, &world.sender).await?;
    let store = world.stack.store()?;
    let cid = store.put(b"ciphertext").await?;
    let member = Member {
        data_id: events[1].data_id,
        contributor: events[1].contributor,
        consent_id: events[1].consent_id,
        payee: Address::ZERO,
        weight: 1,
    };
    let rows = [MemberRow {
        member,
        content_hash: events[1].content_hash,
        ciphertext_cid: cid,
        key_cid: cid,
        batch_number: 0,
        event_index: 1,
    }];
    let summary = summarise(&rows)?;
    let content = VersionContent {
        root: summary.tree.root(),
        member_count: 1,
        total_weight: 1,
        points_weight: 1,
        manifest_cid: store.put(&encode_members(&rows)?).await?,
    };
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
