//! Near-duplicates by perceptual hash: the same as brute force finds, through the indexes, and gone with an erasure.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};
use tidemark::ids::{ContentHash, DataId};
use tidemark_indexer::{
    manifest::perceptual::{self, Kind},
    read::{self, Wanted, page::Page},
    serve::open_database,
};
use tidemark_tests::{
    Options, Stack,
    folder::RunFolder,
    postgres::Postgres,
    random::Random,
    story::{
        doors::{Doors, kept_metadata, metadata_update, registration},
        strangers,
        world::World,
    },
};

const RECORDS: usize = 100_000;
const PROVIDER: [u8; 20] = [7; 20];

/// Clusters of hashes that differ in 0 to 20 bits from one another's middle.
fn hashes(random: &mut Random) -> Vec<u64> {
    let mut word = || {
        u64::from(random.sample()) << 48
            | u64::from(random.sample()) << 32
            | u64::from(random.sample()) << 16
            | u64::from(random.sample())
    };
    let middles: Vec<u64> = (0..RECORDS / 100).map(|_| word()).collect();
    (0..RECORDS)
        .map(|at| {
            let flips = random.below(21);
            (0..flips).fold(middles[at % middles.len()], |hash, _| hash ^ 1 << random.below(64))
        })
        .collect()
}

fn id(at: usize) -> uuid::Uuid {
    uuid::Uuid::from_u128(at as u128 + 1)
}

/// Records with nothing but what the search reads; what they refer to is not needed for it.
async fn fill(db: &mut PgConnection, hashes: &[u64]) {
    sqlx::raw_sql("SET session_replication_role = replica").execute(&mut *db).await.unwrap();
    sqlx::query(
        "INSERT INTO provider (address, name, attestor, points_treasury, token, block_number, block_time, tx_hash)
         VALUES ($1, 'numo', $1, $1, $1, 1, 1, decode(repeat('00', 32), 'hex'))",
    )
    .bind(PROVIDER.as_slice())
    .execute(&mut *db)
    .await
    .unwrap();
    for (chunk, part) in hashes.chunks(10_000).enumerate() {
        let ids: Vec<_> = (0..part.len()).map(|at| id(chunk * 10_000 + at)).collect();
        sqlx::query(
            "INSERT INTO record (provider, data_id, proven, content_hash, contributor, consent_id, payee, task_id, reward,
                 status, registered_at, sequence, number)
             SELECT $1, id, TRUE, zero, zero, zero, $1, 0, 0, 'registered', 0, 0, 0
             FROM unnest($2::uuid[]) AS id, decode(repeat('00', 32), 'hex') AS zero",
        )
        .bind(PROVIDER.as_slice())
        .bind(&ids)
        .execute(&mut *db)
        .await
        .unwrap();
        sqlx::query(
            "INSERT INTO perceptual_hash SELECT $1, id, 0, 0, hash FROM unnest($2::uuid[], $3::bigint[]) AS row (id, hash)",
        )
        .bind(PROVIDER.as_slice())
        .bind(&ids)
        .bind(part.iter().map(|hash| hash.cast_signed()).collect::<Vec<_>>())
        .execute(&mut *db)
        .await
        .unwrap();
    }
    sqlx::raw_sql("ANALYZE perceptual_hash; ANALYZE record").execute(&mut *db).await.unwrap();
}

/// The plan's nodes, one a line.
async fn plan(db: &mut PgConnection, wanted: Wanted) -> String {
    let sql = format!("EXPLAIN {}", read::SIMILAR);
    let [a, b, c, d] = wanted.bands();
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(wanted.kind.code())
        .bind(wanted.hash.cast_signed())
        .bind(i64::from(wanted.distance_max))
        .bind(a)
        .bind(b)
        .bind(c)
        .bind(d)
        .bind(None::<Vec<u8>>)
        .bind(None::<i64>)
        .bind(None::<Vec<u8>>)
        .bind(None::<uuid::Uuid>)
        .bind(101i64)
        .fetch_all(db)
        .await
        .unwrap();
    rows.iter().map(|row| row.get::<String, _>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn the_search_finds_what_brute_force_finds_in_order_and_through_the_indexes() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let url = postgres.create_database("near").await.unwrap();
    drop(open_database(&url, 2).await.unwrap());
    let mut db = PgConnection::connect(&url).await.unwrap();
    let mut random = Random::from_environment();
    let hashes = hashes(&mut random);
    fill(&mut db, &hashes).await;

    let mut found_most = 0;
    for distance_max in 0..=read::DISTANCE_MAX {
        for _ in 0..3 {
            let wanted = Wanted { kind: Kind::Phash, hash: *random.pick(&hashes).unwrap(), distance_max };
            let mut expected: Vec<(u32, String)> = hashes
                .iter()
                .enumerate()
                .map(|(at, hash)| ((hash ^ wanted.hash).count_ones(), id(at).to_string()))
                .filter(|(distance, _)| *distance <= distance_max)
                .collect();
            expected.sort();
            let mut snapshot = db.begin().await.unwrap();
            let (mut found, mut page) = (Vec::new(), Page { limit: 7, after: None });
            loop {
                let part = read::similar(&mut snapshot, wanted, None, &page).await.unwrap();
                found.extend(part.records.into_iter().map(|record| (record.distance, record.data_id)));
                let Some(next) = part.next_cursor else { break };
                page.after = read::page::Place::decode(&next);
                assert!(page.after.is_some());
            }
            snapshot.rollback().await.unwrap();
            assert_eq!(found, expected, "{wanted:?}");
            found_most = found_most.max(found.len());
        }
    }
    assert!(found_most > 20, "the clusters are near enough to mean something: {found_most}");

    for distance_max in [0, 8, read::DISTANCE_MAX] {
        let plan = plan(&mut db, Wanted { kind: Kind::Phash, hash: hashes[0], distance_max }).await;
        for band in 0..4 {
            assert!(plan.contains(&format!("Index Scan on perceptual_hash_band_{band}")), "{distance_max}: {plan}");
        }
        assert!(!plan.contains("Seq Scan on perceptual_hash"), "{distance_max}: {plan}");
    }
    db.close().await.unwrap();
}

fn hashed(name: &str, updates: u32, hashes: Value) -> Value {
    let mut metadata = kept_metadata(name, ContentHash::of(name.as_bytes()), updates);
    metadata["file"]["hashes"] = hashes;
    metadata
}

/// Records that were there before the table: the migration's statement finds in any metadata what the indexer finds in it.
async fn the_migration_reads_what_the_indexer_reads(stack: &Stack, id: DataId) -> anyhow::Result<()> {
    let migration = include_str!("../../indexer/migrations/0007_beyond_trace.sql");
    let start = migration.find("INSERT INTO perceptual_hash").unwrap();
    let statement = &migration[start..start + migration[start..].find(';').unwrap()];
    let mut db = stack.postgres.connect("indexer").await?;
    let mut transaction = db.begin().await?;
    // where metadata stood then
    sqlx::query("ALTER TABLE record ADD COLUMN metadata JSON").execute(&mut *transaction).await?;
    let frames: Vec<String> = (0..80u64).map(|frame| format!("{frame:016x}")).collect();
    for (count, metadata) in [
        (0, json!({})),
        (0, json!([1])),
        (0, json!({ "file": { "hashes": ["00ff00ff00ff00ff"] } })),
        (0, json!({ "file": { "hashes": "00ff00ff00ff00ff" } })),
        (0, json!({ "file": [{ "hashes": {} }], "hashes": { "phash64": "00ff00ff00ff00ff" } })),
        (0, json!({ "file": { "hashes": { "phash64": 12, "dhash64": null, "ahash64": "00ff00ff00ff00f" } } })),
        (0, json!({ "file": { "hashes": { "phash64": "00ff00ff00ff00ff" } }, "note": "a\u{0}b" })),
        (0, json!({ "file": { "hashes": { "phash64": " 0ff00ff00ff00ff", "dhash64": "00ff00ff00ff00ff\n" } } })),
        (
            3,
            json!({ "file": { "hashes": { "phash64": "FFFFFFFFFFFFFFFF", "dhash64": "8000000000000000", "ahash64": "7fffffffffffffff" } } }),
        ),
        (
            2,
            json!({ "file": { "hashes": { "keyframe_phashes": ["00ff00ff00ff00ff", null, 1, ["x"], "ff00ff00ff00ff00", "x"] } } }),
        ),
        (64, json!({ "file": { "hashes": { "keyframe_phashes": frames } } })),
    ] {
        sqlx::query("UPDATE record SET metadata = CASE data_id WHEN $1 THEN $2::json END")
            .bind(id.0)
            .bind(metadata.to_string())
            .execute(&mut *transaction)
            .await?;
        sqlx::query("DELETE FROM perceptual_hash").execute(&mut *transaction).await?;
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *transaction).await?;
        let rows = sqlx::query("SELECT kind, position, hash, data_id FROM perceptual_hash ORDER BY kind, position")
            .fetch_all(&mut *transaction)
            .await?;
        let filled: Vec<(i16, i16, i64)> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        let read = perceptual::of_metadata(&metadata);
        let read: Vec<_> =
            read.iter().map(|found| (found.kind.code(), found.position, found.hash.cast_signed())).collect();
        assert_eq!(filled, read, "{metadata}");
        assert_eq!(read.len(), count, "{metadata}");
    }
    transaction.rollback().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_follows_updates_and_vanishes_with_an_erasure() -> anyhow::Result<()> {
    tidemark::install_tls();
    let stack = Stack::start(Options::default()).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    let indexer = stack.indexer.as_ref().unwrap();
    let first = hashed("one", 0, json!({ "phash64": "00ff00ff00ff00ff", "dhash64": "x" }));
    let near = hashed("two", 0, json!({ "phash64": "00FF00FF00FF00F0", "keyframe_phashes": ["1111111111111111"] }));
    let far = hashed("far", 0, json!({ "phash64": "ff00ff00ff00ff00" }));
    let items = [registration("one", &first)?, registration("two", &near)?, registration("far", &far)?];
    let answer = doors.register("hashes", &items).await?;
    let ids: Vec<DataId> = answer["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["data_id"].as_str().unwrap().parse().unwrap())
        .collect();

    let list = |body: &Value| -> Vec<(u64, String)> {
        let record =
            |record: &Value| (record["distance"].as_u64().unwrap(), record["data_id"].as_str().unwrap().to_owned());
        body["records"].as_array().map(|records| records.iter().map(record).collect()).unwrap_or_default()
    };
    let near_one = "/v1/similar?hash=00ff00ff00ff00ff";
    let expected = vec![(0, ids[0].to_string()), (4, ids[1].to_string())];
    let body = indexer.until(near_one, |_, body| list(body) == expected).await?;
    assert_eq!((&body["at"]["final"], &body["distance_max"]), (&json!(true), &json!(8)));
    assert_eq!(list(&indexer.get(&format!("{near_one}&distance=3")).await?.1), expected[..1]);
    let (_, by_record) = indexer.get(&format!("/v1/similar?data_id={}&distance=4", ids[1])).await?;
    assert_eq!(list(&by_record), [(0, ids[1].to_string()), (4, ids[0].to_string())]);
    let (_, frames) = indexer.get("/v1/similar?hash=1111111111111110&kind=keyframe_phashes").await?;
    assert_eq!(list(&frames), [(1, ids[1].to_string())]);
    let (status, none) = indexer.get(&format!("/v1/similar?data_id={}&kind=dhash64", ids[0])).await?;
    assert_eq!((status, &none["field"]), (404, &json!("data_id")), "a hash that is none");
    for (wrong, field) in [("", "hash"), ("?hash=1", "hash"), ("?hash=00ff00ff00ff00ff&distance=12", "distance")] {
        let (status, problem) = indexer.get(&format!("/v1/similar{wrong}")).await?;
        assert_eq!((status, &problem["field"]), (400, &json!(field)), "{problem}");
    }

    the_migration_reads_what_the_indexer_reads(&stack, ids[2]).await?;

    // the newest metadata counts
    let moved = hashed("two", 1, json!({ "phash64": "ffffffffffffffff" }));
    doors.update("moved", &[metadata_update(ids[1], 1, &near, &moved)?]).await?;
    indexer.until(near_one, |_, body| list(body) == expected[..1]).await?;
    assert!(list(&indexer.get("/v1/similar?hash=1111111111111111&kind=keyframe_phashes").await?.1).is_empty());

    let url = format!("{}/v1/records/{}/erasure", stack.relayer.as_ref().unwrap().url(), ids[0]);
    let answer = reqwest::Client::new().post(url).header("x-api-key", &world.api_key).send().await?;
    assert!(answer.status().is_success());
    indexer.until(near_one, |status, body| status == 200 && list(body).is_empty()).await?;
    assert_eq!(indexer.get(&format!("/v1/similar?data_id={}", ids[0])).await?.0, 404);
    // and a second indexer has the same rows
    strangers::second_indexer(&stack, "indexer").await?;
    Ok(())
}
