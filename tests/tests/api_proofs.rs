//! Proofs as the read API gives them verify with npm `@openzeppelin/merkle-tree`, and by the contract's `MerkleProof`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use alloy::primitives::Address;
use serde_json::Value;
use tidemark::contracts::ProvenanceLog;
use tidemark_tests::{folder::repository, forge::Forge};

/// What OpenZeppelin's JavaScript says of an answer of the API.
fn javascript_says(answer: &Value) -> (bool, String) {
    let mut node = Command::new("node")
        .arg(repository().join("tests/js/verify-proofs.js"))
        .current_dir(repository())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    node.stdin.take().unwrap().write_all(answer.to_string().as_bytes()).unwrap();
    let done = node.wait_with_output().unwrap();
    (done.status.success(), String::from_utf8(done.stdout).unwrap())
}

#[tokio::test]
async fn proofs_of_the_api_verify_with_openzeppelin_in_javascript_and_on_chain() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let mut events = Vec::new();
    for (at, record) in (0..5u32).zip(["a", "b", "c", "d", "e"]) {
        events.extend(forge.accepted(2 * at, record, Address::repeat_byte(0x11))?);
    }
    forge.anchor(&forge.batch(0, events.clone()).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("proofs").await?;

    let url = format!("{}/v1/records/{}/proofs", indexer.url(), events[4].data_id);
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut answer: Value = loop {
        let answer = reqwest::get(&url).await?;
        if answer.status().is_success() {
            break answer.json().await?;
        }
        assert!(Instant::now() < deadline, "{}", answer.text().await?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!(javascript_says(&answer), (true, "verified 2\n".into()));

    let log = ProvenanceLog::new(forge.world.deployment.provenance_log, &forge.sender);
    for (event, given) in events[4..6].iter().zip(answer["proofs"].as_array().unwrap()) {
        let proof = serde_json::from_value(given["proof"].clone())?;
        assert!(log.contains(forge.world.provider, 0, event.into(), proof).call().await?);
    }

    answer["proofs"][1]["value"][11] = "1".into();
    assert!(!javascript_says(&answer).0, "a changed reward is seen");
    Ok(())
}
