//! What a point is worth at its time, how long new points are held, and that no statement at all overdraws an account.

use std::process::Command;

use serde_json::{Value, json};
use tidemark::ids::DataId;
use tidemark_indexer::{ledger::Posting, payout};
use tidemark_tests::folder::program;

use crate::ground::{ACCOUNTS, Ground, POINT};

/// A partner that pays won.
async fn ground() -> Ground {
    Ground::with(|config, _| config.partner.as_mut().unwrap().currency = Some("KRW".into())).await
}

/// The command, what it printed, and whether it said yes.
fn indexer(ground: &Ground, arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(program("tidemark-indexer").unwrap());
    let database = ground.stack.postgres.url("indexer");
    let output = command.args(arguments).args(["--database-url", &database]).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&said).into_owned(), output.status.success())
}

fn slug(answer: &Value) -> &str {
    answer["type"].as_str().unwrap_or("").rsplit(':').next().unwrap_or("")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payout_keeps_the_rate_that_was_valid_when_it_was_asked_for() {
    let ground = ground().await;
    let (status, answer) = ground.post("k1", &[(ACCOUNTS[0], 100 * POINT)]).await;
    assert_eq!((status.as_u16(), slug(&answer)), (409, "rate-missing"), "{answer}");
    let set = ["rate", "set", "--provider", "numo", "--currency", "KRW", "--minor", "3", "--points", "2"];
    assert!(indexer(&ground, &set).1);
    // what was refused for want of a rate was not kept: the same key may ask again
    let (status, first) = ground.post("k1", &[(ACCOUNTS[0], 100 * POINT)]).await;
    let at_first = json!({"currency": "KRW", "minor": "150", "rate_minor": "3", "rate_points": 2});
    assert_eq!((status.as_u16(), &first["paid_in"]), (201, &at_first), "{first}");
    let (status, odd) = ground.post("k2", &[(ACCOUNTS[0], 3 * POINT)]).await;
    let expected = odd["expected"].as_str().unwrap_or_default();
    assert!(status == 400 && expected.contains("a multiple of 2 points"), "nothing is rounded: {odd}");

    assert!(indexer(&ground, &["rate", "end", "--provider", "numo", "--currency", "KRW"]).1);
    let (_, answer) = ground.post("k3", &[(ACCOUNTS[0], 100 * POINT)]).await;
    assert_eq!(slug(&answer), "rate-missing");
    let set = ["rate", "set", "--provider", "numo", "--currency", "KRW", "--minor", "1"];
    assert!(indexer(&ground, &set).1);
    let (_, second) = ground.post("k4", &[(ACCOUNTS[0], 100 * POINT)]).await;
    assert_eq!(second["paid_in"]["minor"], "100", "{second}");
    for (payout, minor) in [(&first, 150), (&second, 100)] {
        let id = payout["payout_id"].as_str().unwrap();
        let posted = ground.work_until(id, &["posted"], true).await;
        assert_eq!(posted["paid_in"], payout["paid_in"]);
        assert!(ground.stack.partner.grants().iter().any(|grant| grant.key == id && grant.amount == minor));
    }
    let (list, _) = indexer(&ground, &["rate", "list"]);
    assert_eq!((list.lines().count(), list.contains("until ended")), (2, true), "{list}");
    for refused in [
        "UPDATE local.payout SET rate_minor = 4, minor = 200 WHERE minor = 150",
        "UPDATE local.payout SET minor = minor + 1",
        "UPDATE local.payout SET rail = 'bank'",
        "UPDATE local.payout_rate SET minor = 4",
        "DELETE FROM local.payout_rate",
        // a payout by a rate that is not valid, and by one that does not exist
        "INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points, currency, minor, rate_id, rate_minor,
             rate_points) SELECT gen_random_uuid(), provider, treasury, 'u', amount, points, currency, minor, rate_id, rate_minor,
             rate_points FROM local.payout WHERE minor = 150",
        "INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points, currency, minor, rate_id, rate_minor,
             rate_points) SELECT gen_random_uuid(), provider, treasury, 'u', amount, points, currency, 300, rate_id, 3, 1
             FROM local.payout WHERE minor = 100",
    ] {
        sqlx::query(refused).execute(&ground.pool).await.expect_err(refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rates_do_not_overlap_and_what_was_is_not_changed() {
    let ground = Ground::new().await;
    let set = |currency: &str, from: &str, until: Option<&str>| {
        let mut arguments =
            vec!["rate", "set", "--provider", "numo", "--minor", "5", "--currency", currency, "--from", from];
        if let Some(until) = until {
            arguments.extend(["--until", until]);
        }
        indexer(&ground, &arguments)
    };
    let (said, done) = set("EUR", "2030-01-01T00:00:00Z", Some("2030-02-01T00:00:00Z"));
    assert!(done, "{said}");
    for (from, until) in [
        ("2030-01-01T00:00:00Z", Some("2030-02-01T00:00:00Z")),
        ("2030-01-31T23:59:59Z", None),
        ("2029-01-01T00:00:00Z", None),
        ("2029-01-01T00:00:00Z", Some("2030-01-01T00:00:01Z")),
        ("2030-01-10T00:00:00+09:00", Some("2030-01-11T00:00:00Z")),
    ] {
        let (said, done) = set("EUR", from, until);
        assert!(!done && said.contains("have a rate in EUR in that time already"), "{from}: {said}");
    }
    // side by side, and another currency at the same time
    assert!(set("EUR", "2030-02-01T00:00:00Z", None).1);
    assert!(set("EUR", "2029-12-01T00:00:00Z", Some("2030-01-01T00:00:00Z")).1);
    assert!(set("KRW", "2030-01-01T00:00:00Z", None).1);
    let (said, done) = set("EUR", "2028-02-01T00:00:00Z", Some("2028-01-01T00:00:00Z"));
    assert!(!done, "ends before it begins: {said}");
    let end = |at: &str| indexer(&ground, &["rate", "end", "--provider", "numo", "--currency", "EUR", "--at", at]);
    assert!(end("2031-01-01T00:00:00Z").1);
    assert!(!end("2032-01-01T00:00:00Z").1, "there is none at that time any more");
    assert!(!indexer(&ground, &["rate", "set", "--provider", "nobody", "--currency", "EUR", "--minor", "1"]).1);
    // two at once: the schema decides
    let (one, two) = tokio::join!(
        sqlx::query(SET).bind(ground.provider.as_slice()).execute(&ground.pool),
        sqlx::query(SET).bind(ground.provider.as_slice()).execute(&ground.pool),
    );
    assert_eq!([one.is_ok(), two.is_ok()].iter().filter(|done| **done).count(), 1);
}

const SET: &str = "INSERT INTO local.payout_rate (provider, currency, minor, points, valid)
    VALUES ($1, 'USD', 1, 1, tstzrange(now(), NULL))";

#[tokio::test(flavor = "multi_thread")]
async fn points_earned_a_short_time_ago_are_on_hold_and_the_answer_says_until_when() {
    let ground = Ground::new().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let now = i64::try_from(now).unwrap();
    let reward = |index: u64, points: u128| Posting {
        id: format!("reward/{:#x}/1/{index}", ground.provider),
        account: ACCOUNTS[0],
        amount: points * POINT,
        data_id: Some(DataId(uuid::Uuid::new_v4())),
    };
    ground.earn(&[reward(0, 50)], now - 3_000).await;
    ground.earn(&[reward(1, 70)], now - 1_000).await;
    // without a hold, all of it is free
    let all = ground.post("free", &[(ACCOUNTS[0], 20 * POINT)]).await;
    assert_eq!(all.0, 201);
    assert!(indexer(&ground, &["hold", "set", "--provider", "numo", "--seconds", "3600"]).1);
    let time = |at: i64| {
        let format = time::format_description::well_known::Rfc3339;
        time::OffsetDateTime::from_unix_timestamp(at).unwrap().format(&format).unwrap()
    };
    // 1000 old, 50 and 70 on hold, 20 held by the payout
    let (status, answer) = ground.post("a", &[(ACCOUNTS[0], 981 * POINT)]).await;
    assert_eq!((status.as_u16(), slug(&answer)), (409, "points-on-hold"), "{answer}");
    let detail = answer["detail"].as_str().unwrap();
    let (first, last) = (time(now - 3_000 + 3_600), time(now - 1_000 + 3_600));
    assert!(detail.contains(&format!("{} units of the account", 120 * POINT)), "{detail}");
    assert!(detail.contains(&format!("on hold until {last}")), "{detail}");
    assert_eq!(answer["expected"], format!("at most {} units before {first}", 980 * POINT), "{answer}");
    let (_, answer) = ground.post("b", &[(ACCOUNTS[0], 1_031 * POINT)]).await;
    assert!(answer["expected"].as_str().unwrap().ends_with(&last), "{answer}");
    let (_, answer) = ground.post("c", &[(ACCOUNTS[0], 1_101 * POINT)]).await;
    assert_eq!(slug(&answer), "balance-exceeded", "not at any time: {answer}");
    assert_eq!(ground.post("d", &[(ACCOUNTS[0], 980 * POINT)]).await.0, 201, "what is older is free");
    assert!(indexer(&ground, &["hold", "set", "--provider", "numo", "--seconds", "2000"]).1);
    assert_eq!(ground.post("e", &[(ACCOUNTS[0], 50 * POINT)]).await.0, 201, "its time is over");
    assert_eq!(ground.post("f", &[(ACCOUNTS[0], POINT)]).await.0, 409);
    assert!(indexer(&ground, &["hold", "set", "--provider", "numo", "--seconds", "0"]).1);
    assert_eq!(ground.post("g", &[(ACCOUNTS[0], 70 * POINT)]).await.0, 201);
}

const OVERDRAW: &str = "WITH made AS (
        INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points)
        VALUES (gen_random_uuid(), $1, $1, 'u', $2::text::numeric, 1) RETURNING payout_id
    ) SELECT payout_id FROM made";

/// Writes a payout past all code of ours.
async fn insert(ground: &Ground, points: u128, isolation: &'static str) -> Result<(), sqlx::Error> {
    let mut transaction = ground.pool.begin().await?;
    sqlx::query(isolation).execute(&mut *transaction).await?;
    let id: uuid::Uuid = sqlx::query_scalar(OVERDRAW)
        .bind(ground.provider.as_slice())
        .bind((points * POINT).to_string())
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::query("INSERT INTO local.payout_entry VALUES ($1, 0, $2, $3::text::numeric, $4)")
        .bind(id)
        .bind(ACCOUNTS[0].as_slice())
        .bind((points * POINT).to_string())
        .bind(payout::debit_id(id, ACCOUNTS[0]).as_slice())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_itself_refuses_an_overdraw() {
    let ground = Ground::new().await;
    let read_committed = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED";
    insert(&ground, 400, read_committed).await.unwrap();
    let error = insert(&ground, 601, read_committed).await.unwrap_err();
    let constraint = error.as_database_error().and_then(|error| error.constraint()).map(str::to_owned);
    assert_eq!(constraint.as_deref(), Some("payout_within_balance"), "{error}");
    insert(&ground, 1, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.expect_err("an old snapshot");
    // twenty at once, of 100 each, of 600 that are left
    let done = futures::future::join_all((0..20).map(|_| insert(&ground, 100, read_committed))).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 6);
    insert(&ground, 1, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE").await.expect_err("nothing is left");
    let held: String =
        sqlx::query_scalar("SELECT sum(amount)::text FROM local.payout_entry").fetch_one(&ground.pool).await.unwrap();
    assert_eq!(held, (1_000 * POINT).to_string());
}
