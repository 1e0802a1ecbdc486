//! What the read side keeps through reorgs, kills, redemptions that come before their credit, and hands in its ledger.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tidemark::{
    contracts::{IPRegistry, PointsTreasury},
    manifest::{Manifest, encode_disclosures},
    store::cid_of,
};
use tidemark_tests::{
    forge::{BUDGETED, Forge},
    keys::role,
    mined,
    services::Service,
    story::strangers::{checksums, second_indexer},
};

async fn batch_in_state(indexer: &Service, number: u64, wanted: &str) {
    indexer.until(&format!("/v1/batches/numo/{number}"), |_, batch| batch["state"] == wanted).await.unwrap();
}

async fn balance(indexer: &Service, account: B256) -> String {
    let (_, account) = indexer.get(&format!("/v1/accounts/{account}")).await.unwrap();
    account["balance"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_reorg_takes_back_what_was_mined_and_nothing_that_is_final() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let settled = forge.accepted(0, "settled", Address::ZERO)?;
    forge.anchor(&forge.batch(0, settled.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("reorg").await?;
    batch_in_state(&indexer, 0, "valid").await;

    let gone = forge.accepted(0, "gone", Address::ZERO)?;
    let batch = forge.batch(1, gone.to_vec()).await?;
    forge.anchor(&batch).await?;
    let record = format!("/v1/records/{}", gone[0].data_id);
    let mined = indexer.until(&record, |status, _| status == 200).await?;
    assert_eq!((&mined["status"], &mined["events"][1]["state"]), (&"mined".into(), &"mined".into()), "{mined}");
    batch_in_state(&indexer, 1, "mined").await;
    assert_eq!(balance(&indexer, gone[1].contributor).await, "0", "only what is final is credited");

    forge.stack.chain.reorg(1).await?;
    indexer.until(&record, |status, _| status == 404).await?;
    indexer.until("/v1/batches/numo/1", |status, _| status == 404).await?;
    assert_eq!(balance(&indexer, settled[1].contributor).await, forge.reward.to_string());

    forge.anchor(&batch).await?;
    forge.stack.chain.mine(3).await?;
    batch_in_state(&indexer, 1, "valid").await;
    assert_eq!(balance(&indexer, gone[1].contributor).await, forge.reward.to_string(), "once, however often mined");
    second_indexer(&forge.stack, "reorg").await?;
    Ok(())
}

#[tokio::test]
async fn a_reorg_below_finality_stops_the_indexer_which_says_so_and_still_answers() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let settled = forge.accepted(0, "settled", Address::ZERO)?;
    forge.anchor(&forge.batch(0, settled.to_vec()).await?).await?;
    forge.stack.chain.mine(8).await?;
    let indexer = forge.stack.start_second_indexer("deep").await?;
    batch_in_state(&indexer, 0, "valid").await;

    forge.stack.chain.reorg(5).await?;
    let status = indexer.until("/status", |_, status| !status["halted"].is_null()).await?;
    assert!(status["halted"].as_str().unwrap().contains("reorganised below its finality"), "{status}");
    assert_eq!(indexer.get("/ready").await?.0, 503);
    assert_eq!(balance(&indexer, settled[1].contributor).await, forge.reward.to_string());
    Ok(())
}

#[tokio::test]
async fn an_indexer_killed_again_and_again_has_the_rows_of_one_that_was_not() -> anyhow::Result<()> {
    let mut seed = uuid::Uuid::new_v4().as_u128();
    println!("seed {seed}");
    let forge = Forge::new().await?;
    let mut indexer = forge.stack.start_second_indexer("killed").await?;
    for number in 0..BUDGETED - 1 {
        let accepted = forge.accepted(0, &format!("record-{number}"), Address::ZERO)?;
        forge.anchor(&forge.batch(u64::from(number), accepted.to_vec()).await?).await?;
        if number == 0 {
            forge.sell(&accepted[1]).await?;
        }
        forge.stack.chain.mine(2).await?;
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        tokio::time::sleep(Duration::from_millis(u64::try_from((seed >> 64) % 250)?)).await;
        indexer.kill();
        indexer.restart().await?;
    }
    forge.stack.chain.mine(3).await?;
    batch_in_state(&indexer, u64::from(BUDGETED - 2), "valid").await;
    second_indexer(&forge.stack, "killed").await?;
    let (_, settlement) = indexer.get("/v1/settlement").await?;
    let numo = &settlement["providers"][0];
    assert_eq!((&numo["difference"], &numo["covered"]), (&"0".into(), &true.into()), "{settlement}");
    Ok(())
}

/// Files are settled at once as far as there are connections for it: a look for more must not wait for those that are under way.
#[tokio::test]
async fn many_files_at_once_leave_connections_for_everything_else() -> anyhow::Result<()> {
    const DATASETS: u32 = 24;
    let forge = Forge::new().await?;
    let registry = IPRegistry::new(forge.world.deployment.ip_registry, &forge.sender);
    for number in 0..DATASETS {
        let accepted = forge.accepted(0, &format!("member-{number}"), Address::ZERO)?;
        let content = forge.version(&accepted[1]).await?;
        let name = format!("set-{number}");
        let ip_id = tidemark::dataset::dataset_id(forge.world.provider, &name);
        let signature = forge.sign_version(&forge.attestor, ip_id, 1, &content)?;
        mined!("register", registry.registerDataset(name, (&content).into(), signature));
    }
    forge.stack.chain.mine(3).await?;
    for connections in [2, 8] {
        let database = format!("many_{connections}");
        let told = vec![("TIDEMARK_INDEXER_DATABASE_CONNECTIONS", connections.to_string())];
        let indexer = forge.stack.start_indexer_with(&database, told).await?;
        let mut db = forge.stack.postgres.connect(&database).await?;
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let valid: i64 = sqlx::query_scalar("SELECT count(*) FROM dataset_version WHERE state = 'valid'")
                .fetch_one(&mut db)
                .await?;
            if valid == i64::from(DATASETS) {
                break;
            }
            assert!(Instant::now() < deadline, "{valid} of {DATASETS} after a minute; {}", indexer.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let log = std::fs::read_to_string(forge.stack.folder.log(&database))?;
        assert!(!log.contains("pool timed out"), "{connections} connections: somebody waited for one in vain");
    }
    Ok(())
}

/// A file that came late is forgotten together with what is written of it: between the two it was lost for good.
#[tokio::test]
async fn an_indexer_that_is_killed_while_it_takes_late_disclosures_in_asks_for_them_again() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let (events, disclosure) = forge.disclosing(0, "late", json!({"a": 1}), 0)?;
    let file = encode_disclosures(std::slice::from_ref(&disclosure))?;
    let batch = forge.disclosed(0, events.to_vec(), &[disclosure]).await?;
    let store = forge.stack.store()?;
    store.delete(&cid_of(&file)).await?;
    forge.anchor(&batch).await?;
    forge.stack.chain.mine(3).await?;
    let mut indexer = forge.stack.start_second_indexer("killed_late").await?;
    batch_in_state(&indexer, 0, "valid").await;

    // it has the file, and can't write
    let mut holder = forge.stack.postgres.connect("killed_late").await?;
    let mut other = forge.stack.postgres.connect("killed_late").await?;
    holder.execute("BEGIN").await?;
    holder.execute("LOCK TABLE disclosure IN EXCLUSIVE MODE").await?;
    store.put(&file).await?;
    let deadline = Instant::now() + Duration::from_secs(60);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'disclosure'::regclass";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut other).await? == 0 {
        assert!(Instant::now() < deadline, "it wants to write what it has fetched");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    indexer.kill();
    holder.execute("ROLLBACK").await?;
    indexer.restart().await?;
    let count = async |db: &mut PgConnection, of: &'static str| -> anyhow::Result<i64> {
        Ok(sqlx::query_scalar(of).fetch_one(db).await?)
    };
    while count(&mut other, "SELECT count(*) FROM disclosure").await? == 0 {
        assert!(Instant::now() < deadline, "it asks for the disclosures again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(count(&mut other, "SELECT count(*) FROM mirror.missing_file").await?, 0, "and then no more");
    assert_eq!(count(&mut other, "SELECT count(*) FROM record WHERE source_record_id = 'late'").await?, 1);
    Ok(())
}

/// What is asked of the newest blocks must not read the others: a long history made each look as slow as itself.
#[tokio::test]
async fn a_long_history_is_read_by_nobody_who_asks_for_the_newest_blocks() -> anyhow::Result<()> {
    const HISTORY: i64 = 60_000;
    let forge = Forge::new().await?;
    let accepted = forge.accepted(0, "sold", Address::ZERO)?;
    forge.anchor(&forge.batch(0, accepted.to_vec()).await?).await?;
    let license = forge.sell(&accepted[1]).await?.licenseId;
    forge.stack.chain.mine(3).await?;
    let mut indexer = forge.stack.start_second_indexer("long").await?;
    batch_in_state(&indexer, 0, "valid").await;
    let mut db = forge.stack.postgres.connect("long").await?;
    // further logs in the batch's block, which is applied; nobody has counted the table's rows before
    sqlx::query(
        "INSERT INTO chain_log (block_hash, log_index, block_number, block_time, tx_hash, address, topics, data)
         SELECT b.block_hash, 1000000 + n, b.block_number, b.block_time, b.tx_hash, $1, '{}', ''
         FROM batch AS b, generate_series(1, $2) AS n",
    )
    .bind(Address::repeat_byte(0x77).as_slice())
    .bind(HISTORY)
    .execute(&mut db)
    .await?;
    indexer.kill();
    indexer.restart().await?;
    indexer.until("/ready", |status, _| status == 200).await?;

    let counts = "SELECT seq_tup_read + idx_tup_fetch, idx_scan FROM pg_stat_user_tables WHERE relname = 'chain_log'";
    let since: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut db).await?;
    let listens = reqwest::get(format!("{}/v1/events", indexer.url())).await?;
    assert_eq!(listens.status(), 200);
    let gone = forge.accepted(0, "gone", Address::ZERO)?;
    forge.anchor(&forge.batch(1, gone.to_vec()).await?).await?;
    batch_in_state(&indexer, 1, "mined").await;
    indexer.until(&format!("/v1/records/{}", gone[0].data_id), |status, _| status == 200).await?;
    forge.stack.chain.reorg(1).await?;
    indexer.until("/v1/batches/numo/1", |status, _| status == 404).await?;
    for _ in 0..10 {
        assert_eq!(indexer.get("/v1/batches").await?.0, 200);
        assert_eq!(indexer.get(&format!("/v1/licenses/{license}/check")).await?.0, 200);
    }
    drop(listens);
    // connections tell what they did when they end
    indexer.stop();
    let deadline = Instant::now() + Duration::from_secs(30);
    let others =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'";
    while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut db).await? > 1 {
        assert!(Instant::now() < deadline, "its connections end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let now: (i64, i64) = sqlx::query_as(counts).fetch_one(&mut db).await?;
    let (read, looks) = (now.0 - since.0, now.1 - since.1);
    assert!(looks > 30, "{looks} looks at the history were told");
    assert!(read < HISTORY, "{read} rows of a history of {HISTORY} were read");
    Ok(())
}

/// A batch may be settled between the look for it and the writing of its events, after which nobody else would take them away.
#[tokio::test]
async fn events_that_are_shown_too_late_go_again() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let accepted = forge.accepted(0, "settled", Address::ZERO)?;
    forge.anchor(&forge.batch(0, accepted.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("shown").await?;
    batch_in_state(&indexer, 0, "valid").await;
    let mut db = forge.stack.postgres.connect("shown").await?;
    db.execute(
        "INSERT INTO mirror.mined_event (block_number, log_index, provider, number, index, data_id, sequence, event)
         SELECT b.block_number, b.log_index, e.provider, e.number, e.index, e.data_id, e.sequence, '{}'
         FROM event AS e JOIN batch AS b USING (provider, number)",
    )
    .await?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM mirror.mined_event").fetch_one(&mut db).await? > 0 {
        assert!(Instant::now() < deadline, "they go");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn a_redemption_that_is_final_before_its_credit_waits_for_it() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let [first, late] = [forge.accepted(0, "first", Address::ZERO)?, forge.accepted(0, "late", Address::ZERO)?];
    forge.anchor(&forge.batch(0, first.to_vec()).await?).await?;
    let batch = forge.batch(1, late.to_vec()).await?;
    let store = forge.stack.store()?;
    store.delete(&batch.header.manifest_cid).await?;
    forge.anchor(&batch).await?;
    let operator = forge.stack.sender(role::TREASURY_OPERATOR).await?;
    let treasury = PointsTreasury::new(forge.world.treasury, &operator);
    let debit = PointsTreasury::PointsDebit {
        payoutId: B256::repeat_byte(1),
        account: late[1].contributor,
        amount: forge.reward,
    };
    mined!("redeem", treasury.redeem(vec![debit], Address::repeat_byte(2)));
    forge.stack.chain.mine(3).await?;

    let indexer = forge.stack.start_second_indexer("early").await?;
    let reward = forge.reward.to_string();
    let unposted = |settlement: &Value| settlement["providers"][0]["unposted"].clone();
    indexer.until("/v1/settlement", |_, settlement| unposted(settlement) == reward.as_str()).await?;
    batch_in_state(&indexer, 0, "valid").await;

    let manifest = Manifest { provider: forge.world.provider, number: 1, events: batch.events, disclosures: None };
    store.put(&manifest.encode()?).await?;
    let settlement = indexer.until("/v1/settlement", |_, settlement| unposted(settlement) == "0").await?;
    let numo = &settlement["providers"][0];
    assert_eq!(numo["redeemed"], reward.as_str(), "{settlement}");
    assert_eq!((&numo["difference"], &numo["covered"]), (&"0".into(), &true.into()), "{settlement}");
    assert_eq!(balance(&indexer, late[1].contributor).await, "0");
    assert_eq!(balance(&indexer, first[1].contributor).await, reward);
    second_indexer(&forge.stack, "early").await?;
    Ok(())
}

/// Whoever holds the database's password still can't make points.
#[tokio::test]
async fn the_schema_refuses_every_change_that_is_not_a_balanced_transfer_and_references_to_nothing()
-> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let accepted = forge.accepted(0, "credited", Address::ZERO)?;
    forge.anchor(&forge.batch(0, accepted.to_vec()).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("ledger").await?;
    batch_in_state(&indexer, 0, "valid").await;
    let before = checksums(&forge.stack.postgres.url("ledger")).await?;

    let columns = "cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id, \
                   block_number, block_time, tx_hash, position, link";
    // the only transfer there is, with one thing changed; $Z is an account that is none's
    let again = |id: &str, changed: &str| {
        let mut select = columns.to_owned();
        for (column, value) in changed.split(';').filter_map(|change| change.split_once('=')) {
            let (column, value) = (column.trim(), value.trim());
            select = select.split(", ").map(|c| if c == column { value } else { c }).collect::<Vec<_>>().join(", ");
        }
        format!("INSERT INTO ledger_transfer (id, {columns}) SELECT {id}, {select} FROM ledger_transfer")
    };
    let verdict = |sequence_and_kind: &str| {
        format!(
            "INSERT INTO event (provider, number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                 previous, occurred_at, task_id, reward, payee, leaf)
             SELECT provider, number, index + 7, data_id, {sequence_and_kind}, contributor, content_hash, consent_id, commitment,
                 previous, occurred_at, task_id, 0, payee, leaf FROM event WHERE kind = 1"
        )
    };
    let disclosure = |index: &str| {
        format!(
            "INSERT INTO disclosure (provider, number, index, salt, fault) SELECT provider, number, {index}, leaf, '' FROM event"
        )
    };
    let overdraft = "cause='redeem'; debit_kind='contributor'; debit_key=account; credit_kind='redeemed'; \
                     credit_key=debit_key; amount=amount + 1; data_id=NULL";
    let refused = [
        ("UPDATE ledger_account SET balance = balance + 1 WHERE kind = 'contributor'".to_owned(), "only through"),
        ("DELETE FROM ledger_account WHERE kind = 'contributor'".into(), ""),
        ("INSERT INTO ledger_account SELECT provider, kind, sha256(key), 5 FROM ledger_account WHERE kind = 'contributor'"
            .into(), "only through"),
        ("UPDATE ledger_transfer SET amount = amount + 1".into(), "never changed"),
        ("DELETE FROM ledger_transfer".into(), "never changed"),
        ("TRUNCATE ledger_transfer".into(), "never changed"),
        (again("id", ""), "ledger_transfer_pkey"),
        (again("'reward/second'", "amount=0"), "amount"),
        (again("'gift/second'", ""), "check"),
        (again("'reward/second'", "credit_kind='redeemed'"), "each_cause_has_its_two_accounts"),
        (again("'redeem/second'", overdraft), "balance_is_not_negative"),
        (again("id || '0'", ""), "do not go on"),
        (again("id || '0'", "position=position + 2"), "do not go on"),
        (again("id || '0'", "position=NULL"), "chained"),
        (again("id || '0'", "link=NULL"), "chained"),
        ("UPDATE ledger_lane SET head = sha256(head)".into(), "only through"),
        ("DELETE FROM ledger_lane".into(), "only through"),
        ("UPDATE provider_total SET contributors = contributors + 1".into(), "moves only with the rows"),
        ("DELETE FROM provider_total".into(), "moves only with the rows"),
        (again("'reward/second'", "provider=decode(repeat('ab',20),'hex')"), "is of a provider"),
        // what refers finds what it refers to, and that stays
        (
            "INSERT INTO event (provider, number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                 previous, occurred_at, task_id, reward, payee, leaf)
             SELECT provider, number + 7, index, gen_random_uuid(), sequence, kind, contributor, content_hash, consent_id,
                 commitment, previous, occurred_at, task_id, reward, payee, leaf FROM event WHERE sequence = 0"
                .into(),
            "event refers to no row of batch",
        ),
        // one verdict a record: it is the second event, and there is one event a place
        (verdict("2, 2"), "a_verdict_is_the_second_event"),
        (verdict("1, 2"), "one_event_a_place_in_the_chain"),
        (disclosure("99 + index"), "disclosure refers to no row of event"),
        (disclosure("index - 1"), "disclosure refers to no row of event"),
        ("UPDATE record SET sequence = sequence + 1".into(), "record refers to no row of event"),
        (
            "INSERT INTO perceptual_hash SELECT address, gen_random_uuid(), 0, 0, 1 FROM provider".into(),
            "perceptual_hash refers to no row of record",
        ),
        ("UPDATE event SET index = index + 7".into(), "they stay"),
        ("DELETE FROM event".into(), "they stay"),
        ("DELETE FROM batch".into(), "they stay"),
        ("DELETE FROM record".into(), "they stay"),
        ("DELETE FROM provider".into(), "they stay"),
    ];
    let mut connection = forge.stack.postgres.connect("ledger").await?;
    for (statement, why) in refused {
        let error = connection.execute(AssertSqlSafe(statement.clone())).await.expect_err(&statement).to_string();
        assert!(error.contains(why), "{statement}: {error}");
    }
    assert_eq!(before, checksums(&forge.stack.postgres.url("ledger")).await?);
    Ok(())
}
