//! Proofs come out of the kept tree, are held against the root, and a tree that is missing is made again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256};
use serde_json::Value;
use sqlx::PgConnection;
use tidemark::{batch::summarise, event::Event, merkle::root_from_proof};
use tidemark_tests::forge::Forge;

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

/// Waits until both trees are kept.
async fn kept(db: &mut PgConnection) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let count = "SELECT count(*) FROM mirror.batch_tree";
    // before the first start there is no table
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *db).await.unwrap_or_default() < 2 {
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
    kept(&mut db).await;

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
        "UPDATE mirror.batch_tree SET nodes = overlay(nodes PLACING sha256('x') FROM 33 FOR 32) WHERE number = 1",
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
    sqlx::query("DELETE FROM mirror.batch_tree").execute(&mut db).await?;
    right(indexer.url()).await;
    sqlx::query("INSERT INTO mirror.tree_wanted SELECT provider, number FROM batch").execute(&mut db).await?;
    kept(&mut db).await;
    right(indexer.url()).await;
    Ok(())
}
