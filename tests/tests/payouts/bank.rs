//! Payouts by a bank's files: handed over once wherever the process ends, and settled by what the bank reports.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::{Value, json};
use tidemark_indexer::payout::{self, BankConfig, RailName, pain::Debtor};
use tidemark_tests::folder::program;
use tokio_util::sync::CancellationToken;

use crate::ground::{ACCOUNTS, Ground, POINT};

const IBAN: &str = "GB29NWBK60161331926819";

/// A bank that pays 7 cents for 10 points.
async fn ground(folder: &Path) -> Ground {
    let folder = folder.to_owned();
    let ground = Ground::with(|config, _| {
        let debtor = Debtor { name: "Numo Ltd.".into(), iban: "DE89370400440532013000".into(), bic: None };
        config.bank = Some(BankConfig { folder, debtor, currency: "EUR".into() });
    })
    .await;
    ground.rate("EUR", 7, 10).await;
    ground
}

async fn ask(ground: &Ground, points: u128) -> Value {
    let body = json!({"rail": "bank", "destination": IBAN, "name": "Kim Minji", "bic": "NWBKGB2L"});
    let key = uuid::Uuid::new_v4().to_string();
    let (status, payout) = ground.post_to(&key, body, &[(ACCOUNTS[0], points * POINT)]).await;
    assert_eq!(status, 201, "{payout}");
    payout
}

fn id(payout: &Value) -> &str {
    payout["payout_id"].as_str().unwrap()
}

fn message_id(payout: &Value) -> String {
    payout::pain::message_id(id(payout).parse().unwrap())
}

/// Writes what the bank says of a payout, as its gateway does.
fn report(folder: &Path, name: &str, payout: &Value, status: &str, reason: &str) {
    let id = message_id(payout);
    let text = format!(
        "<Document xmlns=\"urn:iso:std:iso:20022:tech:xsd:pain.002.001.10\"><CstmrPmtStsRpt><GrpHdr><MsgId>B</MsgId>\
         <CreDtTm>2026-11-22T09:00:00Z</CreDtTm></GrpHdr><OrgnlGrpInfAndSts><OrgnlMsgId>{id}</OrgnlMsgId>\
         <OrgnlMsgNmId>pain.001.001.09</OrgnlMsgNmId></OrgnlGrpInfAndSts><OrgnlPmtInfAndSts><OrgnlPmtInfId>{id}</OrgnlPmtInfId>\
         <TxInfAndSts><OrgnlEndToEndId>{id}</OrgnlEndToEndId><TxSts>{status}</TxSts>\
         <StsRsnInf><Rsn><Cd>{reason}</Cd></Rsn></StsRsnInf></TxInfAndSts></OrgnlPmtInfAndSts></CstmrPmtStsRpt></Document>"
    );
    fs::write(folder.join("reports").join(format!(".{name}")), text).unwrap();
    fs::rename(folder.join("reports").join(format!(".{name}")), folder.join("reports").join(name)).unwrap();
}

fn files(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };
    entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_is_handed_one_file_and_its_report_settles_the_payout() {
    let folder = tempfile::tempdir().unwrap();
    let ground = ground(folder.path()).await;
    let asked = ask(&ground, 300).await;
    assert_eq!(asked["rail"], "bank");
    let paid_in = json!({"currency": "EUR", "minor": "210", "rate_minor": "7", "rate_points": 10});
    assert_eq!(asked["paid_in"], paid_in);
    let name = format!("{}.xml", message_id(&asked));
    let file = folder.path().join("outgoing").join(&name);
    ground.work(|| file.exists()).await;
    let text = fs::read_to_string(&file).unwrap();
    for part in ["<InstdAmt Ccy=\"EUR\">2.10</InstdAmt>", "<Nm>Kim Minji</Nm>", IBAN, "<BICFI>NWBKGB2L</BICFI>"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    // the gateway takes it, says that it has it, and then that it has paid
    fs::remove_file(&file).unwrap();
    report(folder.path(), "1.xml", &asked, "ACSP", "NARR");
    ground.work(|| files(&folder.path().join("reports/read")).contains("1.xml")).await;
    let waiting = ground.work_until(id(&asked), &["paying"], false).await;
    assert_eq!((&waiting["state"], ground.settled().await), (&json!("pending"), 0));
    report(folder.path(), "2.xml", &asked, "ACSC", "NARR");
    let posted = ground.work_until(id(&asked), &["posted"], true).await;
    assert_eq!(posted["paid_in"], paid_in, "for ever");
    assert_eq!((files(&folder.path().join("outgoing")).len(), ground.settled().await), (0, 300 * POINT));
    let personal: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM local.payout WHERE num_nonnulls(destination, recipient_name, recipient_bic) > 0",
    )
    .fetch_one(&ground.pool)
    .await
    .unwrap();
    assert_eq!(personal, 0, "who was paid is forgotten at the end");
    let attempts: i64 =
        sqlx::query_scalar("SELECT count(*) FROM local.payout_attempt").fetch_one(&ground.pool).await.unwrap();
    assert_eq!(attempts, 1, "asking what became of it is no attempt of its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_that_refuses_frees_the_points_and_one_that_contradicts_itself_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let ground = ground(folder.path()).await;
    let [refused, twice, both] = [ask(&ground, 300).await, ask(&ground, 300).await, ask(&ground, 300).await];
    let outgoing = folder.path().join("outgoing");
    ground.work(|| files(&outgoing).len() == 3).await;
    report(folder.path(), "1.xml", &refused, "RJCT", "AC04");
    // refused as a copy: then the first one may have been paid
    report(folder.path(), "2.xml", &twice, "RJCT", "DU01");
    report(folder.path(), "3.xml", &both, "ACSC", "NARR");
    report(folder.path(), "4.xml", &both, "RJCT", "AC04");
    fs::write(folder.path().join("reports/5.xml"), "<html>").unwrap();
    let voided = ground.work_until(id(&refused), &["voided"], false).await;
    assert!(voided["note"].as_str().unwrap().contains("RJCT AC04"), "{voided}");
    for payout in [&twice, &both] {
        let stuck = ground.work_until(id(payout), &["stuck"], false).await;
        assert_eq!(stuck["state"], "pending", "the points stay held");
    }
    assert_eq!(files(&folder.path().join("reports/strange")), BTreeSet::from(["5.xml".to_owned()]));
    let (status, answer) = ground.post("over", &[(ACCOUNTS[0], 401 * POINT)]).await;
    assert_eq!(status, 400, "several rails are on: {answer}");
    let body = json!({"rail": "partner", "destination": "user-1"});
    let (status, answer) = ground.post_to("over-2", body, &[(ACCOUNTS[0], 401 * POINT)]).await;
    assert!(status == 409 && answer["expected"] == format!("at most {} units", 400 * POINT), "{answer}");
}

/// Ends the worker after random times while a gateway takes files away: each payout is handed over once, complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_anywhere_hands_each_file_over_once() {
    let folder = tempfile::tempdir().unwrap();
    let ground = ground(folder.path()).await;
    let seed = u64::from(std::process::id());
    let mut random = seed;
    let mut asked = Vec::new();
    for _ in 0..10 {
        asked.push(ask(&ground, 10).await);
    }
    let mut taken: Vec<String> = Vec::new();
    let outgoing = folder.path().join("outgoing");
    let mut take = || {
        for name in files(&outgoing) {
            let text = fs::read_to_string(outgoing.join(&name)).unwrap();
            assert!(text.ends_with("</Document>"), "seed {seed}: {text}");
            fs::remove_file(outgoing.join(&name)).unwrap();
            taken.push(name);
        }
    };
    for _ in 0..60 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let worker = tokio::spawn(payout::run(ground.payouts.clone(), CancellationToken::new()));
        tokio::time::sleep(std::time::Duration::from_micros((random >> 33) % 15_000)).await;
        worker.abort();
        let _aborted = worker.await;
        take();
    }
    ground.until("SELECT count(*) = 10 FROM local.payout_attempt WHERE outcome = 'accepted'").await;
    take();
    for (at, payout) in asked.iter().enumerate() {
        report(folder.path(), &format!("{at}.xml"), payout, "ACCC", "NARR");
        ground.work_until(id(payout), &["posted"], true).await;
    }
    taken.sort();
    let mut expected: Vec<String> = asked.iter().map(|payout| format!("{}.xml", message_id(payout))).collect();
    expected.sort();
    assert_eq!(taken, expected, "seed {seed}");
    assert_eq!(ground.settled().await, 100 * POINT, "seed {seed}");
}

/// The name under which a payout's file was made.
async fn made_as(ground: &Ground, payout: &Value) -> String {
    let query = sqlx::query_scalar("SELECT made_as FROM local.payout_file WHERE message_id = $1");
    query.bind(message_id(payout)).fetch_one(&ground.pool).await.unwrap()
}

/// Each place where a process may end between two steps, made by hand: what is there tells how far it came.
#[tokio::test(flavor = "multi_thread")]
async fn row_and_file_tell_whether_a_payment_was_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let ground = ground(folder.path()).await;
    let (ready, outgoing) = (folder.path().join("ready"), folder.path().join("outgoing"));
    fs::create_dir_all(&ready).unwrap();
    // complete in `ready`, and nothing written down: it does not count, and a new one is made
    let first = ask(&ground, 10).await;
    let name = format!("{}.xml", message_id(&first));
    fs::write(ready.join(format!("{}.1.xml", message_id(&first))), "an earlier process was here").unwrap();
    ground.work(|| outgoing.join(&name).exists() && files(&ready).is_empty()).await;
    assert!(fs::read_to_string(outgoing.join(&name)).unwrap().ends_with("</Document>"));
    // written down, and still in `ready`: handed over as it is
    fs::rename(outgoing.join(&name), ready.join(made_as(&ground, &first).await)).unwrap();
    ground.look_again().await;
    ground.work(|| outgoing.join(&name).exists()).await;
    // written down and gone: it was handed over, and is not made again
    fs::remove_file(outgoing.join(&name)).unwrap();
    ground.look_again().await;
    ground.until("SELECT bool_and(next_step_at > now()) FROM local.payout").await;
    assert_eq!((files(&ready).len(), files(&outgoing).len()), (0, 0));
    // another process that was at it, too, is too late: its copy stays where it is
    fs::write(ready.join(format!("{}.2.xml", message_id(&first))), "a later process was here").unwrap();
    ground.look_again().await;
    ground.until("SELECT bool_and(next_step_at > now()) FROM local.payout").await;
    assert_eq!((files(&ready).len(), files(&outgoing).len()), (1, 0));
    // changed by somebody between the two: not handed over
    let second = ask(&ground, 10).await;
    let name = format!("{}.xml", message_id(&second));
    ground.work(|| outgoing.join(&name).exists()).await;
    let changed = fs::read_to_string(outgoing.join(&name)).unwrap().replace("0.07", "7.00");
    fs::remove_file(outgoing.join(&name)).unwrap();
    fs::write(ready.join(made_as(&ground, &second).await), changed).unwrap();
    ground.look_again().await;
    ground.until("SELECT bool_or(note LIKE '%was changed after it was made%') FROM local.payout").await;
    assert_eq!(files(&outgoing).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_by_hand_settles_too_and_a_rail_that_is_off_pays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let ground = ground(folder.path()).await;
    let asked = ask(&ground, 300).await;
    // without the bank's rail nobody touches it: another rail would pay it once more
    let partner_only = ground.only(&[RailName::Partner]);
    let stop = CancellationToken::new();
    let worker = tokio::spawn(payout::run(partner_only, stop.clone()));
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    stop.cancel();
    worker.await.unwrap().unwrap();
    assert_eq!((&ground.read(id(&asked)).await["step"], ground.stack.partner.requests()), (&json!("reserved"), 0));

    let outgoing = folder.path().join("outgoing");
    ground.work(|| files(&outgoing).len() == 1).await;
    report(folder.path(), "r.xml", &asked, "ACSC", "NARR");
    let path = folder.path().join("by-hand.xml");
    fs::rename(folder.path().join("reports/r.xml"), &path).unwrap();
    let settle = || {
        let mut command = Command::new(program("tidemark-indexer").unwrap());
        let output = command
            .args(["payout", "settle", path.to_str().unwrap(), "--database-url"])
            .arg(ground.stack.postgres.url("indexer"))
            .output()
            .unwrap();
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    };
    assert!(matches!(settle(), (said, true) if said.contains("of 1 payouts")));
    assert!(matches!(settle(), (said, true) if said.contains("of 0 payouts")), "once more changes nothing");
    ground.work_until(id(&asked), &["posted"], true).await;
    assert_eq!(ground.settled().await, 300 * POINT);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_folder_is_refused_as_a_file_that_is_not_there_would_count_as_handed_over() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let place = folder.path().join("bank");
    let ground = ground(&place).await;
    ask(&ground, 300).await;
    ground.work(|| files(&place.join("outgoing")).len() == 1).await;

    let elsewhere = |path: &Path| ground.in_folder(path);
    let stop = CancellationToken::new();
    let refused = payout::run(elsewhere(other.path()), stop.clone()).await.unwrap_err();
    assert!(format!("{refused:#}").contains("is not the folder"), "{refused:#}");
    fs::write(other.path().join("folder-id"), uuid::Uuid::new_v4().to_string()).unwrap();
    assert!(payout::run(elsewhere(other.path()), stop.clone()).await.is_err());

    // moved with all that is in it
    let moved = folder.path().join("moved");
    fs::rename(&place, &moved).unwrap();
    stop.cancel();
    payout::run(elsewhere(&moved), stop.clone()).await.unwrap();

    // as a process leaves it that was killed when the folder had its name, and the database did not know it yet
    let name = fs::read_to_string(moved.join("folder-id")).unwrap();
    sqlx::query("DELETE FROM local.payout_folder").execute(&ground.pool).await.unwrap();
    payout::run(elsewhere(&moved), stop).await.unwrap();
    let known: uuid::Uuid =
        sqlx::query_scalar("SELECT id FROM local.payout_folder").fetch_one(&ground.pool).await.unwrap();
    assert_eq!(known.to_string(), name.trim());
}
