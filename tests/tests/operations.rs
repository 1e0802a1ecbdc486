//! What operators see: status and metrics on an address of their own, in base units, and what a batch's stages took.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::primitives::B256;
use serde_json::Value;
use tidemark::{ids::ContentHash, merkle::root_from_proof};
use tidemark_tests::{
    Options, Stack,
    services::{Service, Wiring, free_port},
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, registration},
        world::World,
    },
};

async fn text(url: &str) -> (u16, String) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_have_an_address_of_their_own_and_see_how_long_each_stage_took() -> anyhow::Result<()> {
    tidemark::install_tls();
    let options = Options { services: Services::WriteSide, batch_age_ms_max: 1_000, poll_ms: 50, ..Options::default() };
    let mut stack = Stack::start(options).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let mut first = stack.relayer.take().unwrap();
    let operator = format!("127.0.0.1:{}", free_port()?);
    let mut wiring: Wiring = first.wiring().clone();
    first.stop();
    wiring.environment.push(("TIDEMARK_RELAYER_OPERATOR_LISTEN", operator.clone()));
    stack.relayer = Some(Service::start(&stack.folder, wiring).await?);
    let data = stack.relayer.as_ref().unwrap().url().to_owned();
    let operator = format!("http://{operator}");

    for path in ["/status", "/metrics"] {
        assert_eq!(text(&format!("{data}{path}")).await.0, 404, "{path} is the operators' alone");
        assert_eq!(text(&format!("{operator}{path}")).await.0, 200, "{path}");
    }
    for path in ["/health", "/ready"] {
        assert_eq!((text(&format!("{data}{path}")).await.0, text(&format!("{operator}{path}")).await.0), (200, 200));
    }
    assert_eq!(text(&format!("{operator}/v1/batches")).await.0, 404, "and only that");
    // a series that begins at its first crash would never be seen to rise
    let (_, of_attestor) = text(&format!("{}/metrics", stack.attestor.as_ref().unwrap().url())).await;
    assert!(of_attestor.contains("\ndecoder_crashes_total 0\n"), "{of_attestor}");

    // while nothing is mined, what is unanchored grows old
    stack.chain.pause_mining().await?;
    let doors = Doors::new(&stack, &world)?;
    let items =
        ["a", "b", "c"].map(|id| registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap());
    doors.register("one", &items).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let status: Value = serde_json::from_str(&text(&format!("{operator}/status")).await.1)?;
        if status["oldest_unanchored_age_seconds"].as_i64() >= Some(3) {
            assert_eq!(status["outbox"]["waiting"], 0, "{status}");
            assert_eq!(status["erasures"], 0, "{status}");
            break;
        }
        assert!(Instant::now() < deadline, "{status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (_, metrics) = text(&format!("{operator}/metrics")).await;
    let value = |metrics: &str, series: &str| -> Option<f64> {
        metrics.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
    };
    assert!(value(&metrics, "unanchored_age_seconds ").unwrap() >= 3.0, "{metrics}");
    stack.chain.resume_mining().await?;

    let stages = ["received_to_sealed", "sealed_to_signed", "signed_to_mined", "mined_to_final"];
    let metrics = loop {
        let (_, metrics) = text(&format!("{operator}/metrics")).await;
        let counted =
            |stage: &&str| value(&metrics, &format!("batch_stage_seconds_count{{stage=\"{stage}\"}} ")).is_some();
        if stages.iter().all(counted) {
            break metrics;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(value(&metrics, "unanchored_age_seconds "), Some(0.0));
    let of = |part: &str, stage: &str| {
        value(&metrics, &format!("batch_stage_seconds_{part}{{stage=\"{stage}\"}} ")).unwrap()
    };
    assert_eq!(of("count", "received_to_sealed"), 3.0, "a record each");
    assert!(of("sum", "received_to_sealed") >= 3.0, "each waited for its batch for a second:\n{metrics}");
    assert_eq!(of("count", "mined_to_final"), 1.0);
    assert!(of("sum", "signed_to_mined") >= 1.0, "{metrics}");
    assert!(metrics.contains("batch_stage_seconds_bucket{stage=\"signed_to_mined\",le=\"+Inf\"} 1"), "{metrics}");
    for gone in ["quantile=", "_ms "] {
        assert!(!metrics.contains(gone), "{gone}:\n{metrics}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_shows_its_state_and_its_proof_as_soon_as_it_is_sealed() -> anyhow::Result<()> {
    tidemark::install_tls();
    let options = Options { services: Services::WriteSide, batch_age_ms_max: 1_000, poll_ms: 50, ..Options::default() };
    let mut stack = Stack::start(options).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    stack.chain.pause_mining().await?;
    // nobody signs for now
    stack.attestor.as_mut().unwrap().stop();
    let ids = ["a", "b", "c", "d", "e"];
    let items = ids.map(|id| registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap());
    let answer = doors.register("one", &items).await?;
    let data_id = answer["items"][3]["data_id"].as_str().unwrap().to_owned();
    let url = format!("{}/v1/records/{data_id}", stack.relayer.as_ref().unwrap().url());
    let batches = format!("{}/v1/batches", stack.relayer.as_ref().unwrap().url());
    let ask = async |url: &str| -> Value {
        let request = reqwest::Client::new().get(url).header("x-api-key", &world.api_key);
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    };
    let event = async |state: &str| -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let event = ask(&url).await["events"][0].clone();
            if event["state"] == state {
                return event;
            }
            assert!(Instant::now() < deadline, "not {state}: {event}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let pending = event("pending").await;
    assert!(pending["proof"].is_null() && pending["leaf"].is_null(), "{pending}");
    let sealed = event("sealed").await;
    let leaf: B256 = serde_json::from_value(sealed["leaf"].clone())?;
    let proof: Vec<B256> = serde_json::from_value(sealed["proof"].clone())?;
    assert_eq!(ask(&batches).await["batches"][0]["header"], Value::Null, "there is no header yet");

    stack.attestor.as_mut().unwrap().restart().await?;
    let submitted = event("submitted").await;
    assert_eq!((&submitted["proof"], &submitted["leaf"]), (&sealed["proof"], &sealed["leaf"]));
    let root: B256 = serde_json::from_value(ask(&batches).await["batches"][0]["header"]["root"].clone())?;
    assert_eq!(root_from_proof(leaf, &proof), root);
    stack.chain.until_sent().await?;
    stack.chain.mine(1).await?;
    event("mined").await;
    stack.chain.resume_mining().await?;
    let done = event("final").await;
    assert!(done["transaction"].is_string() && done["block_number"].is_number(), "{done}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_too_much_waits_for_the_chain_more_is_turned_away_until_it_does_not() -> anyhow::Result<()> {
    tidemark::install_tls();
    let options = Options {
        services: Services::WriteSide,
        batch_age_ms_max: 100,
        poll_ms: 50,
        backlog_events_max: 5,
        ..Options::default()
    };
    let stack = Stack::start(options).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    stack.chain.pause_mining().await?;
    let body = |ids: &[&str]| {
        let item = |id: &&str| registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap();
        serde_json::to_vec(&ids.iter().map(item).collect::<Vec<_>>()).unwrap()
    };
    // below the bound before, so taken
    assert_eq!(doors.post_records("one", body(&["a", "b", "c", "d", "e"])).await?.status(), 202);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut sent = 0;
    let refused = loop {
        sent += 1;
        let answer = doors.post_records(&format!("more-{sent}"), body(&[&format!("more-{sent}")])).await?;
        if answer.status() != 202 {
            break answer;
        }
        assert!(Instant::now() < deadline, "{sent} more were taken");
    };
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"1".parse()?));
    let problem: Value = serde_json::from_str(&refused.text().await?)?;
    assert_eq!(problem["type"], "urn:tidemark:problem:backlog-full", "{problem}");

    stack.chain.resume_mining().await?;
    // the same request, as a client sends it again
    while doors.post_records(&format!("more-{sent}"), body(&[&format!("more-{sent}")])).await?.status() != 202 {
        assert!(Instant::now() < deadline, "still full");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
