//! Server-Sent Events of the indexer: what is told, how a listener goes on after a break, and that listeners are bounded.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use alloy::{primitives::B256, sol_types::SolEvent};
use futures::{StreamExt, stream};
use reqwest::Response;
use serde_json::{Value, json};
use sqlx::Connection;
use tidemark::contracts::ConsentRegistry;
use tidemark_indexer::{
    feed::{Feed, Place},
    serve::open_database,
};
use tidemark_tests::{Options, Stack, keys::role, mined, services::Service, stack::Services};
use tokio_util::sync::CancellationToken;

const TIME_MAX: Duration = Duration::from_secs(30);
const LISTENERS_MAX: usize = 3;

/// One event off the wire.
#[derive(Debug)]
struct Event {
    id: Option<String>,
    kind: String,
    data: Value,
}

struct Listening {
    answer: Response,
    text: String,
}

impl Listening {
    async fn open(indexer: &Service, last: Option<&str>) -> Response {
        let mut request = reqwest::Client::new().get(format!("{}/v1/events", indexer.url()));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        request.send().await.unwrap()
    }

    async fn new(indexer: &Service, last: Option<&str>) -> Self {
        let answer = Self::open(indexer, last).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                let field = |name: &str| {
                    event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
                };
                if let Some(data) = field("data") {
                    let (id, kind) = (field("id"), field("event").unwrap());
                    return Event { id, kind, data: serde_json::from_str(&data).unwrap() };
                }
                continue;
            }
            let chunk = tokio::time::timeout(TIME_MAX, self.answer.chunk()).await.expect("nothing comes").unwrap();
            self.text.push_str(std::str::from_utf8(&chunk.expect("the stream ended")).unwrap());
        }
    }

    async fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await;
            if wanted(&event) {
                return event;
            }
        }
    }
}

fn policy(hash: B256, is_final: bool) -> impl Fn(&Event) -> bool {
    move |event| {
        event.kind == "policy" && event.data["policy_hash"] == hash.to_string() && event.data["final"] == is_final
    }
}

async fn start() -> (Stack, Service) {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await.unwrap();
    let bound = vec![("TIDEMARK_INDEXER_EVENT_LISTENERS_MAX", LISTENERS_MAX.to_string())];
    let indexer = stack.start_indexer_with("live", bound).await.unwrap();
    (stack, indexer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_told_of_mined_and_final_and_goes_on_where_it_broke_off() -> anyhow::Result<()> {
    let (stack, indexer) = start().await;
    let sender = stack.sender(role::PROVIDER).await?;
    let registry = ConsentRegistry::new(stack.deployment.consent_registry, &sender);
    let hashes: Vec<B256> = (1..=5u8).map(B256::repeat_byte).collect();
    let publish = async |hash: B256| {
        mined!("publish", registry.publishPolicy(hash, "1".into(), "https://example.invalid".into()));
        anyhow::Ok(())
    };

    let mut listening = Listening::new(&indexer, None).await;
    let first = listening.next().await;
    assert_eq!((first.kind.as_str(), &first.data["final"]), ("block", &json!(true)));
    assert!(first.id.is_some(), "{first:?}");
    publish(hashes[0]).await?;
    let seen = listening.until(policy(hashes[0], false)).await;
    assert_eq!(seen.id, None, "a reorg may take it: {seen:?}");
    let seen = listening.until(policy(hashes[0], true)).await;
    let last = seen.id.unwrap();
    listening.until(|event| event.kind == "block" && event.data["final"] == true).await;
    drop(listening);

    // two more while nobody listens; then each once, in order, and not the one that was seen
    publish(hashes[1]).await?;
    publish(hashes[2]).await?;
    let mut probe = Listening::new(&indexer, Some(&last)).await;
    probe.until(policy(hashes[2], true)).await;
    drop(probe);
    let mut again = Listening::new(&indexer, Some(&last)).await;
    publish(hashes[3]).await?;
    let mut told = Vec::new();
    let mut places = Vec::new();
    while told.last() != Some(&hashes[3].to_string()) {
        let event = again.next().await;
        if let Some(id) = &event.id {
            places.push(Place::parse(id).unwrap());
        }
        if event.kind == "policy" && event.data["final"] == true {
            told.push(event.data["policy_hash"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(told, hashes[1..4].iter().map(B256::to_string).collect::<Vec<_>>());
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    drop(again);
    let mut all = Listening::new(&indexer, Some("0")).await;
    for hash in &hashes[..4] {
        all.until(policy(*hash, true)).await;
    }

    // a reorg of what is only mined
    stack.chain.pause_mining().await?;
    let call = registry.publishPolicy(hashes[4], "1".into(), "https://example.invalid".into());
    let _pending = call.send().await?;
    stack.chain.mine(1).await?;
    all.until(policy(hashes[4], false)).await;
    stack.chain.reorg(1).await?;
    let reorg = all.until(|event| event.kind == "reorg").await;
    assert!(reorg.id.is_none() && reorg.data["mined_from_block"].is_u64(), "{reorg:?}");
    drop(all);

    for wrong in ["x", "-1", "1-2-3", "99999999999999999999", ""] {
        let answer = Listening::open(&indexer, Some(wrong)).await;
        let (status, problem) = (answer.status(), answer.text().await?);
        let problem: Value = serde_json::from_str(&problem)?;
        assert_eq!((status.as_u16(), &problem["field"]), (400, &json!("Last-Event-ID")), "{wrong}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_listeners_past_the_bound_are_refused_and_a_free_place_is_taken() -> anyhow::Result<()> {
    let (_stack, indexer) = start().await;
    let mut held = Vec::new();
    for _ in 0..LISTENERS_MAX {
        let mut listening = Listening::new(&indexer, None).await;
        listening.next().await;
        held.push(listening);
    }
    let client = reqwest::Client::new();
    let refused = stream::iter(0..10_000)
        .map(|_| {
            let request = client.get(format!("{}/v1/events", indexer.url()));
            async move {
                let answer = request.send().await.unwrap();
                let after = answer.headers().get("retry-after").is_some();
                let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
                answer.status() == 503 && after && kind == "application/problem+json"
            }
        })
        .buffer_unordered(64)
        .filter(|refused| std::future::ready(*refused))
        .count()
        .await;
    assert_eq!(refused, 10_000);
    // those who were there are still told, and everything else is answered
    let mut first = held.remove(0);
    first.until(|event| event.kind == "block").await;
    assert_eq!(indexer.get("/v1/providers").await?.0, 200);
    drop(held);
    let deadline = std::time::Instant::now() + TIME_MAX;
    while Listening::open(&indexer, None).await.status() != 200 {
        assert!(std::time::Instant::now() < deadline, "the places of those who left are not free");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_does_not_keep_up_is_let_go_and_misses_nothing_when_it_comes_back() -> anyhow::Result<()> {
    const LOGS: i64 = 3_000;
    let (stack, indexer) = start().await;
    drop(indexer);
    let url = stack.postgres.create_database("feed").await?;
    let pool = open_database(&url, 4).await?;
    let mut db = stack.postgres.connect("feed").await?;
    let stop = CancellationToken::new();
    let feed = Feed::new(pool.clone(), stack.deployment.clone(), 2, stop.clone());
    let zero = vec![0u8; 32];
    sqlx::query(
        "INSERT INTO mirror.cursor (chain_id, provenance_log, mirrored_number, mirrored_hash, applied_number, applied_hash)
         VALUES (31337, $1, 1, $2, 1, $2)",
    )
    .bind(stack.deployment.provenance_log.as_slice())
    .bind(&zero)
    .execute(&mut db)
    .await?;
    let running = tokio::spawn(feed.clone().run(Duration::from_millis(100)));
    let mut slow = feed.listen(None).unwrap();
    assert_eq!(slow.next().await.unwrap().id().as_deref(), Some("1"));
    // one look at least with somebody there, so that the next tells what is new
    let mut level = feed.listen(None).unwrap();
    level.next().await.unwrap();
    assert!(feed.listen(None).is_none(), "two are the bound");
    let waits = tokio::time::timeout(Duration::from_millis(500), slow.next()).await;
    assert!(waits.is_err(), "nothing is new");
    let data = ConsentRegistry::PolicyPublished {
        provider: stack.deployment.provenance_log,
        policyHash: B256::repeat_byte(1),
        version: "1".into(),
        uri: String::new(),
    }
    .encode_log_data();
    let topics: Vec<&[u8]> = data.topics().iter().map(|topic| topic.as_slice()).collect();
    let mut transaction = db.begin().await?;
    sqlx::query(
        "INSERT INTO chain_log (block_hash, log_index, block_number, block_time, tx_hash, address, topics, data)
         SELECT $1, n, 2, 1, $1, $2, $3, $4 FROM generate_series(1, $5) AS n",
    )
    .bind(&zero)
    .bind(stack.deployment.consent_registry.as_slice())
    .bind(&topics)
    .bind(data.data.as_ref())
    .bind(LOGS)
    .execute(&mut *transaction)
    .await?;
    sqlx::query("UPDATE mirror.cursor SET mirrored_number = 2, applied_number = 2").execute(&mut *transaction).await?;
    transaction.commit().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended = tokio::time::timeout(TIME_MAX, async { while slow.next().await.is_some() {} }).await;
    assert!(ended.is_ok(), "a listener that is {LOGS} events behind is let go");
    drop(slow);

    let mut back = feed.listen(Place::parse("1")).unwrap();
    let mut ids = Vec::new();
    while ids.last().is_none_or(|id| id != "2") {
        ids.push(tokio::time::timeout(TIME_MAX, back.next()).await?.unwrap().id().unwrap());
    }
    let expected: Vec<String> = (1..=LOGS).map(|log| format!("2-{log}")).chain(["2".into()]).collect();
    assert_eq!(ids, expected);
    stop.cancel();
    assert!(tokio::time::timeout(TIME_MAX, back.next()).await?.is_none(), "nobody is kept when the service ends");
    running.await?;
    Ok(())
}
