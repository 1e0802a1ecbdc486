//! Several nodes of the chain: who is asked, who is kept out, and that no URL with a key in it is told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718,
    network::TxSignerSync,
    primitives::{B256, TxKind, U256},
    providers::{DynProvider, Provider},
};
use serde_json::json;
use tidemark::{
    chain::Deployment,
    nodes::{self, Nodes},
};
use tidemark_tests::{
    Options, Stack,
    faulty_node::{ANY, Fault, FaultyNode, SECRET_PATH},
    keys::{dev_signer, role},
    stack::Services,
};

async fn start() -> (Stack, [FaultyNode; 2]) {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await.unwrap();
    let (first, second) =
        (FaultyNode::start(stack.chain.url()).await.unwrap(), FaultyNode::start(stack.chain.url()).await.unwrap());
    (stack, [first, second])
}

async fn connect(nodes: &[FaultyNode], deployment: &Deployment) -> anyhow::Result<(DynProvider, Nodes)> {
    let urls: Vec<String> = nodes.iter().map(|node| node.url().to_owned()).collect();
    nodes::connect(&urls, deployment).await
}

/// Waits until the first node's breaker is as wanted, asking for blocks meanwhile.
async fn until_first_is(provider: &DynProvider, nodes: &Nodes, well: bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while nodes.seen()[0].error.is_none() != well {
        assert!(Instant::now() < deadline, "{:?}", nodes.seen());
        provider.get_block_number().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_to_the_first_node_and_past_it_while_it_fails() {
    let (stack, faulty) = start().await;
    let (provider, nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    let before = faulty[1].calls(ANY);
    provider.get_block_number().await.unwrap();
    assert_eq!(faulty[1].calls(ANY), before, "the second is not asked while the first answers");

    let faults = [
        Fault::Status(502),
        Fault::Garbage,
        Fault::Denies(401, "invalid project id"),
        Fault::Refuses(-32005, "daily request count exceeded"),
    ];
    for fault in faults {
        faulty[0].fail(ANY, fault.clone());
        // every single call is answered, by the second
        until_first_is(&provider, &nodes, false).await;
        let asked = faulty[0].calls("eth_blockNumber");
        for _ in 0..10 {
            provider.get_block_number().await.unwrap();
        }
        assert_eq!(faulty[0].calls("eth_blockNumber"), asked, "an open breaker keeps it out: {fault:?}");
        faulty[0].heal();
        until_first_is(&provider, &nodes, true).await;
    }
    let last = faulty[0].calls("eth_blockNumber");
    provider.get_block_number().await.unwrap();
    assert_eq!(faulty[0].calls("eth_blockNumber"), last + 1, "it is the first again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_is_an_answer_is_given_and_keeps_nobody_out() {
    let (stack, faulty) = start().await;
    let (provider, nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    // Besu's code for it is Infura's for "too many requests"; and some answer with HTTP 400
    let message = "Transaction gas limit exceeds block gas limit";
    for fault in [Fault::Refuses(-32005, message), Fault::Denies(400, message)] {
        faulty[0].fail("eth_blockNumber", fault);
        for _ in 0..5 {
            let error = provider.get_block_number().await.unwrap_err();
            assert!(error.to_string().contains("gas limit exceeds"), "{error}");
        }
    }
    assert_eq!(nodes.seen()[0].error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_silent_cost_a_bounded_time_and_all_of_them_an_error_without_their_keys() {
    let (stack, faulty) = start().await;
    let (provider, nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    faulty[0].fail(ANY, Fault::Silent);
    let begun = Instant::now();
    provider.get_block_number().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for node in &faulty {
        node.fail(ANY, Fault::Status(500));
    }
    let mut said = String::new();
    for _ in 0..8 {
        said.push_str(&format!("{:?}", provider.get_block_number().await.unwrap_err()));
    }
    assert!(said.contains("no node can be asked now"), "{said}");
    assert!(!format!("{said}{nodes:?}{:?}", nodes.seen()).contains(SECRET_PATH), "{said} {nodes:?}");
    // one after the other comes back
    for node in &faulty {
        node.heal();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while provider.get_block_number().await.is_err() {
        assert!(Instant::now() < deadline, "{:?}", nodes.seen());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_or_with_other_code_is_refused_at_the_start_and_later() {
    let (stack, faulty) = start().await;
    faulty[1].fail("eth_chainId", Fault::Says(json!("0x1")));
    let error = connect(&faulty, &stack.deployment).await.unwrap_err().to_string();
    assert!(error.contains("expected chain 31337, got 1") && !error.contains(SECRET_PATH), "{error}");
    faulty[1].heal();
    faulty[1].fail("eth_getCode", Fault::Says(json!("0x6000")));
    let error = connect(&faulty, &stack.deployment).await.unwrap_err().to_string();
    assert!(error.contains("ProvenanceLog") && error.contains("other code"), "{error}");
    let mut none = stack.deployment.clone();
    (none.provenance_log, none.code) = (dev_signer(role::BUYER).unwrap().address(), Default::default());
    let error = connect(&faulty[..1], &none).await.unwrap_err().to_string();
    assert!(error.contains("no code of ProvenanceLog"), "{error}");
    for urls in [vec![], vec!["ftp://node/secret".to_owned()], vec!["http://node".to_owned(); 9]] {
        let error = nodes::connect(&urls, &stack.deployment).await.unwrap_err().to_string();
        assert!(error.starts_with("--rpc-url") && !error.contains("secret"), "{error}");
    }

    // one that is silent at the start is let in once it answers well, and not before
    faulty[1].heal();
    faulty[0].fail(ANY, Fault::Status(503));
    let (provider, nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    assert!(nodes.seen()[0].error.is_some() && nodes.seen()[1].error.is_none());
    faulty[0].heal();
    faulty[0].fail("eth_chainId", Fault::Says(json!("0x1")));
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for _ in 0..5 {
        provider.get_block_number().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(nodes.seen()[0].error.as_ref().unwrap().contains("expected chain 31337"), "{:?}", nodes.seen());
    assert_eq!(faulty[0].calls("eth_blockNumber"), 0);
    faulty[0].heal();
    until_first_is(&provider, &nodes, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_answers_of_the_past_is_kept_out_until_it_has_caught_up() {
    let (stack, faulty) = start().await;
    let (provider, nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    nodes.compare().await;
    assert!(nodes.seen().iter().all(|node| node.error.is_none()), "{:?}", nodes.seen());
    let mut old = stack.chain.call("eth_getBlockByNumber", json!(["latest", false])).await.unwrap();
    old["timestamp"] = json!("0x1");
    faulty[0].fail("eth_getBlockByNumber", Fault::Says(old.clone()));
    nodes.compare().await;
    let error = nodes.seen()[0].error.clone().unwrap();
    assert!(error.contains("older than another node's"), "{error}");
    // its trials do not let it in, and reads go on
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    for _ in 0..5 {
        provider.get_block_number().await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(nodes.seen()[0].error, Some(error));
    faulty[0].heal();
    until_first_is(&provider, &nodes, true).await;

    // one that lies of the future keeps nobody out
    old["timestamp"] = json!("0xffffffffff");
    faulty[1].fail("eth_getBlockByNumber", Fault::Says(old));
    nodes.compare().await;
    assert!(nodes.seen().iter().all(|node| node.error.is_none()), "{:?}", nodes.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_transaction_reaches_all_nodes_whatever_the_first_says() {
    let (stack, faulty) = start().await;
    let (provider, _nodes) = connect(&faulty, &stack.deployment).await.unwrap();
    let signer = dev_signer(role::SPONSOR).unwrap();
    stack.chain.fund(signer.address()).await.unwrap();
    let raw = |nonce: u64| -> (B256, Vec<u8>) {
        let mut transaction = TxEip1559 {
            chain_id: stack.deployment.chain_id,
            nonce,
            gas_limit: 21_000,
            max_fee_per_gas: 10_000_000_000,
            max_priority_fee_per_gas: 1,
            to: TxKind::Call(signer.address()),
            value: U256::ZERO,
            access_list: Default::default(),
            input: Default::default(),
        };
        let signature = signer.sign_transaction_sync(&mut transaction).unwrap();
        let signed = transaction.into_signed(signature);
        (*signed.hash(), TxEnvelope::from(signed).encoded_2718())
    };
    let sent = |node: usize| faulty[node].calls("eth_sendRawTransaction");

    faulty[0].fail("eth_sendRawTransaction", Fault::Refuses(-32000, "txpool is full"));
    let (hash, bytes) = raw(0);
    let _taken = provider.send_raw_transaction(&bytes).await.unwrap();
    assert!(stack.provider().get_transaction_by_hash(hash).await.unwrap().is_some());
    assert_eq!((sent(0), sent(1)), (1, 1));

    // a node that took it is not made up for by one that never answers, and is not waited for
    faulty[0].fail("eth_sendRawTransaction", Fault::Silent);
    let begun = Instant::now();
    let _taken = provider.send_raw_transaction(&raw(1).1).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // what a node says of it tells more than that another was not reached
    faulty[0].fail("eth_sendRawTransaction", Fault::Status(500));
    faulty[1].fail("eth_sendRawTransaction", Fault::Refuses(-32000, "nonce too low"));
    let error = provider.send_raw_transaction(&raw(1).1).await.unwrap_err();
    assert!(error.to_string().contains("nonce too low"), "{error}");
}
