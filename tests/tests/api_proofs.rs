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

/// What was anchored may be kept by every cache: the same bytes and a strong tag for ever, also after an erasure, whatever block
/// the indexer is at; what an erasure or a claim changes may not.
#[tokio::test]
async fn rows_of_a_final_batch_and_their_proofs_never_change_and_caches_are_told_so() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let mut events = Vec::new();
    for (at, record) in (0..3u32).zip(["a", "b", "c"]) {
        events.extend(forge.accepted(2 * at, record, Address::repeat_byte(0x11))?);
    }
    forge.anchor(&forge.batch(0, events.clone()).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("caches").await?;
    indexer.until("/v1/batches/numo/0", |_, body| body["state"] == "valid").await?;
    let get = async |path: &str, tag: Option<&str>| {
        let mut request = reqwest::Client::new().get(format!("{}{path}", indexer.url()));
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let answer = request.send().await.unwrap();
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        (answer.status().as_u16(), header("etag"), header("cache-control"), answer.text().await.unwrap())
    };
    let paths = ["/v1/batches/numo/0/leaves?limit=4", "/v1/batches/numo/0/leaves/5"];
    let mut before = Vec::new();
    for path in paths {
        let (status, tag, cache, body) = get(path, None).await;
        assert_eq!((status, cache.as_str()), (200, "public, max-age=31536000, immutable"), "{body}");
        assert!(tag.starts_with('"'), "a strong tag: {tag}");
        before.push((tag, body));
    }
    let (page, proof): (Value, Value) = (serde_json::from_str(&before[0].1)?, serde_json::from_str(&before[1].1)?);
    assert_eq!((page["leaves"].as_array().unwrap().len(), &page["at"]["final"]), (4, &Value::Bool(true)));
    let next = page["next_cursor"].as_str().unwrap();
    let (_, rest) = indexer.get(&format!("/v1/batches/numo/0/leaves?cursor={next}")).await?;
    assert_eq!(rest["leaves"][1]["leaf"], proof["leaf"]);
    assert_eq!(page["at"]["block_number"], indexer.get("/v1/batches/numo/0").await?.1["block_number"]);
    // the proof is one for npm's library, too
    let as_proofs = serde_json::json!({ "types": proof["types"], "proofs": [proof] });
    assert_eq!(javascript_says(&as_proofs), (true, "verified 1\n".into()));

    // later blocks, and a claim, change what may change and nothing else
    let (_, weak, cache, _) = get("/v1/batches/numo/0", None).await;
    assert!(weak.starts_with("W/") && cache == "no-cache", "{weak} {cache}");
    forge.stack.chain.mine(5).await?;
    let at = forge.stack.chain.block_number().await? - 2;
    indexer.until("/status", |_, body| body["applied_block"].as_u64() >= Some(at)).await?;
    for (path, (tag, body)) in paths.iter().zip(&before) {
        assert_eq!(get(path, None).await.3, *body, "{path}");
        assert_eq!(get(path, Some(tag)).await.0, 304);
        assert_eq!(get(path, Some(&format!("\"x\", W/{tag}"))).await.0, 304);
    }
    for (path, field) in [
        ("/v1/batches/numo/1/leaves", "number"),
        ("/v1/batches/numo/0/leaves/6", "index"),
        ("/v1/batches/numo/0/leaves/4294967295", "index"),
        ("/v1/batches/nobody/0/leaves/1", "provider"),
    ] {
        let (status, problem) = indexer.get(path).await?;
        assert_eq!((status, &problem["field"]), (404, &Value::from(field)), "{path} {problem}");
    }
    Ok(())
}
