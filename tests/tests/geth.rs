//! The write side on a real geth: its reorgs, its words, and what it forgets when it is killed.
//!
//! `tests/geth/build` makes the binary; without it these tests say SKIPPED and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Encodable2718,
    network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder},
    primitives::{Bytes, U256},
    providers::Provider,
    rpc::types::TransactionRequest,
    transports::TransportError,
};
use serde_json::{Value, json};
use tidemark::nodes::said::Said;
use tidemark_tests::{
    Options, Stack,
    chain::Client,
    geth,
    keys::{dev_address, dev_signer, role},
    random::Random,
    write_side::{App, start},
};

const GWEI: u128 = 1_000_000_000;
/// No block gets so old in these tests: nothing more becomes final.
const NEVER: u64 = 1 << 32;
/// The deepest reorg; geth's own greatest, and a consensus client's epoch.
const DEPTH_MAX: u64 = 32;
const REORGS: u64 = 12;
const KILLS: u32 = 3;

/// A write side on geth with a block a second; `None`, said aloud, where there is no geth.
async fn on_geth() -> Option<(Stack, App)> {
    geth::binary()?;
    let options =
        Options { client: Client::Geth, batch_events_max: 3, batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, _world, app) = start(options).await.unwrap();
    Some((stack, app))
}

/// Every event is final, each batch is anchored once, and no nonce is missing or was used for nothing.
async fn check_all(stack: &Stack, app: &App, events: u64) {
    let batches = app.reached(events, &["final"]).await.unwrap();
    app.check_anchored_once(stack, &batches).await.unwrap();
    let lane = app.lane_until(|lane| lane["next_nonce"] == lane["chain_nonce"]).await.unwrap();
    assert_eq!(lane["next_nonce"], json!(batches.len()), "{lane}");
    assert_eq!((&lane["refused"], &lane["paused"]), (&json!([]), &Value::Null), "{lane}");
}

/// What is final for the relayer is so for geth, and still in its chain.
async fn check_finality(stack: &mut Stack, app: &App) -> usize {
    let batches = app.get("/v1/batches?limit=500").await.unwrap()["batches"].as_array().unwrap().clone();
    let finalized = stack.chain.geth().unwrap().finalized().await;
    let done: Vec<&Value> = batches.iter().filter(|batch| batch["state"] == "final").collect();
    for batch in &done {
        assert!(batch["block_number"].as_u64().unwrap() <= finalized, "final before block {finalized} is: {batch}");
        let hash = serde_json::from_value(batch["transaction"].clone()).unwrap();
        let receipt = stack.provider().get_transaction_receipt(hash).await.unwrap();
        let block = receipt.unwrap_or_else(|| panic!("final and in no block: {batch}")).block_number;
        assert_eq!(json!(block), batch["block_number"]);
    }
    done.len()
}

async fn metric(app: &App, name: &str) -> u64 {
    let metrics = reqwest::get(format!("{}/metrics", app.relayers[0])).await.unwrap().text().await.unwrap();
    let line = metrics.lines().find(|line| line.split([' ', '{']).next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_anchored_on_geth_and_final_when_its_consensus_client_says_so() {
    let Some((mut stack, app)) = on_geth().await else { return };
    let geth = stack.chain.geth().unwrap();
    geth.set_finality_depth(NEVER).await;
    // so long that nobody has paid a tip of late: geth's blocks want one all the same
    geth.mine(30).await.unwrap();
    app.register(0, 7).await.unwrap();
    app.reached(7, &["mined"]).await.unwrap();
    geth.mine(10).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    app.reached(7, &["mined"]).await.unwrap();
    geth.set_finality_depth(2).await;
    geth.mine(1).await.unwrap();
    check_all(&stack, &app, 7).await;
    assert_eq!(check_finality(&mut stack, &app).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn reorgs_of_up_to_32_blocks_lose_nothing_double_nothing_and_leave_no_gap() {
    let Some((mut stack, app)) = on_geth().await else { return };
    let mut random = Random::from_environment();
    let geth = stack.chain.geth().unwrap();
    geth.set_finality_depth(DEPTH_MAX + 8).await;
    geth.mine(DEPTH_MAX).await.unwrap();
    let mut records = 0;
    for round in 0..REORGS {
        let depth = match round {
            0 => 1,
            1 => DEPTH_MAX,
            _ => 1 + random.below(DEPTH_MAX),
        };
        for _ in 0..1 + random.below(3) {
            let count = u32::try_from(1 + random.below(5)).unwrap();
            app.register(records, count).await.unwrap();
            records += count;
            tokio::time::sleep(Duration::from_millis(random.below(400))).await;
            stack.chain.mine(random.below(4)).await.unwrap();
        }
        stack.chain.reorg(depth).await.unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        check_finality(&mut stack, &app).await;
    }
    let geth = stack.chain.geth().unwrap();
    geth.set_finality_depth(2).await;
    assert!(metric(&app, "transactions_unmined_total").await > 0, "the reorgs took no transaction out of its block");
    check_all(&stack, &app, u64::from(records)).await;
    check_finality(&mut stack, &app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_geth_that_is_killed_and_forgets_its_newest_blocks_loses_nothing() {
    let Some((mut stack, app)) = on_geth().await else { return };
    let mut random = Random::from_environment();
    let mut records = 0;
    // one that is back at its first block thinks that it was in the middle of a snap sync, and waits for peers
    stack.chain.geth().unwrap().settle().await.unwrap();
    for _ in 0..KILLS {
        app.register(records, 5).await.unwrap();
        for _ in 0..=random.below(3) {
            tokio::time::sleep(Duration::from_millis(random.below(600))).await;
            stack.chain.mine(1).await.unwrap();
        }
        let geth = stack.chain.geth().unwrap();
        let before = geth.provider().get_block_number().await.unwrap();
        geth.kill().await.unwrap();
        app.register(records + 5, 4).await.unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(1_000))).await;
        let after = geth.restart().await.unwrap();
        assert!(after < before, "geth forgot no block: it was killed at {before} and is at {after}");
        app.register(records + 9, 3).await.unwrap();
        tokio::time::sleep(Duration::from_millis(random.below(3_000))).await;
        geth.lead_again().await.unwrap();
        records += 12;
    }
    check_all(&stack, &app, u64::from(records)).await;
    check_finality(&mut stack, &app).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_geth_says_is_understood() {
    let Some((stack, _app)) = on_geth().await else { return };
    stack.chain.pause_mining().await.unwrap();
    let signer = dev_signer("somebody").unwrap();
    let from = signer.address();
    stack.chain.fund(from).await.unwrap();
    let (wallet, chain_id) = (EthereumWallet::from(signer), stack.deployment.chain_id);
    let send = async |transfer: TransactionRequest| -> Result<(), TransportError> {
        let signed: TxEnvelope = transfer.build(&wallet).await.unwrap();
        stack.provider().send_raw_transaction(&signed.encoded_2718()).await.map(|_| ())
    };
    let transfer = |nonce: u64| {
        let to = dev_address(role::BUYER).unwrap();
        let transfer = TransactionRequest::default().with_to(to).with_value(U256::from(1)).with_nonce(nonce);
        let transfer = transfer.with_chain_id(chain_id).with_gas_limit(21_000);
        transfer.with_max_fee_per_gas(100 * GWEI).with_max_priority_fee_per_gas(GWEI)
    };
    let refused = async |transfer: TransactionRequest, expected: Said| {
        let error = send(transfer).await.unwrap_err();
        assert_eq!(Said::of(&error), expected, "{error}");
    };
    send(transfer(0)).await.unwrap();
    refused(transfer(0), Said::AlreadyKnown).await;
    refused(transfer(0).with_value(U256::from(2)), Said::ReplacementUnderpriced).await;
    let more = 111 * GWEI;
    send(transfer(0).with_max_fee_per_gas(more).with_max_priority_fee_per_gas(2 * GWEI)).await.unwrap();
    // geth puts what it has just taken into blocks, and what a block has just taken out of its pool, a moment later
    let is_settled = async || {
        let pool = stack.chain.call("txpool_contentFrom", json!([from])).await.unwrap();
        stack.provider().get_transaction_count(from).await.unwrap() == 1 && pool["pending"] == json!({})
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_settled().await {
        assert!(Instant::now() < deadline, "no block took the transaction");
        stack.chain.mine(1).await.unwrap();
    }
    refused(transfer(0), Said::NonceTooLow).await;
    refused(transfer(1).with_value(U256::MAX >> 8), Said::InsufficientFunds).await;
    refused(transfer(1).with_max_priority_fee_per_gas(0), Said::Underpriced).await;
    refused(transfer(1).with_gas_limit(20_000), Said::GasLimit).await;
    refused(transfer(1).with_gas_limit(400_000_000).with_max_fee_per_gas(GWEI), Said::GasLimit).await;
    refused(transfer(1).with_gas_limit(10_000_000).with_max_fee_per_gas(1_000 * GWEI), Said::FeeCap).await;
    // a nonce that is not due is no error: it waits
    send(transfer(3)).await.unwrap();

    let log = stack.deployment.provenance_log;
    let call = TransactionRequest::default().with_to(log).with_input(Bytes::from_static(&[1, 2, 3, 4]));
    let error = stack.provider().estimate_gas(call.clone()).await.unwrap_err();
    assert_eq!(Said::of(&error), Said::Reverted, "{error}");
    let error = stack.provider().estimate_gas(call.with_gas_limit(21_000)).await.unwrap_err();
    assert_eq!(Said::of(&error), Said::GasLimit, "{error}");
}
