//! A verdict's life in dispute, from the challenge to the last unit paid, as the chain has it and as the indexer tells it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use alloy::{
    primitives::{Address, B256, U256},
    providers::DynProvider,
};
use serde_json::{Value, json};
use tidemark::{
    contracts::{DevToken, Disputes, ProvenanceLog},
    event::Event,
    ids::DataId,
    merkle::Tree,
};
use tidemark_tests::{
    forge::Forge,
    keys::{dev_address, role},
    mined,
    services::Service,
    stack::PROVIDER_NAME,
    story::strangers::second_indexer,
};

const WINDOW_SECONDS: u32 = 3600;
const RULING_SECONDS: u64 = 14 * 24 * 3600;
const WRONG_VERDICT: u8 = 2;

struct Case {
    forge: Forge,
    indexer: Service,
    challenger: DynProvider,
    events: Vec<Event>,
}

impl Case {
    /// Of a record's two events the second.
    fn verdict(&self, record: usize) -> &Event {
        &self.events[verdict_at(record)]
    }

    fn proof(&self, at: usize) -> Vec<B256> {
        tree(&self.events).proof(at).unwrap()
    }

    async fn reward_state(&self, record: usize, wanted: &str) {
        let path = format!("/v1/records/{}", self.verdict(record).data_id);
        self.indexer.until(&path, |_, body| body["reward_state"] == wanted).await.unwrap();
    }

    async fn dispute(&self, id: u64, state: &str) -> Value {
        self.indexer.until(&format!("/v1/disputes/{id}"), |_, body| body["state"] == state).await.unwrap()
    }

    fn contract(&self, sender: &DynProvider) -> Disputes::DisputesInstance<DynProvider> {
        Disputes::new(self.forge.world.deployment.disputes, sender.clone())
    }

    /// Challenges the event at that place.
    async fn challenge(&self, at: usize) -> anyhow::Result<()> {
        let disputes = self.contract(&self.challenger);
        let event = (&self.events[at]).into();
        let (evidence, uri) = (B256::repeat_byte(5), "https://example.invalid/evidence".to_owned());
        let provider = self.forge.world.provider;
        mined!("challenge", disputes.challenge(provider, 0, event, self.proof(at), WRONG_VERDICT, evidence, uri));
        Ok(())
    }

    async fn credit(&self, account: Address) -> anyhow::Result<u128> {
        let credit = self.contract(&self.challenger).creditOf(self.forge.world.token, account).call().await?;
        Ok(u128::try_from(credit)?)
    }
}

fn verdict_at(record: usize) -> usize {
    2 * record + 1
}

fn tree(events: &[Event]) -> Tree {
    Tree::new(&events.iter().map(Event::leaf).collect::<Vec<_>>()).unwrap()
}

/// These events as batch 0, whose header is of the first `told` only and whose root is of all; an open window and a bond of two
/// prices. A batch that tells all is honest.
async fn case(told: usize, events: impl FnOnce(&Forge) -> anyhow::Result<Vec<Event>>) -> anyhow::Result<Case> {
    let forge = Forge::new().await?;
    let log = ProvenanceLog::new(forge.world.deployment.provenance_log, &forge.sender);
    mined!("set the window", log.setChallengeWindow(WINDOW_SECONDS));
    let events = events(&forge)?;
    let mut batch = forge.batch(0, events[..told].to_vec()).await?;
    batch.header.root = tree(&events).root();
    batch.sign(&forge.world.deployment, &forge.attestor)?;
    forge.anchor(&batch).await?;

    let challenger = forge.stack.sender(role::BUYER).await?;
    let disputes = forge.world.deployment.disputes;
    for (sender, account) in [(&forge.sender, forge.world.provider), (&challenger, dev_address(role::BUYER)?)] {
        let token = DevToken::new(forge.world.token, sender);
        mined!("mint", token.mint(account, U256::from(100 * forge.reward)));
        mined!("approve", token.approve(disputes, U256::MAX));
    }
    let bond = Disputes::new(disputes, &forge.sender);
    mined!("deposit a bond", bond.depositBond(forge.world.provider, 2 * forge.reward));
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("disputes").await?;
    Ok(Case { forge, indexer, challenger, events })
}

#[tokio::test]
async fn disputed_rewards_wait_and_go_where_the_arbiter_says() -> anyhow::Result<()> {
    // four paid to wallets, the third in points
    let case = case(10, |forge| {
        let mut events = Vec::new();
        for (record, payee) in (1u8..).zip([1u8, 2, 0, 4, 5]) {
            let first = u32::from(record - 1) * 2;
            let payee = if payee == 0 { Address::ZERO } else { Address::repeat_byte(0xa0 + payee) };
            events.extend(forge.accepted(first, &format!("record-{record}"), payee)?);
        }
        Ok(events)
    })
    .await?;
    let reward = case.forge.reward;
    let anvil = &case.forge.stack.chain;
    case.reward_state(0, "waiting").await;
    for record in 0..4 {
        case.challenge(verdict_at(record)).await?;
    }
    anvil.mine(3).await?;
    for (id, held) in [(1, true), (2, true), (3, false), (4, true)] {
        let dispute = case.dispute(id, "open").await;
        let verdict = case.verdict(usize::try_from(id)? - 1);
        assert_eq!(dispute["data_id"], verdict.data_id.to_string());
        assert_eq!(dispute["verdict"], "accepted");
        assert_eq!(dispute["ground"], "wrong_verdict");
        assert_eq!(dispute["challenger"], dev_address(role::BUYER)?.to_string());
        assert_eq!(dispute["bond"], reward.to_string());
        assert_eq!(dispute["held"], if held { reward } else { 0 }.to_string());
        let (state, payee) =
            if held { (json!("held"), json!(verdict.payee.to_string())) } else { (json!(null), json!(null)) };
        assert_eq!((&dispute["reward_state"], &dispute["payee"]), (&state, &payee), "{dispute}");
        assert_eq!(dispute["sponsor"], dev_address(role::SPONSOR)?.to_string());
    }
    case.reward_state(4, "waiting").await;
    let provider = case.indexer.get("/v1/providers/numo").await?.1;
    assert_eq!(provider["bond"]["amount"], (2 * reward).to_string());

    // the sponsor's refund and the bounties come out of two prices of bond, first come, and then there is none
    let arbiter = case.contract(&case.forge.stack.sender(role::DEPLOYER).await?);
    for (id, upheld) in [(1, true), (2, false), (3, true)] {
        mined!("rule", arbiter.rule(U256::from(id), upheld, case.forge.task, format!("ruling {id}")));
    }
    anvil.mine(3).await?;
    let upheld = case.dispute(1, "upheld").await;
    assert_eq!((&upheld["refunded"], &upheld["bounty"]), (&json!("0"), &json!(reward.to_string())));
    assert_eq!((&upheld["reason"], &upheld["reward_state"]), (&json!("ruling 1"), &json!("refunded")));
    assert_eq!(case.dispute(2, "rejected").await["reward_state"], "credited");
    let points = case.dispute(3, "upheld").await;
    assert_eq!((&points["refunded"], &points["bounty"]), (&json!(reward.to_string()), &json!("0")));
    let bond = case.indexer.get("/v1/providers/numo").await?.1["bond"].clone();
    assert_eq!((&bond["amount"], &bond["slashed"]), (&json!("0"), &json!((2 * reward).to_string())), "{bond}");
    let left = case.contract(&case.challenger).bondOf(case.forge.world.provider).call().await?;
    assert_eq!(left, 0);
    assert_eq!(case.credit(dev_address(role::SPONSOR)?).await?, 2 * reward, "what was held, and what points had cost");
    assert_eq!(case.credit(dev_address(role::BUYER)?).await?, 3 * reward, "two bonds and a bounty");

    // the one who was challenged in vain gets the reward and the challenger's bond
    let winner = case.verdict(1).payee;
    mined!("pay a credit", case.contract(&case.challenger).payCredit(case.forge.world.token, winner));
    let paid = DevToken::new(case.forge.world.token, &case.challenger).balanceOf(winner).call().await?;
    assert_eq!(paid, U256::from(2 * reward));
    // nobody ruled on the fourth; the fifth was never challenged
    anvil.call("evm_increaseTime", json!([RULING_SECONDS + 1])).await?;
    anvil.mine(1).await?;
    mined!("lapse", case.contract(&case.challenger).lapse(U256::from(4)));
    anvil.mine(3).await?;
    assert_eq!(case.dispute(4, "lapsed").await["reward_state"], "credited");
    case.reward_state(1, "paid_as_credit").await;
    case.reward_state(4, "claimable").await;
    let log = ProvenanceLog::new(case.forge.world.deployment.provenance_log, &case.challenger);
    mined!("claim", log.claim(case.forge.world.provider, 0, case.verdict(4).into(), case.proof(verdict_at(4))));
    anvil.mine(3).await?;
    case.reward_state(4, "claimed").await;
    let open = case.indexer.get("/v1/disputes?provider=numo&batch=0&state=open").await?.1;
    assert_eq!(open["disputes"], json!([]));
    let all = case.indexer.get("/v1/disputes?provider=numo").await?.1;
    let ids: Vec<&str> =
        all["disputes"].as_array().unwrap().iter().map(|d| d["dispute_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["4", "3", "2", "1"], "newest first");

    second_indexer(&case.forge.stack, "disputes").await?;
    Ok(())
}

/// Disputes are counted by leaf: an attestor that gives one index to two events stops no indexer by it.
#[tokio::test]
async fn two_disputes_under_one_index_of_a_batch_that_lies_are_both_told() -> anyhow::Result<()> {
    let case = case(2, |forge| {
        let [registered, accepted] = forge.accepted(0, "told", Address::repeat_byte(0xa1))?;
        let twin = Event { data_id: DataId::new(PROVIDER_NAME, "twin")?, ..accepted.clone() };
        Ok(vec![registered, accepted, twin])
    })
    .await?;
    for at in [1, 2] {
        case.challenge(at).await?;
    }
    case.forge.stack.chain.mine(3).await?;
    let all = case.indexer.until("/v1/disputes?provider=numo", |_, all| {
        all["disputes"].as_array().is_some_and(|disputes| disputes.len() == 2)
    });
    for (dispute, (event, held)) in
        all.await?["disputes"].as_array().unwrap().iter().zip([(2, 0), (1, case.forge.reward)])
    {
        assert_eq!(dispute["data_id"], case.events[event].data_id.to_string());
        assert_eq!((&dispute["index"], &dispute["verdict"]), (&json!(1), &json!(null)), "{dispute}");
        assert_eq!(dispute["held"], held.to_string());
    }
    assert_eq!(case.indexer.get("/v1/batches/numo/0").await?.1["state"], "invalid");
    let (status, told) = case.indexer.get("/status").await?;
    assert_eq!((status, &told["halted"]), (200, &json!(null)), "{told}");
    second_indexer(&case.forge.stack, "disputes").await?;
    Ok(())
}
