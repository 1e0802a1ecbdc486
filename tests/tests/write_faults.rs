//! What the write side keeps through kills, reorgs, stuck transactions and strangers who anchor its batches.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::{
    primitives::{B256, Bytes},
    providers::Provider,
    signers::SignerSync,
};
use serde_json::{Value, json};
use tidemark::{
    batch::Header,
    consent::withdrawal_digest,
    contracts::{ConsentRegistry, ProvenanceLog},
    ids::{ContentHash, DataId},
};
use tidemark_tests::{
    Options, Stack,
    keys::{dev_address, role},
    services::Service,
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, meta, metadata_update, registration},
        people::Contributor,
        samples::{Sample, repository_samples},
        world::World,
    },
};

const TIME_MAX: Duration = Duration::from_secs(40);

async fn world(options: Options) -> (Stack, World, Doors) {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::WriteSide, ..options }).await.unwrap();
    let world = World::build(&stack, [40, 40, 40]).await.unwrap();
    let doors = Doors::new(&stack, &world).unwrap();
    (stack, world, doors)
}

fn photos() -> Vec<Sample> {
    let all = repository_samples().unwrap();
    all.into_iter().filter(|sample| sample.name.starts_with("photo/photo")).collect()
}

async fn get(stack: &Stack, world: &World, path: &str) -> Value {
    let url = format!("{}{path}", stack.relayer.as_ref().unwrap().url());
    let answer = reqwest::Client::new().get(url).header("x-api-key", &world.api_key).send().await.unwrap();
    assert!(answer.status().is_success(), "{path}: {}", answer.status());
    serde_json::from_str(&answer.text().await.unwrap()).unwrap()
}

async fn batches(stack: &Stack, world: &World) -> Vec<Value> {
    get(stack, world, "/v1/batches").await["batches"].as_array().unwrap().clone()
}

/// Waits until `count` events are in batches of one of these states, and nothing waits.
async fn reached(stack: &Stack, world: &World, count: u64, states: &[&str]) -> Vec<Value> {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let batches = batches(stack, world).await;
        let done = batches.iter().filter(|batch| states.contains(&batch["state"].as_str().unwrap()));
        let events: u64 = done.map(|batch| batch["event_count"].as_u64().unwrap()).sum();
        if events == count {
            return batches;
        }
        assert!(Instant::now() < deadline, "{events} of {count} events are {states:?}: {batches:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn items(from: u32, count: u32) -> Vec<Value> {
    let item = |n: u32| {
        let id = format!("kept-{n}");
        registration(&id, &kept_metadata(&id, ContentHash::of(id.as_bytes()), 0)).unwrap()
    };
    (from..from + count).map(item).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_any_moment_lose_nothing_double_nothing_and_leave_no_gap() {
    let options = Options { batch_events_max: 4, batch_age_ms_max: 200, poll_ms: 30, ..Options::default() };
    let (mut stack, world, doors) = world(options).await;
    let group = Contributor::group(1);
    let photos = photos();
    let mut answers = Vec::new();
    for (round, photo) in photos.iter().take(8).enumerate() {
        let body = json!(items(u32::try_from(round).unwrap() * 5, 5)).to_string();
        let (batch, meta) = (format!("batch-{round}"), meta(&world, photo, &group[0]).unwrap());
        let bytes = std::fs::read(&photo.path).unwrap();
        // the kill comes at another moment of the work each time
        let work = async {
            let uploaded = doors.post_upload(&meta, photo.mime, bytes.clone()).await;
            let registered = doors.post_records(&batch, body.clone().into_bytes()).await;
            (uploaded.map(|answer| answer.status()), registered.map(|answer| answer.status()))
        };
        let moment = Duration::from_millis(u64::try_from(round).unwrap() * 45);
        let _cut_off = tokio::time::timeout(moment, work).await;
        stack.relayer.as_mut().unwrap().kill();
        if round % 3 == 2 {
            let attestor = stack.attestor.as_mut().unwrap();
            attestor.kill();
            attestor.restart().await.unwrap();
        }
        stack.relayer.as_mut().unwrap().restart().await.unwrap();
        // a client that got no answer sends again, and gets the one answer there is
        for again in 0..2 {
            let answer = doors.post_upload(&meta, photo.mime, bytes.clone()).await.unwrap();
            assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
            answers.push(answer.text().await.unwrap());
            let answer = doors.post_records(&batch, body.clone().into_bytes()).await.unwrap();
            assert_eq!(answer.status(), 202, "round {round}, time {again}");
        }
    }
    for pair in answers.chunks(2) {
        assert_eq!(pair[0], pair[1]);
    }
    let batches = reached(&stack, &world, 8 * 2 + 8 * 5, &["final"]).await;
    for (number, batch) in batches.iter().enumerate() {
        assert_eq!(batch["number"], number);
        let header: Header = serde_json::from_value(batch["header"].clone()).unwrap();
        let log = ProvenanceLog::new(stack.deployment.provenance_log, stack.provider());
        assert_eq!(log.rootOf(header.provider, header.number).call().await.unwrap(), header.root);
    }
    let status = get(&stack, &world, "/status").await;
    assert_eq!(status["backlog_events"], 0, "{status}");
    let lane = &status["lanes"][0];
    assert_eq!(lane["next_nonce"], lane["chain_nonce"], "{status}");
    assert_eq!(lane["next_nonce"], json!(batches.len()), "no transaction was sent twice: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_takes_an_anchor_out_of_its_block_and_it_comes_back() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, world, doors) = world(options).await;
    stack.chain.pause_mining().await.unwrap();
    doors.register("one", &items(0, 3)).await.unwrap();
    reached(&stack, &world, 3, &["submitted"]).await;
    stack.chain.until_sent().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let mined = reached(&stack, &world, 3, &["mined"]).await;
    let hash = mined[0]["transaction"].clone();
    stack.chain.reorg(1).await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        stack.chain.mine(1).await.unwrap();
        let batches = batches(&stack, &world).await;
        if batches[0]["state"] == "final" {
            assert_eq!(batches[0]["transaction"], hash);
            assert_ne!(batches[0]["block_number"], mined[0]["block_number"]);
            break;
        }
        assert!(Instant::now() < deadline, "{batches:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_no_block_takes_is_replaced_at_a_higher_fee_and_mined_once() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, world, doors) = world(options).await;
    stack.chain.pause_mining().await.unwrap();
    doors.register("one", &items(0, 3)).await.unwrap();
    let before = reached(&stack, &world, 3, &["submitted"]).await[0]["transaction"].clone();
    stack.chain.until_sent().await.unwrap();
    let before_hash: B256 = serde_json::from_value(before.clone()).unwrap();
    let offered = stack.provider().get_transaction_by_hash(before_hash).await.unwrap().unwrap();
    let base_fee = format!("{:#x}", alloy::consensus::Transaction::max_fee_per_gas(&offered) + 1);
    let deadline = Instant::now() + TIME_MAX;
    let batch = loop {
        // a base fee above what the first one offers keeps it out of every block
        stack.chain.call("anvil_setNextBlockBaseFeePerGas", json!([base_fee])).await.unwrap();
        stack.chain.mine(1).await.unwrap();
        let batch = batches(&stack, &world).await.remove(0);
        if batch["state"] == "final" {
            break batch;
        }
        assert!(Instant::now() < deadline, "{batch:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_ne!(batch["transaction"], before, "it was replaced");
    assert!(stack.provider().get_transaction_receipt(before_hash).await.unwrap().is_none());
    let status = get(&stack, &world, "/status").await;
    let lane = &status["lanes"][0];
    assert_eq!((&lane["next_nonce"], &lane["chain_nonce"]), (&json!(1), &json!(1)), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_a_stranger_anchored_counts_as_anchored() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (mut stack, world, doors) = world(options).await;
    // without ether the relayer can sign and not send
    let relayer = dev_address(role::RELAYER).unwrap();
    stack.chain.call("anvil_setBalance", json!([relayer, "0x0"])).await.unwrap();
    doors.register("one", &items(0, 3)).await.unwrap();
    let batch = reached(&stack, &world, 3, &["signed", "submitted"]).await.remove(0);
    stack.relayer.as_mut().unwrap().kill();
    let (header, signature) = signed(&stack, &batch).await;
    let stranger = stack.sender(role::SPONSOR).await.unwrap();
    let log = ProvenanceLog::new(stack.deployment.provenance_log, &stranger);
    let sent = log.anchor((&header).into(), signature).send().await.unwrap();
    assert!(sent.get_receipt().await.unwrap().status());
    stack.chain.fund(relayer).await.unwrap();
    stack.relayer.as_mut().unwrap().restart().await.unwrap();
    reached(&stack, &world, 3, &["final"]).await;
    // and the next one goes on from there
    doors.register("two", &items(3, 2)).await.unwrap();
    reached(&stack, &world, 5, &["final"]).await;
}

/// Header and signature as the relayer keeps them, which is all that a stranger needs to anchor a batch.
async fn signed(stack: &Stack, batch: &Value) -> (Header, Bytes) {
    let url = stack.postgres.url("relayer");
    let mut db = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    let signature: Vec<u8> = sqlx::query_scalar("SELECT signature FROM batch").fetch_one(&mut db).await.unwrap();
    (serde_json::from_value(batch["header"].clone()).unwrap(), signature.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_transaction_that_a_reorg_takes_back_leaves_no_gap_in_the_nonces() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, world, doors) = world(options).await;
    stack.chain.pause_mining().await.unwrap();
    doors.register("one", &items(0, 3)).await.unwrap();
    let batch = reached(&stack, &world, 3, &["submitted"]).await.remove(0);
    stack.chain.until_sent().await.unwrap();
    // a stranger who pays more comes first in the block, and the relayer's transaction reverts
    let (header, signature) = signed(&stack, &batch).await;
    let stranger = stack.sender(role::SPONSOR).await.unwrap();
    let log = ProvenanceLog::new(stack.deployment.provenance_log, &stranger);
    let fee = 100_000_000_000;
    let call = log.anchor((&header).into(), signature).gas(1_000_000);
    let sent = call.max_fee_per_gas(fee).max_priority_fee_per_gas(fee).send().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    assert!(sent.get_receipt().await.unwrap().status());
    reached(&stack, &world, 3, &["mined"]).await;
    let status = get(&stack, &world, "/status").await;
    // it failed in a block that a reorg can still undo, so nothing is over yet
    assert_eq!(status["transactions"], json!([{"state": "mined", "count": 1}]), "{status}");
    // neither of the two is on the chain any more, nor does the node know them
    stack.chain.reorg(1).await.unwrap();
    stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        stack.chain.mine(1).await.unwrap();
        let batches = batches(&stack, &world).await;
        if batches[0]["state"] == "final" {
            break;
        }
        assert!(Instant::now() < deadline, "{batches:#?} {}", get(&stack, &world, "/status").await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_at_once_take_no_more_than_the_escrow_and_no_less() {
    let options = Options { batch_events_max: 3, batch_age_ms_max: 50, poll_ms: 30, ..Options::default() };
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::WriteSide, ..options }).await.unwrap();
    let world = World::build(&stack, [1, 5, 1]).await.unwrap();
    let doors = Doors::new(&stack, &world).unwrap();
    let contributor = &Contributor::group(2)[1];
    let uploads = photos().into_iter().take(9).map(|photo| {
        let (doors, meta) = (doors.clone(), meta(&world, &photo, contributor).unwrap());
        async move {
            let bytes = std::fs::read(&photo.path).unwrap();
            doors.post_upload(&meta, photo.mime, bytes).await.unwrap().status().as_u16()
        }
    });
    let mut statuses = futures::future::join_all(uploads).await;
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 201, 201, 201, 201, 409, 409, 409, 409]);
    reached(&stack, &world, 10, &["final"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_reaches_the_record_the_next_upload_and_the_chain() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, world, doors) = world(options).await;
    let contributor = &Contributor::group(2)[1];
    let photos = photos();
    let consent = contributor.consent(&world).unwrap();
    let mut first = meta(&world, &photos[0], contributor).unwrap();
    first["consent"] = json!(consent);
    let bytes = std::fs::read(&photos[0].path).unwrap();
    let answer = doors.post_upload(&first, photos[0].mime, bytes.clone()).await.unwrap();
    let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();

    let id = consent.id(&world.deployment.consent_domain());
    let digest = withdrawal_digest(&world.deployment.consent_domain(), id);
    let withdraw = async |signature: Vec<u8>| {
        let url = format!("{}/v1/withdrawals", stack.relayer.as_ref().unwrap().url());
        let body = json!({"consent_id": id, "signature": Bytes::from(signature)});
        let request = reqwest::Client::new().post(url).header("x-api-key", &world.api_key).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };
    let forged = Contributor::group(1)[0].key.sign_hash_sync(&digest).unwrap();
    assert_eq!(withdraw(forged.as_bytes().to_vec()).await.0, 422);
    let signature = contributor.key.sign_hash_sync(&digest).unwrap().as_bytes().to_vec();
    for _ in 0..2 {
        let (status, body) = withdraw(signature.clone()).await;
        assert_eq!((status, &body["records"]), (202, &json!([answer["data_id"]])), "{body}");
    }
    let mut second = meta(&world, &photos[1], contributor).unwrap();
    second["consent"] = json!(consent);
    let refused = doors.post_upload(&second, photos[1].mime, std::fs::read(&photos[1].path).unwrap()).await.unwrap();
    assert_eq!(refused.status(), 409);
    // the answer to what was submitted before stays what it was
    assert_eq!(doors.post_upload(&first, photos[0].mime, bytes).await.unwrap().status(), 200);

    reached(&stack, &world, 3, &["final"]).await;
    let record = get(&stack, &world, &format!("/v1/records/{}", answer["data_id"].as_str().unwrap())).await;
    let kinds: Vec<&str> = record["events"].as_array().unwrap().iter().map(|e| e["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["registered", "accepted", "consent_withdrawn"]);
    let registry = ConsentRegistry::new(stack.deployment.consent_registry, stack.provider());
    let deadline = Instant::now() + TIME_MAX;
    while registry.withdrawnAt(id.0).call().await.unwrap() == 0 {
        assert!(Instant::now() < deadline, "the chain was not told");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_and_registrations_that_cross_each_other_all_end_applied() {
    let options = Options { batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let (stack, world, doors) = world(options).await;
    let name = |n: u32| format!("cross-{n}");
    let hash = |n: u32| ContentHash::of(name(n).as_bytes());
    let registrations = (0..12).map(|n| {
        let (doors, item) = (doors.clone(), registration(&name(n), &kept_metadata(&name(n), hash(n), 0)).unwrap());
        async move { doors.register(&format!("r-{n}"), &[item]).await.unwrap() }
    });
    let updates = (0..24).map(|k| {
        let (n, seq) = (k % 12, 2 - k / 12);
        let id = DataId::new("numo", &name(n)).unwrap();
        let state = |updates: u32| kept_metadata(&name(n), hash(n), updates);
        let item = metadata_update(id, seq, &state(seq - 1), &state(seq)).unwrap();
        let doors = doors.clone();
        async move { doors.update(&format!("u-{n}-{seq}"), &[item]).await.unwrap() }
    });
    tokio::join!(futures::future::join_all(registrations), futures::future::join_all(updates));
    reached(&stack, &world, 36, &["final"]).await;
    for n in 0..12 {
        let id = DataId::new("numo", &name(n)).unwrap();
        let record = get(&stack, &world, &format!("/v1/records/{id}")).await;
        assert_eq!((&record["trace_seq"], &record["updates"]), (&json!(2), &json!([])), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_an_attestor_that_was_replaced_is_signed_again_and_anchored() {
    let (mut stack, world, doors) = world(Options::default()).await;
    doors.register("first", &items(0, 10)).await.unwrap();
    reached(&stack, &world, 10, &["mined", "final"]).await;

    let provider = stack.sender(role::PROVIDER).await.unwrap();
    let log = ProvenanceLog::new(stack.deployment.provenance_log, &provider);
    let next = dev_address(role::BUYER).unwrap();
    assert!(log.setAttestor(next).send().await.unwrap().get_receipt().await.unwrap().status());
    doors.register("second", &items(10, 10)).await.unwrap();
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let batches = batches(&stack, &world).await;
        let refused = batches.iter().any(|batch| {
            batch["error"].as_str().is_some_and(|error| error.starts_with("AttestationInvalid"))
                && batch["state"] == "signed"
        });
        if refused {
            break;
        }
        assert!(Instant::now() < deadline, "expected a batch that the chain refuses, got {batches:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    // the same attestor, with its database and another key
    let before = stack.attestor.take().unwrap();
    let mut wiring = before.wiring().clone();
    drop(before);
    for (name, value) in &mut wiring.environment {
        if *name == "TIDEMARK_ATTESTOR_KEY_FILE" {
            *value = stack.key_file(role::BUYER).display().to_string();
        }
    }
    stack.attestor = Some(Service::start(&stack.folder, wiring).await.unwrap());
    let batches = reached(&stack, &world, 20, &["mined", "final"]).await;
    for batch in &batches {
        let header: Header = serde_json::from_value(batch["header"].clone()).unwrap();
        assert_eq!(log.rootOf(header.provider, header.number).call().await.unwrap(), header.root);
        assert_eq!(batch["error"], Value::Null);
    }
}
