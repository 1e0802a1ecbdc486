//! Nodes that lie to the indexer: logs left out or invented, blooms, heads of yesterday, forks that nobody else has.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::{primitives::Address, providers::Provider};
use serde_json::{Value, json};
use tidemark_tests::{
    anvil::Anvil,
    chain::Mining,
    faulty_node::{Fault, FaultyNode, lies, stays_at},
    forge::Forge,
    services::Service,
    story::strangers::second_indexer,
};

async fn batch(forge: &Forge, number: u64) {
    let accepted = forge.accepted(0, &format!("record-{number}"), Address::ZERO).unwrap();
    forge.anchor(&forge.batch(number, accepted.to_vec()).await.unwrap()).await.unwrap();
    forge.stack.chain.mine(3).await.unwrap();
}

async fn valid(indexer: &Service, number: u64) {
    indexer.until(&format!("/v1/batches/numo/{number}"), |_, batch| batch["state"] == "valid").await.unwrap();
}

/// An indexer that was told of these nodes, in their order, and has the first batch.
async fn indexer(forge: &Forge, database: &str, urls: &[&str], verify: &str) -> Service {
    batch(forge, 0).await;
    let told = vec![("TIDEMARK_RPC_URL", urls.join(",")), ("TIDEMARK_INDEXER_VERIFY", verify.to_owned())];
    let indexer = forge.stack.start_indexer_with(database, told).await.unwrap();
    valid(&indexer, 0).await;
    indexer
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_gets_wrong_is_asked_of_another_and_the_rows_are_right() {
    let forge = Forge::new().await.unwrap();
    let [liar, honest] = [
        FaultyNode::start(forge.stack.chain.url()).await.unwrap(),
        FaultyNode::start(forge.stack.chain.url()).await.unwrap(),
    ];
    // a log of several that is missing shows in receipts only
    let indexer = indexer(&forge, "lied_to", &[liar.url(), honest.url()], "full").await;
    for (number, (method, what, lie)) in (1..).zip(lies()) {
        liar.fail(method, lie);
        batch(&forge, number).await;
        let path = format!("/v1/batches/numo/{number}");
        let settled = indexer.until(&path, |_, batch| batch["state"] == "valid").await;
        settled.unwrap_or_else(|error| panic!("a node that {what}: {error}"));
        liar.heal();
    }
    let (_, status) = indexer.get("/status").await.unwrap();
    assert!(status["halted"].is_null(), "{status}");
    second_indexer(&forge.stack, "lied_to").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_node_that_leaves_logs_out_halts_the_indexer_which_then_goes_on_without_a_gap() {
    let forge = Forge::new().await.unwrap();
    let liar = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
    let mut indexer = indexer(&forge, "halted", &[liar.url()], "bloom").await;
    liar.fail("eth_getLogs", Fault::Says(json!([])));
    batch(&forge, 1).await;
    let mut status = Value::Null;
    for _ in 0..600 {
        status = indexer.get("/status").await.unwrap().1;
        if !status["halted"].is_null() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let halted = status["halted"].as_str().unwrap_or_default();
    assert!(halted.contains("no node gives consistent answers") && halted.contains("--rpc-url"), "{status}");
    assert_eq!(indexer.get("/v1/batches/numo/1").await.unwrap().0, 404, "nothing of it was taken over");
    liar.heal();
    indexer.restart().await.unwrap();
    valid(&indexer, 1).await;
    second_indexer(&forge.stack, "halted").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_heads_of_yesterday_is_passed_by() {
    let forge = Forge::new().await.unwrap();
    let [stale, honest] = [
        FaultyNode::start(forge.stack.chain.url()).await.unwrap(),
        FaultyNode::start(forge.stack.chain.url()).await.unwrap(),
    ];
    let yesterday = forge.stack.chain.call("eth_getBlockByNumber", json!(["latest", false])).await.unwrap();
    let indexer = indexer(&forge, "stale", &[stale.url(), honest.url()], "bloom").await;
    stale.fail("eth_getBlockByNumber", stays_at(yesterday.clone(), yesterday));
    batch(&forge, 1).await;
    valid(&indexer, 1).await;
    let (_, status) = indexer.get("/status").await.unwrap();
    assert!(status["halted"].is_null(), "{status}");
    second_indexer(&forge.stack, "stale").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_gives_few_blocks_at_once_is_asked_for_so_many_and_seldom_for_more() {
    const BLOCKS_MAX: u64 = 7;
    let forge = Forge::new().await.unwrap();
    let node = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
    let (refused, counted) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (refuses, counts) = (refused.clone(), counted.clone());
    let hex = |at: &Value| u64::from_str_radix(at.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
    let limit = Fault::changes(move |request, answer| {
        let filter = &request["params"][0];
        let (from, to) = (hex(&filter["fromBlock"]), hex(&filter["toBlock"]));
        counts.fetch_add(1, Ordering::Relaxed);
        if to - from + 1 > BLOCKS_MAX {
            refuses.fetch_add(1, Ordering::Relaxed);
            let message = format!(
                "query returned more than 10000 results. Try with this block range [{from:#x}, {:#x}].",
                from + BLOCKS_MAX - 1
            );
            *answer = json!({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32005, "message": message}});
        }
    });
    forge.stack.chain.mine(400).await.unwrap();
    node.fail("eth_getLogs", limit);
    indexer(&forge, "limited", &[node.url()], "bloom").await;
    let (refused, counted) = (refused.load(Ordering::Relaxed), counted.load(Ordering::Relaxed));
    // those that were on their way when the first was refused
    assert!((1..=8).contains(&refused) && counted >= 50, "{refused} of {counted} refused");
    second_indexer(&forge.stack, "limited").await.unwrap();
}

/// A chain that shares all blocks so far with the stack's, and none that comes.
async fn fork(forge: &Forge, blocks: u64) -> Anvil {
    let ours = &forge.stack.chain;
    let state = ours.call("anvil_dumpState", json!([])).await.unwrap();
    let theirs = Anvil::start(&forge.stack.folder, Mining::Automatic, 1).await.unwrap();
    theirs.call("anvil_loadState", json!([state])).await.unwrap();
    assert_eq!(theirs.provider().get_block_number().await.unwrap(), ours.block_number().await.unwrap());
    theirs.call("evm_increaseTime", json!([7])).await.unwrap();
    theirs.mine(blocks).await.unwrap();
    theirs
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_that_disagree_the_one_that_was_followed_stays_and_without_it_nothing_is_believed() {
    let forge = Forge::new().await.unwrap();
    let node = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
    let theirs = fork(&forge, 40).await;
    let indexer = indexer(&forge, "disagree", &[node.url(), theirs.url()], "bloom").await;
    batch(&forge, 1).await;
    valid(&indexer, 1).await;
    node.fail(tidemark_tests::faulty_node::ANY, Fault::Status(503));
    let doubts =
        |status: &Value| status["last_error"].as_str().is_some_and(|error| error.contains("was final with hash"));
    let status = indexer.until("/status", |_, status| doubts(status)).await.unwrap();
    assert!(status["halted"].is_null(), "the node that was followed may come back: {status}");
    node.heal();
    batch(&forge, 2).await;
    valid(&indexer, 2).await;
    second_indexer(&forge.stack, "disagree").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_node_with_another_history_halts_the_indexer() {
    let forge = Forge::new().await.unwrap();
    let node = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
    let indexer = indexer(&forge, "moved", &[node.url()], "bloom").await;
    let other = json!(format!("0x{}", "4".repeat(64)));
    node.fail(
        "eth_getBlockByNumber",
        Fault::changes(move |request, answer| {
            if !answer["result"].is_null() && request["params"][0].as_str().is_some_and(|at| at.starts_with("0x")) {
                answer["result"]["hash"] = other.clone();
            }
        }),
    );
    let status = indexer.until("/status", |_, status| !status["halted"].is_null()).await.unwrap();
    assert!(status["halted"].as_str().unwrap().contains("reorganised below its finality"), "{status}");
}

/// Their blocks are consistent in themselves and stand on a block of ours, and they tell most parts of history.
#[tokio::test(flavor = "multi_thread")]
async fn history_that_ends_on_blocks_which_the_leading_node_has_not_is_not_taken_over() {
    let forge = Forge::new().await.unwrap();
    forge.stack.chain.mine(300).await.unwrap();
    let theirs = fork(&forge, 400).await;
    let mut liars = Vec::new();
    for _ in 0..4 {
        liars.push(FaultyNode::start(theirs.url()).await.unwrap());
    }
    forge.stack.chain.mine(400).await.unwrap();
    let urls: Vec<&str> = [forge.stack.chain.url()].into_iter().chain(liars.iter().map(FaultyNode::url)).collect();
    let indexer = indexer(&forge, "outvoted", &urls, "bloom").await;
    let (_, status) = indexer.get("/status").await.unwrap();
    assert!(status["halted"].is_null(), "{status}");
    second_indexer(&forge.stack, "outvoted").await.unwrap();
}

/// Some refuse what is too much by an HTTP status of their own, with or without words.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_gateway_breaks_off_long_answers_is_asked_for_less() {
    let forge = Forge::new().await.unwrap();
    forge.stack.chain.mine(100).await.unwrap();
    let node = FaultyNode::start(forge.stack.chain.url()).await.unwrap();
    for (database, status) in [("gateway_413", 413), ("gateway_502", 502)] {
        let hex = |at: &Value| u64::from_str_radix(at.as_str().unwrap().trim_start_matches("0x"), 16).unwrap();
        let is_long = move |request: &Value| {
            let filter = &request["params"][0];
            hex(&filter["toBlock"]) > hex(&filter["fromBlock"]) + 3
        };
        node.fail("eth_getLogs", Fault::breaks_off(status, is_long));
        let told = vec![("TIDEMARK_RPC_URL", node.url().to_owned())];
        let indexer = forge.stack.start_indexer_with(database, told).await.unwrap();
        let latest = forge.stack.chain.block_number().await.unwrap();
        indexer.until("/status", |_, status| status["applied_block"].as_u64() >= Some(latest - 10)).await.unwrap();
    }
}
