//! Proofs of events and members come out of kept trees, are held against roots, and a tree that is missing is made again; what is
//! counted of members follows their records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};
use tidemark::{
    batch::summarise,
    event::{Event, EventKind},
    merkle::root_from_proof,
};
use tidemark_indexer::{ledger::verify::verify, serve::connect};
use tidemark_tests::{Options, forge::Forge};

/// The proofs of a record as the indexer tells them, by leaf.
async fn proofs(url: &str, event: &Event) -> (u16, Vec<(B256, Vec<B256>)>) {
    let answer = reqwest::get(format!("{url}/v1/records/{}/proofs", event.data_id)).await.unwrap();
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    let hash = |value: &Value| value.as_str().unwrap().parse::<B256>().unwrap();
    let empty = Vec::new();
    let proofs = body["proofs"]
        .as_array()
        .unwrap_or(&empty)
        .iter()
        .map(|proof| (hash(&proof["leaf"]), proof["proof"].as_array().unwrap().iter().map(hash).collect()));
    (status, proofs.collect())
}

/// Waits until so many trees are kept.
async fn kept(db: &mut PgConnection, trees: i64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let count = "SELECT count(*) FROM mirror.tree";
    // before the first start there is no table
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *db).await.unwrap_or_default() < trees {
        assert!(Instant::now() < deadline, "the trees are kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_read_out_of_the_kept_tree_and_never_given_when_it_is_wrong() -> anyhow::Result<()> {
    let forge = Forge::new().await?;
    // a tree of one leaf, and one of an odd number
    let single = vec![forge.accepted(0, "alone", Address::ZERO)?[0].clone()];
    let many: Vec<Event> = (0..7u32)
        .map(|number| forge.accepted(2 * number, &format!("record-{number}"), Address::ZERO))
        .collect::<anyhow::Result<Vec<_>>>()?
        .concat();
    let many = many[..13].to_vec();
    for (number, events) in [single.clone(), many.clone()].into_iter().enumerate() {
        forge.anchor(&forge.batch(number as u64, events).await?).await?;
    }
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("trees").await?;
    let mut db = forge.stack.postgres.connect("trees").await?;
    kept(&mut db, 2).await;

    let right = async |url: &str| {
        for events in [&single, &many] {
            let tree = summarise(events).unwrap().tree;
            for event in events.iter() {
                let (status, told) = proofs(url, event).await;
                assert_eq!(status, 200);
                let expected = (event.leaf(), tree.proof(event.index as usize).unwrap());
                assert!(told.contains(&expected), "{event:?}: {told:?}");
                assert!(told.iter().all(|(leaf, path)| root_from_proof(*leaf, path) == tree.root()));
            }
        }
    };
    right(indexer.url()).await;

    // another hash in the tree: the proof is not given
    sqlx::query(
        "UPDATE mirror.tree SET nodes = overlay(nodes PLACING sha256('x') FROM 33 FOR 32) WHERE what LIKE 'batch/%/1'",
    )
    .execute(&mut db)
    .await?;
    let mut refused = 0;
    for event in &many {
        let (status, told) = proofs(indexer.url(), event).await;
        assert!(status == 500 && told.is_empty() || status == 200, "{status}");
        refused += u32::from(status == 500);
    }
    assert!(refused > 0, "the changed hash is in the proofs of those below its sibling");

    // as before there was such a table: slow proofs at once, kept trees soon
    sqlx::query("DELETE FROM mirror.tree").execute(&mut db).await?;
    right(indexer.url()).await;
    sqlx::query(
        "INSERT INTO mirror.tree_wanted SELECT 'batch/0x' || encode(provider, 'hex') || '/' || number FROM batch",
    )
    .execute(&mut db)
    .await?;
    kept(&mut db, 2).await;
    right(indexer.url()).await;
    Ok(())
}

/// A minute may pass until Postgres looks at new tables itself, and what it plans until then is for small ones.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_knows_of_many_new_records_at_once() -> anyhow::Result<()> {
    const RECORDS: u32 = 1_000;
    let forge = Forge::with(Options::default(), RECORDS).await?;
    let events = (0..RECORDS).map(|number| forge.accepted(2 * number, &format!("record-{number}"), Address::ZERO));
    forge.anchor(&forge.batch(0, events.collect::<anyhow::Result<Vec<_>>>()?.concat()).await?).await?;
    forge.stack.chain.mine(3).await?;
    // else it may look by itself just then
    let mut server = forge.stack.postgres.connect("postgres").await?;
    server.execute("ALTER SYSTEM SET autovacuum = off").await?;
    server.execute("SELECT pg_reload_conf()").await?;
    let indexer = forge.stack.start_second_indexer("known").await?;
    indexer.until("/v1/batches/numo/0", |_, batch| batch["state"] == "valid").await?;
    let mut db = forge.stack.postgres.connect("known").await?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let known = "SELECT min(reltuples)::bigint FROM pg_class
                 WHERE oid IN ('record'::regclass, 'event'::regclass, 'ledger_transfer'::regclass)";
    while sqlx::query_scalar::<_, i64>(known).fetch_one(&mut db).await? < i64::from(RECORDS) {
        assert!(Instant::now() < deadline, "it has looked at them");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// A version whose rows say that everything is allowed, of a record that is there, of one that comes later and of one that never does.
#[tokio::test(flavor = "multi_thread")]
async fn a_members_proof_is_read_out_of_a_kept_tree_and_members_are_held_against_records_that_come_and_go()
-> anyhow::Result<()> {
    let forge = Forge::new().await?;
    let (first, of_first) = forge.disclosing(0, "first", json!({"a": 1}), 1)?;
    let (late, of_late) = forge.disclosing(0, "late", json!({"a": 2}), 3)?;
    let never = forge.accepted(4, "never", Address::ZERO)?;
    forge.anchor(&forge.disclosed(0, first.to_vec(), &[of_first]).await?).await?;
    let mut rows = Vec::new();
    for events in [&first, &late, &never] {
        rows.push(forge.member_row(&events[1]).await?);
    }
    rows.sort_by_key(|row| row.member.data_id);
    let ip_id = forge.register_dataset(&forge.version_of(&rows).await?).await?;
    forge.stack.chain.mine(3).await?;
    let indexer = forge.stack.start_second_indexer("members").await?;
    let mut db = forge.stack.postgres.connect("members").await?;
    kept(&mut db, 2).await;

    let right = async || {
        for row in &rows {
            let path = format!("/v1/datasets/{ip_id}/versions/1/members/{}", row.member.data_id);
            let (status, told) = indexer.get(&path).await.unwrap();
            assert_eq!((status, &told["leaf"]), (200, &row.member.leaf().to_string().into()), "{told}");
            let path: Vec<B256> =
                told["proof"].as_array().unwrap().iter().map(|hash| hash.as_str().unwrap().parse().unwrap()).collect();
            assert_eq!(root_from_proof(row.member.leaf(), &path).to_string(), told["root"].as_str().unwrap(), "{told}");
        }
    };
    right().await;
    sqlx::query("UPDATE mirror.tree SET nodes = sha256('x') || substr(nodes, 33) WHERE what LIKE 'members/%'")
        .execute(&mut db)
        .await?;
    right().await;
    sqlx::query("UPDATE mirror.tree SET nodes = substr(nodes, 1, 32) || sha256('x') || substr(nodes, 65) WHERE what LIKE 'members/%'")
        .execute(&mut db)
        .await?;
    let mut refused = 0;
    for row in &rows {
        let path = format!("/v1/datasets/{ip_id}/versions/1/members/{}", row.member.data_id);
        let (status, told) = indexer.get(&path).await?;
        assert!(status == 500 && told["proof"].is_null() || status == 200, "{status}: {told}");
        refused += u32::from(status == 500);
    }
    assert!(refused > 0, "the changed hash is in the proofs of those below its sibling");
    sqlx::query("DELETE FROM mirror.tree").execute(&mut db).await?;
    right().await;
    sqlx::query("INSERT INTO mirror.tree_wanted SELECT 'members/' || ip_id || '/' || version FROM dataset_version")
        .execute(&mut db)
        .await?;
    kept(&mut db, 1).await;
    right().await;

    let dataset = format!("/v1/datasets/{ip_id}");
    let differ = async |members: u32| {
        indexer.until(&dataset, |_, told| told["versions"][0]["purposes_differ"] == members).await.unwrap();
    };
    differ(1).await;
    forge.anchor(&forge.disclosed(1, late.to_vec(), &[of_late]).await?).await?;
    forge.stack.chain.mine(3).await?;
    differ(2).await;
    let erased = Event {
        index: 0,
        sequence: 2,
        kind: EventKind::Erased,
        previous: first[1].leaf(),
        reward: 0,
        ..first[1].clone()
    };
    forge.anchor(&forge.batch(2, vec![erased]).await?).await?;
    forge.stack.chain.mine(3).await?;
    differ(1).await;
    let (_, provider) = indexer.get("/v1/providers/numo").await?;
    assert_eq!((&provider["records"], &provider["batches"]), (&2.into(), &3.into()), "{provider}");
    let pool = connect(&forge.stack.postgres.url("members"), 2).await?;
    assert_eq!(verify(&pool, &mut |_, _, _| ()).await?.findings, [], "totals are those of the rows");
    Ok(())
}
