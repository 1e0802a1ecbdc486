//! Payouts on a real Postgres, a real chain and a partner over HTTP that misbehaves: nothing is paid twice, nothing is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bank;
mod ground;
mod rates;
mod token;

use std::time::Duration;

use alloy::primitives::{B256, U256};
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
use tidemark::contracts::DevToken;
use tidemark_indexer::{
    ledger,
    payout::{self, Resolution},
};
use tidemark_tests::{keys::role, partner::Misbehaviour};
use tokio_util::sync::CancellationToken;

use ground::{ACCOUNTS, Ground, POINT, TOKEN};

#[tokio::test(flavor = "multi_thread")]
async fn a_payout_is_paid_once_redeemed_once_and_posted_at_finality() {
    let ground = Ground::new().await;
    let parts = [(ACCOUNTS[0], 200 * POINT + 1), (ACCOUNTS[1], 100 * POINT - 1)];
    let (status, first) = ground.post("k", &parts).await;
    assert_eq!((status, &first["points"]), (StatusCode::CREATED, &json!(300)));
    let id = first["payout_id"].as_str().unwrap();
    let sent = ground.work_until(id, &["redeemed"], false).await;
    assert_eq!((&sent["state"], ground.settled().await), (&json!("pending"), 300 * POINT), "{sent}");
    let posted = ground.work_until(id, &["posted"], true).await;
    assert_eq!(posted["state"], "posted");
    assert!(posted["transaction"].is_string() && posted["entries"][1]["posted"] == json!(true), "{posted}");
    assert_eq!(ground.stack.partner.grants().iter().map(|grant| grant.amount).collect::<Vec<_>>(), [300]);
    let destination: Option<String> =
        sqlx::query_scalar("SELECT destination FROM local.payout").fetch_one(&ground.pool).await.unwrap();
    assert_eq!(destination, None, "a destination is forgotten at the end");
    let (status, again) = ground.post("k", &parts).await;
    assert_eq!((status, again), (StatusCode::CREATED, first), "the first answer, also long after");
}

/// What the ledger's check says of payouts.
async fn payout_findings(pool: &PgPool) -> Vec<String> {
    let report = ledger::verify::verify(pool, &mut |_, _, _| ()).await.unwrap();
    report.findings.into_iter().filter(|found| found.check == "payout").map(|found| found.row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_of_a_payout_is_in_a_chain_that_tells_what_was_changed() {
    let ground = Ground::new().await;
    ground.stack.partner.misbehave([Misbehaviour::Refuse("4114")]);
    let voided = ground.payout(300).await;
    ground.work_until(&voided, &["voided"], false).await;
    let posted = ground.payout(200).await;
    ground.work_until(&posted, &["posted"], true).await;
    let states: Vec<String> = sqlx::query_scalar("SELECT state FROM local.payout_journal ORDER BY position")
        .fetch_all(&ground.pool)
        .await
        .unwrap();
    let all = ["reserved", "paying", "voided", "reserved", "paying", "paid", "redeeming", "redeemed", "posted"];
    assert_eq!(states, all);
    assert_eq!(payout_findings(&ground.pool).await, Vec::<String>::new());

    for refused in [
        "UPDATE local.payout_journal SET amount = amount + 1",
        "DELETE FROM local.payout_journal",
        "UPDATE local.payout_entry SET amount = amount + 1",
        "DELETE FROM local.payout_entry",
        "DELETE FROM local.payout",
        "INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points)
         SELECT gen_random_uuid(), provider, treasury, 'u', amount, points FROM local.payout",
    ] {
        sqlx::query(refused).execute(&ground.pool).await.expect_err(refused);
    }
    let open = "ALTER TABLE local.payout DISABLE TRIGGER ALL; ALTER TABLE local.payout_entry DISABLE TRIGGER ALL;
                ALTER TABLE local.payout_journal DISABLE TRIGGER ALL";
    sqlx::raw_sql(open).execute(&ground.pool).await.unwrap();
    for change in [
        "local.payout SET amount = amount + 1",
        "local.payout SET state = 'posted' WHERE state = 'voided'",
        "local.payout_entry SET amount = amount + 1",
        "local.payout_entry SET account = sha256(account)",
        "local.payout_journal SET state = 'paid' WHERE state = 'paying'",
        "local.payout_journal SET position = 100 WHERE position = 2",
        "local.payout_journal SET link = sha256(link)",
    ] {
        let copy = "CREATE TABLE local.p AS TABLE local.payout; CREATE TABLE local.e AS TABLE local.payout_entry;
                    CREATE TABLE local.j AS TABLE local.payout_journal";
        sqlx::raw_sql(copy).execute(&ground.pool).await.unwrap();
        let statement = sqlx::AssertSqlSafe(format!("UPDATE {change}"));
        sqlx::raw_sql(statement).execute(&ground.pool).await.unwrap();
        let found = payout_findings(&ground.pool).await;
        assert!(found.contains(&voided), "{change}: {found:?}");
        let back = "DELETE FROM local.payout_journal; DELETE FROM local.payout_entry; DELETE FROM local.payout;
                    INSERT INTO local.payout TABLE local.p; INSERT INTO local.payout_entry TABLE local.e;
                    INSERT INTO local.payout_journal TABLE local.j;
                    DROP TABLE local.p; DROP TABLE local.e; DROP TABLE local.j";
        sqlx::raw_sql(back).execute(&ground.pool).await.unwrap();
        assert_eq!(payout_findings(&ground.pool).await, Vec::<String>::new(), "put back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_are_told_so() {
    let ground = Ground::new().await;
    let body = json!({"destination": "u", "entries": [{"account": ACCOUNTS[0], "amount": "1000000"}]});
    let kind = |answer: (StatusCode, Value)| {
        let slug = answer.1["type"].as_str().unwrap_or("").rsplit(':').next().unwrap_or("").to_owned();
        (answer.0.as_u16(), slug)
    };
    for (token, key, body, expected) in [
        (None, Some("a"), body.clone(), (401, "unauthorized")),
        (Some("wrong"), Some("a"), body.clone(), (401, "unauthorized")),
        (Some(TOKEN), None, body.clone(), (400, "idempotency-key-missing")),
        (Some(TOKEN), Some("a"), json!({"destination": "u"}), (400, "field-invalid")),
        (Some(TOKEN), Some("a"), json!({"destination": "", "entries": []}), (400, "field-invalid")),
        (Some(TOKEN), Some("a"), json!({"x": "y".repeat(70_000)}), (413, "body-too-large")),
    ] {
        let answer = kind(ground.post_raw(token, key, body).await);
        assert_eq!((answer.0, answer.1.as_str()), expected);
    }
    let (status, refused) = ground.post("over", &[(ACCOUNTS[0], 1_001 * POINT)]).await;
    assert_eq!(kind((status, refused.clone())), (409, "balance-exceeded".into()), "{refused}");
    assert_eq!(ground.post("over", &[(ACCOUNTS[0], 1_001 * POINT)]).await.1, refused, "a refusal is replayed, too");
    let of_another = ground.post("unknown", &[(B256::repeat_byte(9), POINT)]).await;
    assert_eq!(kind(of_another), (409, "balance-exceeded".into()));
    ground.post("k", &[(ACCOUNTS[0], POINT)]).await;
    assert_eq!(kind(ground.post("k", &[(ACCOUNTS[0], 2 * POINT)]).await), (422, "idempotency-key-reused".into()));
    assert_eq!(ground.read("nonsense").await["status"], 400);
    assert_eq!(ground.read(&uuid::Uuid::new_v4().to_string()).await["status"], 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_at_the_same_time_never_overdraw() {
    let ground = Ground::new().await;
    // 20 requests of 100 points each from an account of 1,000
    let keys: Vec<String> = (0..20).map(|at| format!("k{at}")).collect();
    let parts = [(ACCOUNTS[0], 100 * POINT)];
    let answers = futures::future::join_all(keys.iter().map(|key| ground.post(key, &parts))).await;
    assert_eq!(answers.iter().filter(|(status, _)| *status == StatusCode::CREATED).count(), 10);
    // one key, many at once: one payout, the others are replayed or told to wait
    let parts = [(ACCOUNTS[1], 600 * POINT)];
    let answers = futures::future::join_all((0..10).map(|_| ground.post("one", &parts))).await;
    let ids: std::collections::BTreeSet<String> = answers
        .iter()
        .filter(|(status, _)| *status == StatusCode::CREATED)
        .map(|(_, body)| body["payout_id"].to_string())
        .collect();
    assert_eq!(ids.len(), 1);
    assert!(answers.iter().all(|(status, _)| [StatusCode::CREATED, StatusCode::CONFLICT].contains(status)));
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_of_the_partner_is_asked_again_under_the_same_key() {
    let ground = Ground::new().await;
    ground.stack.partner.misbehave([
        Misbehaviour::PayAndHang(Duration::from_secs(1)),
        Misbehaviour::Unavailable,
        Misbehaviour::Refuse("4110"),
    ]);
    let id = ground.payout(300).await;
    ground.work_until(&id, &["posted"], true).await;
    assert_eq!(
        (ground.stack.partner.grants().len(), ground.stack.partner.requests(), ground.settled().await),
        (1, 4, 300 * POINT)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_frees_the_points_unless_an_attempt_is_in_doubt() {
    let ground = Ground::new().await;
    ground.stack.partner.misbehave([Misbehaviour::Refuse("4112"), Misbehaviour::Refuse("4114")]);
    let id = ground.payout(1_000).await;
    let voided = ground.work_until(&id, &["voided"], false).await;
    assert_eq!(voided["state"], "voided");
    assert!(voided["note"].as_str().unwrap().starts_with("4114"), "{voided}");

    ground.stack.partner.misbehave([Misbehaviour::Unavailable, Misbehaviour::Refuse("4104")]);
    let id = ground.payout(1_000).await;
    let stuck = ground.work_until(&id, &["stuck"], false).await;
    assert_eq!(stuck["state"], "pending", "the points stay held");
    assert_eq!(ground.post("x", &[(ACCOUNTS[0], POINT)]).await.0, StatusCode::CONFLICT);
    let payout_id = id.parse().unwrap();
    payout::resolve(&ground.pool, payout_id, Resolution::Retry, "the partner says: try again").await.unwrap();
    ground.work_until(&id, &["posted"], true).await;
    assert!(payout::resolve(&ground.pool, payout_id, Resolution::Void, "too late").await.is_err());
    assert_eq!((ground.stack.partner.grants().len(), ground.settled().await), (1, 1_000 * POINT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_anywhere_pays_and_redeems_once() {
    let ground = Ground::new().await;
    let seed = u64::from(std::process::id());
    let mut random = seed;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(ground.payout(10).await);
    }
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let worker = tokio::spawn(payout::run(ground.payouts.clone(), CancellationToken::new()));
        tokio::time::sleep(Duration::from_micros((random >> 33) % 25_000)).await;
        worker.abort();
        let _aborted = worker.await;
        ground.mirror().await;
    }
    for id in &ids {
        ground.work_until(id, &["posted"], true).await;
    }
    assert_eq!((ground.stack.partner.grants().len(), ground.settled().await), (10, 100 * POINT), "seed {seed}");
    let held: String = sqlx::query_scalar("SELECT balance::text FROM ledger_account WHERE key = $1")
        .bind(ACCOUNTS[0].as_slice())
        .fetch_one(&ground.pool)
        .await
        .unwrap();
    assert_eq!(held, (900 * POINT).to_string(), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redemption_that_the_chain_takes_back_is_sent_again() {
    let ground = Ground::new().await;
    let id = ground.payout(300).await;
    ground.work_until(&id, &["redeemed"], false).await;
    assert_eq!(ground.settled().await, 300 * POINT);
    ground.stack.chain.reorg(1).await.unwrap();
    assert_eq!(ground.settled().await, 0, "the reorg took the redemption back");
    ground.work_until(&id, &["posted"], true).await;
    assert_eq!((ground.stack.partner.grants().len(), ground.settled().await), (1, 300 * POINT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_another_transaction_took_is_given_up() {
    let ground = Ground::new().await;
    ground.stack.chain.pause_mining().await.unwrap();
    let id = ground.payout(300).await;
    ground.work_until(&id, &["redeemed"], false).await;
    ground.stack.chain.call("anvil_dropAllTransactions", json!([])).await.unwrap();
    ground.stack.chain.resume_mining().await.unwrap();
    let sender = ground.stack.sender(role::TREASURY_OPERATOR).await.unwrap();
    let token = DevToken::new(ground.token, sender);
    token.mint(ground.treasury, U256::from(1)).send().await.unwrap().get_receipt().await.unwrap();
    ground.work_until(&id, &["posted"], true).await;
    let lost: i64 = sqlx::query_scalar("SELECT count(*) FROM local.payout_transaction WHERE state = 'lost'")
        .fetch_one(&ground.pool)
        .await
        .unwrap();
    assert_eq!((lost, ground.settled().await), (1, 300 * POINT));
}
