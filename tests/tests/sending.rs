//! Sending under faults: nodes that lie and lose answers, fees above the cap, empty purses, gaps, and failures in blocks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use alloy::{network::TransactionBuilder, primitives::U256, providers::Provider, rpc::types::TransactionRequest};
use serde_json::{Value, json};
use tidemark::{batch::Header, contracts::ProvenanceLog};
use tidemark_tests::{
    Options, Stack,
    faulty_node::{Fault, FaultyNode, ON_READS, ON_SEND, READS},
    keys::{dev_address, role},
    random::Random,
    write_side::{App, rewire, start},
};

const TIME_MAX: Duration = Duration::from_secs(60);
const GWEI: u128 = 1_000_000_000;

fn quick() -> Options {
    Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() }
}

/// The next block asks for this much, and comes now.
async fn mine_at(stack: &Stack, base_fee: u128) {
    stack.chain.call("anvil_setNextBlockBaseFeePerGas", json!([format!("{base_fee:#x}")])).await.unwrap();
    stack.chain.mine(1).await.unwrap();
}

/// Mines at a base fee until all events of the provider are final.
async fn mine_until_final(stack: &Stack, app: &App, events: u64, base_fee: u128) -> Vec<Value> {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        mine_at(stack, base_fee).await;
        let batches = app.get("/v1/batches").await.unwrap()["batches"].as_array().unwrap().clone();
        let done = batches.iter().filter(|batch| batch["state"] == "final");
        if done.map(|batch| batch["event_count"].as_u64().unwrap()).sum::<u64>() == events {
            return batches;
        }
        assert!(Instant::now() < deadline, "{batches:#?} {}", app.get("/status").await.unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One number out of the relayer's database.
async fn ask(stack: &Stack, query: &'static str) -> String {
    let mut db = stack.postgres.connect("relayer").await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut db).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_lie_lose_answers_and_fail_change_nothing() {
    let mut random = Random::from_environment();
    let (mut stack, _world, app) = start(Options { batch_events_max: 3, ..quick() }).await.unwrap();
    let nodes =
        [FaultyNode::start(stack.chain.url()).await.unwrap(), FaultyNode::start(stack.chain.url()).await.unwrap()];
    let urls = nodes.each_ref().map(|node| node.url().to_owned()).join(",");
    rewire(&mut stack, &[("TIDEMARK_RPC_URL", urls)]).await.unwrap();
    let rounds = 14;
    for round in 0..rounds {
        for node in &nodes {
            node.heal();
        }
        // half of the time one node is well
        let sick = if random.below(2) == 0 { &nodes[..] } else { &nodes[..1] };
        for node in sick {
            node.fail("eth_sendRawTransaction", random.pick(&ON_SEND).unwrap().clone());
            node.fail(random.pick(&READS).unwrap(), random.pick(&ON_READS).unwrap().clone());
        }
        app.register(round * 3, 3).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300 + random.below(900))).await;
    }
    for node in &nodes {
        node.heal();
    }
    let batches = app.reached(u64::from(rounds) * 3, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    let lane = app.lane_until(|lane| lane["next_nonce"] == lane["chain_nonce"]).await.unwrap();
    assert_eq!((&lane["refused"], &lane["paused"]), (&json!([]), &Value::Null), "{lane}");
    let failed = ask(&stack, "SELECT count(*)::text FROM transaction WHERE state IN ('reverted', 'lost')").await;
    assert_eq!(failed, "0", "nothing was sent that had to fail");
    // neither log nor /status tells the part of a URL that is a key
    let log = std::fs::read_to_string(stack.folder.log("relayer")).unwrap();
    let told = format!("{log}{}", app.get("/status").await.unwrap());
    assert!(!told.contains("0123456789abcdef-secret"), "a node's key is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_pauses_above_the_fee_cap_says_so_and_goes_on_by_itself() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_MAX_FEE_GWEI", "20".into())]).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    mine_at(&stack, 50 * GWEI).await;
    app.register(0, 3).await.unwrap();
    let is_paused = |lane: &Value| lane["paused"].as_str().is_some_and(|why| why.starts_with("fee cap"));
    let lane = app.lane_until(is_paused).await.unwrap();
    assert!(lane["paused"].as_str().unwrap().contains("20000000000"), "{lane}");
    app.reached(3, &["signed"]).await.unwrap();
    let metrics = reqwest::get(format!("{}/metrics", app.relayers[0])).await.unwrap().text().await.unwrap();
    let signer = dev_address(role::RELAYER).unwrap();
    assert!(metrics.contains(&format!("sending_paused{{signer=\"{signer}\"}} 1")), "{metrics}");
    // it stays so as long as the fee does
    for _ in 0..5 {
        mine_at(&stack, 50 * GWEI).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    app.reached(3, &["signed"]).await.unwrap();
    assert_eq!(app.lane().await.unwrap()["next_nonce"], 0);

    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    app.lane_until(|lane| lane["paused"].is_null()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_out_already_is_followed_above_the_cap_and_never_offered_more_than_it() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_MAX_FEE_GWEI", "5".into()), ("TIDEMARK_BUMP_AFTER_BLOCKS", "1".into())])
        .await
        .unwrap();
    stack.chain.pause_mining().await.unwrap();
    mine_at(&stack, GWEI).await;
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    for base_fee in [4, 5, 6, 50, 50, 50, 50, 50, 50] {
        mine_at(&stack, base_fee * GWEI).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let greatest = ask(&stack, "SELECT max(max_fee_wei)::text FROM attempt").await;
    assert!(greatest.parse::<u128>().unwrap() <= 5 * GWEI, "{greatest}");
    let attempts: usize = ask(&stack, "SELECT count(*)::text FROM attempt").await.parse().unwrap();
    assert!(attempts > 1, "it was replaced while the cap allowed it");
    app.lane_until(|lane| lane["paused"].as_str().is_some_and(|why| why.starts_with("fee cap"))).await.unwrap();
    // the block takes what is out, though nothing new would be sent
    mine_at(&stack, 3 * GWEI).await;
    mine_at(&stack, 50 * GWEI).await;
    mine_at(&stack, 50 * GWEI).await;
    let batches = app.reached(3, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(app.lane().await.unwrap()["next_nonce"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_pauses_below_the_balance_floor_and_what_a_node_says_of_the_balance_is_told() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let node = FaultyNode::start(stack.chain.url()).await.unwrap();
    let ether = 10u128.pow(18);
    let changes = [("TIDEMARK_RPC_URL", node.url().to_owned()), ("TIDEMARK_BALANCE_FLOOR_WEI", ether.to_string())];
    rewire(&mut stack, &changes).await.unwrap();
    let relayer = dev_address(role::RELAYER).unwrap();
    stack.chain.call("anvil_setBalance", json!([relayer, U256::from(ether)])).await.unwrap();
    app.register(0, 3).await.unwrap();
    let is_short = |lane: &Value| lane["paused"].as_str().is_some_and(|why| why.starts_with("balance too low"));
    let lane = app.lane_until(is_short).await.unwrap();
    assert_eq!(lane["balance_wei"], ether.to_string(), "{lane}");
    app.reached(3, &["signed"]).await.unwrap();
    stack.chain.fund(relayer).await.unwrap();
    app.reached(3, &["final"]).await.unwrap();
    app.lane_until(|lane| lane["paused"].is_null()).await.unwrap();

    // a node with another idea of the balance: the transaction has its nonce, and says what it waits for
    node.fail("eth_sendRawTransaction", Fault::Refuses(-32000, "insufficient funds for gas * price + value"));
    app.register(3, 3).await.unwrap();
    let refused = json!([{"nonce": 1, "why": "balance too low"}]);
    app.lane_until(|lane| lane["refused"] == refused).await.unwrap();
    let metrics = reqwest::get(format!("{}/metrics", app.relayers[0])).await.unwrap().text().await.unwrap();
    let series = "node_errors_total{method=\"eth_sendRawTransaction\",class=\"balance too low\"}";
    assert!(metrics.contains(series), "{metrics}");
    node.heal();
    let batches = app.reached(6, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(app.lane().await.unwrap()["refused"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_was_never_taken_here_is_filled_once_the_one_who_had_it_is_gone() {
    let (stack, _world, app) = start(quick()).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    // somebody else uses the key: the next two nonces are theirs, and no block takes them at once
    let other = stack.sender(role::RELAYER).await.unwrap();
    let mut hashes = Vec::new();
    for nonce in [0, 1] {
        let transfer = TransactionRequest::default().with_to(dev_address(role::BUYER).unwrap());
        let transfer = transfer.with_value(U256::from(1)).with_nonce(nonce).with_gas_limit(21_000);
        hashes.push(*other.send_transaction(transfer).await.unwrap().tx_hash());
    }
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    let lane = app.lane().await.unwrap();
    assert_eq!(lane["next_nonce"], 3, "it goes behind them: {lane}");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(ask(&stack, "SELECT count(*)::text FROM transaction").await, "1", "what is in the pool is no gap");

    for hash in hashes {
        stack.chain.call("anvil_dropTransaction", json!([hash])).await.unwrap();
    }
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    let lane = app.lane().await.unwrap();
    assert_eq!((&lane["next_nonce"], &lane["chain_nonce"]), (&json!(3), &json!(3)), "{lane}");
    let noops = ask(
        &stack,
        "SELECT string_agg(nonce || ' ' || state || ' ' || (target = signer), ',' ORDER BY nonce)
         FROM transaction WHERE purpose = 'noop'",
    );
    assert_eq!(noops.await, "0 final true,1 final true");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_transaction_that_no_block_takes_is_replaced_once_it_has_kept_ours_waiting() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_BUMP_AFTER_BLOCKS", "3".into())]).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    mine_at(&stack, GWEI).await;
    let other = stack.sender(role::RELAYER).await.unwrap();
    let transfer = TransactionRequest::default().with_to(dev_address(role::BUYER).unwrap()).with_nonce(0);
    let transfer = transfer.with_value(U256::from(1)).with_gas_limit(21_000).with_max_fee_per_gas(GWEI + 1);
    let foreign = *other.send_transaction(transfer.with_max_priority_fee_per_gas(1)).await.unwrap().tx_hash();
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    let batches = mine_until_final(&stack, &app, 3, 3 * GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert!(stack.provider().get_transaction_receipt(foreign).await.unwrap().is_none());
    let sent = "SELECT string_agg(nonce || ' ' || purpose || ' ' || state, ',' ORDER BY nonce) FROM transaction";
    assert_eq!(ask(&stack, sent).await, "0 noop final,1 anchor final");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_another_user_of_the_key_took_for_good_is_lost_and_the_batch_goes_again() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let node = FaultyNode::start(stack.chain.url()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_RPC_URL", node.url().to_owned())]).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    // our transaction never reaches the pool, and the other one takes its nonce
    node.fail("eth_sendRawTransaction", Fault::Refuses(-32000, "txpool is full"));
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    let other = stack.sender(role::RELAYER).await.unwrap();
    let transfer = TransactionRequest::default().with_to(dev_address(role::BUYER).unwrap());
    let pending = other.send_transaction(transfer.with_value(U256::from(1)).with_nonce(0)).await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let taken = stack.provider().get_transaction_receipt(*pending.tx_hash()).await.unwrap();
    assert!(taken.is_some(), "the other one has the nonce");
    node.heal();
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    let states = "SELECT string_agg(nonce || ' ' || state, ',' ORDER BY nonce) FROM transaction";
    assert_eq!(ask(&stack, states).await, "0 lost,1 final");
}

/// As full nodes do not have it where blocks become final late, and as anvil does not just after a start.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_state_of_the_final_block_holds_nothing_up() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let node = FaultyNode::start(stack.chain.url()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_RPC_URL", node.url().to_owned())]).await.unwrap();
    let no_state = |request: &Value, answer: &mut Value| {
        if request["params"][1].as_str().is_some_and(|block| block.starts_with("0x")) {
            answer.as_object_mut().unwrap().remove("result");
            answer["error"] = json!({"code": -32000, "message": "missing trie node"});
        }
    };
    node.fail("eth_getTransactionCount", Fault::changes(no_state));
    stack.chain.pause_mining().await.unwrap();
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    stack.chain.until_sent().await.unwrap();
    // what only an older block could tell is not asked of it: the transaction is sent again
    stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(ask(&stack, "SELECT string_agg(nonce || ' ' || state, ',') FROM transaction").await, "0 final");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_counts_a_million_transactions_moves_no_nonce() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let node = FaultyNode::start(stack.chain.url()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_RPC_URL", node.url().to_owned())]).await.unwrap();
    app.lane_until(|lane| lane["next_nonce"] == 0).await.unwrap();
    node.fail("eth_getTransactionCount", Fault::Says(json!("0xf4240")));
    app.register(0, 3).await.unwrap();
    let batch = app.reached(3, &["signed"]).await.unwrap().remove(0);
    let deadline = Instant::now() + TIME_MAX;
    while !batch_error(&app).await.contains("nonces up to 1000000") {
        assert!(Instant::now() < deadline, "{batch}: {}", batch_error(&app).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        ask(&stack, "SELECT count(*)::text FROM transaction").await,
        "0",
        "nothing was sent, filled least of all"
    );
    node.heal();
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    let states = "SELECT string_agg(nonce || ' ' || state, ',' ORDER BY nonce) FROM transaction";
    assert_eq!(ask(&stack, states).await, "0 final");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_of_a_block_that_a_reorg_took_is_believed_by_nobody() {
    stale_receipt(false).await;
}

/// As anvil does that was started again from what it had written down, lost blocks among it.
#[tokio::test(flavor = "multi_thread")]
async fn nor_is_it_where_the_node_tells_the_block_too() {
    stale_receipt(true).await;
}

async fn stale_receipt(with_its_block: bool) {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let node = FaultyNode::start(stack.chain.url()).await.unwrap();
    rewire(&mut stack, &[("TIDEMARK_RPC_URL", node.url().to_owned())]).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    app.register(0, 3).await.unwrap();
    app.reached(3, &["submitted"]).await.unwrap();
    stack.chain.until_sent().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let hash = ask(&stack, "SELECT '0x' || encode(hash, 'hex') FROM attempt").await;
    let receipt = stack.chain.call("eth_getTransactionReceipt", json!([hash])).await.unwrap();
    assert_eq!(receipt["status"], "0x1", "{receipt}");

    // as a node does that keeps what it has told once
    node.fail("eth_getTransactionReceipt", Fault::Says(receipt.clone()));
    if with_its_block {
        let lost = move |_: &Value, answer: &mut Value| {
            if answer["result"]["number"] == receipt["blockNumber"] {
                answer["result"]["hash"] = receipt["blockHash"].clone();
            }
        };
        node.fail("eth_getBlockByNumber", Fault::changes(lost));
    }
    node.fail("eth_sendRawTransaction", Fault::Refuses(-32000, "txpool is full"));
    stack.chain.reorg(1).await.unwrap();
    stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    let asked = node.calls("eth_getTransactionReceipt");
    let deadline = Instant::now() + TIME_MAX;
    while node.calls("eth_getTransactionReceipt") < asked + 20 {
        assert!(Instant::now() < deadline, "it asks for the receipt");
        mine_at(&stack, GWEI).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let state = ask(&stack, "SELECT state FROM transaction").await;
    assert_eq!(state, "submitted", "the block that the receipt names is not the chain's");
    node.heal();
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(ask(&stack, "SELECT string_agg(nonce || ' ' || state, ',') FROM transaction").await, "0 final");
}

/// Why the first batch waits.
async fn batch_error(app: &App) -> String {
    app.get("/v1/batches").await.unwrap()["batches"][0]["error"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_a_block_is_over_only_once_the_block_is_final() {
    let (stack, _world, app) = start(quick()).await.unwrap();
    stack.chain.pause_mining().await.unwrap();
    app.register(0, 3).await.unwrap();
    let batch = app.reached(3, &["submitted"]).await.unwrap().remove(0);
    stack.chain.until_sent().await.unwrap();
    // the attestor is taken from the provider before the block, so that the anchor fails in it
    let provider = stack.sender(role::PROVIDER).await.unwrap();
    let log = ProvenanceLog::new(stack.deployment.provenance_log, &provider);
    let (attestor, nobody) = (dev_address(role::ATTESTOR).unwrap(), dev_address(role::BUYER).unwrap());
    let fee = 100 * GWEI;
    let call = log.setAttestor(nobody).gas(1_000_000).max_fee_per_gas(fee).max_priority_fee_per_gas(fee);
    let sent = call.send().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let receipt = stack.provider().get_transaction_receipt(*sent.tx_hash()).await.unwrap();
    assert!(receipt.unwrap().status());
    let states = "SELECT string_agg(nonce || ' ' || state || ' ' || coalesce(succeeded::text, '-'), ',' ORDER BY nonce)
                  FROM transaction";
    let deadline = Instant::now() + TIME_MAX;
    while ask(&stack, states).await != "0 mined false" {
        assert!(Instant::now() < deadline, "{}", ask(&stack, states).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waiting = app.reached(3, &["submitted"]).await.unwrap().remove(0);
    assert!(!waiting["error"].is_null(), "it says why: {waiting}");

    // final: what it was for is due again, and waits until the chain would take it
    stack.chain.mine(2).await.unwrap();
    app.reached(3, &["signed"]).await.unwrap();
    assert_eq!(ask(&stack, states).await, "0 reverted false");
    let back = log.setAttestor(attestor).send().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let receipt = stack.provider().get_transaction_receipt(*back.tx_hash()).await.unwrap();
    assert!(receipt.unwrap().status());
    let batches = mine_until_final(&stack, &app, 3, GWEI).await;
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(ask(&stack, states).await, "0 reverted false,1 final true");
    let headers = [&batch, &batches[0]].map(|batch| serde_json::from_value::<Header>(batch["header"].clone()).unwrap());
    assert_eq!(headers[0], headers[1], "the same header, signed once");
}

/// Code that answers every call with these words.
fn answers(words: &[u128]) -> String {
    let mut code = String::from("0x");
    for (at, word) in words.iter().enumerate() {
        code.push_str(&format!("7f{word:064x}60{:02x}52", at * 32));
    }
    code + &format!("60{:02x}6000f3", words.len() * 32)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_l2_asks_for_data_has_to_be_in_the_balance_too() {
    let (mut stack, _world, app) = start(quick()).await.unwrap();
    let (relayer, ether) = (dev_address(role::RELAYER).unwrap(), 10u128.pow(18));
    let set_code = async |address: &str, code: String| {
        stack.chain.call("anvil_setCode", json!([address, code])).await.unwrap();
    };
    // the OP Stack's oracle asks for five ether, and there is one
    set_code("0x420000000000000000000000000000000000000F", answers(&[5 * ether])).await;
    stack.chain.call("anvil_setBalance", json!([relayer, U256::from(ether)])).await.unwrap();
    app.register(0, 3).await.unwrap();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let batch = app.reached(3, &["signed", "sealed"]).await.unwrap().remove(0);
        if batch["error"].as_str().is_some_and(|error| error.contains("5000000000000000000 of it for its data")) {
            break;
        }
        assert!(Instant::now() < deadline, "{batch}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(app.lane().await.unwrap()["next_nonce"], 0, "no nonce is taken for what can't be paid");
    stack.chain.fund(relayer).await.unwrap();
    app.reached(3, &["final"]).await.unwrap();
    let metrics = async || reqwest::get(format!("{}/metrics", app.relayers[0])).await.unwrap().text().await.unwrap();
    assert!(metrics().await.contains("data_fee_wei 5000000000000000000"), "{}", metrics().await);

    // Arbitrum's part is in the gas already: it is told, and not asked for twice
    set_code("0x420000000000000000000000000000000000000F", "0x".into()).await;
    set_code("0x0000000000000000000000000000000000000064", "0xfe".into()).await;
    set_code("0x00000000000000000000000000000000000000C8", answers(&[1_000, 7 * ether, 1])).await;
    rewire(&mut stack, &[]).await.unwrap();
    app.register(3, 3).await.unwrap();
    let batches = app.reached(6, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert!(metrics().await.contains("data_fee_wei 7000000000000000000000"), "{}", metrics().await);
}
