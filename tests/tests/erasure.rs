//! Erasure: what is private of a record goes everywhere, what was anchored stays and verifies, whatever dies in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use alloy::signers::SignerSync;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tidemark::{
    consent::{SignedConsent, withdrawal_digest},
    event::EventKind,
    ids::{ContentHash, DataId},
    manifest::decode_disclosures,
    payload::Payload,
    store::StoreError,
};
use tidemark_relayer::intake::erase;
use tidemark_tests::{
    Options, Stack,
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, meta, metadata_update, registration},
        finality, market,
        people::Contributor,
        samples::{Expected, repository_samples},
        strangers,
        world::World,
    },
    wirings::relayer_command,
    write_side::another_provider,
};

const TIME_MAX: Duration = Duration::from_secs(60);

async fn ask(stack: &Stack, api_key: &str, id: &str) -> (u16, Value) {
    let url = format!("{}/v1/records/{id}/erasure", stack.relayer.as_ref().unwrap().url());
    let answer = reqwest::Client::new().post(url).header("x-api-key", api_key).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
}

async fn erased(stack: &Stack, world: &World, id: DataId) -> Value {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let (status, body) = ask(stack, &world.api_key, &id.to_string()).await;
        if status == 200 {
            assert_eq!(body["state"], "erased", "{body}");
            return body;
        }
        assert!(status == 202 && Instant::now() < deadline, "{status} {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn database(stack: &Stack, name: &str) -> PgPool {
    PgPool::connect(&stack.postgres.url(name)).await.unwrap()
}

/// Tables of a database that have a text in some row.
async fn tables_with(db: &PgPool, text: &str) -> Vec<String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables
         WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'",
    )
    .fetch_all(db)
    .await
    .unwrap();
    let mut found = Vec::new();
    for table in tables {
        let asked = format!("SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%' || $1 || '%'");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(asked)).bind(text).fetch_one(db).await.unwrap();
        if count > 0 {
            found.push(table);
        }
    }
    found
}

/// Blocks of the content store by CID, and those of them that have a text.
fn blocks(stack: &Stack) -> BTreeSet<String> {
    files(&stack.folder.path().join("store")).into_iter().map(|(name, _)| name).collect()
}

fn blocks_with(stack: &Stack, text: &str) -> usize {
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    // disclosures are compressed: a text that resembles its neighbours does not stand in their bytes as it is
    let discloses = |bytes: &[u8]| {
        decode_disclosures(bytes.to_vec().into()).is_ok_and(|told| told.iter().any(|one| has(one.payload.as_bytes())))
    };
    let blocks = files(&stack.folder.path().join("store"));
    blocks.iter().filter(|(_, bytes)| has(bytes) || discloses(bytes)).count()
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()));
        }
    }
    found
}

async fn register(doors: &Doors, batch: &str, ids: &[&str]) -> Vec<DataId> {
    let items: Vec<Value> =
        ids.iter().map(|id| registration(id, &kept_metadata(id, ContentHash::of(id.as_bytes()), 0)).unwrap()).collect();
    let answer = doors.register(batch, &items).await.unwrap();
    let answers = answer["items"].as_array().unwrap();
    answers.iter().map(|item| item["data_id"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_record_is_gone_everywhere_and_its_proofs_still_verify() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [5, 5, 5]).await?;
    let doors = Doors::new(&stack, &world)?;
    let group = Contributor::group(2);
    let samples: Vec<_> =
        repository_samples()?.into_iter().filter(|s| matches!(s.expected, Expected::Accepted)).take(2).collect();
    let mut uploads = Vec::new();
    for (person, sample) in group.iter().zip(&samples) {
        let meta = meta(&world, sample, person)?;
        let answer: Value = doors.post_upload(&meta, sample.mime, std::fs::read(&sample.path)?).await?.json().await?;
        assert_eq!(answer["status"], "accepted", "{answer}");
        uploads.push((meta, answer["data_id"].as_str().unwrap().parse::<DataId>()?));
    }
    // two records whose files the provider keeps, the first with an update
    let kept = register(&doors, "kept", &["kept-secret-name", "kept-other-name"]).await;
    let before = kept_metadata("kept-secret-name", ContentHash::of(b"kept-secret-name"), 0);
    let after = kept_metadata("kept-secret-name", ContentHash::of(b"kept-secret-name"), 1);
    doors.update("update", &[metadata_update(kept[0], 1, &before, &after)?]).await?;
    let history = market::history(&stack)?;
    let mut expected = vec![(uploads[0].1, 2), (uploads[1].1, 2), (kept[0], 2), (kept[1], 1)];
    finality::anchored(&history, &world, &expected).await?;

    let gone = uploads[0].1;
    let names = [uploads[0].0["source_record_id"].as_str().unwrap(), "kept-secret-name"];
    let reference =
        uploads[0].0["contributor_ref"].as_str().or(uploads[0].0["contributor"].as_str()).unwrap().to_owned();
    let store = stack.store()?;
    let mut files = Vec::new();
    for batch in history.load_all(Some(world.provider)).await? {
        if batch.manifest.events.iter().any(|event| [gone, kept[0]].contains(&event.data_id)) {
            files.push(batch.manifest.disclosures.unwrap());
        }
    }
    let registered = history.record(gone, None).await?.remove(0).payload;
    let Some(Payload::Registered { delivery: Some(delivery), .. }) = registered else { panic!("{registered:?}") };
    files.extend([delivery.ciphertext_cid, delivery.key_cid]);
    for file in &files {
        assert!(store.get(file, 64 << 20).await.is_ok());
    }
    let (relayer_db, indexer_db) = (database(&stack, "relayer").await, database(&stack, "indexer").await);
    // the records are shown before their batches are final and their names are in the tables
    let named = |_: u16, record: &Value| record["source_record_id"].is_string();
    for record in [gone, kept[0]] {
        stack.indexer.as_ref().unwrap().until(&format!("/v1/records/{record}"), named).await?;
    }
    for name in names {
        assert!(!tables_with(&relayer_db, name).await.is_empty() && !tables_with(&indexer_db, name).await.is_empty());
        assert!(blocks_with(&stack, name) > 0, "the test can see {name} in the store");
    }
    assert!(!tables_with(&relayer_db, &reference).await.is_empty());

    // refusals
    assert_eq!(ask(&stack, &world.api_key, "no-uuid").await.0, 400);
    assert_eq!(ask(&stack, &world.api_key, &uuid::Uuid::new_v4().to_string()).await.0, 404);
    assert_eq!(ask(&stack, "tmk_wrong", &gone.to_string()).await.0, 401);

    let (status, answer) = ask(&stack, &world.api_key, &gone.to_string()).await;
    assert_eq!((status, &answer["state"]), (202, &json!("erasing")));
    let relayer = stack.relayer.as_ref().unwrap();
    let command = relayer_command(relayer.wiring(), &["erase", "--data-id", &kept[0].to_string()]);
    assert!(["erasing", "erased"].contains(&relayer.run_once(&command)?.as_str()));
    let nobody = relayer_command(relayer.wiring(), &["erase", "--data-id", &uuid::Uuid::new_v4().to_string()]);
    assert!(relayer.run_once(&nobody).unwrap_err().to_string().contains("no record"));
    erased(&stack, &world, gone).await;
    erased(&stack, &world, kept[0]).await;
    assert_eq!(relayer.run_once(&command)?, "erased");

    // the relayer's tables and the content store
    for name in names {
        assert_eq!(tables_with(&relayer_db, name).await, Vec::<String>::new(), "{name}");
        assert_eq!(blocks_with(&stack, name), 0, "{name}");
    }
    let contributors: i64 = sqlx::query_scalar("SELECT count(*) FROM contributor WHERE reference = $1")
        .bind(&reference)
        .fetch_one(&relayer_db)
        .await?;
    assert_eq!(contributors, 0, "the secret of a contributor without records");
    for file in &files {
        assert!(matches!(store.get(file, 64 << 20).await, Err(StoreError::NotFound { .. })), "{file}");
    }

    // sent again under a new batch id it is a conflict, of which nothing is kept
    let again = kept_metadata("kept-secret-name", ContentHash::of(b"kept-secret-name"), 0);
    let body = serde_json::to_vec(&[registration("kept-secret-name", &again)?])?;
    let answer = doors.post_records("again", body).await?;
    assert_eq!(answer.status(), 409);
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    let item = json!({"data_id": kept[0], "status": "conflict", "reason": "the record was erased"});
    assert_eq!(answer["items"], json!([item]));
    assert_eq!(tables_with(&relayer_db, "kept-secret-name").await, Vec::<String>::new());

    // what was anchored stays, with one more event; the others' disclosures are found where the erasure says
    expected[0].1 += 1;
    expected[2].1 += 1;
    let batches = finality::anchored(&history, &world, &expected).await?;
    assert!(batches.iter().all(|batch| batch.difference().is_none()));
    for id in [gone, kept[0]] {
        let events = history.record(id, None).await?;
        assert_eq!(events.last().unwrap().event.kind, EventKind::Erased);
        let (told, payloads) = events.split_last().unwrap();
        assert!(payloads.iter().all(|event| event.payload.is_none()), "{payloads:?}");
        assert!(matches!(&told.payload, Some(Payload::Erased { disclosures }) if !disclosures.is_empty()));
        let report = strangers::verify_data(&stack, id).await?;
        assert!(report.verified, "{:?}", report.failure());
    }
    for id in [uploads[1].1, kept[1]] {
        let events = history.record(id, None).await?;
        assert!(events.iter().all(|event| event.payload.is_some()), "{events:?}");
        assert!(strangers::verify_data(&stack, id).await?.verified);
    }
    let version = market::register_dataset(&stack, &world, "after").await?;
    assert_eq!(version.members.iter().map(|row| row.member.data_id).collect::<Vec<_>>(), [uploads[1].1]);

    // the indexer drops its copies once the erasure is final, and a new one finds the others' disclosures
    let indexer = stack.indexer.as_ref().unwrap();
    for id in [gone, kept[0]] {
        let seen = indexer
            .until(&format!("/v1/records/{id}"), |_, body| {
                body["data"]["status"] == "erased" || body["status"] == "erased"
            })
            .await?;
        assert!(!seen.to_string().contains("kept-secret-name"), "{seen}");
    }
    for name in names {
        assert_eq!(tables_with(&indexer_db, name).await, Vec::<String>::new(), "{name}");
    }
    strangers::second_indexer(&stack, "indexer").await?;

    // nothing more happens to it
    let again = doors.post_upload(&uploads[0].0, samples[0].mime, std::fs::read(&samples[0].path)?).await?;
    assert_eq!(again.status(), 409);
    let update = metadata_update(kept[0], 2, &after, &before)?;
    let answer = doors.post_updates("late", serde_json::to_vec(&json!([update]))?).await?;
    let (status, text) = (answer.status(), answer.text().await?);
    assert!(status == 409 && text.contains("was erased"), "{status} {text}");
    let consent: SignedConsent = serde_json::from_value(uploads[0].0["consent"].clone())?;
    let consent_id = consent.id(&world.deployment.consent_domain());
    let digest = withdrawal_digest(&world.deployment.consent_domain(), consent_id);
    let signature = alloy::primitives::hex::encode_prefixed(group[0].key.sign_hash_sync(&digest)?.as_bytes());
    let url = format!("{}/v1/withdrawals", stack.relayer.as_ref().unwrap().url());
    let body = json!({ "consent_id": consent_id, "signature": signature });
    let answer = reqwest::Client::new().post(url).header("x-api-key", &world.api_key).json(&body).send().await?;
    assert_eq!(answer.status(), 202, "the chain still hears of the withdrawal");
    let answer: Value = serde_json::from_str(&answer.text().await?)?;
    assert_eq!(answer["records"], json!([]));
    let events: i64 =
        sqlx::query_scalar("SELECT count(*) FROM event WHERE data_id = $1").bind(gone.0).fetch_one(&relayer_db).await?;
    assert_eq!(events, 3, "and the record gets no event after its Erased");
    let forced = sqlx::query("UPDATE record SET next_sequence = next_sequence + 1 WHERE data_id = $1").bind(gone.0);
    let refused = forced.execute(&relayer_db).await.unwrap_err().to_string();
    assert!(refused.contains("was erased"), "{refused}");
    Ok(())
}

/// A write side, and a pool on the relayer's database.
async fn write_side() -> (Stack, World, Doors, PgPool) {
    tidemark::install_tls();
    let options = Options { services: Services::WriteSide, batch_age_ms_max: 100, poll_ms: 30, ..Options::default() };
    let stack = Stack::start(options).await.unwrap();
    let world = World::build(&stack, [1, 1, 1]).await.unwrap();
    let doors = Doors::new(&stack, &world).unwrap();
    let db = database(&stack, "relayer").await;
    (stack, world, doors, db)
}

async fn due(db: &PgPool, world: &World, count: usize) -> BTreeSet<DataId> {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let due = erase::due(db, world.provider).await.unwrap();
        if due.len() == count {
            return due;
        }
        assert!(Instant::now() < deadline, "{due:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn signed(db: &PgPool, count: i64) {
    let deadline = Instant::now() + TIME_MAX;
    loop {
        let done: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM event e JOIN batch b ON b.provider = e.provider AND b.number = e.batch_number
             WHERE b.state <> 'sealed'",
        )
        .fetch_one(db)
        .await
        .unwrap();
        if done >= count {
            return;
        }
        assert!(Instant::now() < deadline, "{done} of {count} events are signed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_that_is_killed_between_any_two_steps_is_finished_and_leaves_no_file_behind() {
    let (mut stack, world, doors, db) = write_side().await;
    let ids = register(&doors, "one", &["a-name", "b-name", "c-name", "d-name"]).await;
    signed(&db, 4).await;
    let store = stack.store().unwrap();
    let start = blocks(&stack);

    // killed after the draft: it is the first of two records, and the draft is not what is written in the end
    stack.relayer.as_mut().unwrap().kill();
    let stranger = alloy::primitives::Address::repeat_byte(9);
    assert_eq!(erase::ask(&db, Some(stranger), ids[0]).await.unwrap(), None, "another provider's record");
    assert_eq!(erase::state(&db, None, ids[0]).await.unwrap(), None);
    erase::ask(&db, Some(world.provider), ids[0]).await.unwrap().unwrap();
    let drafts = erase::draft(&db, &store, world.provider, &due(&db, &world, 1).await).await.unwrap();
    erase::ask(&db, Some(world.provider), ids[1]).await.unwrap().unwrap();
    assert!(blocks(&stack).contains(&drafts[0].new.to_string()));
    stack.relayer.as_mut().unwrap().restart().await.unwrap();
    erased(&stack, &world, ids[0]).await;
    erased(&stack, &world, ids[1]).await;
    assert!(!blocks(&stack).contains(&drafts[0].new.to_string()), "a draft that nothing points to is gone");
    assert!(!blocks(&stack).contains(&drafts[0].old));
    assert_eq!((blocks_with(&stack, "a-name"), blocks_with(&stack, "b-name")), (0, 0));
    assert!(blocks_with(&stack, "c-name") > 0);
    signed(&db, 6).await;

    // killed after the transaction, before the files went
    stack.relayer.as_mut().unwrap().kill();
    erase::ask(&db, Some(world.provider), ids[2]).await.unwrap().unwrap();
    let wanted = due(&db, &world, 1).await;
    let drafts = erase::draft(&db, &store, world.provider, &wanted).await.unwrap();
    erase::scrub(&db, world.provider, &wanted, &drafts).await.unwrap();
    assert!(erase::scrub(&db, world.provider, &wanted, &drafts).await.is_err(), "not twice");
    assert!(blocks_with(&stack, "c-name") > 0);
    assert_eq!(erase::state(&db, None, ids[2]).await.unwrap().unwrap().state, "erasing");
    stack.relayer.as_mut().unwrap().restart().await.unwrap();
    erased(&stack, &world, ids[2]).await;
    assert_eq!(blocks_with(&stack, "c-name"), 0);
    assert!(blocks_with(&stack, "d-name") > 0, "whoever is not erased stays");
    signed(&db, 7).await;

    // three erasures moved the same batch's disclosures: a stranger finds the last file
    let history = market::history(&stack).unwrap();
    finality::anchored(&history, &world, &[(ids[0], 2), (ids[1], 2), (ids[2], 2), (ids[3], 1)]).await.unwrap();
    for (id, is_kept) in ids.iter().zip([false, false, false, true]) {
        let events = history.record(*id, None).await.unwrap();
        assert_eq!(events[0].payload.is_some(), is_kept, "{events:?}");
    }

    // the last one: a file without rows stays
    let (status, _) = ask(&stack, &world.api_key, &ids[3].to_string()).await;
    assert_eq!(status, 202);
    erased(&stack, &world, ids[3]).await;
    assert_eq!(blocks_with(&stack, "d-name"), 0);
    signed(&db, 8).await;
    let leftovers: i64 = sqlx::query_scalar("SELECT count(*) FROM store_removal").fetch_one(&db).await.unwrap();
    assert_eq!(leftovers, 0);
    // what is there: of each batch its manifest and one disclosures file
    let batches: i64 = sqlx::query_scalar("SELECT count(*) FROM batch").fetch_one(&db).await.unwrap();
    assert!(blocks(&stack).len() <= usize::try_from(2 * batches).unwrap(), "{:?} after {start:?}", blocks(&stack));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_before_the_attestor_has_signed_it() {
    let (mut stack, world, doors, db) = write_side().await;
    stack.attestor.as_mut().unwrap().stop();
    let ids = register(&doors, "one", &["early-name"]).await;
    assert_eq!(ask(&stack, &world.api_key, &ids[0].to_string()).await.0, 202);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ask(&stack, &world.api_key, &ids[0].to_string()).await.1["state"], "erasing");
    let payloads: i64 = sqlx::query_scalar("SELECT count(*) FROM event WHERE payload LIKE '%early-name%'")
        .fetch_one(&db)
        .await
        .unwrap();
    assert_eq!(payloads, 1, "the batch is built out of it");
    stack.attestor.as_mut().unwrap().restart().await.unwrap();
    erased(&stack, &world, ids[0]).await;
    assert_eq!(blocks_with(&stack, "early-name"), 0);
    signed(&db, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_can_not_be_deleted_holds_up_no_other_provider() {
    let (stack, world, doors, db) = write_side().await;
    let relayer = stack.relayer.as_ref().unwrap();
    let ids = register(&doors, "first", &["a", "b"]).await;
    let other = another_provider(&stack, &world, "oto", relayer).await.unwrap();
    other.register(0, 2).await.unwrap();
    signed(&db, 4).await;
    let others: Vec<uuid::Uuid> = sqlx::query_scalar("SELECT data_id FROM record WHERE provider = $1 ORDER BY data_id")
        .bind(other.account.as_slice())
        .fetch_all(&db)
        .await
        .unwrap();
    // each of them is the one that is stuck once, as nobody says who comes first
    let rounds = [(world.provider, ids[0].0, others[0]), (other.account, others[1], ids[1].0)];
    for (provider, stuck, free) in rounds {
        sqlx::query("INSERT INTO store_removal (data_id, cid, provider) VALUES ($1, 'no cid', $2)")
            .bind(stuck)
            .bind(provider.as_slice())
            .execute(&db)
            .await
            .unwrap();
        for id in [stuck, free] {
            relayer.run_once(&relayer_command(relayer.wiring(), &["erase", "--data-id", &id.to_string()])).unwrap();
        }
        let deadline = Instant::now() + TIME_MAX;
        loop {
            let state = "SELECT erasure FROM record WHERE data_id = $1";
            let state: String = sqlx::query_scalar(state).bind(free).fetch_one(&db).await.unwrap();
            if state == "erased" {
                break;
            }
            assert!(Instant::now() < deadline, "{free} stays {state}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let why = "SELECT r.erasure || ', ' || (s.error IS NOT NULL) FROM record r JOIN store_removal s USING (data_id)
                   WHERE data_id = $1 AND cid = 'no cid'";
        let deadline = Instant::now() + TIME_MAX;
        while sqlx::query_scalar::<_, String>(why).bind(stuck).fetch_one(&db).await.unwrap() != "erasing, true" {
            assert!(Instant::now() < deadline, "{stuck} is stuck, and says why");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sqlx::query("DELETE FROM store_removal WHERE cid = 'no cid'").execute(&db).await.unwrap();
    }
}
