//! Payouts by a token's transfers on a real chain: one nonce a payout for ever, paid when final.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, U256},
    providers::Provider,
    signers::local::PrivateKeySigner,
};
use serde_json::{Value, json};
use tidemark::{chain, contracts::DevToken};
use tidemark_indexer::payout::{self, Resolution, TokenConfig};
use tidemark_tests::{
    faulty_node::{Fault, FaultyNode},
    keys::{dev_key, role},
};
use tokio_util::sync::CancellationToken;

use crate::ground::{ACCOUNTS, Ground, POINT};

const RECIPIENT: Address = Address::repeat_byte(0x77);

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&dev_key("payout-token")).unwrap()
}

/// A rail that pays 2 base units a point, from a key with ether and tokens.
async fn ground(tokens: u128) -> Ground {
    let ground = Ground::with(|config, token| {
        config.partner = None;
        config.token = Some(TokenConfig { token, signer: signer() });
    })
    .await;
    let ether = json!([signer().address(), "0xde0b6b3a7640000"]);
    ground.stack.chain.call("anvil_setBalance", ether).await.unwrap();
    mint(&ground, tokens).await;
    ground.rate(&format!("{:#x}", ground.token), 2, 1).await;
    ground.finalise(2).await;
    ground
}

async fn mint(ground: &Ground, tokens: u128) {
    let sender = ground.stack.sender(role::TREASURY_OPERATOR).await.unwrap();
    let token = DevToken::new(ground.token, sender);
    token.mint(signer().address(), U256::from(tokens)).send().await.unwrap().get_receipt().await.unwrap();
}

async fn ask(ground: &Ground, points: u128) -> Value {
    let key = uuid::Uuid::new_v4().to_string();
    let body = json!({"destination": RECIPIENT.to_string()});
    let (status, payout) = ground.post_to(&key, body, &[(ACCOUNTS[0], points * POINT)]).await;
    assert_eq!(status, 201, "{payout}");
    payout
}

fn id(payout: &Value) -> &str {
    payout["payout_id"].as_str().unwrap()
}

async fn received(ground: &Ground) -> u128 {
    let token = DevToken::new(ground.token, ground.stack.provider());
    token.balanceOf(RECIPIENT).call().await.unwrap().to::<u128>()
}

/// Blocks, some of them final, and what the mirror does then.
async fn go_on(ground: &Ground) {
    ground.stack.chain.mine(3).await.unwrap();
    ground.finalise(2).await;
    ground.look_again().await;
}

async fn states(ground: &Ground) -> Vec<String> {
    sqlx::query_scalar("SELECT state FROM local.payout_transfer ORDER BY nonce").fetch_all(&ground.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_pays_once_and_counts_when_it_is_final() {
    let ground = ground(1_000).await;
    let asked = ask(&ground, 300).await;
    assert_eq!((&asked["rail"], &asked["paid_in"]["minor"]), (&json!("token"), &json!("600")), "{asked}");
    ground.until("SELECT bool_or(note LIKE '%mined, and not final yet%') FROM local.payout").await;
    let mined = ground.read(id(&asked)).await;
    assert_eq!((&mined["step"], received(&ground).await, ground.settled().await), (&json!("paying"), 600, 0));
    go_on(&ground).await;
    ground.work_until(id(&asked), &["posted"], true).await;
    assert_eq!((received(&ground).await, ground.settled().await), (600, 300 * POINT));
    assert_eq!(states(&ground).await, ["paid"]);
    for refused in [
        "UPDATE local.payout_transfer SET nonce = nonce + 1",
        "UPDATE local.payout_transfer SET amount = amount + 1",
        "UPDATE local.payout_transfer SET state = 'sent'",
        "DELETE FROM local.payout_transfer",
        "INSERT INTO local.payout_transfer SELECT payout_id, chain_id, signer, nonce + 1, token, amount, tx_hashes, raw
         FROM local.payout_transfer",
    ] {
        sqlx::query(refused).execute(&ground.pool).await.expect_err(refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_anywhere_transfers_once() {
    let ground = ground(1_000).await;
    let seed = u64::from(std::process::id());
    let mut random = seed;
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push(ask(&ground, 10).await);
    }
    // the chain takes what is sent at once, and says so late: most kills come in between
    let node = FaultyNode::start(ground.stack.chain.url()).await.unwrap();
    node.fail("eth_sendRawTransaction", Fault::Late(Duration::from_millis(20)));
    let payouts = ground.over(node.url());
    for round in 0..80 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let worker = tokio::spawn(payout::run(payouts.clone(), CancellationToken::new()));
        tokio::time::sleep(Duration::from_micros((random >> 33) % 25_000)).await;
        worker.abort();
        let _aborted = worker.await;
        ground.mirror().await;
        if round % 20 == 19 {
            go_on(&ground).await;
        }
    }
    ground.until("SELECT count(*) = 10 FROM local.payout_transfer").await;
    for payout in &asked {
        go_on(&ground).await;
        ground.work_until(id(payout), &["posted"], true).await;
    }
    assert_eq!((received(&ground).await, ground.settled().await), (200, 100 * POINT), "seed {seed}");
    assert_eq!(states(&ground).await, vec!["paid"; 10], "seed {seed}");
    let sent = ground.stack.provider().get_transaction_count(signer().address()).await.unwrap();
    assert_eq!(sent, 10, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_the_chain_takes_back_is_sent_again_as_it_was_signed() {
    let ground = ground(1_000).await;
    let asked = ask(&ground, 300).await;
    ground.until("SELECT bool_or(note LIKE '%mined, and not final yet%') FROM local.payout").await;
    let signed = "SELECT tx_hashes FROM local.payout_transfer";
    let before: Vec<Vec<u8>> = sqlx::query_scalar(signed).fetch_one(&ground.pool).await.unwrap();
    ground.stack.chain.reorg(1).await.unwrap();
    assert_eq!(received(&ground).await, 0, "the reorg took the transfer back");
    ground.look_again().await;
    ground.until("SELECT bool_or(note LIKE '%the transfer is sent%') FROM local.payout").await;
    go_on(&ground).await;
    ground.work_until(id(&asked), &["posted"], true).await;
    let after: Vec<Vec<u8>> = sqlx::query_scalar(signed).fetch_one(&ground.pool).await.unwrap();
    assert_eq!((received(&ground).await, after), (600, before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_a_block_that_a_reorg_took_pays_nobody() {
    let ground = ground(1_000).await;
    let asked = ask(&ground, 300).await;
    ground.until("SELECT bool_or(note LIKE '%mined, and not final yet%') FROM local.payout").await;
    let signed = "SELECT '0x' || encode(tx_hashes[1], 'hex') FROM local.payout_transfer";
    let hash: String = sqlx::query_scalar(signed).fetch_one(&ground.pool).await.unwrap();
    let receipt = ground.stack.chain.call("eth_getTransactionReceipt", json!([hash])).await.unwrap();
    assert_eq!(receipt["status"], "0x1", "{receipt}");
    ground.stack.chain.reorg(1).await.unwrap();
    ground.stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    go_on(&ground).await;

    // a node that keeps what it has told once, and one that keeps the block, too
    for with_its_block in [false, true] {
        let node = FaultyNode::start(ground.stack.chain.url()).await.unwrap();
        node.fail("eth_getTransactionReceipt", Fault::Says(receipt.clone()));
        node.fail("eth_sendRawTransaction", Fault::Refuses(-32000, "txpool is full"));
        if with_its_block {
            let lost = receipt.clone();
            let changed = move |_: &Value, answer: &mut Value| {
                if answer["result"]["number"] == lost["blockNumber"] {
                    answer["result"]["hash"] = lost["blockHash"].clone();
                }
            };
            node.fail("eth_getBlockByNumber", Fault::changes(changed));
        }
        let worker = tokio::spawn(payout::run(ground.over(node.url()), CancellationToken::new()));
        for _ in 0..300 {
            if node.calls("eth_getTransactionReceipt") >= 3 {
                break;
            }
            ground.look_again().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        worker.abort();
        let _aborted = worker.await;
        assert!(node.calls("eth_getTransactionReceipt") >= 3, "it asks");
        assert_eq!((states(&ground).await, received(&ground).await), (vec!["sent".to_owned()], 0), "{with_its_block}");
    }
    ground.look_again().await;
    // the next look may find it in a block already
    ground.until("SELECT bool_or(note LIKE '%the transfer is sent%' OR note LIKE '%mined, and not final yet%') FROM local.payout").await;
    go_on(&ground).await;
    ground.work_until(id(&asked), &["posted"], true).await;
    assert_eq!(received(&ground).await, 600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_without_tokens_waits_and_one_that_is_reverted_frees_the_points() {
    let ground = ground(0).await;
    let asked = ask(&ground, 300).await;
    ground.until("SELECT bool_or(note LIKE '%transfer%ERC20InsufficientBalance%' OR note LIKE '%transfer%revert%') FROM local.payout").await;
    assert_eq!(states(&ground).await, Vec::<String>::new(), "nothing is signed that would fail");
    mint(&ground, 1_000).await;
    ground.stack.chain.pause_mining().await.unwrap();
    ground.look_again().await;
    ground.until("SELECT count(*) = 1 FROM local.payout_transfer").await;
    // the operator takes the tokens elsewhere before it is mined: with a higher fee, in the block before
    let token = DevToken::new(ground.token, ground.stack.sender(role::TREASURY_OPERATOR).await.unwrap());
    let void = "UPDATE local.payout SET state = 'voided' WHERE state = 'paying'";
    sqlx::query(void).execute(&ground.pool).await.expect_err("what is signed may be mined");
    let slot =
        alloy::primitives::keccak256([signer().address().into_word().as_slice(), B256::ZERO.as_slice()].concat());
    let nothing = json!([token.address(), slot, B256::ZERO]);
    ground.stack.chain.call("anvil_setStorageAt", nothing).await.unwrap();
    ground.stack.chain.resume_mining().await.unwrap();
    go_on(&ground).await;
    let voided = ground.work_until(id(&asked), &["voided"], false).await;
    assert!(voided["note"].as_str().unwrap().contains("was reverted in block"), "{voided}");
    assert_eq!((states(&ground).await, received(&ground).await), (vec!["failed".to_owned()], 0));
    assert_eq!(ask(&ground, 1_000).await["state"], "pending", "all points are free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_somebody_else_took_is_for_the_operator_and_no_second_one_is_signed() {
    let ground = ground(1_000).await;
    ground.stack.chain.pause_mining().await.unwrap();
    let asked = ask(&ground, 300).await;
    ground.until("SELECT bool_or(note LIKE '%the transfer is sent%') FROM local.payout").await;
    ground.stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    ground.stack.chain.resume_mining().await.unwrap();
    let thief = DevToken::new(ground.token, chain::sender(ground.stack.chain.url(), signer()).unwrap());
    thief.transfer(Address::repeat_byte(1), U256::from(1)).send().await.unwrap().get_receipt().await.unwrap();
    go_on(&ground).await;
    let stuck = ground.work_until(id(&asked), &["stuck"], false).await;
    assert!(stuck["state"] == "pending" && stuck["note"].as_str().unwrap().contains("who else has the key"), "{stuck}");
    let payout_id = id(&asked).parse().unwrap();
    payout::resolve(&ground.pool, payout_id, Resolution::Retry, "look again").await.unwrap();
    ground.work_until(id(&asked), &["stuck"], false).await;
    assert_eq!((states(&ground).await, received(&ground).await), (vec!["lost".to_owned()], 0));
    payout::resolve(&ground.pool, payout_id, Resolution::Void, "that transaction paid somebody else").await.unwrap();
    ground.work_until(id(&asked), &["voided"], false).await;
}
