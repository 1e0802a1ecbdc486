//! Several relayers at once: on one database, where one works and the others stand by; on two with one key; and several keys.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use alloy::primitives::Address;
use serde_json::{Value, json};
use tidemark_relayer::{
    anchor::nonce::serves,
    app::{MIGRATIONS, open_database},
    lease::Leases,
};
use tidemark_tests::{
    Options, Stack,
    keys::{dev_address, dev_secret, role},
    random::Random,
    services::Service,
    stack::Services,
    write_side::{another_provider, another_relayer, rewire, start},
};
use tokio_util::sync::CancellationToken;

fn quick() -> Options {
    Options { batch_events_max: 4, batch_age_ms_max: 100, poll_ms: 30, ..Options::default() }
}

/// Positions of the relayers that say they send from the first lane; those that do not answer do not.
async fn active(relayers: &[Service]) -> Vec<usize> {
    let mut active = Vec::new();
    for (at, relayer) in relayers.iter().enumerate() {
        if relayer.get("/status").await.is_ok_and(|(_, status)| status["lanes"][0]["active"] == true) {
            active.push(at);
        }
    }
    active
}

async fn one_is_active(relayers: &[Service]) -> usize {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match active(relayers).await[..] {
            [one] => return one,
            _ => assert!(Instant::now() < deadline, "nobody, or several, send"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Rows of the relayer's database as one text.
async fn ask(stack: &Stack, database: &str, query: &'static str) -> String {
    let mut db = stack.postgres.connect(database).await.unwrap();
    sqlx::query_scalar::<_, Option<String>>(query).fetch_one(&mut db).await.unwrap().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_relayers_on_one_database_one_sends_and_kills_of_it_lose_and_double_nothing() {
    let mut random = Random::from_environment();
    let (mut stack, _world, mut app) = start(quick()).await.unwrap();
    let mut relayers = vec![
        another_relayer(&stack, "relayer-2", &[]).await.unwrap(),
        another_relayer(&stack, "relayer-3", &[]).await.unwrap(),
    ];
    relayers.push(stack.relayer.take().unwrap());
    app.relayers = relayers.iter().map(|relayer| relayer.url().to_owned()).collect();
    let mut killed = Vec::new();
    let rounds = 8;
    for round in 0..rounds {
        app.register(round * 7, 7).await.unwrap();
        let one = one_is_active(&relayers).await;
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        relayers[one].kill();
        killed.push(one);
        app.register(1_000 + round * 7, 7).await.unwrap();
        // the one that was killed comes back while another has taken over, or is about to
        relayers[one].restart().await.unwrap();
    }
    let batches = app.reached(u64::from(rounds) * 14, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    killed.dedup();
    assert!(killed.len() > 1, "another took over: {killed:?}");
    let lane = app.lane_until(|lane| lane["next_nonce"] == lane["chain_nonce"]).await.unwrap();
    // no nonce without a transaction, none that failed, and no batch in two
    let query = "SELECT count(*) || ' ' || count(DISTINCT nonce) || ' ' || count(DISTINCT (provider, number))
                     || ' ' || bool_and(state = 'final') || ' ' || bool_and(purpose = 'anchor') FROM transaction";
    let count = batches.len();
    assert_eq!(ask(&stack, "relayer", query).await, format!("{count} {count} {count} true true"), "{lane}");
    assert_eq!(lane["next_nonce"], json!(count), "{lane}");
    // asked to stop, it lets go at once, and another need not wait for the time to be up
    let one = one_is_active(&relayers).await;
    let holder = ask(&stack, "relayer", "SELECT holder::text FROM lease WHERE name LIKE 'send %'").await;
    relayers[one].stop();
    let left = ask(&stack, "relayer", "SELECT string_agg(holder::text, ' ') FROM lease").await;
    assert!(!left.contains(&holder), "{left}");
    one_is_active(&relayers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_slept_through_its_lease_writes_nothing_and_stands_by() {
    let (mut stack, _world, mut app) = start(quick()).await.unwrap();
    let mut relayers = vec![another_relayer(&stack, "relayer-2", &[]).await.unwrap()];
    relayers.push(stack.relayer.take().unwrap());
    let one = one_is_active(&relayers).await;
    let other = 1 - one;
    app.relayers = vec![relayers[other].url().to_owned()];
    relayers[one].pause().unwrap();
    for round in 0..3 {
        app.register(round * 4, 4).await.unwrap();
    }
    app.reached(12, &["mined", "final"]).await.unwrap();
    assert_eq!(relayers[other].get("/status").await.unwrap().1["lanes"][0]["active"], true);
    relayers[one].resume().unwrap();
    app.register(12, 4).await.unwrap();
    let batches = app.reached(16, &["final"]).await.unwrap();
    app.check_anchored_once(&stack, &batches).await.unwrap();
    assert_eq!(active(&relayers).await, [other]);
    let lane = app.lane_until(|lane| lane["next_nonce"] == lane["chain_nonce"]).await.unwrap();
    assert_eq!(lane["next_nonce"], json!(batches.len()), "{lane}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relayers_with_one_key_and_two_databases_both_get_all_of_their_batches_anchored() {
    let (stack, world, first) = start(quick()).await.unwrap();
    let database = stack.postgres.create_database("relayer_two").await.unwrap();
    let other = another_relayer(&stack, "relayer-two", &[("DATABASE_URL", database)]).await.unwrap();
    let second = another_provider(&stack, &world, "second", &other).await.unwrap();
    let rounds = 8;
    for round in 0..rounds {
        let (one, two) = tokio::join!(first.register(round * 4, 4), second.register(round * 4, 4));
        one.unwrap();
        two.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (app, database) in [(&first, "relayer"), (&second, "relayer_two")] {
        let batches = app.reached(u64::from(rounds) * 4, &["final"]).await.unwrap();
        app.check_anchored_once(&stack, &batches).await.unwrap();
        // nothing is left open: what lost its nonce was sent again
        let query = "SELECT count(*)::text FROM transaction WHERE state IN ('intent', 'submitted', 'mined')";
        let deadline = Instant::now() + Duration::from_secs(30);
        while ask(&stack, database, query).await != "0" {
            assert!(Instant::now() < deadline, "{}", app.get("/status").await.unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_one_holder_and_nobody_writes_under_one_that_is_over() {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..quick() }).await.unwrap();
    let db = open_database(&stack.postgres.url("relayer"), &MIGRATIONS).await.unwrap();
    let time = Duration::from_millis(500);
    let (one, two) = (Leases::new(db.clone(), time).unwrap(), Leases::new(db.clone(), time).unwrap());
    assert!(one.begin("work").await.is_err(), "nobody holds it");
    assert!(one.hold("work").await.unwrap());
    assert!(one.hold("work").await.unwrap(), "renewed");
    assert!(!two.hold("work").await.unwrap());
    assert!(two.hold("other work").await.unwrap());
    assert!((one.is_mine("work").await.unwrap(), two.is_mine("work").await.unwrap()) == (true, false));
    assert_eq!(one.held("other").await.unwrap(), ["other work"]);
    assert!(one.begin("work").await.is_ok());
    let error = two.begin("work").await.err().unwrap().to_string();
    assert!(error.contains("another process has taken over: work"), "{error}");

    // while its holder writes, nobody takes it over, though its time is up
    let writes = one.begin("work").await.unwrap();
    tokio::time::sleep(time * 2).await;
    let taking = tokio::spawn(async move { (two.hold("work").await.unwrap(), two) });
    tokio::time::sleep(time).await;
    assert!(!taking.is_finished());
    writes.commit().await.unwrap();
    let (taken, two) = taking.await.unwrap();
    assert!(taken);
    assert!(one.begin("work").await.is_err(), "it was asleep, and its next write is refused");

    // renewed in the background it does not end; given back it is free at once
    let stop = CancellationToken::new();
    let two = std::sync::Arc::new(two);
    let (renewing, until) = (std::sync::Arc::clone(&two), stop.clone());
    let renewed = tokio::spawn(async move { renewing.renew(&until).await });
    tokio::time::sleep(time * 3).await;
    assert!(!one.hold("work").await.unwrap());
    stop.cancel();
    renewed.await.unwrap();
    one.release("work").await.unwrap();
    assert!(!one.hold("work").await.unwrap(), "only its holder gives it back");
    two.release_all().await.unwrap();
    assert!(one.hold("work").await.unwrap());
}

/// A key file and its address, such that of two keys each serves one of two providers.
fn second_key(stack: &Stack, first: Address, providers: [Address; 2]) -> (String, Address) {
    let (name, address) = (0..64)
        .map(|n| (format!("second sender {n}"), dev_address(&format!("second sender {n}")).unwrap()))
        .find(|(_, address)| {
            let lanes = [first, *address];
            serves(&lanes, first, providers[0].as_slice()) && serves(&lanes, *address, providers[1].as_slice())
        })
        .unwrap();
    let path = stack.folder.path().join("second-sender.key");
    std::fs::write(&path, dev_secret(&name)).unwrap();
    (path.display().to_string(), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_keys_share_the_providers_and_one_without_money_leaves_them_to_the_other() {
    let (mut stack, world, first) = start(quick()).await.unwrap();
    let relayer = dev_address(role::RELAYER).unwrap();
    let second = another_provider(&stack, &world, "second", stack.relayer.as_ref().unwrap()).await.unwrap();
    let (file, address) = second_key(&stack, relayer, [first.account, second.account]);
    stack.chain.fund(address).await.unwrap();
    let files = format!("{},{file}", stack.key_file(role::RELAYER).display());
    rewire(&mut stack, &[("TIDEMARK_SENDER_KEY_FILE", files)]).await.unwrap();
    let lane = async |which: usize| first.get("/status").await.unwrap()["lanes"][which].clone();
    let deadline = Instant::now() + Duration::from_secs(30);
    while lane(0).await["next_nonce"].is_null() || lane(1).await["next_nonce"].is_null() {
        assert!(Instant::now() < deadline, "both lanes are worked on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (one, two) = tokio::join!(first.register(0, 8), second.register(0, 8));
    one.unwrap();
    two.unwrap();
    for app in [&first, &second] {
        let batches = app.reached(8, &["final"]).await.unwrap();
        app.check_anchored_once(&stack, &batches).await.unwrap();
    }
    let by_lane =
        "SELECT string_agg(DISTINCT encode(provider, 'hex') || ' ' || encode(signer, 'hex'), ',') FROM transaction";
    let told = ask(&stack, "relayer", by_lane).await;
    for (app, signer) in [(&first, relayer), (&second, address)] {
        assert!(told.contains(&format!("{:x} {:x}", app.account, signer)), "{told}");
    }
    assert_eq!(told.split(',').count(), 2, "each provider has one lane: {told}");

    stack.chain.call("anvil_setBalance", json!([relayer, "0x0"])).await.unwrap();
    for round in 1..4 {
        first.register(round * 8, 8).await.unwrap();
        let batches = first.reached(u64::from(round) * 8 + 8, &["final"]).await.unwrap();
        first.check_anchored_once(&stack, &batches).await.unwrap();
    }
    let paused: Vec<Value> = vec![lane(0).await["paused"].clone(), lane(1).await["paused"].clone()];
    assert!(paused[0].as_str().is_some_and(|why| why.starts_with("balance too low")), "{paused:?}");
    assert!(paused[1].is_null(), "{paused:?}");
}
