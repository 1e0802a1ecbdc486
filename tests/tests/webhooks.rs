//! What a provider hears of its batches: every state, signed, in order, at least once, whatever fails in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, extract::State, http::HeaderMap, http::StatusCode, response::IntoResponse, routing::post};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use tidemark::ids::ContentHash;
use tidemark_tests::{
    Options, Stack,
    services::{Service, free_port},
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, registration},
        world::World,
    },
    wirings::relayer_command,
};

/// A killed relayer leaves a lease of 20 s behind.
const TIME_MAX: Duration = Duration::from_secs(60);

/// A message as it came.
#[derive(Clone, Debug)]
struct Got {
    id: String,
    timestamp: String,
    signature: String,
    body: String,
    answered: u16,
}

impl Got {
    fn value(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// As the Standard Webhooks libraries do.
    fn is_signed_with(&self, secret: &str) -> bool {
        let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
        mac.update(format!("{}.{}.{}", self.id, self.timestamp, self.body).as_bytes());
        let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        self.signature.split(' ').any(|signature| signature == expected)
    }
}

#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Got>>>,
    /// Answers to come, before 204 for ever.
    refusals: Arc<Mutex<Vec<u16>>>,
    pause: Duration,
    url: String,
}

impl Receiver {
    async fn start(pause: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let receiver = Self { pause, url, ..Self::default() };
        let router = Router::new().route("/hook", post(take)).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        receiver
    }

    fn refuse(&self, with: &[u16]) {
        *self.refusals.lock().unwrap() = with.to_vec();
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    /// Waits until a message that was taken is as wanted; gives all that were taken, each once.
    async fn until(&self, wanted: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let mut seen = BTreeSet::new();
            let taken = self.got().into_iter().filter(|got| got.answered == 204 && seen.insert(got.id.clone()));
            let taken: Vec<Got> = taken.collect();
            if wanted(&taken) {
                return taken;
            }
            assert!(Instant::now() < deadline, "{:#?}", self.got());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn take(State(receiver): State<Receiver>, headers: HeaderMap, body: String) -> impl IntoResponse {
    tokio::time::sleep(receiver.pause).await;
    let answered = {
        let mut refusals = receiver.refusals.lock().unwrap();
        if refusals.is_empty() { 204 } else { refusals.remove(0) }
    };
    let header = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    receiver.got.lock().unwrap().push(Got {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body,
        answered,
    });
    // where it leads must not be followed
    (StatusCode::from_u16(answered).unwrap(), [("location", "/elsewhere")])
}

fn is(state: &str, number: u64) -> impl Fn(&[Got]) -> bool {
    let kind = format!("batch.{state}");
    move |taken| taken.iter().map(Got::value).any(|got| got["type"] == kind.as_str() && got["data"]["number"] == number)
}

fn states_of(taken: &[Got], number: u64) -> Vec<String> {
    let values = taken.iter().map(Got::value).filter(|value| value["data"]["number"] == number);
    values.map(|value| value["data"]["state"].as_str().unwrap().to_owned()).collect()
}

async fn start() -> (Stack, World, Doors) {
    tidemark::install_tls();
    let options = Options { services: Services::WriteSide, batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let stack = Stack::start(options).await.unwrap();
    let world = World::build(&stack, [1, 1, 1]).await.unwrap();
    let doors = Doors::new(&stack, &world).unwrap();
    (stack, world, doors)
}

fn run(stack: &Stack, arguments: &[&str]) -> anyhow::Result<String> {
    let relayer = stack.relayer.as_ref().unwrap();
    relayer.run_once(&relayer_command(relayer.wiring(), arguments))
}

fn set(stack: &Stack, url: &str) -> String {
    run(stack, &["provider", "webhook", "--name", "numo", "--url", url]).unwrap()
}

async fn register(doors: &Doors, id: &str) {
    let item = registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap();
    doors.register(id, &[item]).await.unwrap();
}

async fn get(stack: &Stack, api_key: &str, path: &str) -> (u16, Value) {
    let url = format!("{}{path}", stack.relayer.as_ref().unwrap().url());
    let answer = reqwest::Client::new().get(url).header("x-api-key", api_key).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_is_told_once_signed_and_in_order_also_after_refusals_and_a_kill() {
    let (mut stack, world, doors) = start().await;
    let receiver = Receiver::start(Duration::ZERO).await;
    let secret = set(&stack, &receiver.url);
    receiver.refuse(&[500, 302, 429]);
    register(&doors, "a").await;
    let taken = receiver.until(is("final", 0)).await;
    assert_eq!(states_of(&taken, 0), ["sealed", "signed", "submitted", "mined", "final"]);
    assert!(taken.iter().all(|got| got.is_signed_with(&secret)));
    let others = format!("whsec_{}", STANDARD.encode([1u8; 32]));
    assert!(
        !taken[0].is_signed_with(&others) && !Got { body: "{}".into(), ..taken[0].clone() }.is_signed_with(&secret)
    );
    let first: Vec<Got> = receiver.got().into_iter().filter(|got| got.id == taken[0].id).collect();
    assert_eq!(first.iter().map(|got| got.answered).collect::<Vec<_>>(), [500, 302, 429, 204], "and no redirect");
    assert!(first.iter().all(|got| got.body == first[0].body), "the same bytes at every attempt");

    // what is told is what the API and the chain say
    let (_, batches) = get(&stack, &world.api_key, "/v1/batches").await;
    let (batch, told) = (&batches["batches"][0], taken[4].value());
    assert_eq!(told["data"]["root"], batch["header"]["root"]);
    assert_eq!(told["data"]["transaction"], batch["transaction"]);
    assert_eq!(told["data"]["block_number"], batch["block_number"]);
    assert_eq!(told["data"]["provider"].as_str().unwrap().to_lowercase(), format!("{:#x}", world.provider));
    let (_, listed) = get(&stack, &world.api_key, told["data"]["records"].as_str().unwrap()).await;
    assert_eq!(listed["records"].as_array().unwrap().len(), 1, "{listed}");
    let record = format!("/v1/records/{}", listed["records"][0]["data_id"].as_str().unwrap());
    let (_, record) = get(&stack, &world.api_key, &record).await;
    let event = &record["events"][0];
    assert_eq!((&event["state"], &event["proof"]), (&json!("final"), &json!([])), "a tree of one leaf: {record}");
    assert_eq!(event["leaf"], batch["header"]["root"]);
    assert_eq!(get(&stack, &world.api_key, "/v1/batches/7/records").await.0, 404);
    assert_eq!(get(&stack, &world.api_key, "/v1/batches/x/records").await.0, 400);

    // a kill in the middle loses nothing
    register(&doors, "b").await;
    receiver.until(is("sealed", 1)).await;
    stack.relayer.as_mut().unwrap().kill();
    stack.relayer.as_mut().unwrap().restart().await.unwrap();
    let taken = receiver.until(is("final", 1)).await;
    assert_eq!(states_of(&taken, 1), ["sealed", "signed", "submitted", "mined", "final"]);

    // with a new secret the old one signs too, for a day
    let second = set(&stack, &receiver.url);
    register(&doors, "c").await;
    let taken = receiver.until(is("sealed", 2)).await;
    let newest = taken.last().unwrap();
    assert!(second != secret && newest.is_signed_with(&secret) && newest.is_signed_with(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorg_is_told_and_what_nobody_takes_is_dead_until_it_is_replayed() {
    let (stack, world, doors) = start().await;
    let receiver = Receiver::start(Duration::ZERO).await;
    set(&stack, &receiver.url);
    stack.chain.pause_mining().await.unwrap();
    register(&doors, "a").await;
    receiver.until(is("submitted", 0)).await;
    stack.chain.until_sent().await.unwrap();
    stack.chain.mine(1).await.unwrap();
    receiver.until(is("mined", 0)).await;
    stack.chain.reorg(1).await.unwrap();
    stack.chain.mine(1).await.unwrap();
    let deadline = Instant::now() + TIME_MAX;
    while !is("final", 0)(&receiver.got()) {
        stack.chain.mine(1).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(Instant::now() < deadline, "{:#?}", receiver.got());
    }
    let told = receiver.until(is("final", 0)).await;
    let states = states_of(&told, 0);
    assert_eq!(states[..3], ["sealed", "signed", "submitted"]);
    let back = told
        .iter()
        .map(Got::value)
        .find(|v| v["data"]["previous_state"] == "mined" && v["data"]["state"] == "submitted");
    assert!(back.is_some(), "the reorg was told: {states:?}");

    // four attempts in vain, then dead; the next one goes on
    stack.chain.resume_mining().await.unwrap();
    let before = receiver.got().len();
    receiver.refuse(&[503; 4]);
    register(&doors, "b").await;
    let told = receiver.until(is("signed", 1)).await;
    assert_eq!(states_of(&told, 1)[0], "signed");
    assert!(receiver.got()[before..before + 4].iter().all(|got| got.answered == 503));
    let (_, dead) = get(&stack, &world.api_key, "/v1/webhooks?state=dead").await;
    let dead = &dead["messages"][0];
    assert_eq!(
        (&dead["type"], &dead["attempts"], &dead["last_status"]),
        (&json!("batch.sealed"), &json!(4), &json!(503))
    );
    let (_, page) = get(&stack, &world.api_key, "/v1/webhooks?limit=2").await;
    assert_eq!((page["messages"].as_array().unwrap().len(), &page["url"]), (2, &json!(receiver.url)));
    let next = page["next_cursor"].as_str().unwrap();
    let (_, rest) = get(&stack, &world.api_key, &format!("/v1/webhooks?cursor={next}")).await;
    assert!(rest["messages"][0]["id"].as_i64() > page["messages"][1]["id"].as_i64());
    for wrong in ["state=lost", "cursor=-1", "limit=0"] {
        assert_eq!(get(&stack, &world.api_key, &format!("/v1/webhooks?{wrong}")).await.0, 400, "{wrong}");
    }
    assert_eq!(get(&stack, "tmk_none", "/v1/webhooks").await.0, 401);

    assert_eq!(run(&stack, &["webhook", "replay", "--name", "numo"]).unwrap(), "1");
    receiver.until(is("sealed", 1)).await;
    receiver.until(is("final", 1)).await;
    let id = dead["id"].as_i64().unwrap().to_string();
    let count: usize = run(&stack, &["webhook", "replay", "--name", "numo", "--from", &id]).unwrap().parse().unwrap();
    assert!((1..=5).contains(&count), "{count}");

    // refusals of the command
    for wrong in ["http//x", "ftp://example.com/", "https://user:pass@example.com/"] {
        assert!(run(&stack, &["provider", "webhook", "--name", "numo", "--url", wrong]).is_err(), "{wrong}");
    }
    assert!(run(&stack, &["webhook", "replay", "--name", "nobody"]).is_err());
    assert_eq!(run(&stack, &["provider", "webhook", "--name", "numo", "--remove"]).unwrap(), "removed");
    assert!(run(&stack, &["provider", "webhook", "--name", "numo", "--remove"]).is_err(), "there is none any more");
    assert_eq!(get(&stack, &world.api_key, "/v1/webhooks").await.1["url"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relayers_never_send_one_message_at_the_same_time() {
    let (stack, _, doors) = start().await;
    // slow enough that the other process looks many times meanwhile
    let receiver = Receiver::start(Duration::from_millis(300)).await;
    set(&stack, &receiver.url);
    let first = stack.relayer.as_ref().unwrap().wiring().clone();
    let port = free_port().unwrap();
    let mut wiring = tidemark_tests::services::Wiring { name: "relayer-2".into(), port, ..first };
    for (name, value) in &mut wiring.environment {
        if *name == "TIDEMARK_RELAYER_LISTEN" {
            *value = format!("127.0.0.1:{port}");
        }
    }
    let _second = Service::start(&stack.folder, wiring).await.unwrap();
    for id in ["a", "b", "c"] {
        register(&doors, id).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    receiver.until(is("final", 0)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let got = receiver.got();
    let ids: BTreeSet<&String> = got.iter().map(|got| &got.id).collect();
    assert_eq!(ids.len(), got.len(), "each message came once: {got:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_inside_is_reached_without_leave_and_old_messages_end_and_go() {
    let (mut stack, world, doors) = start().await;
    let receiver = Receiver::start(Duration::ZERO).await;
    set(&stack, &receiver.url);
    let mut strict = stack.relayer.as_ref().unwrap().wiring().clone();
    for (name, value) in &mut strict.environment {
        if *name == "TIDEMARK_WEBHOOK_ALLOW_PRIVATE" {
            *value = "false".into();
        }
    }
    stack.relayer.as_mut().unwrap().stop();
    stack.relayer = Some(Service::start(&stack.folder, strict).await.unwrap());
    for wrong in [receiver.url.as_str(), "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/hook"] {
        let refused = run(&stack, &["provider", "webhook", "--name", "numo", "--url", wrong]).unwrap_err().to_string();
        assert!(refused.contains("expected https") || refused.contains("public address"), "{wrong}: {refused}");
    }
    register(&doors, "a").await;
    let deadline = Instant::now() + TIME_MAX;
    let tried = loop {
        let (_, body) = get(&stack, &world.api_key, "/v1/webhooks").await;
        let first = &body["messages"][0];
        if first["attempts"].as_i64() >= Some(1) {
            break first.clone();
        }
        assert!(Instant::now() < deadline, "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(tried["last_error"].as_str().unwrap().contains("expected https"), "{tried}");

    // a name that leads inside, however it is spelled
    set(&stack, "https://localhost:9/");
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let (_, body) = get(&stack, &world.api_key, "/v1/webhooks").await;
        if body.to_string().contains("public addresses only") {
            break;
        }
        assert!(Instant::now() < deadline, "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(receiver.got().len(), 0);

    // what nobody takes ends after three days, and what has ended goes after its time
    stack.relayer.as_mut().unwrap().stop();
    let db = sqlx::PgPool::connect(&stack.postgres.url("relayer")).await.unwrap();
    let states = async |state: &str| -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM outbox_message WHERE state = $1").bind(state);
        count.fetch_one(&db).await.unwrap()
    };
    sqlx::query("UPDATE outbox_message SET state = 'waiting', ended_at = NULL").execute(&db).await.unwrap();
    let all = states("waiting").await;
    assert!(all >= 2);
    tidemark_relayer::outbox::clean(&db, 1).await.unwrap();
    assert_eq!(states("waiting").await, all, "not before their time");
    sqlx::query("UPDATE outbox_message SET created_at = now() - interval '73 hours'").execute(&db).await.unwrap();
    tidemark_relayer::outbox::clean(&db, 1).await.unwrap();
    assert_eq!((states("waiting").await, states("dead").await), (0, all));
    sqlx::query("UPDATE outbox_message SET ended_at = now() - interval '61 minutes'").execute(&db).await.unwrap();
    tidemark_relayer::outbox::clean(&db, 2).await.unwrap();
    assert_eq!(states("dead").await, all);
    tidemark_relayer::outbox::clean(&db, 1).await.unwrap();
    assert_eq!(states("dead").await, 0);
}
